"""What the generated app is to reach, stated before it was built. The keys are the rows' names."""

from __future__ import annotations

from .place import STORES
from .rows import Target

# The time of a request in process over that of a bare Starlette app's, at most.
IN_PROCESS = {
    **{f"{store} untouched": 1.10 for store in STORES},
    "memory untouched with cookie": 1.8,
    "memory read": 1.8,
    "memory read, 10 KB": 7,
    "memory write": 2.2,
    "file read": 8,
    "file write": 32,
    "cache read": 18,
    "cache read, 64 at once": 9,
    "cache write": 34,
    "cache write, 64 at once": 16,
    "sqlite read": 20,
    "sqlite write": 40,
    "postgresql read": 45,
    "postgresql write": 110,
}
# Through uvicorn: requests a second as a share of the bare app's, at least.
RATES = {
    "uvicorn untouched, 1 connection, requests a second": 0.97,
    "uvicorn untouched, 32 connections, requests a second": 0.95,
    "uvicorn memory read, 1 connection, requests a second": 0.80,
    "uvicorn memory read, 32 connections, requests a second": 0.70,
    "uvicorn cache read, 1 connection, requests a second": 0.40,
    "uvicorn cache read, 32 connections, requests a second": 0.40,
}
# The 99th percentile of the times of requests, over the bare app's, at most.
P99 = {f"uvicorn untouched, {of}, p99": 1.1 for of in ("1 connection", "32 connections")}
# In the unit of the row, at most.
GROWTH = {
    "growth memory write at 1,000,000 sessions": 1.3,
    "growth file write at 100,000 sessions": 1.5,
    "growth sqlite write at 1,000,000 sessions": 1.5,
    "growth memory of a 300-byte session": 900,
    "growth memory sweep of 1,000,000 sessions": 5,
    "growth file sweep of 100,000 sessions": 5,
}
START = {
    "start bake of the default answers": 50,
    "start first answer": 3,
}


def target_of(name: str) -> Target | None:
    """The limit of a row, if it has one."""
    if name in RATES:
        return Target(RATES[name], "at least")
    limit = {**IN_PROCESS, **P99, **GROWTH, **START}.get(name)
    return None if limit is None else Target(limit)
