"""A connection to a Redis server, which carries one batch of commands at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import InvalidResponse, ReadOnlyError, RedisError, ResponseError

Waiting: TypeAlias = tuple[bytes, asyncio.Future[Any]]  # a packed command, and its answer to be
Batch: TypeAlias = Sequence[Waiting]

_INCOMPLETE = object()  # an answer of which more is to come


class Connection(asyncio.Protocol):
    """redis-py opens it; from then on the event loop calls it, and no task has to wait for it.

    By redis-py's streams a load takes a third longer. ``on_answered`` is called after the last
    answer of a batch; ``on_lost`` when it breaks, with what has no answer then and with the reason.
    """

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        timeout: float,
        on_answered: Callable[[Connection], None],
        on_lost: Callable[[Connection, Batch, Exception], None],
    ) -> None:
        self.is_open = True
        self.is_proven = False  # a batch has been answered
        self.unanswered: deque[Waiting] = deque()
        self._writer = writer
        self._timeout = timeout
        self._on_answered = on_answered
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._deadline = 0.0  # in the event loop's time, of the batch under way
        self._timer: asyncio.TimerHandle | None = None
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=DefaultParser.parse_error,
            notEnoughData=_INCOMPLETE,
        )
        writer.transport.set_protocol(self)

    def exchange(self, batch: Batch) -> None:
        """Send commands; their futures get the answers, or the errors that the server answers."""
        self.unanswered.extend(batch)
        self._deadline = self._loop.time() + self._timeout
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        self._writer.write(b"".join([command for command, _ in batch]))

    def close(self) -> None:
        """Close it at once: a server that hangs would never answer the farewell of TLS."""
        self.is_open = False
        self._stop_timer()
        self._writer.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while self.is_open and (answer := self._reader.gets()) is not _INCOMPLETE:
                self._accept(answer)
        except InvalidResponse as error:
            self._lose(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._lose(error or ConnectionResetError("connection closed by server"))

    def _accept(self, answer: object) -> None:
        if isinstance(answer, RedisError) and self._is_lost_by(answer):
            self._lose(answer)
        elif not self.unanswered:
            self._lose(InvalidResponse("the server answered what nobody has asked"))
        else:
            _, future = self.unanswered.popleft()
            if not future.done():
                future.set_result(answer)
            if not self.unanswered:
                self.is_proven = True
                self._on_answered(self)

    def _is_lost_by(self, error: RedisError) -> bool:
        """Whether a new one may do better: to whoever became the primary meanwhile, say."""
        if isinstance(error, ReadOnlyError):
            return self.is_proven
        return not isinstance(error, ResponseError)

    def _check_deadline(self) -> None:
        """By one timer for many batches: to set one for each takes a tenth of a load."""
        self._timer = None
        if self.unanswered and self._loop.time() >= self._deadline:
            self._lose(TimeoutError())
        elif self.unanswered:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _lose(self, error: Exception) -> None:
        if self.is_open:
            self.is_open = False
            self._writer.transport.abort()
            self._stop_timer()
            batch, self.unanswered = self.unanswered, deque()
            self._on_lost(self, batch, error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
