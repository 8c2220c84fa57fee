"""Sessions in a table: SQLite for one machine, PostgreSQL for more.

Each method is one statement and needs no transaction, so connections are in autocommit mode.
"""

from __future__ import annotations

import asyncio
import errno
import getpass
import os
import secrets
import socket
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.util import greenlet_spawn

from ..store import Record, StoreNotReady, StoreUnavailable
from .threads import Threads

T = TypeVar("T")

TIMEOUT = 5.0  # seconds to wait for a connection, a lock or an answer
PAUSES = (0.05, 0.2, 0.8)  # seconds, before a statement is tried again
CONNECTIONS = 15  # to PostgreSQL, from each worker
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# What PostgreSQL calls what happened (Appendix A of its manual).
NO_TABLE = "42P01"
DEADLOCK = "40P01"
POOLED = ("26000", "42P05")  # a prepared statement is not there, or another's is

# What a file system without hard links says, FAT for one, which has no permissions either.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

KEYS = 500  # in one statement: some builds of SQLite take no more than 999 values

metadata = sa.MetaData()
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double, nullable=False, index=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.String(64), nullable=True),
)
# Only of those that have one: most sessions then cost no entry, and their updates a page less.
_HAS_OWNER = sessions.c.owner.is_not(None)
sa.Index(
    "ix_sessions_owner",
    sessions.c.owner,
    sessions.c.key,
    sqlite_where=_HAS_OWNER,
    postgresql_where=_HAS_OWNER,
)
_RECORD = [sessions.c[name] for name in ("data", "created", "expires", "version", "owner")]


# Built once, because building costs more than running. What a statement looks for is bound by names
# that no column has; what it writes, by the names of the columns.
_HAS_KEY = sessions.c.key == sa.bindparam("at_key")
_IS_PAST = sessions.c.key > sa.bindparam("after")
_IS_OWNED = sessions.c.owner == sa.bindparam("at_owner")
_IS_LIVE = sessions.c.expires > sa.bindparam("now")
_IS_EXPIRED = sessions.c.expires <= sa.bindparam("now")
_LIMIT = sa.bindparam("limit", type_=sa.Integer)

_CREATE = sa.insert(sessions)
_LOAD = sa.select(*_RECORD).where(_HAS_KEY, _IS_LIVE)
_UPDATE = sa.update(sessions).where(
    _HAS_KEY, _IS_LIVE, sessions.c.version == sa.bindparam("old_version")
)
_TOUCH = sa.update(sessions).where(_HAS_KEY, _IS_LIVE)
_DELETE = sa.delete(sessions).where(_HAS_KEY, _IS_LIVE)
_DELETE_MANY = sa.delete(sessions).where(
    sessions.c.key.in_(sa.bindparam("at_keys", expanding=True)), _IS_LIVE
)
_DELETE_OWNED = sa.delete(sessions).where(
    _IS_OWNED, _IS_LIVE, sessions.c.key != sa.bindparam("except_key")
)
_SCAN = sa.select(sessions.c.key, *_RECORD).where(_IS_PAST).order_by(sessions.c.key).limit(_LIMIT)
_LIST_OWNED = _SCAN.where(_IS_OWNED, _IS_LIVE)
# What another worker sweeps, or a request is writing, is skipped: no sweep waits for anything.
_EXPIRED = (
    sa.select(sessions.c.key)
    .where(_IS_EXPIRED)
    .limit(_LIMIT)
    .with_for_update(skip_locked=True)
    .cte("expired", nesting=True)  # once, however often it is looked at
)
# Asked twice whether it is expired: a row may be touched between the two.
_DELETE_EXPIRED = sa.delete(sessions).where(
    sessions.c.key.in_(sa.select(_EXPIRED.c.key)), _IS_EXPIRED
)
_PING = sa.select(*_RECORD).limit(0)


