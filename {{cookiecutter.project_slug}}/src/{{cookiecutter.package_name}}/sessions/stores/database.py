"""Sessions in a table: SQLite for one machine, PostgreSQL for more.

Each method is one statement and needs no transaction, so connections are in autocommit mode.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from ..store import Record, StoreNotReady, StoreUnavailable

T = TypeVar("T")

TIMEOUT = 5.0  # seconds to wait for a connection, a lock or an answer

metadata = sa.MetaData()
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double, nullable=False, index=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.String, nullable=True, index=True),
)
_RECORD = [sessions.c[name] for name in ("data", "created", "expires", "version", "owner")]


class DatabaseStore:
    """The ``sessions`` table of the database at ``url``, which ``migrate`` creates."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._engine = open_engine(url)

    async def create(self, key: str, record: Record) -> bool:
        try:
            await self._change(sa.insert(sessions).values(key=key, **_values(record)))
        except sa.exc.IntegrityError:
            return False
        return True

    async def load(self, key: str) -> Record | None:
        query = sa.select(*_RECORD).where(self._live(key))
        row = await self._read(query)
        return None if row is None else Record(*row)

    async def update(self, key: str, record: Record, *, move_to: str | None = None) -> bool:
        same_version = sessions.c.version == record.version - 1
        statement = sa.update(sessions).where(self._live(key), same_version)
        try:
            return await self._change(statement.values(key=move_to or key, **_values(record))) == 1
        except sa.exc.IntegrityError:
            return False

    async def touch(self, key: str, expires: float) -> bool:
        statement = sa.update(sessions).where(self._live(key)).values(expires=expires)
        return await self._change(statement) == 1

    async def delete(self, key: str) -> bool:
        return await self._change(sa.delete(sessions).where(self._live(key))) == 1

    async def delete_expired(self, limit: int = 1000) -> int:
        is_expired = sessions.c.expires <= self._clock()
        batch = sa.select(sessions.c.key).where(is_expired).limit(limit)
        # Asked twice: a row may be touched between the two.
        return await self._change(sa.delete(sessions).where(sessions.c.key.in_(batch), is_expired))

    async def delete_owned(self, owner: str) -> int:
        live = sessions.c.expires > self._clock()
        return await self._change(sa.delete(sessions).where(sessions.c.owner == owner, live))

    async def ping(self) -> None:
        await self._read(sa.select(*_RECORD).limit(0))

    async def aclose(self) -> None:
        await self._engine.aclose()

    def _live(self, key: str) -> sa.ColumnElement[bool]:
        return sa.and_(sessions.c.key == key, sessions.c.expires > self._clock())

    async def _read(self, query: sa.Select[Any]) -> Any:
        return await self._run(lambda connection: connection.execute(query).first())

    async def _change(self, statement: sa.Executable) -> int:
        return await self._run(
            lambda connection: int(connection.execute(statement).rowcount), writes=True
        )

    async def _run(self, work: Callable[[sa.Connection], T], *, writes: bool = False) -> T:
        try:
            try:
                return await self._engine.run(work, writes=writes)
            except sa.exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            return await self._engine.run(work, writes=writes)  # the server has been restarted
        except sa.exc.IntegrityError:
            raise
        except self._engine.errors as error:
            raise unavailable(error) from error


