"""The floors: a bare app, and a bare app that reads and writes as a store must, without sessions.

What a store costs above its floor is ours; the floor itself is the database's, the driver's, the
file system's.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from .backends import Backend
from .workloads import CLIENTS, routes_without_session

Read = Callable[[str], Awaitable[object]]
Write = Callable[[str], Awaitable[object]]

KEYS = [f"{number:064x}" for number in range(CLIENTS)]


def bare(backend: Backend) -> ASGIApp:
    """Starlette alone."""
    return Starlette(routes=routes_without_session())


def file(backend: Backend) -> ASGIApp:
    """open, read, close; a temporary file and os.replace. In the event loop's own thread."""
    files = _files(backend)

    async def read(key: str) -> object:
        return _read(files / key)

    async def write(key: str) -> None:
        _replace(files / key, backend.value)

    return _floor(read, write)


def cache(backend: Backend) -> ASGIApp:
    """redis-py: GET, SET."""
    from redis.asyncio import BlockingConnectionPool, Redis

    pool = BlockingConnectionPool.from_url(backend.url, max_connections=CLIENTS)
    client: Redis = Redis.from_pool(pool)

    async def read(key: str) -> object:
        return await client.get(f"floor:{key}")

    async def write(key: str) -> None:
        await client.set(f"floor:{key}", backend.value)

    async def start() -> None:
        for key in KEYS:
            await write(key)

    return _floor(read, write, start, client.aclose)


def sqlite(backend: Backend) -> ASGIApp:
    """sqlite3: SELECT, UPDATE, each in a worker thread; WAL, synchronous = NORMAL."""
    thread = ThreadPoolExecutor(1)
    connection = sqlite3.connect(
        backend.folder / "floor.db", isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS floor (key TEXT PRIMARY KEY, value BLOB)")
    rows = [(key, backend.value) for key in KEYS]
    connection.executemany("INSERT OR REPLACE INTO floor VALUES (?, ?)", rows)

    def select(key: str) -> object:
        return connection.execute("SELECT value FROM floor WHERE key = ?", (key,)).fetchone()

    def update(key: str) -> None:
        connection.execute("UPDATE floor SET value = ? WHERE key = ?", (backend.value, key))

    async def read(key: str) -> object:
        return await asyncio.get_running_loop().run_in_executor(thread, select, key)

    async def write(key: str) -> None:
        await asyncio.get_running_loop().run_in_executor(thread, update, key)

    return _floor(read, write)


def postgresql(backend: Backend) -> ASGIApp:
    """asyncpg: fetchrow, execute, on ten open connections, without a transaction or a reset."""
    import asyncpg

    free: asyncio.LifoQueue[Any] = asyncio.LifoQueue()

    async def read(key: str) -> object:
        connection = await free.get()
        try:
            return await connection.fetchrow("SELECT value FROM floor WHERE key = $1", key)
        finally:
            free.put_nowait(connection)

    async def write(key: str) -> None:
        connection = await free.get()
        try:
            await connection.execute(
                "UPDATE floor SET value = $1 WHERE key = $2", backend.value, key
            )
        finally:
            free.put_nowait(connection)

    async def start() -> None:
        connections = [await asyncpg.connect(backend.url) for _ in range(10)]
        create = "CREATE TABLE IF NOT EXISTS floor (key TEXT PRIMARY KEY, value BYTEA)"
        await connections[0].execute(f"{create}; TRUNCATE floor")
        rows = [(key, backend.value) for key in KEYS]
        await connections[0].executemany("INSERT INTO floor VALUES ($1, $2)", rows)
        for connection in connections:
            free.put_nowait(connection)

    async def stop() -> None:
        while not free.empty():
            await free.get_nowait().close()

    return _floor(read, write, start, stop)


async def _nothing() -> None:
    pass


def _floor(
    read: Read,
    write: Write,
    start: Callable[[], Awaitable[None]] = _nothing,
    stop: Callable[[], Awaitable[None]] = _nothing,
) -> ASGIApp:
    """A bare app whose requests read, or read and write, the next of the keys."""
    keys = cycle(KEYS)

    async def reading(request: Request) -> Response:
        await read(next(keys))
        return PlainTextResponse("ok")

    async def writing(request: Request) -> Response:
        key = next(keys)
        await read(key)
        await write(key)
        return PlainTextResponse("ok")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await start()
        yield
        await stop()

    return Starlette(routes=routes_without_session(reading, writing), lifespan=lifespan)


def _files(backend: Backend) -> Path:
    files = backend.folder / "floor"
    files.mkdir(exist_ok=True)
    for key in KEYS:
        (files / key).write_bytes(backend.value)
    return files


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _replace(path: Path, value: bytes) -> None:
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as file:
        file.write(value)
    os.replace(temporary, path)