class DatabaseStore:
    """The ``sessions`` table of the database at ``url``, which ``migrate`` creates.

    To PostgreSQL it opens ``pool_size`` connections at most (15), and waits ``pool_timeout`` for a
    free one (5 seconds).
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int | None = None,
        pool_timeout: timedelta | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._engine = open_engine(url, pool_size=pool_size, pool_timeout=pool_timeout)

    async def create(self, key: str, record: Record) -> bool:
        try:
            await self._change(_CREATE, key=key, **_values(record))
        except sa.exc.IntegrityError:
            return False
        return True

    async def load(self, key: str) -> Record | None:
        rows = await self._read(_LOAD, at_key=key, now=self._clock())
        return Record(*rows[0]) if rows else None

    async def update(self, key: str, record: Record, *, move_to: str | None = None) -> bool:
        values = _values(record) if move_to is None else {"key": move_to, **_values(record)}
        old = {"at_key": key, "now": self._clock(), "old_version": record.version - 1}
        try:
            return await self._change(_UPDATE, **old, **values) == 1
        except sa.exc.IntegrityError:
            return False

    async def touch(self, key: str, expires: float) -> bool:
        return await self._change(_TOUCH, at_key=key, now=self._clock(), expires=expires) == 1

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        now = self._clock()
        if owner is None and len(keys) == 1:  # a logout: a list would cost a quarter more
            return await self._change(_DELETE, at_key=keys[0], now=now)
        statement = _DELETE_MANY if owner is None else _DELETE_MANY.where(sessions.c.owner == owner)
        parts = [keys[start : start + KEYS] for start in range(0, len(keys), KEYS)]
        return sum([await self._change(statement, at_keys=part, now=now) for part in parts])

    async def delete_expired(self, limit: int = 1000) -> int:
        return await self._change(_DELETE_EXPIRED, now=self._clock(), limit=limit)

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        values = {"at_owner": owner, "after": after, "limit": limit}
        rows = await self._read(_LIST_OWNED, now=self._clock(), **values)
        return [(key, Record(*record)) for key, *record in rows]

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        values = {"at_owner": owner, "except_key": except_key or ""}
        return await self._change(_DELETE_OWNED, now=self._clock(), **values)

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        rows = await self._read(_SCAN, after=cursor, limit=limit)
        page = [(key, Record(*record)) for key, *record in rows]
        return page, page[-1][0] if len(page) == limit else ""

    async def ping(self) -> None:
        await self._read(_PING)

    async def aclose(self) -> None:
        await self._engine.aclose()

    async def _read(self, query: sa.Select[Any], **values: object) -> Sequence[Any]:
        return await self._run(lambda connection: connection.execute(query, values).all())

    async def _change(self, statement: sa.UpdateBase, **values: object) -> int:
        return await self._run(
            lambda connection: connection.execute(statement, values).rowcount, writes=True
        )

    async def _run(self, work: Callable[[sa.Connection], T], *, writes: bool = False) -> T:
        try:
            for pause in PAUSES:
                try:
                    return await self._engine.run(work, writes=writes)
                except sa.exc.DBAPIError as error:
                    if not error.connection_invalidated and _sqlstate(error) != DEADLOCK:
                        raise
                # The server has been restarted, or let another client's statement go first: at
                # once, this one would take back the row that the other waits for.
                await asyncio.sleep(pause)
            return await self._engine.run(work, writes=writes)
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


def open_engine(
    url: str, *, pool_size: int | None = None, pool_timeout: timedelta | None = None
) -> Engine:
    """The engine for an SQLAlchemy URL, with a pool for PostgreSQL. Nothing connects yet.

    Raises:
        ValueError: the URL can't be read, or names a database that no engine here speaks.
    """
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError:
        raise ValueError("not an SQLAlchemy URL: scheme://user:password@host:port/name") from None
    except ValueError:
        raise ValueError("its port is not a number") from None
    if parsed.port is not None and not 0 < parsed.port <= 65535:
        raise ValueError(f"{parsed.port} is no port: they go from 1 to 65535")
    try:
        (parsed.host or "").encode("idna")  # as the system does before it looks for one
    except UnicodeError:
        raise ValueError("its host has a part that is empty or longer than 63") from None
    if parsed.drivername in SQLite.drivers:
        return SQLite(parsed)
    if parsed.drivername in PostgreSQL.drivers:
        return PostgreSQL(parsed, pool_size, pool_timeout)
    allowed = ", ".join(SQLite.drivers + PostgreSQL.drivers)
    raise ValueError(f"{parsed.drivername!r} is not one of {allowed}")


def _seconds(option: str, value: Any) -> float:
    """A positive number from a URL."""
    with suppress(TypeError, ValueError):
        if 0 < (seconds := float(value)) < inf:
            return seconds
    raise ValueError(f"{option}: allowed: seconds, such as 2.5, once")


class SQLite:
    """SQLite by its blocking driver in threads: several times faster than an asynchronous one."""

    drivers = ("sqlite", "sqlite+pysqlite", "sqlite+aiosqlite")
    errors: tuple[type[Exception], ...] = (sa.exc.SQLAlchemyError, OSError)

    def __init__(self, url: URL) -> None:
        if not url.database or url.database == ":memory:":
            raise ValueError('SQLite needs a file, as in "sqlite:///var/app.db"')
        if unknown := set(url.query) - {"timeout"}:
            raise ValueError(f"{min(unknown)!r} is not timeout, the one option of SQLite here")
        timeout = _seconds("timeout", url.query.get("timeout", TIMEOUT))
        self._patience = TIMEOUT + timeout  # for a thread, and then for the lock
        self._path = url.database
        self._engine = sa.create_engine(
            url.set(drivername="sqlite", query={}),
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,  # a traceback would show the data of sessions
            poolclass=sa.NullPool,  # the connections below are kept, at no cost for each use
            connect_args={"timeout": timeout},
        )
        sa.event.listen(self._engine, "do_connect", self._make_private)
        sa.event.listen(self._engine, "connect", self._prepare)
        self._idle: list[sa.Connection] = []
        # Readers never wait for a lock, and so not for writers that do.
        self._readers = Threads(4, "sqlite-reader")
        self._writers = Threads(4, "sqlite-writer")

    async def run(self, work: Callable[[sa.Connection], T], *, writes: bool = False) -> T:
        threads = self._writers if writes else self._readers
        async with asyncio.timeout(self._patience):
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
        """Before SQLite creates the file. What it creates beside it takes over its permissions.

        Never open a database's file beside SQLite: to close any descriptor of it drops every lock
        that this process holds on it (https://sqlite.org/howtocorrupt.html, section 2.2). So an
        empty file is made under another name, closed, and then given this one.
        """
        if os.path.exists(self._path):
            return
        path = Path(self._path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            os.link(temporary, path)
        except FileExistsError:  # another process was faster
            pass
        except OSError as error:
            if error.errno not in NO_LINKS:  # there, SQLite creates the file
                error.filename, error.filename2 = self._path, None
                raise
        finally:
            with suppress(OSError):
                temporary.unlink()

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

    def __init__(
        self, url: URL, pool_size: int | None = None, pool_timeout: timedelta | None = None
    ) -> None:
        import asyncpg
        from sqlalchemy.ext.asyncio import create_async_engine

        if url.username is None and "PGUSER" not in os.environ:
            try:
                getpass.getuser()  # as asyncpg will
            except (KeyError, OSError):
                raise ValueError("user: missing, and this process's own has no name") from None
        self.errors: tuple[type[Exception], ...] = (
            sa.exc.SQLAlchemyError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            OSError,
            TimeoutError,
        )
        self._options = self._read_options(url)
        self._engine = create_async_engine(
            url.set(drivername="postgresql+asyncpg", query={}),
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,  # a traceback would show the data of sessions
            pool_reset_on_return=None,
            pool_size=pool_size or CONNECTIONS,
            max_overflow=0,  # what overflows is closed after each use: that costs more than waiting
            connect_args=self._options,
        )
        # The pool alone would let newcomers overtake those who wait for a connection.
        self._turns = asyncio.Semaphore(pool_size or CONNECTIONS)
        self._patience = TIMEOUT if pool_timeout is None else pool_timeout.total_seconds()

    @staticmethod
    def _read_options(url: URL) -> dict[str, Any]:
        """What asyncpg takes, from the query of a URL."""
        options: dict[str, Any] = {"timeout": TIMEOUT, "command_timeout": TIMEOUT}
        for name, value in url.query.items():
            if name in ("timeout", "command_timeout"):
                options[name] = _seconds(name, value)
            elif name in ("ssl", "sslmode"):  # libpq's name, which hosts hand out
                if value not in SSL_MODES:
                    raise ValueError(f"{name}: allowed: {', '.join(SSL_MODES)}, once")
                options["ssl"] = value
            elif name == "prepared_statement_cache_size":
                if value != "0":
                    raise ValueError(f"{name}: allowed: 0, for a pooler that keeps none")
                # What has no name is prepared and executed in one go, on one server.
                options |= {name: 0, "statement_cache_size": 0}
                options["prepared_statement_name_func"] = lambda: ""
            else:
                raise ValueError(
                    f"{name!r} is not one of timeout, command_timeout, sslmode,"
                    " prepared_statement_cache_size"
                )
        return options

    async def run(self, work: Callable[[sa.Connection], T], *, writes: bool = False) -> T:
        def connect_and_work() -> T:
            with self._engine.sync_engine.connect() as connection:
                return work(connection)

        patience = self._patience if self._turns.locked() else None  # a timer is 3 us
        try:
            async with asyncio.timeout(patience):
                await self._turns.acquire()
        except TimeoutError:
            raise StoreUnavailable(
                "database: no connection was free in time: is pool_size too small?"
            ) from None
        try:
            # As AsyncConnection.run_sync, but once round all of it: that is half of the time.
            result: T = await greenlet_spawn(connect_and_work)
            return result
        finally:
            self._turns.release()

    async def run_alone(self, work: Callable[[sa.Connection], T]) -> T:
        from sqlalchemy.ext.asyncio import create_async_engine

        # However long it takes: the others, and to change a large table.
        options = {**self._options, "command_timeout": None}
        engine = create_async_engine(self._engine.url, poolclass=sa.NullPool, connect_args=options)
        try:
            async with engine.begin() as connection:
                await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7381940265)")
                result: T = await connection.run_sync(work)
                return result
        finally:
            await engine.dispose()

    async def aclose(self) -> None:
        await self._engine.dispose()


def _values(record: Record) -> dict[str, Any]:
    return {column.name: getattr(record, column.name) for column in _RECORD}


def unavailable(error: Exception) -> StoreUnavailable:
    """What a driver raised, in one line, without the statement and its parameters."""
    cause = getattr(error, "orig", None) or error
    if _sqlstate(error) == NO_TABLE or "no such table" in str(cause):
        return StoreNotReady("the database has no table for sessions yet")
    if isinstance(cause, socket.gaierror):
        return StoreUnavailable(f"database: its host is not known: {cause.strerror}")
    if _sqlstate(error) in POOLED:
        return StoreUnavailable(
            "database: a pooler before it forgets prepared statements: set"
            " max_prepared_statements in PgBouncer (1.21 or later), or add"
            " ?prepared_statement_cache_size=0 to the URL"
        )
    return StoreUnavailable(f"database: {str(cause) or 'no answer in time'}")


def _sqlstate(error: Exception) -> str | None:
    return getattr(getattr(error, "orig", None) or error, "sqlstate", None)
