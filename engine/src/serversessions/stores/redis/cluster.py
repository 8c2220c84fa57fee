"""Commands to a Cluster, each to the node that serves its key: redis-py's own client can't do it.

In its pipeline a node that hangs holds up the commands to all others, one that fails costs all
others their connections, and what has moved is sent again one by one; what it sends after ASKING
may go over another connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError

from .server import Argument, Server
from .uri import Address

SLOTS = 16384
TRIES = 5  # of one command, while its slot moves
ASKED = 5  # nodes that are asked for the map at once; the first answer counts
PAUSE = 0.1  # seconds, on average, before the map is read again

Ranges = list[tuple[int, int, list[Address]]]  # first and last slot, the primary and its replicas


class Cluster:
    """Knows which node serves which slot, and learns from the nodes when that has changed.

    All keys of a command are of one slot. One whose node is lost is sent again, once, if another
    node serves that slot by then; so it may be carried out twice.
    """

    def __init__(self, open_node: Callable[[Address], Server], seeds: Sequence[Address]) -> None:
        self._open = open_node
        self._seeds = seeds
        self._known = set(seeds)
        self._nodes: dict[Address, Server] = {}
        self._map: list[Address | None] = [None] * SLOTS
        self.version = ""  # another one after slots have moved
        self._reading: asyncio.Task[None] | None = None
        self._read_after = 0.0
        self._fault: Exception | None = None  # why the map could not be read
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, *command: Argument) -> Any:
        """The answer, or in its place the error: a ``RedisError`` or an ``OSError``."""
        slot = _slot(command[3] if command[0] in ("EVAL", "EVALSHA") else command[1])
        if self._map[slot] is None:
            await self._read_map()
        answer: Any = self._fault or ClusterDownError(f"no node serves slot {slot}")
        for _ in range(TRIES):
            address = self._map[slot]
            if address is None:
                break
            answer = await self._node(address).send(*command)
            if isinstance(answer, AskError) and not isinstance(answer, MovedError):
                answer = await self._node(_target(answer, address)).send_asking(*command)
            if isinstance(answer, MovedError):
                await self._read_map()  # others will have moved as well
                self._map[slot] = _target(answer, address)
            elif isinstance(answer, Exception) and not isinstance(answer, ResponseError):
                await self._read_map()
                if self._map[slot] == address:
                    break
            else:
                break
        return answer

    async def primaries(self) -> list[Server]:
        """The nodes that serve slots, in the order of these.

        Raises:
            RedisError, OSError: no node tells them.
        """
        self._read_after = 0
        await self._read_map()
        if self._fault is not None:
            raise self._fault
        return [self._node(address) for address in dict.fromkeys(self._map) if address]

    def node_of(self, key: str) -> Server | None:
        """The node that serves a key, if it is known."""
        address = self._map[_slot(key)]
        return None if address is None else self._node(address)

    async def aclose(self) -> None:
        """Wait for what is under way, and disconnect."""
        nodes = [node.aclose() for node in self._nodes.values()]
        await asyncio.gather(*nodes, *self._closing)

    def _node(self, address: Address) -> Server:
        if address not in self._nodes:
            self._nodes[address] = self._open(address)
        return self._nodes[address]

    async def _read_map(self) -> None:
        """Ask again who serves what: once for all who want to know, and not at every request."""
        loop = asyncio.get_running_loop()
        reading = self._reading
        if reading is None or reading.done() or reading.get_loop() is not loop:
            if loop.time() < self._read_after:
                return
            self._reading = reading = loop.create_task(self._ask_for_map())
        await asyncio.shield(reading)

    async def _ask_for_map(self) -> None:
        asked = random.sample(sorted(self._known), min(ASKED, len(self._known)))
        tasks = [asyncio.create_task(self._ask_node(address)) for address in asked]
        for task in asyncio.as_completed(tasks):
            answer = await task
            if not isinstance(answer, Exception):
                self._take(answer)
                self._fault = None
                break
            self._fault = answer.with_traceback(None)
        for unneeded in tasks:
            unneeded.cancel()
        pause = random.SystemRandom().uniform(0.5, 1.5) * PAUSE
        self._read_after = asyncio.get_running_loop().time() + pause

    async def _ask_node(self, address: Address) -> Ranges | Exception:
        answer = await self._node(address).send("CLUSTER", "SLOTS")
        if isinstance(answer, Exception):
            return answer

        def known(host: bytes | None, port: int, *_: object) -> Address:
            # A node that does not know its own name leaves it to those who asked.
            return Address(address.host if host in (None, b"", b"?") else host.decode(), port)

        return [(first, last, [known(*node) for node in nodes]) for first, last, *nodes in answer]

    def _take(self, ranges: Ranges) -> None:
        self._map = [None] * SLOTS
        self._known = set(self._seeds)
        primaries = sorted((first, last, nodes[0]) for first, last, nodes in ranges)
        self.version = hashlib.sha256(repr(primaries).encode()).hexdigest()[:16]
        for first, last, nodes in ranges:
            self._map[first : last + 1] = [nodes[0]] * (last + 1 - first)
            self._known.update(nodes)
        for address in self._nodes.keys() - self._known:
            task = asyncio.create_task(self._nodes.pop(address).aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _slot(key: Argument) -> int:
    return key_slot(str(key).encode())


def _target(error: AskError, asked: Address) -> Address:
    """The node to which one that was asked has pointed."""
    return Address(error.host or asked.host, error.port)
