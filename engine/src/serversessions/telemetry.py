"""Spans and metrics round every call of a store, for OpenTelemetry, where that is installed.

Each call is a span ``session_store.<method>`` and a value of the histogram
``session_store.duration``, in seconds, with the attributes ``session_store.type``,
``session_store.operation`` and, if it failed, ``error.type``.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, cast

from .store import SessionStore

_CALLS = (
    *("create", "load", "update", "touch", "delete", "delete_expired"),
    *("list_owned", "delete_owned", "scan", "ping"),
)


def observe(store: SessionStore, store_type: str) -> SessionStore:
    """The same store, observed; or, without OpenTelemetry, just the same store."""
    if find_spec("opentelemetry") is None:
        return store
    calls = {name: _observed(getattr(store, name), store_type, name) for name in _CALLS}
    return cast(SessionStore, SimpleNamespace(**calls, aclose=store.aclose))


def _observed(
    call: Callable[..., Awaitable[Any]], store_type: str, name: str
) -> Callable[..., Awaitable[Any]]:
    trace, metrics = import_module("opentelemetry.trace"), import_module("opentelemetry.metrics")
    tracer = trace.get_tracer(__name__)
    duration = metrics.get_meter(__name__).create_histogram(
        "session_store.duration", unit="s", description="How long a call of the store took."
    )
    attributes = {"session_store.type": store_type, "session_store.operation": name}

    @functools.wraps(call)
    async def observed(*args: Any, **kwargs: Any) -> Any:
        outcome = dict(attributes)
        begun = time.perf_counter()
        with tracer.start_as_current_span(
            f"session_store.{name}",
            kind=trace.SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,  # a database's may quote the data
            set_status_on_exception=False,
        ) as span:
            try:
                return await call(*args, **kwargs)
            except BaseException as error:
                outcome["error.type"] = type(error).__name__
                span.set_attribute("error.type", outcome["error.type"])
                span.set_status(trace.StatusCode.ERROR)
                raise
            finally:
                duration.record(time.perf_counter() - begun, outcome)

    return observed