class Engine(Protocol):
    """A database that runs work on one of its connections."""

    errors: tuple[type[Exception], ...]

    async def run(self, work: Callable[[sa.Connection], T], *, writes: bool = False) -> T:
        """Run ``work`` on a connection in autocommit mode; say whether it ``writes``."""

    async def run_alone(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` in a transaction of its own, while no other caller of this runs."""

    async def aclose(self) -> None:
        """Close every connection."""


def open_engine(url: str) -> Engine:
    """The engine for an SQLAlchemy URL. Nothing connects yet.

    Raises:
        ValueError: the URL can't be read, or names a database that no engine here speaks.
    """
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError:
        raise ValueError("not an SQLAlchemy URL") from None
    if parsed.drivername in SQLite.drivers:
        return SQLite(parsed)
    if parsed.drivername in PostgreSQL.drivers:
        return PostgreSQL(parsed)
    allowed = ", ".join(SQLite.drivers + PostgreSQL.drivers)
    raise ValueError(f"{parsed.drivername!r} is not one of {allowed}")


class SQLite:
    """SQLite by its blocking driver in threads: several times faster than an asynchronous one."""

    drivers = ("sqlite", "sqlite+pysqlite", "sqlite+aiosqlite")
    errors: tuple[type[Exception], ...] = (sa.exc.SQLAlchemyError, OSError)

    def __init__(self, url: URL) -> None:
        if not url.database or url.database == ":memory:":
            raise ValueError('SQLite needs a file, as in "sqlite:///var/app.db"')
        self._path = Path(url.database)
        self._engine = sa.create_engine(
            url.set(drivername="sqlite"),
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
            max_overflow=-1,  # never more connections than threads
            connect_args={} if "timeout" in url.query else {"timeout": TIMEOUT},
        )
        sa.event.listen(self._engine, "do_connect", self._make_private)
        sa.event.listen(self._engine, "connect", self._prepare)
        sa.event.listen(self._engine, "checkout", self._refuse_removed)
        # Readers never wait for a lock, and so not for writers that do.
        self._readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sqlite-reader")
        self._writers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sqlite-writer")

    async def run(self, work: Callable[[sa.Connection], T], *, writes: bool = False) -> T:
        def in_thread() -> T:
            with self._engine.connect() as connection:
                return work(connection)

        threads = self._writers if writes else self._readers
        async with asyncio.timeout(2 * TIMEOUT):  # for a thread, and then for the lock
            return await asyncio.get_running_loop().run_in_executor(threads, in_thread)

    async def run_alone(self, work: Callable[[sa.Connection], T]) -> T:
        def locked(connection: sa.Connection) -> T:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                result = work(connection)
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")
            return result

        return await self.run(locked, writes=True)

    async def aclose(self) -> None:
        for threads in (self._readers, self._writers):
            await asyncio.to_thread(threads.shutdown)
        self._engine.dispose()

    def _make_private(self, *_: Any) -> None:
        """Before SQLite creates the file. What it creates beside it takes over its permissions."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))

    def _prepare(self, connection: Any, entry: Any) -> None:
        """Let readers go on while another connection writes."""
        entry.info["file"] = self._path.stat().st_ino
        connection.execute("PRAGMA synchronous = NORMAL")
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:  # another one does: SQLite itself does not wait here
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _refuse_removed(self, _: Any, entry: Any, __: Any) -> None:
        """What is written to a file that was removed or replaced would be lost in silence."""
        if not self._path.exists() or self._path.stat().st_ino != entry.info["file"]:
            raise sa.exc.DisconnectionError


class PostgreSQL:
    """PostgreSQL by asyncpg."""

    drivers = ("postgresql", "postgresql+asyncpg")

    def __init__(self, url: URL) -> None:
        import asyncpg
        from sqlalchemy.ext.asyncio import create_async_engine

        self.errors: tuple[type[Exception], ...] = (
            sa.exc.SQLAlchemyError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            OSError,
            TimeoutError,
        )
        options: dict[str, Any] = {"timeout": TIMEOUT, "command_timeout": TIMEOUT}
        for name, value in url.query.items():
            if name in options:
                options[name] = float(str(value))
            elif name in ("ssl", "sslmode"):  # libpq's name, which hosts hand out
                options["ssl"] = value
            else:
                raise ValueError(f"{name!r} is not one of timeout, command_timeout, sslmode")
        self._engine = create_async_engine(
            url.set(drivername="postgresql+asyncpg", query={}),
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
            pool_timeout=TIMEOUT,
            connect_args=options,
        )

    async def run(self, work: Callable[[sa.Connection], T], *, writes: bool = False) -> T:
        async with self._engine.connect() as connection:
            result: T = await connection.run_sync(work)
            return result

    async def run_alone(self, work: Callable[[sa.Connection], T]) -> T:
        engine = self._engine.execution_options(isolation_level="READ COMMITTED")
        async with engine.begin() as connection:
            await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7381940265)")
            result: T = await connection.run_sync(work)
            return result

    async def aclose(self) -> None:
        await self._engine.dispose()


def _values(record: Record) -> dict[str, Any]:
    return {column.name: getattr(record, column.name) for column in _RECORD}


def unavailable(error: Exception) -> StoreUnavailable:
    """What a driver raised, in one line, without the statement and its parameters."""
    cause = getattr(error, "orig", None) or error
    if getattr(cause, "sqlstate", None) == "42P01" or "no such table" in str(cause):
        return StoreNotReady("the database has no table for sessions yet")
    return StoreUnavailable(f"database: {str(cause) or 'no answer in time'}")
