"""What grows with the number of sessions: a write's time, the memory, the stall of a sweep."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from serversessions import Record
from serversessions.stores import open_store

from .backends import Backend
from .measure import Client, Effort, Spread, Work, compare, in_turn, lifespan
from .ours import ours
from .rows import Row
from .subjects import subjects_of
from .targets import target_of
from .workloads import CLIENTS, session_data

DATA = json.dumps(session_data(300, "user-1"), separators=(",", ":")).encode()

PATIENCE = 60  # seconds for a sweep
SWEEPS = 3  # the longest of millions of turns is another one each time


@dataclass(frozen=True)
class Sizes:
    """How many sessions; the first of each is what the others are compared with."""

    memory: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    file: tuple[int, ...] = (1_000, 100_000)
    sqlite: tuple[int, ...] = (1_000, 1_000_000)
    weighed: int = 100_000


QUICK = Sizes((1_000, 100_000), (1_000, 5_000), (1_000, 20_000), 20_000)


@dataclass(frozen=True)
class Case:
    """One row: its name, and what measures it."""

    name: str
    store: str
    measure: Callable[[Backend, Effort, dict[str, str]], Any]


def cases(sizes: Sizes) -> list[Case]:
    """All that is measured with so many sessions."""
    found = []
    for store in ("memory", "file", "sqlite"):
        first, *more = getattr(sizes, store)
        for count in more:
            name = f"growth {store} write at {count:,} sessions"
            found.append(Case(name, store, _Write(first, count)))
    found.append(Case("growth memory of a 300-byte session", "memory", _Weigh(sizes.weighed)))
    for store in ("memory", "file"):
        count = getattr(sizes, store)[-1]
        name = f"growth {store} sweep of {count:,} sessions"
        found.append(Case(name, store, _Sweep(count)))
    return found


async def measure_growth(
    case: Case, backend: Backend, effort: Effort, missing: dict[str, str]
) -> Row:
    """One row."""
    cells, unit = await case.measure(backend, effort, missing)
    return Row(case.name, unit, target_of(case.name), cells)


@dataclass(frozen=True)
class _Write:
    """The time of a request that writes, over the same with fewer sessions in the store."""

    few: int
    many: int

    async def __call__(self, backend: Backend, effort: Effort, missing: dict[str, str]) -> Any:
        async with AsyncExitStack() as stack:
            works = []
            for count in (self.few, self.many):
                own = backend.of(f"growth {count}", 300)
                works.append(await _grown(stack, own, count))
            if backend.store == "memory":
                effort = replace(effort, clock=time.process_time)
            return (await compare(works[0], {"ours": works[1]}, effort)).ratios, "x"


async def _grown(stack: AsyncExitStack, backend: Backend, count: int) -> Work:
    """Writes to an app that has so many sessions."""
    if backend.store == "sqlite":
        app = ours(backend)
    else:
        store = open_store(backend.url)
        await _fill(store, count - CLIENTS, time.time())
        app = ours(backend, store)
    await stack.enter_async_context(lifespan(app))
    clients = [Client(app) for _ in range(CLIENTS)]
    for number, client in enumerate(clients):
        await client.get("/seed", f"size=300&user=user-{number}")
    if backend.store == "sqlite":
        _multiply_rows(Path(backend.url.removeprefix("sqlite:///")), count - CLIENTS)
    return in_turn(clients, "/write")


@dataclass(frozen=True)
class _Weigh:
    """The memory that a session takes, for ours and for the peers, each in a new process."""

    count: int

    async def __call__(self, backend: Backend, effort: Effort, missing: dict[str, str]) -> Any:
        cells: dict[str, Spread | str] = {}
        for name in ("ours", "starsessions", "Litestar"):
            own = backend.of(f"weigh {name}", 300)
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                try:
                    found = process.submit(weigh, own, name, self.count).result()
                    cells[name] = Spread.of([found])
                except ImportError as error:
                    missing[name] = str(error)
                    cells[name] = "missing"
        return cells, "bytes"


def weigh(backend: Backend, name: str, count: int) -> float:
    """The growth of this process by so many sessions, each begun by a request; bytes for each."""
    logging.disable()
    subject = next(each for each in subjects_of(backend.store) if each.name == name)

    async def begin_all() -> float:
        app = subject.build(backend)
        await Client(app).get("/seed", "size=300&user=user-0")
        before = _resident()
        for number in range(count):
            await Client(app).get("/seed", f"size=300&user=user-{number}")
        return (_resident() - before) / count

    return asyncio.run(begin_all())


def _resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class _Sweep:
    """The longest turn of the event loop while the app sweeps sessions, all of them expired."""

    count: int

    async def __call__(self, backend: Backend, effort: Effort, missing: dict[str, str]) -> Any:
        sweeps = [await self._sweep(backend.of(f"sweep {number}", 300)) for number in range(SWEEPS)]
        stalls, rests, seconds = (Spread.of(each) for each in zip(*sweeps, strict=True))
        is_over = seconds.high < PATIENCE
        taken = f"{seconds.median:.1f} s" if is_over else f"not over after {PATIENCE} s"
        return {"ours": stalls, "no sweep": rests, "the whole sweep": taken}, "ms"

    async def _sweep(self, backend: Backend) -> tuple[float, float, float]:
        """Milliseconds of the longest turn during a sweep, and afterwards; seconds of the sweep."""
        store: Any = _Watched(open_store(backend.url))
        await _fill(store, self.count, time.time() - 30 * 24 * 60 * 60)
        os.sync()  # what was filled in is not the sweep's to write
        gc.collect()
        # What others do to the CPU is not the memory store's, but a thread may hold the loop up.
        clock = time.thread_time if backend.store == "memory" else time.perf_counter
        heart = _Heart(clock)
        beating = asyncio.create_task(heart.beat())
        async with lifespan(ours(backend, store)):
            started = time.perf_counter()
            while store.swept < self.count and time.perf_counter() < started + PATIENCE:
                await asyncio.sleep(0.05)
            taken = time.perf_counter() - started
        with_sweep, heart.longest = heart.longest, 0.0
        await asyncio.sleep(min(taken, 5))
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        return with_sweep * 1000, heart.longest * 1000, taken


@dataclass
class _Heart:
    """Beats once in every turn of the event loop, and remembers the longest, in seconds."""

    clock: Callable[[], float]
    longest: float = 0.0

    async def beat(self) -> None:
        before = self.clock()
        while True:
            await asyncio.sleep(0)
            now = self.clock()
            self.longest = max(self.longest, now - before)
            before = now


class _Watched:
    """A store that counts what is swept."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.swept = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def delete_expired(self, limit: int = 1000) -> int:
        swept: int = await self._store.delete_expired(limit)
        self.swept += swept
        return swept


