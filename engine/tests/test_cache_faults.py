"""Faults of a cache alone: it is full, has another clock, has lost an index or its scripts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from serversessions import Record, Session, StoreUnavailable
from serversessions.stores.redis import RedisStore
from serversessions.testing.contract import ADA, HOUR, new_key

from .faults import Valkey, assert_unavailable, site_at
from .test_sessions import puts


async def test_a_full_cache_answers_reads_and_refuses_writes_with_503(
    valkey_server: Valkey,
) -> None:
    async with site_at(valkey_server.url) as site, site.visitor() as visitor:
        await visitor.does(puts(a=1))
        await valkey_server.tell("CONFIG SET maxmemory-policy noeviction")
        await valkey_server.tell("CONFIG SET maxmemory 1")
        for act in (puts(a=2), Session.rotate_id):
            assert_unavailable(await visitor.does(act))
            assert await visitor.sees() == {"a": 1}
        async with site.visitor() as stranger:
            assert_unavailable(await stranger.does(puts(a=1)))
        await valkey_server.tell("CONFIG SET maxmemory 0")
        await visitor.does(puts(b=2))
        assert await visitor.sees() == {"a": 1, "b": 2}


async def test_who_logs_out_of_a_full_cache_is_logged_out(valkey_server: Valkey) -> None:
    async with site_at(valkey_server.url) as site, site.visitor() as visitor:
        await visitor.does(puts(a=1))
        old = visitor.id
        await valkey_server.tell("CONFIG SET maxmemory 1")
        assert (await visitor.does(Session.flush)).status_code == 200
        async with site.visitor(old) as attacker:
            assert await attacker.sees() == {}


async def test_a_cache_that_forgot_its_scripts_is_given_them_again(valkey_server: Valkey) -> None:
    async with site_at(valkey_server.url) as site, site.visitor() as visitor:
        await visitor.does(puts(a=1))
        for value, act in enumerate([puts(a=0), Session.rotate_id, Session.flush]):
            await valkey_server.tell("SCRIPT FLUSH")
            assert (await visitor.does(act)).status_code == 200, value
        assert visitor.id is None


@pytest.fixture
async def store(valkey_server: Valkey) -> AsyncIterator[RedisStore]:
    store = RedisStore(valkey_server.url, prefix="p")
    yield store
    await store.aclose()


@pytest.fixture(params=["valkey", "cluster"])
def uri(request: pytest.FixtureRequest) -> str:
    """One server, and a Cluster; each time with another prefix."""
    return f"{request.getfixturevalue(request.param)}?prefix=p{new_key()}"


@pytest.fixture
async def any_store(uri: str) -> AsyncIterator[RedisStore]:
    async with worker(uri) as store:
        yield store


@asynccontextmanager
async def worker(uri: str, *, ahead: float = 0) -> AsyncIterator[RedisStore]:
    """The store of a process that takes the time to be later than it is; its server does not."""
    right = time.time
    with pytest.MonkeyPatch.context() as patch:
        if ahead:
            patch.setattr(time, "time", lambda: right() + ahead)
        store = RedisStore(uri, clock=time.time)
        yield store
        await store.aclose()


@pytest.fixture
def owned() -> Record:
    return Record(b"{}", time.time(), time.time() + HOUR, owner=ADA)


async def commands(server: Valkey, name: str) -> int:
    stats = await server.tell("INFO commandstats")
    return int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"])


class TestIndex:
    @pytest.mark.parametrize("act", ["update", "move", "touch"])
    async def test_whatever_saves_or_touches_a_session_marks_it_again(
        self, any_store: RedisStore, owned: Record, act: str
    ) -> None:
        old, new = new_key(), new_key()
        await any_store.create(old, owned)
        await any_store._do("DEL", any_store._index(ADA))
        assert await any_store.list_owned(ADA) == []
        if act == "touch":
            assert await any_store.touch(old, owned.expires + HOUR)
        else:
            move_to = new if act == "move" else None
            assert await any_store.update(old, replace(owned, version=2), move_to=move_to)
        assert await any_store.delete_owned(ADA) == 1

    async def test_who_has_signed_out_leaves_no_mark(
        self, any_store: RedisStore, owned: Record
    ) -> None:
        old, new = new_key(), new_key()
        await any_store.create(old, owned)
        assert await any_store.update(old, replace(owned, version=2), move_to=new)
        assert await any_store.delete(new) == 1
        assert not await any_store._do("EXISTS", any_store._index(ADA))

    async def test_a_lost_index_is_made_again_from_the_records(
        self, any_store: RedisStore, owned: Record
    ) -> None:
        keys = [new_key() for _ in range(250)]
        await asyncio.gather(*(any_store.create(key, owned) for key in keys))
        await any_store.create(new_key(), replace(owned, owner=None))
        await any_store._do("DEL", any_store._index(ADA))
        assert await any_store.repair() >= 250
        assert await any_store.delete_owned(ADA) == 250

    async def test_an_eviction_policy_is_named_as_a_risk_to_sign_outs(
        self, store: RedisStore, valkey_server: Valkey
    ) -> None:
        await valkey_server.tell("CONFIG SET maxmemory 100mb")
        for policy, is_named in (
            ("allkeys-lru", True),
            ("volatile-ttl", True),
            ("noeviction", False),
        ):
            await valkey_server.tell(f"CONFIG SET maxmemory-policy {policy}")
            risks = await store.find_risks()
            assert any(policy in risk and "sign-out" in risk for risk in risks) is is_named

    async def test_many_sessions_end_without_holding_up_others_and_leave_no_mark(
        self, store: RedisStore, valkey_server: Valkey, owned: Record
    ) -> None:
        for _ in range(10):
            assert all(await asyncio.gather(*(store.create(new_key(), owned) for _ in range(500))))
        other = new_key()
        await store.create(other, replace(owned, owner=None))
        ending, waits = asyncio.create_task(store.delete_owned(ADA)), []
        while not ending.done():
            begun = time.monotonic()
            assert await store.load(other)
            waits.append(time.monotonic() - begun)
        assert ending.result() == 5000
        assert len(waits) > 20
        assert max(waits) < 0.5
        assert await valkey_server.tell("DBSIZE") == 1
        before = await commands(valkey_server, "evalsha")
        assert await store.delete_owned(ADA) == 0
        assert await commands(valkey_server, "evalsha") == before


class TestClocks:
    @pytest.mark.parametrize("ahead", [-2 * HOUR, -360, 1200, 2 * HOUR])
    async def test_a_worker_whose_clock_is_wrong_loses_no_session_and_ends_those_of_others(
        self, uri: str, owned: Record, ahead: float
    ) -> None:
        right, wrong, last = new_key(), new_key(), new_key()
        async with worker(uri) as store:
            await store.create(right, replace(owned, expires=time.time() + 1800))
        async with worker(uri, ahead=ahead) as store:
            assert await store.load(right)
            assert await store.create(wrong, replace(owned, expires=time.time() + 300))
            assert await store.touch(wrong, time.time() + 1800)
        async with worker(uri) as store:
            assert await store.load(wrong)
            assert await store.create(last, owned)
            assert len(await store.list_owned(ADA)) == 3
        async with worker(uri, ahead=ahead) as store:
            assert await store.delete_owned(ADA, except_key=last) == 2
        async with worker(uri) as store:
            assert await store.delete_owned(ADA) == 1

    async def test_a_session_lives_as_long_as_its_worker_says_by_the_servers_clock(
        self, valkey_server: Valkey
    ) -> None:
        key = new_key()
        async with worker(f"{valkey_server.url}?prefix=p", ahead=-HOUR) as store:
            await store.create(key, Record(b"{}", time.time(), time.time() + 300))
        assert 299_000 < await valkey_server.tell(f"PTTL p:session:{key}") <= 300_000


class TestFull:
    LIMIT = 4_000_000

    @pytest.fixture(autouse=True)
    async def _small(self, valkey_server: Valkey) -> None:
        await valkey_server.tell("CONFIG SET maxmemory-policy noeviction")
        await valkey_server.tell(f"CONFIG SET maxmemory {self.LIMIT}")

    async def test_the_limit_holds_for_sessions_with_an_owner(
        self, store: RedisStore, valkey_server: Valkey, owned: Record
    ) -> None:
        big = replace(owned, data=b"x" * 10_000)
        keys = [new_key() for _ in range(1000)]
        created = await asyncio.gather(
            *(store.create(key, big) for key in keys), return_exceptions=True
        )
        refused = [each for each in created if isinstance(each, StoreUnavailable)]
        assert len(refused) > 500
        assert (await valkey_server.tell("INFO memory"))["used_memory"] < 1.2 * self.LIMIT
        kept = [key for key, each in zip(keys, created, strict=True) if each is True]
        newer = replace(big, version=2)
        for refusal in (
            store.update(kept[0], newer),
            store.update(kept[0], newer, move_to=new_key()),
            store.touch(kept[0], owned.expires + HOUR),
        ):
            with pytest.raises(StoreUnavailable):
                await refusal
        assert await store.load(kept[0]) == big
        assert await store.delete_owned(ADA) == len(kept)
        assert await store.create(new_key(), big)


class TestReadiness:
    """What makes ``create`` fail makes ``ping`` fail."""

    async def test_a_ping_leaves_nothing_behind(
        self, store: RedisStore, valkey_server: Valkey
    ) -> None:
        await store.ping()
        assert await valkey_server.tell("DBSIZE") == 0

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (["CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"], "maxmemory"),
            (["REPLICAOF 127.0.0.1 1"], "read only replica"),
            (["CONFIG SET min-replicas-to-write 1"], "Not enough good replicas"),
            (["ACL SETUSER default -evalsha -eval"], "evalsha"),
            (["ACL SETUSER default -set"], "set"),
        ],
    )
    async def test_a_server_that_takes_no_session_is_not_ready(
        self,
        store: RedisStore,
        valkey_server: Valkey,
        owned: Record,
        settings: list[str],
        message: str,
    ) -> None:
        await store.ping()
        for setting in settings:
            await valkey_server.tell(setting)
        with pytest.raises(StoreUnavailable, match=message):
            await store.create(new_key(), owned)
        with pytest.raises(StoreUnavailable, match=message):
            await store.ping()

    async def test_each_node_of_a_cluster_is_asked(self, cluster: str) -> None:
        store = RedisStore(cluster, prefix="p")
        await store.ping()
        nodes = await store._server.primaries()
        assert len(nodes) == 3
        for node in nodes:
            await node.send("CONFIG", "SET", "maxmemory", 1)
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                await store.ping()
            await node.send("CONFIG", "SET", "maxmemory", 0)
        await store.ping()
        await store.aclose()


FORK = """
import asyncio, gc, multiprocessing, sys, time
from serversessions import Record
from serversessions.stores.redis import RedisStore

store, key = RedisStore(sys.argv[1], prefix="fork"), "0" * 64

async def load():
    assert await asyncio.wait_for(store.load(key), 1)  # no time-out of the store
    gc.collect()

async def main():
    await store.create(key, Record(b"{}", time.time(), time.time() + 60))
    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=run_child)
        child.start()
        child.join()
        assert child.exitcode == 0
        await load()
    await store.aclose()

def run_child():
    asyncio.events._set_running_loop(None)  # it was forked while one ran
    asyncio.run(load())

asyncio.run(main())
"""


def test_a_process_and_its_fork_have_connections_of_their_own(valkey: str) -> None:
    subprocess.run([sys.executable, "-c", FORK, valkey], check=True, timeout=30)
