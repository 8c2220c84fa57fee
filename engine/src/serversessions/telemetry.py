"""Spans and metrics round every call of a store, for OpenTelemetry, where that is installed.

Each call is a span ``session_store.<method>`` and a value of the histogram
``session_store.duration``, in seconds, with the attributes ``session_store.type``,
``session_store.operation`` and, if it failed, ``error.type``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .store import Record, SessionStore

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Tracer


def observe(store: SessionStore, store_type: str) -> SessionStore:
    """The same store, observed; or, without OpenTelemetry, just the same store."""
    try:  # not by the name of the package alone: what was uninstalled may leave its folder
        from opentelemetry.metrics import get_meter
        from opentelemetry.trace import get_tracer
    except ImportError:
        return store
    return ObservedStore(store, store_type, get_tracer(__name__), get_meter(__name__))


class ObservedStore:
    """A store, with a span and a duration for each call but ``aclose``."""

    def __init__(self, store: SessionStore, store_type: str, tracer: Tracer, meter: Meter) -> None:
        self._store = store
        self._type = store_type
        self._tracer = tracer
        self._duration = meter.create_histogram(
            "session_store.duration", unit="s", description="How long a call of the store took."
        )

    async def create(self, key: str, record: Record) -> bool:
        with self._observed("create"):
            return await self._store.create(key, record)

    async def load(self, key: str) -> Record | None:
        with self._observed("load"):
            return await self._store.load(key)

    async def update(
        self,
        key: str,
        record: Record,
        *,
        move_to: str | None = None,
        leave: Record | None = None,
    ) -> bool:
        with self._observed("update"):
            return await self._store.update(key, record, move_to=move_to, leave=leave)

    async def touch(self, key: str, expires: float) -> bool:
        with self._observed("touch"):
            return await self._store.touch(key, expires)

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        with self._observed("delete"):
            return await self._store.delete(*keys, owner=owner)

    async def delete_expired(self, limit: int = 1000) -> int:
        with self._observed("delete_expired"):
            return await self._store.delete_expired(limit)

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        with self._observed("list_owned"):
            return await self._store.list_owned(owner, after=after, limit=limit)

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        with self._observed("delete_owned"):
            return await self._store.delete_owned(owner, except_key=except_key)

    async def repair(self) -> int:
        with self._observed("repair"):
            return await self._store.repair()

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        with self._observed("scan"):
            return await self._store.scan(cursor, limit=limit)

    async def ping(self) -> None:
        with self._observed("ping"):
            await self._store.ping()

    async def aclose(self) -> None:
        await self._store.aclose()

    @contextmanager
    def _observed(self, operation: str) -> Iterator[None]:
        from opentelemetry.trace import SpanKind, StatusCode

        attributes = {"session_store.type": self._type, "session_store.operation": operation}
        outcome = dict(attributes)
        begun = time.perf_counter()
        with self._tracer.start_as_current_span(
            f"session_store.{operation}",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,  # a database's may quote the data
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                outcome["error.type"] = type(error).__name__
                span.set_attribute("error.type", outcome["error.type"])
                span.set_status(StatusCode.ERROR)
                raise
            finally:
                self._duration.record(time.perf_counter() - begun, outcome)
