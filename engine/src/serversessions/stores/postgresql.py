"""Sessions in a PostgreSQL database, for any number of machines."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import asyncpg

from ..store import StoreNotReady, StoreUnavailable
from .database_url import TIMEOUT, read_postgresql_url
from .pool import POOLED, Pool, TryAgain, Turns, Work, state_of
from .sql import POSTGRESQL, KeyTaken, SQLStore

logger = logging.getLogger(__name__)

PAUSES = (0.05, 0.2, 0.8)  # seconds, before a statement is tried again
LOCK = 7381940265  # of the database: whoever holds it creates tables
ERRORS = (
    *(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
    OSError,  # TimeoutError and those of TLS are, too
)

_STILL_CHANGING = "an earlier change of the same session has not ended"
_SKEW = 10.0  # seconds by which clocks may differ before the log says so
_NO_TABLE = "42P01"


class PostgreSQLStore(SQLStore):
    """The ``table`` in the database at ``url``, by asyncpg.

    It opens ``pool_size`` connections at most, and waits ``pool_timeout`` for a free one. Whether a
    record has expired is for the server's clock to say, since those of workers differ. A test's
    ``clock`` moves that, too, by as much as it is ahead of this machine's.

    Raises:
        ValueError: the URL is wrong, or no table can have that name.
    """

    def __init__(
        self,
        url: str,
        *,
        table: str = "app_sessions",
        pool_size: int = 15,
        pool_timeout: timedelta = timedelta(seconds=TIMEOUT),
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(table, POSTGRESQL)
        self._arguments = read_postgresql_url(url)
        self._size = pool_size
        self._patience = pool_timeout.total_seconds()
        self._clock = clock
        self._has_compared = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: Pool | None = None

    async def create_table(self) -> None:
        """Create the table, unless it is there. Many may do so at once."""

        async def create(connection: Any, *statements: str) -> None:
            async with connection.transaction():
                await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
                for statement in statements:
                    await connection.execute(statement)

        try:
            await self.scan(limit=1)  # whoever may not create a table may still use one
        except StoreNotReady:
            await self._run(create, *self._table)

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._use_pool().aclose()

    def _now(self) -> float:
        return self._clock() - time.time()

    def _list(self, keys: Sequence[str]) -> object:
        return keys

    async def _query(
        self, statement: str, *values: object, changes: str | None = None
    ) -> Sequence[Any]:
        rows: Sequence[Any]
        if changes is None:
            rows = await self._run(asyncpg.Connection.fetch, statement, *values)
        else:
            rows = await self._run_in_turn(changes, asyncpg.Connection.fetch, statement, *values)
        return rows

    async def _change(self, subject: str, statement: str, *values: object) -> int:
        status: str = await self._run_in_turn(
            subject, asyncpg.Connection.execute, statement, *values
        )
        return int(status.rpartition(" ")[2])

    async def _run_in_turn(self, subject: str, work: Work, *args: object) -> Any:
        """One change of a record at a time: while its row is locked, it holds one connection."""
        self._use_pool()
        turns = self._changing.get(subject)
        if turns is None:
            turns = self._changing[subject] = Turns(1, self._patience, _STILL_CHANGING)
        try:
            await turns.take()
            try:
                return await self._run(work, *args)
            finally:
                turns.end()
        finally:
            if turns.are_free:
                self._changing.pop(subject, None)

    async def _run(self, work: Work, *args: object) -> Any:
        """Run a statement, and again if its connection was lost or another came first."""
        reason: BaseException | None = None
        for pause in (0.0, *PAUSES):
            if pause:  # at once, it would take back the row for which another client waits
                await asyncio.sleep(pause)
            try:
                return await self._use_pool().run(work, *args)
            except TryAgain as again:
                reason = again.reason
            except asyncpg.UniqueViolationError:
                raise KeyTaken from None
            except ERRORS as error:
                raise unavailable(error) from error
        raise unavailable(reason) from reason

    def _use_pool(self) -> Pool:
        """That of this event loop: a test may run several, and a forked process has its own."""
        loop = asyncio.get_running_loop()
        if self._pool is None or loop is not self._loop:
            if self._pool is not None:
                self._pool.abandon()
            self._loop = loop
            self._pool = Pool(self._connect, self._size, self._patience)
            self._changing: dict[str, Turns] = {}
        return self._pool

    async def _connect(self) -> Any:
        connection = await asyncpg.connect(**self._arguments)
        try:
            if not self._has_compared:
                await self._compare_clocks(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _compare_clocks(self, connection: Any) -> None:
        now = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        ahead = now - time.time()
        if not self._has_compared and abs(ahead) > _SKEW:
            logger.warning(
                "The database's clock is %.0f s %s this machine's, and sessions expire by it: "
                "set both by NTP",
                *(abs(ahead), "ahead of" if ahead > 0 else "behind"),
            )
        self._has_compared = True


def unavailable(error: BaseException | None) -> StoreUnavailable:
    """What asyncpg raised, in one line, without the statement and its parameters."""
    if state_of(error) == _NO_TABLE:
        return StoreNotReady("the database has no table for sessions yet")
    if isinstance(error, socket.gaierror):
        return StoreUnavailable(f"database: its host is not known: {error.strerror}")
    if state_of(error) in POOLED:
        return StoreUnavailable(
            "database: a pooler before it forgets prepared statements: set"
            " max_prepared_statements in PgBouncer (1.21 or later), or add"
            " ?prepared_statement_cache_size=0 to the URL"
        )
    text = str(error).partition("\n")[0]  # what follows may tell a key
    return StoreUnavailable(f"database: {text or 'no answer in time'}")
