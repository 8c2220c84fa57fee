"""Spans and metrics, as OpenTelemetry's own SDK receives them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serversessions import Record, SessionStore, StoreUnavailable
from serversessions.stores.memory import MemoryStore
from serversessions.telemetry import observe
from serversessions.testing import Clock

from .test_sessions import Site, puts


class Telemetry:
    """What was exported since the test began."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        trace.set_tracer_provider(tracers)
        metrics.set_meter_provider(MeterProvider([self._reader]))

    def begin(self) -> None:
        self._exporter.clear()

    @property
    def spans(self) -> list[Any]:
        return list(self._exporter.get_finished_spans())

    def points_of(self, operation: str) -> list[Any]:
        """Of the histogram, for all that this process did."""
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "session_store.duration"
            for point in metric.data.data_points
            if (point.attributes or {}).get("session_store.operation") == operation
        ]


@pytest.fixture(scope="module")
def exported() -> Telemetry:
    return Telemetry()  # a process has one


@pytest.fixture
def telemetry(exported: Telemetry) -> Telemetry:
    exported.begin()
    return exported


async def test_each_call_of_the_store_is_a_span_and_a_duration(
    telemetry: Telemetry, clock: Clock
) -> None:
    site = Site(observe(MemoryStore(clock=clock), "memory"), clock)
    async with site.visitor() as visitor:
        await visitor.does(puts(word="s3cret"))
        await visitor.does(lambda session: session.rotate_id())
        names = [span.name for span in telemetry.spans]
        assert names == ["session_store.create", "session_store.load", "session_store.update"]
        assert dict(telemetry.spans[0].attributes) == {
            "session_store.type": "memory",
            "session_store.operation": "create",
        }
        [load] = telemetry.points_of("load")
        assert load.count == 1
        assert 0 < load.sum < 1  # seconds
        told = "".join(span.to_json() for span in telemetry.spans)
        assert "s3cret" not in told
        assert str(visitor.id) not in told


async def test_a_call_that_fails_says_how_and_nothing_of_the_data(
    telemetry: Telemetry, clock: Clock
) -> None:
    class Broken(MemoryStore):
        async def create(self, key: str, record: Record) -> bool:
            raise StoreUnavailable("INSERT s3cret") from ValueError("s3cret")

    store = observe(Broken(clock=clock), "broken")
    with pytest.raises(StoreUnavailable):
        await store.create("a" * 64, Record(b"{}", 0, 1))
    [span] = telemetry.spans
    assert span.attributes["error.type"] == "StoreUnavailable"
    assert not span.status.is_ok
    assert "s3cret" not in span.to_json()
    [*_, point] = telemetry.points_of("create")
    assert point.attributes["error.type"] == "StoreUnavailable"


@pytest.mark.parametrize("missing", ["opentelemetry.trace", "opentelemetry.metrics"])
def test_what_an_uninstalled_opentelemetry_has_left_is_not_taken_for_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # its folder, a namespace, may stay
    store = MemoryStore(clock=clock)
    assert observe(store, "memory") is store


async def test_every_method_of_a_store_passes_through(telemetry: Telemetry, clock: Clock) -> None:
    store: SessionStore = observe(MemoryStore(clock=clock), "memory")
    record = Record(b"{}", clock(), clock() + 60, owner="a" * 64)
    mark = Record(b"", clock(), clock() + 60, version=0)
    assert await store.create("0" * 64, record)
    assert await store.update("0" * 64, replace(record, version=2), move_to="1" * 64, leave=mark)
    assert await store.load("0" * 64) == mark
    assert await store.touch("1" * 64, clock() + 90)
    assert len(await store.list_owned("a" * 64, after="", limit=5)) == 1
    assert len((await store.scan("", limit=5))[0]) == 2
    assert await store.delete_owned("a" * 64, except_key="1" * 64) == 0
    assert await store.delete("1" * 64, owner="b" * 64) == 0
    assert await store.delete_expired(5) == 0
    assert await store.repair() == 0
    await store.ping()
    await store.aclose()
    operations = {name for name in vars(SessionStore) if not name.startswith("_")} - {"aclose"}
    assert {span.name for span in telemetry.spans} == {f"session_store.{n}" for n in operations}
