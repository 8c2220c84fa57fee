"""Commands to one server, by redis-py: those of one turn of the event loop share a pipeline."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

Argument: TypeAlias = str | bytes | int | float
Command: TypeAlias = tuple[Argument, ...]
Waiting: TypeAlias = tuple[Command, asyncio.Future[Any]]

BATCH = 128  # commands

_LOST = (RedisConnectionError, RedisTimeoutError, OSError)
_inherited: list[object] = []  # clients of the process that this one was forked from


class Server:
    """A server, and a few connections to it.

    ``connections`` is the number of batches under way at once; what comes meanwhile makes up the
    next one. An error that one command gets, or the cancellation of whoever sent it, does not
    touch the others of its batch. A batch whose connection is lost is sent once more, so a command
    may be carried out twice; if that fails too, all who wait get the error. ``connect_timeout`` and
    ``timeout`` are seconds to wait for a connection, and for the answers to a batch.
    """

    version = ""  # what a Cluster changes when its slots move

    def __init__(
        self,
        open_client: Callable[[], Redis],
        *,
        connections: int,
        timeout: float,
        connect_timeout: float,
    ) -> None:
        self._open_client = open_client
        self._connections = connections
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._client: Any = None  # redis-py's; its annotations know less than it can do
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()

    def send(self, *command: Argument) -> asyncio.Future[Any]:
        """The answer, or in its place the error: a ``RedisError`` or an ``OSError``."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin(loop)
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((command, future))
        if len(self._waiting) == 1 and len(self._serving) < self._connections:
            self._serving.add(loop.create_task(self._serve()))
        return future

    def send_asking(self, *command: Argument) -> asyncio.Future[Any]:
        """As ``send``, to a node of a Cluster that is about to get the key's slot."""
        self.send("ASKING")
        return self.send(*command)

    async def primaries(self) -> list[Server]:
        """This one: as of a Cluster with a single node."""
        return [self]

    def node_of(self, key: str) -> Server | None:
        """This one: as of a Cluster with a single node."""
        return self

    async def aclose(self) -> None:
        """Wait for what is under way, and disconnect."""
        if self._loop is asyncio.get_running_loop():
            while self._serving:
                await asyncio.wait(self._serving)
            with suppress(RedisError, OSError):  # a server that hangs does not take leave of TLS
                await self._client.aclose()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open connections of its own for each event loop, and in each process."""
        if os.getpid() != self._pid:
            _inherited.append(self._client)  # to close it would close it for the other process
            self._pid = os.getpid()
        self._loop, self._client, self._is_proven = loop, self._open_client(), False
        self._waiting: list[Waiting] = []
        self._serving: set[asyncio.Task[None]] = set()

    async def _serve(self) -> None:
        """Send what is waiting, batch by batch, until nothing is."""
        current, batch = asyncio.current_task(), list[Waiting]()
        assert current is not None
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                try:
                    answers = await self._exchange([command for command, _ in batch])
                except Exception as error:
                    batch, self._waiting = batch + self._waiting, []
                    answers = [error.with_traceback(None)] * len(batch)
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
        except asyncio.CancelledError:  # the event loop ends
            for _, future in batch + self._waiting:
                future.cancel()
            raise
        finally:
            self._serving.remove(current)

    async def _exchange(self, commands: list[Command]) -> list[Any]:
        try:
            answers = await self._try(commands)
        except _LOST:
            self._is_proven = False
            answers = await self._try(commands)
        if any(isinstance(answer, ReadOnlyError) for answer in answers):
            await self._leave()
            refused = [at for at, answer in enumerate(answers) if isinstance(answer, ReadOnlyError)]
            again = await self._try([commands[at] for at in refused])
            for at, answer in zip(refused, again, strict=True):
                answers[at] = answer
        return answers

    async def _try(self, commands: list[Command]) -> list[Any]:
        if not self._is_proven:
            async with asyncio.timeout(self._connect_timeout):
                pool = self._client.connection_pool
                await pool.release(await pool.get_connection())
        # One limit for a whole batch. redis-py's own, for each answer, takes a quarter of a load.
        async with asyncio.timeout(self._timeout):
            answers = await self._execute(commands)
        self._is_proven = True
        return answers

    async def _execute(self, commands: list[Command]) -> list[Any]:
        if len(commands) == 1:  # a pipeline would take a quarter more
            try:
                return [await self._client.execute_command(*commands[0])]
            except ResponseError as error:
                return [error]
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    async def _leave(self) -> None:
        """Disconnect from a server that is read only: its address may be the new primary's."""
        self._is_proven = False
        await self._client.connection_pool.disconnect(inuse_connections=False)
