"""Connections to PostgreSQL, kept open and handed out in turn.

asyncpg's own pool asks the server to reset a connection after each use, which costs three times as
much as a load. Statements that need no transaction leave nothing to be reset.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg

from ..store import StoreUnavailable

Work = Callable[..., Awaitable[Any]]  # takes a connection, and more

_NONE_FREE = "no connection was free in time: is pool_size too small?"
_CLOSING = 5.0  # seconds to end a statement that nobody waits for any more
_YOUNG = 1.0  # seconds in which connections tell the truth about a server that takes no writes

# What PostgreSQL calls what happened (Appendix A of its manual).
_READ_ONLY = "25006"
_LOST = ("57P01", "57P02", "57P03", "57P05", _READ_ONLY)  # it stops, starts, or is a standby now
_LET_GO_FIRST = ("40001", "40P01")  # another transaction came between
POOLED = ("26000", "42P05")  # a prepared statement is not there, or another client's is

_inherited: list[object] = []  # from the process that this one was forked from


class TryAgain(Exception):
    """The work failed for a ``reason`` that another try may not meet."""

    def __init__(self, reason: BaseException) -> None:
        self.reason = reason


class Pool:
    """Up to ``size`` connections. Callers wait ``patience`` seconds at most for a free one."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], size: int, patience: float) -> None:
        self._connect = connect
        self._turns = Turns(size, patience, _NONE_FREE)
        # Replaced when one is lost: the others in it are connections to the same server.
        self._idle: list[Any] = []
        self._since = time.monotonic()
        self._pid = os.getpid()
        self._closing: set[asyncio.Task[None]] = set()

    async def run(self, work: Work, *args: object) -> Any:
        """What ``work(connection, *args)`` comes to.

        Raises:
            TryAgain: the connection was lost, or another transaction came first.
            StoreUnavailable: no connection was free in time.
        """
        await self._turns.take()
        idle, connection = self._idle, None
        try:
            connection = self._take_idle() or await self._connect()
            result = await work(connection, *args)
        except BaseException as error:
            if self._let_go(idle, connection, error):
                raise TryAgain(error) from error
            raise
        self._give_back(idle, connection)
        return result

    async def aclose(self) -> None:
        """Close every connection that nobody uses."""
        self._replace()
        await asyncio.gather(*self._closing)

    def abandon(self) -> None:
        """Leave the connections to an event loop that has ended, or to the parent process."""
        if self._pid != os.getpid():
            _inherited.append(self)  # if they were closed here, the parent's would end
            return
        for connection in self._idle:
            with suppress(RuntimeError):
                connection.terminate()

    def _take_idle(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    def _give_back(self, idle: list[Any], connection: Any) -> None:
        if idle is self._idle:
            idle.append(connection)
            self._turns.end()
        else:
            self._close(connection, has_turn=True)

    def _let_go(self, idle: list[Any], connection: Any, error: BaseException) -> bool:
        """Give back or close a connection whose work failed; whether another try may succeed."""
        state = state_of(error)
        if connection is None:
            self._turns.end()
            return state in _LOST
        is_young = idle is self._idle and time.monotonic() - self._since < _YOUNG
        if connection.is_closed() or (state in _LOST and not (state == _READ_ONLY and is_young)):
            self._close(connection, has_turn=True)
            if not is_young:
                self._replace()
            return isinstance(error, Exception)
        if isinstance(error, asyncpg.PostgresError) and state not in POOLED:
            self._give_back(idle, connection)
        else:  # the server may still be at work, if it was cancelled or took too long
            self._close(connection, has_turn=True)
        return state in _LET_GO_FIRST

    def _replace(self) -> None:
        old, self._idle, self._since = self._idle, [], time.monotonic()
        for connection in old:
            self._close(connection)

    def _close(self, connection: Any, *, has_turn: bool = False) -> None:
        """Close it, and end what the server does for it. Its turn is free only then."""
        task = asyncio.create_task(_close(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        if has_turn:
            task.add_done_callback(lambda _: self._turns.end())


class Turns:
    """Lets ``count`` callers in at a time, and the others in the order in which they came.

    As ``asyncio.Semaphore``, but with a limit to the wait, which would cost twice as much by
    ``asyncio.timeout``.
    """

    def __init__(self, count: int, patience: float, problem: str) -> None:
        self._free = count
        self._patience = patience
        self._problem = problem
        self._waiting: deque[asyncio.Future[None]] | None = None

    async def take(self) -> None:
        """Wait for a turn.

        Raises:
            StoreUnavailable: it has not come in time, because of the ``problem``.
        """
        if self._free:
            self._free -= 1
            return
        if self._waiting is None:
            self._waiting = deque()
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(self._patience, self._give_up, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had just come
                self.end()
            raise
        finally:
            timer.cancel()

    def end(self) -> None:
        """Let the next one in."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    @property
    def are_free(self) -> bool:
        return self._free > 0

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            turn.set_exception(StoreUnavailable(f"database: {self._problem}"))


async def _close(connection: Any) -> None:
    try:
        async with asyncio.timeout(_CLOSING):
            await connection.close()
    except Exception:  # whatever it says: it is not used any more
        connection.terminate()


def state_of(error: BaseException | None) -> str:
    """What PostgreSQL calls an error, if it comes from there."""
    return getattr(error, "sqlstate", None) or ""
