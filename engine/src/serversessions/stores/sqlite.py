"""Sessions in an SQLite database, for the processes of one machine.

Nothing here opens the database's file, its -wal or its -shm: SQLite alone does. To close any
descriptor of a file drops every POSIX lock that the process holds on it. Without them, the next
process that closes the database takes the -wal away from under this one ("How To Corrupt An SQLite
Database File", 2.2).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from ..store import StoreNotReady, StoreUnavailable
from .database_url import read_sqlite_url
from .sql import SQLITE, KeyTaken, SQLStore
from .threads import Threads

T = TypeVar("T")

_OLDEST = (3, 35)  # the first with RETURNING
_PART = 100  # records swept before other processes get their turn
_ROOM = 65536  # bytes: with fewer left, only a write can tell whether one succeeds


class Connection(sqlite3.Connection):
    """One that knows which file it is to."""

    file: tuple[int, int] | None = None

    def close(self) -> None:
        _open.discard(self)
        super().close()


_open: WeakSet[Connection] = WeakSet()
_inherited: dict[object, list[Connection]] = {}  # from the process that this one was forked from


def _inherit() -> None:
    """Keep them, for SQLite forbids a child even to close what its parent has open."""
    for connection in list(_open):
        _inherited.setdefault(connection.file, []).append(connection)
        connection.file = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inherit)


class SQLiteStore(SQLStore):
    """The ``table`` in the database at ``url``, by the blocking driver in threads.

    That is several times faster than an asynchronous driver.

    Raises:
        ValueError: the URL is wrong, no table can have that name, or this SQLite is too old.
    """

    def __init__(
        self, url: str, *, table: str = "app_sessions", clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(table, SQLITE)
        if sqlite3.sqlite_version_info < _OLDEST:
            raise ValueError(f"this Python has SQLite {sqlite3.sqlite_version}; allowed: from 3.35")
        self._path, self._timeout = read_sqlite_url(url)
        self._clock = clock
        self._idle: list[Connection] = []
        # Readers never wait for a lock, and so not for writers that do.
        self._readers = Threads(4, "sqlite-reader")
        self._writers = Threads(4, "sqlite-writer")

    async def create_table(self) -> None:
        """Create the table, unless it is there. Many may do so at once."""

        def create(connection: Connection) -> None:
            with transaction(connection):
                for statement in self._table:
                    connection.execute(statement)

        await self._run(self._writers, create)

    async def delete_expired(self, limit: int = 1000) -> int:
        """In small parts, with pauses: SQLite keeps no queue of those who wait for its lock."""
        swept = 0
        while True:
            begun, part = time.monotonic(), min(_PART, limit - swept)
            removed = await super().delete_expired(part)
            swept += removed
            if removed < part or swept == limit:
                return swept
            await asyncio.sleep(time.monotonic() - begun)

    async def ping(self) -> None:
        def check(connection: Connection) -> None:
            connection.execute(self._sql.ping)
            if shutil.disk_usage(self._path).free < _ROOM:
                with transaction(connection):
                    (number,) = connection.execute("PRAGMA user_version").fetchone()
                    connection.execute(f"PRAGMA user_version = {number}")

        await self._run(self._writers, check)

    async def aclose(self) -> None:
        for threads in (self._readers, self._writers):
            await asyncio.to_thread(threads.shutdown, wait=True)
        while self._idle:
            self._idle.pop().close()

    def _now(self) -> float:
        return self._clock()  # the processes of one machine have one clock

    def _list(self, keys: Sequence[str]) -> object:
        return json.dumps(keys)

    async def _query(
        self, statement: str, *values: object, changes: str | None = None
    ) -> Sequence[Any]:
        threads = self._readers if changes is None else self._writers
        return await self._run(threads, _fetch, statement, values)

    async def _change(self, subject: str, statement: str, *values: object) -> int:
        return await self._run(self._writers, _count, statement, values)

    async def _move_and_leave(
        self, key: str, move: tuple[object, ...], mark: tuple[object, ...]
    ) -> int:
        def move_and_leave(connection: Connection) -> int:
            with transaction(connection):
                count = _count(connection, self._sql.move, move)
                if count:
                    _count(connection, self._sql.create, mark)
            return count

        return await self._run(self._writers, move_and_leave)

    async def _run(self, threads: Threads, work: Callable[..., T], *args: object) -> T:
        try:
            async with asyncio.timeout(2 * self._timeout):  # for a thread, and then for the lock
                return await threads.run(self._work, work, args)
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.IntegrityError):
                raise KeyTaken from None
            raise unavailable(error, self._path) from error

    def _work(self, work: Callable[..., T], args: tuple[object, ...]) -> T:
        connection = self._take_idle() or connect(self._path, self._timeout)
        try:
            return work(connection, *args)
        finally:
            self._idle.append(connection)

    def _take_idle(self) -> Connection | None:
        """One to the file that is there: what is written to a removed file would be lost."""
        with suppress(IndexError):  # there is none, or another thread took the last one
            while connection := self._idle.pop():
                if connection.file == _identify(self._path):
                    return connection
                if connection.file is not None:  # else it is the parent process's
                    connection.close()
        return None


def _fetch(connection: Connection, statement: str, values: tuple[object, ...]) -> list[Any]:
    return connection.execute(statement, values).fetchall()


def _count(connection: Connection, statement: str, values: tuple[object, ...]) -> int:
    return connection.execute(statement, values).rowcount


def connect(path: str, timeout: float) -> Connection:
    """A connection to the database, in autocommit mode, for one thread at a time.

    Where there is no file, a private one is created. ``timeout`` is in seconds, for locks.

    Raises:
        sqlite3.Error, OSError: the file can't be opened or created.
    """
    _create_private(path)
    file = _identify(path)  # of an older file rather than of a newer one: see _take_idle
    if file in _inherited:  # and SQLite would take the parent's locks for this process's own
        raise sqlite3.OperationalError(
            "this process was forked from one that has the database open: start it by spawn"
        )
    connection = sqlite3.connect(
        path, timeout, isolation_level=None, check_same_thread=False, factory=Connection
    )
    connection.file = file or _identify(path)
    _open.add(connection)
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        _let_readers_go_on(connection, timeout)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Let nobody else write until the block ends, and change nothing if it fails."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def unavailable(error: Exception, path: str) -> StoreUnavailable:
    """What went wrong, in one line."""
    if "no such table" in str(error):
        return StoreNotReady("the database has no table for sessions yet")
    text = str(error) or "no answer in time"
    return StoreUnavailable(f"database: {text}" + f": {path}" * ("unable to open" in text))


def _create_private(path: str) -> None:
    """Create the file for its owner alone. SQLite gives its mode to the -wal and the -shm.

    Under another name first: under its own, SQLite may have it open before it is closed here.
    """
    if _identify(path) is not None:
        return
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".sqlite-", dir=folder)
    os.close(descriptor)
    try:
        with suppress(OSError):  # it is there by now; or no hard links: then SQLite creates it
            os.link(name, path)
    finally:
        os.unlink(name)


def _identify(path: str) -> tuple[int, int] | None:
    """Which file is at the path, if any: a replaced one is another."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _let_readers_go_on(connection: Connection, timeout: float) -> None:
    """Write ahead (WAL), so that readers don't wait for a writer."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:  # another process does so: SQLite itself does not wait
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
