"""What the engine is to reach, stated before it was measured. The keys are the rows' names."""

from __future__ import annotations

from .backends import STORES
from .rows import Target


def _at_least(limit: float) -> Target:
    return Target(limit, "at least")


# The time of a request in process over that of a bare Starlette app's.
IN_PROCESS = {
    **{f"{store} untouched": Target(1.12) for store in STORES},
    "memory untouched with cookie": Target(1.8),
    "memory outside with cookie": Target(1),
    "memory read": Target(1.8),
    "memory read, 10 KB": Target(7),
    "memory write": Target(2.3),
    "memory login": Target(None, leads=True),
    "file read": Target(8),
    "file write": Target(32),
    "cache read": Target(14, leads=True),
    "cache read, 64 at once": Target(4),
    "cache write": Target(26, leads=True),
    "cache write, 64 at once": Target(8),
    "sqlite read": Target(10),
    "sqlite write": Target(20),
    "postgresql read": Target(18),
    "postgresql read, 64 at once": Target(10),
    "postgresql write": Target(40),
    "postgresql write, 64 at once": Target(22),
}
# Through uvicorn: requests a second as a share of the bare app's.
RATES = {
    "uvicorn untouched, 1 connection, requests a second": _at_least(0.97),
    "uvicorn untouched, 32 connections, requests a second": _at_least(0.95),
    "uvicorn memory read, 1 connection, requests a second": _at_least(0.80),
    "uvicorn memory read, 32 connections, requests a second": _at_least(0.70),
    "uvicorn cache read, 1 connection, requests a second": _at_least(0.40),
    "uvicorn cache read, 32 connections, requests a second": _at_least(0.40),
    "uvicorn cache write, 32 connections, requests a second": _at_least(0.28),
    "uvicorn postgresql read, 32 connections, requests a second": _at_least(0.40),
    "uvicorn postgresql write, 32 connections, requests a second": _at_least(0.25),
}
# The 99th percentile of the times of requests, over the bare app's.
P99 = {
    f"uvicorn untouched, {connections}, p99": Target(1.1)
    for connections in ("1 connection", "32 connections")
}
# In the unit of the row.
GROWTH = {
    "growth memory write at 1,000,000 sessions": Target(1.3),
    "growth file write at 100,000 sessions": Target(1.5),
    "growth sqlite write at 1,000,000 sessions": Target(1.5),
    "growth memory of a 300-byte session": Target(900),
    "growth memory sweep of 1,000,000 sessions": Target(5),
    "growth file sweep of 100,000 sessions": Target(5),
}
START = {
    "start bake of the default answers": Target(150),
    "start first answer": Target(3),
    "start first answer on sqlite": Target(30),
    "start first answer on postgresql": Target(30),
}
# Microseconds of the worker's CPU for a load and an update: `make capacity`.
CAPACITY = {"postgresql": (60, 60)}


def target_of(name: str) -> Target | None:
    """The target of a row, if it has one."""
    return {**IN_PROCESS, **RATES, **P99, **GROWTH, **START}.get(name)