async def _fill(store: Any, count: int, created: float) -> None:
    """Put so many records of their own into the store, by the protocol that all stores have."""
    expires = created + 14 * 24 * 60 * 60

    async def create() -> None:
        data = DATA.replace(b"user-1", secrets.token_hex(3).encode())
        record = Record(data=data, created=created, expires=expires)
        await store.create(secrets.token_hex(32), record)

    for _ in range(count // 100):
        await asyncio.gather(*[create() for _ in range(100)])
    for _ in range(count % 100):
        await create()


def _multiply_rows(path: Path, count: int) -> None:
    """Copy one session ``count`` times, each under a key of its own. Requests would take long."""
    database = sqlite3.connect(path)
    (table,) = database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%session%'"
    ).fetchone()
    columns = database.execute(f"PRAGMA table_info({table})").fetchall()
    key = next(name for _, name, _, _, _, is_key in columns if is_key)
    rest = ", ".join(name for _, name, _, _, _, is_key in columns if not is_key)
    (kind,) = database.execute(f"SELECT typeof({key}) FROM {table}").fetchone()
    new_key = "lower(hex(randomblob(32)))" if kind == "text" else "randomblob(32)"
    database.executescript(
        f"""
        PRAGMA synchronous = OFF;
        PRAGMA cache_size = -{1024 * 1024};
        INSERT INTO {table} ({key}, {rest})
        WITH RECURSIVE numbers(number) AS
            (SELECT 1 UNION ALL SELECT number + 1 FROM numbers LIMIT {count})
        SELECT {new_key}, {rest} FROM numbers, (SELECT {rest} FROM {table} LIMIT 1);
        PRAGMA wal_checkpoint(TRUNCATE);
        """
    )
    database.close()
