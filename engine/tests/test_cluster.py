"""A Cluster of six nodes: slots that move, nodes that fail, steps that are cut short."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from redis.crc import key_slot

from serversessions import Record, Session, StoreUnavailable
from serversessions.stores.redis import RedisStore
from serversessions.stores.redis.uri import CONNECTIONS
from serversessions.testing import Clock, servers
from serversessions.testing.contract import ADA, HOUR, new_key, scan_all

from .faults import assert_unavailable
from .nodes import Node, until
from .test_sentinel import PATIENCE, TIMEOUT, WINDOW, recovered, writers
from .test_sessions import Site, puts

ANYONE = "0" * 64  # a key: its slot, and so its node, is always the same
SLOT = key_slot(f"p:session:{ANYONE}".encode())


class Group:
    """Three primaries with a replica each."""

    def __init__(self, folder: Path) -> None:
        self.nodes = []
        buses = [servers.free_port() for _ in range(6)]
        for number, bus in enumerate(buses):
            options = ("--cluster-enabled", "yes", "--cluster-port", bus)
            timeouts = ("--cluster-node-timeout", 500, "--repl-diskless-sync-delay", 0)
            self.nodes.append(Node(folder / str(number), *options, *timeouts))
        servers.join_cluster([node.port for node in self.nodes[:3]], buses[:3])
        for primary, replica, bus in zip(self.nodes[:3], self.nodes[3:], buses[3:], strict=True):
            self.nodes[0].tell("CLUSTER", "MEET", "127.0.0.1", replica.port, bus)
            name = primary.tell("CLUSTER", "MYID")
            while replica.tell("CLUSTER", "REPLICATE", name) is None:
                time.sleep(0.02)  # until they have heard of each other

    @property
    def uri(self) -> str:
        """With one node of the six."""
        timeouts = f"socket_timeout={TIMEOUT}&socket_connect_timeout={TIMEOUT}"
        return f"redis+cluster://127.0.0.1:{self.nodes[4].port}?{timeouts}"

    def is_whole(self) -> bool:
        """Whether all slots are served, and all replicas follow."""
        states = [node.tell("CLUSTER INFO") or {} for node in self.nodes]
        links = [node.tell("INFO", "replication") or {} for node in self.nodes]
        return (
            {state.get("cluster_state") for state in states} == {"ok"}
            and {state["cluster_known_nodes"] for state in states} == {"6"}
            and sum(link.get("connected_slaves", 0) for link in links) == 3
            and {link.get("master_link_status", "up") for link in links} == {"up"}
            and len(self.slots()) == 3
        )

    def slots(self) -> dict[int, int]:
        """The port of the node that serves slots up to one."""
        answers = (node.tell("CLUSTER", "SLOTS") for node in self.nodes[::-1])
        return {last: nodes[0][1] for _, last, *nodes in next(filter(None, answers))}

    def server_of(self, slot: int) -> Node:
        slots = self.slots()
        port = slots[min(last for last in slots if last >= slot)]
        return next(node for node in self.nodes if node.port == port)

    async def fails_over(self, slot: int, old: Node) -> None:
        """Wait for another node to serve a slot."""
        await until(lambda: self.server_of(slot) is not old)

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Group]]:
    """As many as are asked for. One begins while the last is used: it takes three seconds."""

    def begin() -> Future[Group]:
        return pool.submit(Group, tmp_path_factory.mktemp("cluster"))

    def begin_each() -> Generator[Group, None, None]:
        beginning = begin()
        try:
            while True:
                group = beginning.result()
                beginning = begin()
                while not group.is_whole():
                    time.sleep(0.02)
                yield group
        finally:
            beginning.result().stop()

    with ThreadPoolExecutor() as pool, closing(begin_each()) as groups:
        yield groups


@pytest.fixture
def group(groups: Iterator[Group]) -> Iterator[Group]:
    group = next(groups)
    yield group
    group.stop()


@pytest.fixture(scope="module")
def lasting(groups: Iterator[Group]) -> Iterator[Group]:
    """For tests that leave it as it was."""
    group = next(groups)
    for node in group.nodes:  # none of them is to be taken for dead
        node.tell("CONFIG", "SET", "cluster-node-timeout", 15_000)
    yield group
    group.stop()


@pytest.fixture
async def store(lasting: Group) -> AsyncIterator[RedisStore]:
    store = RedisStore(f"redis+cluster://127.0.0.1:{lasting.nodes[4].port}", prefix=f"p{new_key()}")
    yield store
    await store.aclose()


@pytest.fixture
async def mortal(group: Group) -> AsyncIterator[RedisStore]:
    """A store on servers that may fail."""
    store = RedisStore(group.uri, prefix="p")
    yield store
    await store.aclose()


@pytest.fixture
def record() -> Record:
    return Record(b"{}", time.time(), time.time() + HOUR)


class TestFailover:
    async def test_writes_go_on_and_only_those_of_the_last_moment_are_lost(
        self, group: Group, mortal: RedisStore, record: Record
    ) -> None:
        await mortal.ping()
        group.nodes[4].kill()  # the one that the URI names
        async with writers(mortal) as lost:
            await asyncio.sleep(1)
            dead, killed = group.server_of(SLOT), time.monotonic()
            dead.kill()
            await group.fails_over(SLOT, dead)
            await recovered(mortal, record)
            await asyncio.sleep(0.5)
        assert [moment for moment in lost if moment < killed - WINDOW] == []
        assert [moment for moment in lost if moment > killed + TIMEOUT] == []

    async def test_a_paused_primary_costs_its_own_sessions_a_timeout_and_others_nothing(
        self, group: Group, mortal: RedisStore, record: Record
    ) -> None:
        paused = group.server_of(SLOT)
        keys = [ANYONE, *(new_key() for _ in range(50))]
        await asyncio.gather(*(mortal.create(key, record) for key in keys))
        slots = {key: key_slot(f"p:session:{key}".encode()) for key in keys}
        others = [key for key, slot in slots.items() if group.server_of(slot) is not paused]
        await asyncio.sleep(0.2)
        with paused.paused():
            async with asyncio.timeout(PATIENCE):
                waiting = asyncio.create_task(mortal.load(ANYONE))
                async with asyncio.timeout(TIMEOUT):
                    found = await asyncio.gather(*map(mortal.load, others))
                assert found == [record] * len(others)
                await asyncio.wait([waiting])
                if error := waiting.exception():
                    assert isinstance(error, StoreUnavailable)
            await group.fails_over(SLOT, paused)
            async with asyncio.timeout(PATIENCE):
                assert await mortal.delete(ANYONE) == 1
        await until(lambda: (paused.tell("INFO", "replication") or {}).get("role") == "slave")
        stranger = RedisStore(f"redis+cluster://127.0.0.1:{paused.port}", prefix="p")
        assert await stranger.load(ANYONE) is None
        await stranger.aclose()

    async def test_while_a_slot_has_no_server_503_comes_within_the_timeout(
        self, group: Group, mortal: RedisStore
    ) -> None:
        async with Site(mortal, Clock()).visitor() as visitor:
            await visitor.does(puts(a=1))
            survivor = group.nodes[2]  # it alone elects nobody
            for node in group.nodes[:2]:
                node.kill()
            await until(
                lambda: (survivor.tell("CLUSTER INFO") or {}).get("cluster_state") == "fail"
            )
            async with asyncio.timeout(PATIENCE):
                assert_unavailable(await visitor.does(puts(a=2)))

    async def test_who_has_signed_out_stays_so(
        self, group: Group, mortal: RedisStore, record: Record
    ) -> None:
        site = Site(mortal, Clock())
        async with site.visitor() as visitor, site.visitor() as thief:
            await visitor.does(puts(a=1))
            assert visitor.id is not None
            thief.brings(visitor.id)
            await visitor.does(Session.rotate_id)
            keys = [new_key() for _ in range(10)]
            for key in keys:
                await mortal.create(key, replace(record, owner=ADA))
            assert await mortal.delete_owned(ADA) == 10
            await asyncio.sleep(0.2)  # WINDOW at most
            for slot in (0, 8000, 16383):
                dead = group.server_of(slot)
                dead.kill()
                await group.fails_over(slot, dead)
                dead.start()
                await until(group.is_whole)
            await recovered(mortal, record)
            assert await thief.sees() == {}
            assert await visitor.sees() == {"a": 1}
            assert [await mortal.load(key) for key in keys] == [None] * 10


class TestMovingSlots:
    async def test_nobody_notices_a_slot_that_moves(self, group: Group) -> None:
        store = RedisStore(group.uri, prefix="{one slot}")
        slot = key_slot(b"one slot")
        source = group.server_of(slot)
        target = next(node for node in group.nodes[:3] if node is not source)
        async with writers(store) as lost:
            await asyncio.sleep(0.3)
            names = [node.tell("CLUSTER", "MYID") for node in (source, target)]
            assert target.tell("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
            assert source.tell("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
            await asyncio.sleep(0.3)
            while keys := source.tell("CLUSTER", "GETKEYSINSLOT", slot, 2):
                place = ("127.0.0.1", target.port, "", 0, 1000)
                assert source.tell("MIGRATE", *place, "KEYS", *keys)
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)
            for node in (target, source):
                assert node.tell("CLUSTER", "SETSLOT", slot, "NODE", names[1])
            await asyncio.sleep(0.3)
        assert lost == []
        assert group.server_of(slot) is target
        assert target.tell("INFO", "commandstats")["cmdstat_asking"]["calls"] > 0
        await store.aclose()

    async def test_a_scan_says_that_slots_have_moved(
        self, group: Group, mortal: RedisStore, record: Record
    ) -> None:
        await asyncio.gather(*(mortal.create(new_key(), record) for _ in range(300)))
        _, cursor = await mortal.scan(limit=10)
        dead = group.server_of(0)
        dead.kill()
        await group.fails_over(0, dead)
        said = ""
        async with asyncio.timeout(20):
            while "begin it again" not in said:  # some nodes hear of it later
                with pytest.raises(StoreUnavailable) as caught:
                    await mortal.scan(cursor)
                said = str(caught.value)


class TestSteps:
    """What is one script elsewhere is several steps here: each may be the last, or done twice."""

    @pytest.mark.parametrize("is_done", [False, True])
    @pytest.mark.parametrize("owner", [None, ADA])
    async def test_a_move_that_is_cut_short_leaves_one_id_that_somebody_knows(
        self,
        store: RedisStore,
        record: Record,
        monkeypatch: pytest.MonkeyPatch,
        owner: str | None,
        is_done: bool,
    ) -> None:
        for step in range(3 if owner is None else 4):
            old, new = new_key(), new_key()
            await store.create(old, record)
            moved = replace(record, version=2, owner=owner)
            with monkeypatch.context() as patch:
                patch.setattr(store, "_do", cut_at(step, store._do, is_done=is_done))
                is_told = True
                try:
                    assert await store.update(old, moved, move_to=new)
                except StoreUnavailable:
                    is_told = False
            if is_told:
                assert await store.load(old) is None
                assert await store.load(new) == moved
            else:  # the visitor comes with the old id, unless all was done but the last answer
                assert await store.load(old) == record or await store.load(new) == moved

    async def test_steps_that_are_done_twice_count_once(
        self, store: RedisStore, record: Record, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old, new, rival = new_key(), new_key(), new_key()
        moved = replace(record, version=2, owner=ADA)
        real = store._do

        async def do_twice(*command: Any) -> Any:
            await real(*command)
            return await real(*command)

        await store.create(old, record)
        monkeypatch.setattr(store, "_do", do_twice)
        assert await store.update(old, moved, move_to=new)
        assert not await store.update(old, moved, move_to=rival)
        assert [await store.load(key) for key in (old, new, rival)] == [None, moved, None]
        assert await store.list_owned(ADA) == [(new, moved)]

    @pytest.mark.parametrize("is_done", [False, True])
    async def test_no_session_of_an_owner_is_ever_missed(
        self, store: RedisStore, record: Record, monkeypatch: pytest.MonkeyPatch, is_done: bool
    ) -> None:
        owned = replace(record, owner=ADA)
        for step in range(4):
            created, updated, touched, old, new = keys = [new_key() for _ in range(5)]
            await store.create(updated, record)
            await store.create(touched, replace(owned, expires=time.time() + 1))
            await store.create(old, record)
            changes: tuple[Callable[[], Awaitable[object]], ...] = (
                partial(store.create, created, owned),
                partial(store.update, updated, replace(owned, version=2)),
                partial(store.touch, touched, time.time() + HOUR),
                partial(store.update, old, replace(owned, version=2), move_to=new),
            )
            for change in changes:
                with monkeypatch.context() as patch:
                    patch.setattr(store, "_do", cut_at(step, store._do, is_done=is_done))
                    with suppress(StoreUnavailable):
                        await change()
            if step == 0:
                await asyncio.sleep(1.1)  # the note of what was to be touched is over
            listed = dict(await store.list_owned(ADA))
            for key in keys:
                found = await store.load(key)
                assert found is None or found.owner != ADA or key in listed
            await store.delete_owned(ADA)


def cut_at(step: int, do: Any, *, is_done: bool) -> Any:
    """Commands fail from a step on; with ``is_done`` that one is done, and its answer lost."""
    steps = iter(range(1000))

    async def do_or_fail(*command: Any) -> Any:
        at = next(steps)
        if at == step and is_done:
            await do(*command)
        if at >= step:
            raise StoreUnavailable("cut")
        return await do(*command)

    return do_or_fail


class TestCost:
    async def test_loads_at_once_take_one_round_trip_to_each_node(
        self, lasting: Group, store: RedisStore, record: Record
    ) -> None:
        keys = [new_key() for _ in range(64)]
        await asyncio.gather(*(store.create(key, record) for key in keys))
        asking, before = reads(lasting), reads(lasting)
        assert await asyncio.gather(*(store.load(key) for key in keys)) == [record] * 64
        # Commands may not fit into one read; and replicas report now and then.
        assert reads(lasting) - before - (before - asking) <= 3 * 2 + 3

    async def test_a_save_of_nobodys_session_is_one_command(
        self, lasting: Group, store: RedisStore, record: Record
    ) -> None:
        key = new_key()
        await store.create(key, record)
        await store.update(key, replace(record, version=2))
        asking, before = reads(lasting), reads(lasting)
        assert await store.load(key)
        assert await store.update(key, replace(record, version=3))
        assert reads(lasting) - before - (before - asking) <= 2 + 3

    async def test_a_crowd_needs_few_connections(
        self, lasting: Group, store: RedisStore, record: Record
    ) -> None:
        for _ in range(5):
            await asyncio.gather(*(store.create(new_key(), record) for _ in range(200)))
        for node in lasting.nodes[:3]:
            clients = node.tell("CLIENT", "LIST", "TYPE", "normal")
            assert len(clients.splitlines()) - 1 <= CONNECTIONS


def reads(group: Group) -> int:
    """How often the primaries have read from a client."""
    stats = [node.tell("INFO", "stats") for node in group.nodes[:3]]
    return sum(int(each["total_reads_processed"]) for each in stats)


async def test_a_scan_goes_through_all_nodes(store: RedisStore, record: Record) -> None:
    keys = {new_key() for _ in range(300)}
    await asyncio.gather(*(store.create(key, record) for key in keys))
    assert {key for key, _ in await scan_all(store, limit=20)} == keys


async def test_a_cluster_that_may_lose_writes_is_named_so(
    lasting: Group, store: RedisStore
) -> None:
    for node, is_named in zip(lasting.nodes[:3], (True, True, False), strict=True):
        node.tell("CONFIG", "SET", "min-replicas-to-write", 1)
        risks = await store.find_risks()
        assert any("min-replicas-to-write" in risk for risk in risks) is is_named
    for node in lasting.nodes[:3]:
        node.tell("CONFIG", "SET", "min-replicas-to-write", 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_each_event_loop_has_connections_of_its_own(lasting: Group, record: Record) -> None:
    store = RedisStore(lasting.uri, prefix=f"p{new_key()}")
    key = new_key()
    assert asyncio.run(store.create(key, record))
    assert asyncio.run(store.load(key)) == record
    assert asyncio.run(store.delete(key)) == 1
    asyncio.run(store.aclose())
    del store
    gc.collect()  # what closed loops have left open: a warning
