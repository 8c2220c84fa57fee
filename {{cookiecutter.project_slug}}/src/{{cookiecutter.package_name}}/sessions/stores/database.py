"""Sessions in a table: SQLite for one machine, PostgreSQL for more.

Each method is one statement and needs no transaction, so connections are in autocommit mode.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.util import greenlet_spawn

from ..store import Record, StoreNotReady, StoreUnavailable
from .threads import Threads

T = TypeVar("T")

TIMEOUT = 5.0  # seconds to wait for a connection, a lock or an answer
CONNECTIONS = 15  # to PostgreSQL, from each worker

metadata = sa.MetaData()
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double, nullable=False, index=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.String, nullable=True),
)
# Only of those that have one: most sessions then cost no entry, and their updates a page less.
_HAS_OWNER = sessions.c.owner.is_not(None)
sa.Index(
    "ix_sessions_owner", sessions.c.owner, sqlite_where=_HAS_OWNER, postgresql_where=_HAS_OWNER
)
_RECORD = [sessions.c[name] for name in ("data", "created", "expires", "version", "owner")]


# Built once, because building costs more than running. What a statement looks for is bound by names
# that no column has; what it writes, by the names of the columns.
_IS_LIVE = sa.and_(
    sessions.c.key == sa.bindparam("at_key"), sessions.c.expires > sa.bindparam("now")
)
_IS_EXPIRED = sessions.c.expires <= sa.bindparam("now")
_EXPIRED = sa.select(sessions.c.key).where(_IS_EXPIRED).limit(sa.bindparam("limit"))

_CREATE = sa.insert(sessions)
_LOAD = sa.select(*_RECORD).where(_IS_LIVE)
_UPDATE = sa.update(sessions).where(_IS_LIVE, sessions.c.version == sa.bindparam("old_version"))
_TOUCH = sa.update(sessions).where(_IS_LIVE)
_DELETE = sa.delete(sessions).where(_IS_LIVE)
# Asked twice whether it is expired: a row may be touched between the two.
_DELETE_EXPIRED = sa.delete(sessions).where(sessions.c.key.in_(_EXPIRED), _IS_EXPIRED)
_DELETE_OWNED = sa.delete(sessions).where(
    sessions.c.owner == sa.bindparam("at_owner"),
    sessions.c.expires > sa.bindparam("now"),
    sessions.c.key != sa.bindparam("except_key"),
)
_PING = sa.select(*_RECORD).limit(0)


class DatabaseStore:
    """The ``sessions`` table of the database at ``url``, which ``migrate`` creates."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._engine = open_engine(url)

    async def create(self, key: str, record: Record) -> bool:
        try:
            await self._change(_CREATE, key=key, **_values(record))
        except sa.exc.IntegrityError:
            return False
        return True

    async def load(self, key: str) -> Record | None:
        row = await self._read(_LOAD, **self._at(key))
        return None if row is None else Record(*row)

    async def update(self, key: str, record: Record, *, move_to: str | None = None) -> bool:
        values = _values(record) if move_to is None else {"key": move_to, **_values(record)}
        try:
            old = {**self._at(key), "old_version": record.version - 1}
            return await self._change(_UPDATE, **old, **values) == 1
        except sa.exc.IntegrityError:
            return False

    async def touch(self, key: str, expires: float) -> bool:
        return await self._change(_TOUCH, **self._at(key), expires=expires) == 1

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        statement = _DELETE if owner is None else _DELETE.where(sessions.c.owner == owner)
        return sum([await self._change(statement, **self._at(key)) for key in keys])

    async def delete_expired(self, limit: int = 1000) -> int:
        return await self._change(_DELETE_EXPIRED, now=self._clock(), limit=limit)

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        query = sa.select(sessions.c.key, *_RECORD).where(
            sessions.c.owner == owner, sessions.c.key > after, sessions.c.expires > self._clock()
        )
        return await self._read_all(query.order_by(sessions.c.key).limit(limit))

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        return await self._change(
            _DELETE_OWNED, now=self._clock(), at_owner=owner, except_key=except_key or ""
        )

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        query = sa.select(sessions.c.key, *_RECORD).where(sessions.c.key > cursor)
        found = await self._read_all(query.order_by(sessions.c.key).limit(limit))
        return found, found[-1][0] if len(found) == limit else ""

    async def ping(self) -> None:
        await self._read(_PING)

    async def aclose(self) -> None:
        await self._engine.aclose()

    def _at(self, key: str) -> dict[str, Any]:
        """Where the live record of a key is."""
        return {"at_key": key, "now": self._clock()}

    async def _read(self, query: sa.Select[Any], **values: object) -> Any:
        return await self._run(lambda connection: connection.execute(query, values).first())

    async def _read_all(self, query: sa.Select[Any]) -> list[tuple[str, Record]]:
        rows = await self._run(lambda connection: connection.execute(query).all())
        return [(key, Record(*values)) for key, *values in rows]

    async def _change(self, statement: sa.UpdateBase, **values: object) -> int:
        return await self._run(
            lambda connection: connection.execute(statement, values).rowcount, writes=True
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
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError("not an SQLAlchemy URL") from None
    if parsed.port is not None and parsed.port > 65535:
        raise ValueError(f"{parsed.port} is no port: the last one is 65535")
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
        if unknown := set(url.query) - {"timeout"}:
            raise ValueError(f"{unknown.pop()!r} is not timeout, the one option of SQLite here")
        self._path = url.database
        self._engine = sa.create_engine(
            url.set(drivername="sqlite"),
            isolation_level="AUTOCOMMIT",
            poolclass=sa.NullPool,  # the connections below are kept, at no cost for each use
            connect_args={} if "timeout" in url.query else {"timeout": TIMEOUT},
        )
        sa.event.listen(self._engine, "do_connect", self._make_private)
        sa.event.listen(self._engine, "connect", self._prepare)
        self._idle: list[sa.Connection] = []
        # Readers never wait for a lock, and so not for writers that do.
        self._readers = Threads(4, "sqlite-reader")
        self._writers = Threads(4, "sqlite-writer")

    async def run(self, work: Callable[[sa.Connection], T], *, writes: bool = False) -> T:
        threads = self._writers if writes else self._readers
        async with asyncio.timeout(2 * TIMEOUT):  # for a thread, and then for the lock
            return await threads.run(self._run, work)

    def _run(self, work: Callable[[sa.Connection], T]) -> T:
        connection = self._take_idle() or self._engine.connect()
        try:
            return work(connection)
        finally:
            self._idle.append(connection)

    def _take_idle(self) -> sa.Connection | None:
        """One to the file that is there: what is written to a removed one would be lost."""
        with suppress(IndexError):  # there is none, or another thread took the last one
            while connection := self._idle.pop():
                with suppress(FileNotFoundError):
                    if connection.info["file"] == os.stat(self._path).st_ino:
                        return connection
                connection.close()
        return None

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
            await asyncio.to_thread(threads.shutdown, wait=True)
        while self._idle:
            self._idle.pop().close()

    def _make_private(self, *_: Any) -> None:
        """Before SQLite creates the file. What it creates beside it takes over its permissions."""
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))

    def _prepare(self, connection: Any, entry: Any) -> None:
        """Let readers go on while another connection writes."""
        entry.info["file"] = os.stat(self._path).st_ino
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
            pool_size=CONNECTIONS,
            max_overflow=0,  # what overflows is closed after each use: that costs more than waiting
            pool_timeout=TIMEOUT,
            connect_args=options,
        )

    async def run(self, work: Callable[[sa.Connection], T], *, writes: bool = False) -> T:
        def connect_and_work() -> T:
            with self._engine.sync_engine.connect() as connection:
                return work(connection)

        # As AsyncConnection.run_sync, but once round all of it: that is half of the time.
        result: T = await greenlet_spawn(connect_and_work)
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
