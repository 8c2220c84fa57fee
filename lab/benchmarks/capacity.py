"""``make capacity``: what a session takes in each store, and what a load and an update cost.

The figures behind docs/scaling.md. CPU is that of the worker, its threads included, and that of the
server's processes: the time that either can't spend on another call.
"""

from __future__ import annotations

import asyncio
import importlib
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

from msgspec.structs import replace as replace_fields

from .growth import DATA
from .place import STORES, Place, open_place
from .project import PACKAGE, bake, create_app, migrate, to_toml

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


def main() -> int:
    """Print a row for each store; the exit status."""
    logging.disable()
    warnings.simplefilter("ignore")
    print(f"{COUNT:,} sessions of 300 bytes; {AT_ONCE} calls at once, from one worker\n\n{HEADER}")
    with tempfile.TemporaryDirectory(prefix="capacity-") as name:
        folder = Path(name)
        project = bake(Path(__file__).parent.parent, folder)
        for kind in STORES:
            with open_place(kind, project, folder / kind) as place:
                print(asyncio.run(measure(place)), flush=True)
    return 0


async def measure(place: Place) -> str:
    """One row."""
    bytes_of = {}
    for owned in (True, False):  # the calls are made on what is left: sessions without owner
        own_place = place.of(f"owned {owned}", 300)
        store = open_store(own_place)
        before = await stored_bytes(own_place)
        records = await fill(store, owned=owned)
        bytes_of[owned] = (await stored_bytes(own_place) - before) / COUNT
        if owned:
            await empty(store, list(records))
            await store.aclose()
    keys = list(records)[:CALLS]
    loads = await measure_calls(place, keys, store.load)

    async def update(key: str) -> Any:
        return await store.update(key, replace_fields(records[key], version=2))

    updates = await measure_calls(place, keys, update)
    await store.aclose()
    weights = [f"{bytes_of[owned]:,.0f}" if bytes_of[owned] else "" for owned in (False, True)]
    return f"| {place.store} | {' | '.join(weights)} | {loads} | {updates} |"


def open_store(place: Place) -> Any:
    toml = to_toml(place)
    create_app(place.project, toml)  # makes the project importable
    if place.store in ("sqlite", "postgresql"):
        migrate(place.project, toml)
    config = importlib.import_module(f"{PACKAGE}.config").ProjectConfig.from_toml(toml)
    return importlib.import_module(f"{PACKAGE}.sessions.stores").open_store(config)


async def fill(store: Any, *, owned: bool) -> dict[str, Any]:
    """So many new records, each of another user or of nobody."""
    sessions = importlib.import_module(f"{PACKAGE}.sessions")
    now = time.time()
    record = sessions.Record(DATA, now, now + 14 * 24 * 60 * 60)
    records = {}
    for number in range(COUNT):
        owner = sessions.hash_owner(number) if owned else None
        records[secrets.token_hex(32)] = replace_fields(record, owner=owner)
    await in_crowd(list(records), lambda key: store.create(key, records[key]))
    return records


async def empty(store: Any, keys: list[str]) -> None:
    for start in range(0, len(keys), 1000):
        await store.delete(*keys[start : start + 1000])


async def measure_calls(
    place: Place, keys: list[str], call: Callable[[str], Awaitable[Any]]
) -> Cost:
    """The cost of one of so many calls."""
    server, worker, started = server_cpu(place), time.process_time(), time.perf_counter()
    await in_crowd(keys, call)
    seconds = time.perf_counter() - started
    used = time.process_time() - worker, server_cpu(place) - server
    return Cost(seconds / len(keys), used[0] / len(keys), used[1] / len(keys))


async def in_crowd(keys: list[str], call: Callable[[str], Awaitable[Any]]) -> None:
    waiting = iter(keys)

    async def visitor() -> None:
        for key in waiting:
            assert await call(key)

    await asyncio.gather(*(visitor() for _ in range(AT_ONCE)))


async def stored_bytes(place: Place) -> float:
    """What the store takes: of memory for a cache, of disk elsewhere. 0 where it can't be told."""
    match place.store:
        case "file":
            return sum(path.lstat().st_blocks * 512 for path in place.folder.rglob("*"))
        case "sqlite":
            path = place.folder / "app.db"
            sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            return path.stat().st_size
        case "cache":
            from redis.asyncio import Redis

            async with Redis.from_url(place.url) as client:
                return float((await client.info("memory"))["used_memory"])
        case "postgresql":
            import asyncpg

            connection = await asyncpg.connect(place.url)
            await connection.execute("VACUUM FULL sessions")
            size = await connection.fetchval("SELECT pg_total_relation_size('sessions')")
            await connection.close()
            return float(size)
    return 0


def server_cpu(place: Place) -> float:
    """Seconds of CPU that the server's processes have taken so far."""
    name = PROCESSES.get(place.store)
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
    sys.exit(main())
