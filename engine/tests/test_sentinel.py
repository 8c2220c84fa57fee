"""Sentinel: what visitors notice of a failover, and what one may lose."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from redis import Redis
from redis.exceptions import RedisError

from serversessions import Record, Session, StoreUnavailable
from serversessions.stores.redis import RedisStore
from serversessions.testing import Clock
from serversessions.testing.contract import ADA, HOUR, new_key

from .faults import assert_unavailable
from .nodes import Node, until
from .test_sessions import Site, Visitor, puts

TIMEOUT = 1.0  # seconds that the store waits for its servers here
PATIENCE = 6 * TIMEOUT  # seconds a visitor may wait: a load and a save, each tried twice at most
NOTICED = 300  # milliseconds after which a server that does not answer is taken for dead
WINDOW = 1.0  # seconds by which a replica may lag behind here


class Group:
    """A primary, a replica and three sentinels."""

    def __init__(self, folder: Path) -> None:
        first = Node(folder / "0", "--repl-diskless-sync-delay", 0)
        options = ("--repl-diskless-sync-delay", 0, "--replicaof", "127.0.0.1", first.port)
        self.servers = [first, Node(folder / "1", *options)]
        self.sentinels = []
        for name in "abc":
            settings = folder / f"{name}.conf"
            settings.write_text(
                f"sentinel monitor app 127.0.0.1 {first.port} 2\n"
                f"sentinel down-after-milliseconds app {NOTICED}\n"
                "sentinel failover-timeout app 3000\n"
            )
            self.sentinels.append(Node(folder / name, settings, "--sentinel"))
            # Else they tell each other every two seconds whom they know, and ask every ten.
            hurry = ("publish-period", 100, "info-period", 100)
            assert self.sentinels[-1].tell("SENTINEL", "DEBUG", *hurry)

    @property
    def uri(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        timeouts = f"socket_timeout={TIMEOUT}&socket_connect_timeout={TIMEOUT}"
        return f"redis+sentinel://{hosts}/app/0?{timeouts}"

    @property
    def primary(self) -> Node:
        port = self._state_at(self.sentinels[-1])["port"]
        return next(server for server in self.servers if server.port == port)

    def is_whole(self) -> bool:
        """Whether all know of each other, and the replica follows."""
        states = [self._state_at(sentinel) for sentinel in self.sentinels]
        links = [(server.tell("INFO", "replication") or {}) for server in self.servers]
        return (
            all(state.get("num-other-sentinels") == 2 for state in states)
            and len({state["port"] for state in states}) == 1
            and all(state["num-slaves"] == 1 for state in states)
            and all(state["flags"] == "master" for state in states)
            and sorted(link.get("role", "") for link in links) == ["master", "slave"]
            and {link.get("master_link_status", "up") for link in links} == {"up"}
        )

    async def fails_over(self) -> None:
        """Wait for another primary."""
        old = self.primary
        await until(lambda: self.primary is not old)

    def _state_at(self, sentinel: Node) -> dict[str, Any]:
        try:
            with Redis(port=sentinel.port, decode_responses=True) as client:
                asker: Any = client
                return dict(asker.sentinel_master("app"))
        except RedisError:
            return {}

    def stop(self) -> None:
        for node in (*self.sentinels, *self.servers):
            node.kill()


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    group = Group(tmp_path)
    await until(group.is_whole)
    yield group
    group.stop()


@pytest.fixture
async def store(group: Group) -> AsyncIterator[RedisStore]:
    store = RedisStore(group.uri, prefix="p")
    yield store
    await store.aclose()


@pytest.fixture
def record() -> Record:
    return Record(b"{}", time.time(), time.time() + HOUR)


async def write_until(over: asyncio.Event, visitor: Visitor, name: str) -> dict[str, float]:
    """Put one key after another; when each was acknowledged."""
    kept: dict[str, float] = {}
    numbers = itertools.count()
    while not over.is_set():
        key = f"{name}{next(numbers)}"
        async with asyncio.timeout(PATIENCE):
            response = await visitor.does(puts(**{key: True}))
        if response.status_code == 200:
            kept[key] = time.monotonic()
        else:
            assert_unavailable(response)
        await asyncio.sleep(random.uniform(0, 0.02))  # as people: in step, one would always be last
    return kept


@asynccontextmanager
async def writers(store: RedisStore) -> AsyncIterator[list[float]]:
    """Visitors that write on while the block runs; at its end, when each key was kept that is gone.

    Two of them share each session.
    """
    over = asyncio.Event()
    lost: list[float] = []
    site = Site(store, Clock())
    async with AsyncExitStack() as stack:
        visitors = [await stack.enter_async_context(site.visitor()) for _ in range(12)]
        for visitor, same in zip(visitors[::2], visitors[1::2], strict=True):
            await visitor.does(puts(begun=True))
            assert visitor.id is not None
            same.brings(visitor.id)
        await asyncio.sleep(0.2)  # in which the replica hears of all of them
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(write_until(over, visitor, f"writer{number}-"))
                for number, visitor in enumerate(visitors)
            ]
            try:
                yield lost
            finally:
                over.set()
        for number, visitor in enumerate(visitors):
            kept, found = running[number].result(), await visitor.sees()
            assert kept
            lost += [moment for key, moment in kept.items() if key not in found]


async def recovered(store: RedisStore, record: Record) -> None:
    """Wait until sessions can be saved."""
    async with asyncio.timeout(20):
        while True:
            with suppress(StoreUnavailable):
                await store.create(new_key(), record)
                return
            await asyncio.sleep(0.05)


class TestFailover:
    async def test_writes_go_on_and_only_those_of_the_last_moment_are_lost(
        self, group: Group, store: RedisStore, record: Record
    ) -> None:
        async with writers(store) as lost:
            await asyncio.sleep(1)
            killed = time.monotonic()
            await asyncio.to_thread(group.primary.kill)
            await recovered(store, record)
            await asyncio.sleep(0.5)
        assert [moment for moment in lost if moment < killed - WINDOW] == []
        assert [moment for moment in lost if moment > killed + TIMEOUT] == []

    async def test_503_comes_within_the_timeout_while_there_is_no_primary(
        self, group: Group, store: RedisStore
    ) -> None:
        async with Site(store, Clock()).visitor() as visitor:
            await visitor.does(puts(a=1))
            for sentinel in group.sentinels[:2]:  # the third alone is no majority
                sentinel.kill()
            with group.primary.paused():
                for act in (dict, puts(a=2)):
                    async with asyncio.timeout(PATIENCE):
                        assert_unavailable(await visitor.does(act))
            assert await visitor.sees() == {"a": 1}

    async def test_a_primary_that_was_paused_takes_no_more_changes(
        self, group: Group, store: RedisStore, record: Record
    ) -> None:
        key, other = new_key(), new_key()
        await store.create(key, record)
        await store.create(other, record)
        await asyncio.sleep(0.2)
        paused = group.primary
        stale = RedisStore(group.uri, prefix="p")  # a worker that is idle meanwhile
        assert await stale.load(key) == record
        with paused.paused():
            await group.fails_over()
            await recovered(store, record)
            assert await store.delete(key) == 1
        await until(lambda: (paused.tell("INFO", "replication") or {}).get("role") == "slave")
        assert await stale.load(key) is None
        assert await stale.update(other, replace(record, version=2))
        assert await store.load(other) == replace(record, version=2)
        await stale.aclose()

    async def test_who_has_signed_out_stays_so(
        self, group: Group, store: RedisStore, record: Record
    ) -> None:
        site = Site(store, Clock())
        async with site.visitor() as visitor, site.visitor() as thief:
            await visitor.does(puts(a=1))
            assert visitor.id is not None
            thief.brings(visitor.id)
            await visitor.does(Session.flush)
            owned = replace(record, owner=ADA)
            keys = [new_key() for _ in range(5)]
            for key in keys:
                await store.create(key, owned)
            assert await store.delete_owned(ADA) == 5
            await asyncio.sleep(0.2)  # WINDOW at most
            group.primary.kill()
            await group.fails_over()
            await recovered(store, record)
            assert await thief.sees() == {}
            assert [await store.load(key) for key in keys] == [None] * 5
            assert await store.list_owned(ADA) == []


class TestSentinels:
    async def test_any_of_them_will_do(
        self, group: Group, store: RedisStore, record: Record
    ) -> None:
        group.sentinels[0].kill()
        with group.sentinels[1].paused():
            for _ in range(5):
                another = RedisStore(group.uri, prefix="p")
                async with asyncio.timeout(2 * TIMEOUT):
                    assert await another.create(new_key(), record)
                await another.aclose()

    async def test_they_are_asked_when_a_connection_begins_and_never_again(
        self, group: Group, store: RedisStore, record: Record
    ) -> None:
        await store.create(new_key(), record)
        for sentinel in group.sentinels:
            sentinel.kill()
        assert await asyncio.gather(*(store.create(new_key(), record) for _ in range(20)))

    async def test_a_group_that_may_lose_writes_is_named_so(
        self, group: Group, store: RedisStore
    ) -> None:
        assert any("min-replicas-to-write" in risk for risk in await store.find_risks())
        group.primary.tell("CONFIG", "SET", "min-replicas-to-write", 1)
        assert not any("min-replicas-to-write" in risk for risk in await store.find_risks())
