"""``make capacity``: what a session takes in each store, and what a load and an update cost.

The figures behind docs/scaling.md. CPU is that of the worker, its threads included, and that of the
server's processes: the time that either can't spend on another call.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import sqlite3
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from serversessions import Record, SessionStore, hash_owner
from serversessions.location import Location
from serversessions.stores import open_store

from .backends import STORES, Backend, open_backend
from .growth import DATA
from .targets import CAPACITY

APP = "capacity"
COUNT = 100_000
CALLS = 20_000
AT_ONCE = 64
PROCESSES = {"cache": "valkey-server", "postgresql": "postgres"}
HEADER = (
    "| store | bytes | with an owner | loads a second | CPU us: worker | server "
    "| updates a second | CPU us: worker | server |\n" + "|---" * 9 + "|"
)


@dataclass(frozen=True)
class Cost:
    """Of one call."""

    seconds: float
    worker: float
    server: float

    def __str__(self) -> str:
        server = f"{self.server * 1e6:.0f}" if self.server else ""
        return f"{1 / self.seconds:,.0f} | {self.worker * 1e6:.0f} | {server}"


def main(arguments: list[str]) -> int:
    """Print a row for each store; the exit status."""
    parser = argparse.ArgumentParser(prog='make capacity ARGS="..."', description=__doc__)
    parser.add_argument("--only", choices=STORES, action="append", help="a store; may be repeated")
    parser.add_argument("--quick", action="store_true", help="with a twentieth of the sessions")
    options = parser.parse_args(arguments)
    count = COUNT // 20 if options.quick else COUNT
    logging.disable()
    warnings.simplefilter("ignore")
    print(f"{count:,} sessions of 300 bytes; {AT_ONCE} calls at once, from one worker\n\n{HEADER}")
    stores = options.only or STORES
    with tempfile.TemporaryDirectory(prefix="capacity-") as name:
        for store in stores:
            with open_backend(store, Path(name) / store) as backend:
                print(asyncio.run(measure(backend, count)), flush=True)
    for store in CAPACITY.keys() & set(stores):
        load, update = CAPACITY[store]
        print(f"\nTargets for {store}: {load} us of the worker for a load, {update} for an update.")
    return 0


async def measure(backend: Backend, count: int) -> str:
    """One row."""
    bytes_of = {}
    for owned in (True, False):  # the calls are made on what is left: sessions without owner
        own = backend.of(f"owned {owned}", 300)
        store = await open_empty_store(own)
        before = await stored_bytes(own)
        records = await fill(store, count, owned=owned)
        bytes_of[owned] = (await stored_bytes(own) - before) / count
        if owned:
            await empty(store, list(records))
            await store.aclose()
    keys = list(records)[:CALLS]
    loads = await measure_calls(backend, keys, store.load)

    async def update(key: str) -> bool:
        return await store.update(key, replace(records[key], version=2))

    updates = await measure_calls(backend, keys, update)
    await store.aclose()
    weights = [f"{bytes_of[owned]:,.0f}" if bytes_of[owned] else "" for owned in (False, True)]
    return f"| {backend.store} | {' | '.join(weights)} | {loads} | {updates} |"


async def open_empty_store(backend: Backend) -> SessionStore:
    store: Any = open_store(Location(backend.url, APP))
    if backend.store in ("sqlite", "postgresql"):
        await store.create_table()
    opened: SessionStore = store
    return opened


async def fill(store: SessionStore, count: int, *, owned: bool) -> dict[str, Record]:
    """Create ``count`` records, each of another user or of nobody."""
    now = time.time()
    record = Record(DATA, now, now + 14 * 24 * 60 * 60)
    records = {}
    for number in range(count):
        owner = hash_owner(str(number)) if owned else None
        records[secrets.token_hex(32)] = replace(record, owner=owner)
    await in_crowd(list(records), lambda key: store.create(key, records[key]))
    return records


async def empty(store: SessionStore, keys: list[str]) -> None:
    for start in range(0, len(keys), 1000):
        await store.delete(*keys[start : start + 1000])


async def measure_calls(
    backend: Backend, keys: list[str], call: Callable[[str], Awaitable[Any]]
) -> Cost:
    """The cost of one of so many calls."""
    server, worker, started = server_cpu(backend), time.process_time(), time.perf_counter()
    await in_crowd(keys, call)
    seconds = time.perf_counter() - started
    used = time.process_time() - worker, server_cpu(backend) - server
    return Cost(seconds / len(keys), used[0] / len(keys), used[1] / len(keys))


async def in_crowd(keys: list[str], call: Callable[[str], Awaitable[Any]]) -> None:
    waiting = iter(keys)

    async def visitor() -> None:
        for key in waiting:
            assert await call(key)

    await asyncio.gather(*(visitor() for _ in range(AT_ONCE)))


async def stored_bytes(backend: Backend) -> float:
    """What the store takes: of memory for a cache, of disk elsewhere. 0 where it can't be told."""
    match backend.store:
        case "file":
            return sum(path.lstat().st_blocks * 512 for path in backend.folder.rglob("*"))
        case "sqlite":
            path = backend.folder / "app.db"
            sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            return path.stat().st_size
        case "cache":
            from redis.asyncio import Redis

            async with Redis.from_url(backend.url) as client:
                return float((await client.info("memory"))["used_memory"])
        case "postgresql":
            import asyncpg

            connection = await asyncpg.connect(backend.url)
            await connection.execute(f"VACUUM FULL {APP}_sessions")
            size = await connection.fetchval(f"SELECT pg_total_relation_size('{APP}_sessions')")
            await connection.close()
            return float(size)
    return 0


def server_cpu(backend: Backend) -> float:
    """Seconds of CPU that the server's processes have taken so far."""
    name = PROCESSES.get(backend.store)
    if name is None:
        return 0
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            comm, fields = stat.read_text().rpartition(")")[::2]
        except OSError:
            continue
        if comm.partition("(")[2] == name:
            user, system = fields.split()[11:13]
            ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
