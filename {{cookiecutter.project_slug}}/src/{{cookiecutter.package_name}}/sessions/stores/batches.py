"""Commands to a Redis server: those of the same turn of the event loop share one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.exceptions import RedisError, ResponseError

Argument = str | bytes | int | float
Command = tuple[Argument, ...]
Waiting = tuple[Command, asyncio.Future[Any]]

BATCH = 128  # commands

# Five times as fast as redis-py's own; its stub knows tuples of one argument alone.
_pack = cast(Callable[[Command], bytes], hiredis.pack_command)


class Batches:
    """Sends commands over a few connections of redis-py, and hands out the answers.

    ``connections`` are batches under way at once; what comes meanwhile makes up the next one.
    What one command does to the server, or whoever asked for it to its task, is nothing to the
    others of its batch. One whose connection breaks is sent again, once, over a new one, so a
    command may be carried out twice. If that fails too, all who wait hear of it.
    """

    version = ""  # as of a ``Cluster`` whose slots stay where they are

    def __init__(self, client: Any, connections: int) -> None:  # redis-py's
        self._client = client
        self._connections = connections
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[Waiting] = []
        self._idle: list[_Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, *command: Argument) -> asyncio.Future[Any]:
        """The answer, or the error in its place: a ``RedisError`` or an ``OSError``."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the first; or the one before has been closed
            self._loop, self._waiting, self._tasks = loop, [], set()
            pool = self._client.connection_pool
            self._idle = [_Connection(pool) for _ in range(self._connections)]
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((command, future))
        if len(self._waiting) == 1 and self._idle:
            # It begins with the loop's next turn, and takes along who comes until then.
            task = loop.create_task(self._serve(self._idle.pop()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def send_asking(self, *command: Argument) -> Any:
        """As ``send``, to a node of a Cluster that is about to get the key's slot."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.execute_command("ASKING")
        pipeline.execute_command(*command)
        try:
            return (await pipeline.execute(raise_on_error=False))[1]
        except (RedisError, OSError) as error:
            return error.with_traceback(None)

    async def primaries(self) -> list[Batches]:
        """This one: as of a ``Cluster`` with a single node."""
        return [self]

    async def aclose(self) -> None:
        """Wait for what is under way, and disconnect."""
        if self._loop is asyncio.get_running_loop():  # one that is closed has closed its own
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for connection in self._idle:
                await connection.close()
        await self._client.aclose()

    async def _serve(self, connection: _Connection) -> None:
        try:
            while self._waiting:
                await self._serve_batch(connection)
        finally:
            self._idle.append(connection)

    async def _serve_batch(self, connection: _Connection) -> None:
        batch = self._take(BATCH)
        try:
            answers = await connection.exchange([command for command, _ in batch])
        except (RedisError, OSError) as error:
            batch += self._take(len(self._waiting))
            answers = [error.with_traceback(None)] * len(batch)
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    def _take(self, limit: int) -> list[Waiting]:
        batch, self._waiting = self._waiting[:limit], self._waiting[limit:]
        return batch


class _Connection:
    """One of redis-py's, which connects when it is needed."""

    def __init__(self, pool: Any) -> None:
        self._connection = pool.make_connection()
        # One timer for the whole batch costs less than two of redis-py's for each command.
        self._timeout = self._connection.socket_timeout
        self._connection.socket_timeout = None

    async def exchange(self, commands: list[Command]) -> list[Any]:
        if self._connection.is_connected:
            try:
                return await self._ask(commands)
            except (RedisError, OSError):  # it may have broken long ago
                await self.close()
        try:
            async with asyncio.timeout(self._connection.socket_connect_timeout):
                await self._connection.connect()
            return await self._ask(commands)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def _ask(self, commands: list[Command]) -> list[Any]:
        async with asyncio.timeout(self._timeout):
            packed = b"".join(map(_pack, commands))
            await self._connection.send_packed_command(packed, check_health=False)
            return [await self._answer() for _ in commands]

    async def _answer(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error
