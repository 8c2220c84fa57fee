"""Commands to a Redis server: those of one turn of the event loop share a round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import hiredis
from redis.exceptions import RedisError

from .connection import Batch, Connection, Waiting

Argument: TypeAlias = str | bytes | int | float

BATCH = 128  # commands

# Five times as fast as redis-py's own; its stub knows tuples of one argument alone.
_pack = cast(Callable[[tuple[Argument, ...]], bytes], hiredis.pack_command)


class Batches:
    """Sends commands over a few connections, and hands out the answers.

    ``connections`` are batches under way at once; what comes meanwhile makes up the next one.
    What one command does to the server, or whoever asked for it to its task, is nothing to the
    others of its batch. One whose connection breaks is sent again, once, over a new one, so a
    command may be carried out twice. If that fails too, all who wait hear of it.
    """

    version = ""  # as of a ``Cluster`` whose slots stay where they are

    def __init__(self, client: Any, connections: int) -> None:  # redis-py's
        self._client = client
        self._limit = connections
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[Waiting] = []
        self._idle: list[Connection | None] = []  # None stands for one that is yet to be opened
        self._is_lone = False  # the last turn had one command: the next one's need not wait
        self._open: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    def send(self, *command: Argument) -> asyncio.Future[Any]:
        """The answer, or the error in its place: a ``RedisError`` or an ``OSError``."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the first; or the one before has been closed
            self._loop, self._waiting, self._idle = loop, [], [None] * self._limit
            self._open, self._opening = set(), set()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((_pack(command), future))
        if len(self._waiting) == 1 and self._idle:
            self._begin(loop)
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
            while under_way := [*self._opening, *self._unanswered()]:
                await asyncio.wait(under_way)
            for connection in self._open:
                connection.close()
            self._open.clear()
        await self._client.aclose()

    def _unanswered(self) -> list[asyncio.Future[Any]]:
        batches = (self._waiting, *(connection.unanswered for connection in self._open))
        return [future for batch in batches for _, future in batch if not future.done()]

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the loop's next turn send what comes until then, but the first now if it may."""
        connection = self._idle.pop()
        if self._is_lone and connection is not None and connection.is_open:
            self._is_lone = False
            connection.exchange(self._take(1))
            loop.call_soon(self._follow, connection)
        else:
            loop.call_soon(self._gather, connection)

    def _follow(self, connection: Connection) -> None:
        """Send what has come after the first, over the same connection."""
        self._is_lone = not self._waiting
        if self._waiting and connection.unanswered:
            connection.exchange(self._take(BATCH))

    def _gather(self, connection: Connection | None) -> None:
        self._is_lone = len(self._waiting) == 1
        self._serve(connection)

    def _serve(self, connection: Connection | None) -> None:
        """Let a connection go on with what has come meanwhile, or rest."""
        if not self._waiting:
            self._idle.append(connection)
        elif connection is not None and connection.is_open:
            connection.exchange(self._take(BATCH))
        else:
            self._open_for(self._take(BATCH))

    def _open_for(self, batch: Batch) -> None:
        task = asyncio.get_running_loop().create_task(self._open_and_exchange(batch))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open_and_exchange(self, batch: Batch) -> None:
        try:
            connection = await self._connect()
        except (RedisError, OSError) as error:
            self._fail(batch, error)
        except BaseException:
            for _, future in self._give_up(batch):
                future.cancel()
            raise
        else:
            connection.exchange(batch)

    async def _connect(self) -> Connection:
        opened = self._client.connection_pool.make_connection()
        try:
            async with asyncio.timeout(opened.socket_connect_timeout):
                await opened.connect()
        except BaseException:
            await opened.disconnect(nowait=True)
            raise
        # redis-py has no public way to hand over what it has opened: hence the upper bound of its
        # version in pyproject.toml.
        writer, opened._reader, opened._writer = opened._writer, None, None
        connection = Connection(writer, opened.socket_timeout, self._serve, self._lose)
        self._open.add(connection)
        return connection

    def _lose(self, connection: Connection, batch: Batch, error: Exception) -> None:
        self._open.discard(connection)
        if batch and connection.is_proven:
            self._open_for(batch)
        elif batch:
            self._fail(batch, error)

    def _fail(self, batch: Batch, error: Exception) -> None:
        answer = error.with_traceback(None)
        for _, future in self._give_up(batch):
            if not future.done():
                future.set_result(answer)

    def _give_up(self, batch: Batch) -> list[Waiting]:
        """All who wait, in this batch and for the next; whoever comes after them tries again."""
        self._idle.append(None)
        return [*batch, *self._take(len(self._waiting))]

    def _take(self, limit: int) -> list[Waiting]:
        batch, self._waiting = self._waiting[:limit], self._waiting[limit:]
        return batch
