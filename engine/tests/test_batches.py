"""Commands that share a round trip to the cache: how many go, and that none harms another."""

from __future__ import annotations

import asyncio
import gc
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from serversessions import Record, Session, StoreUnavailable
from serversessions.stores.redis import RedisStore
from serversessions.stores.redis.server import BATCH
from serversessions.stores.redis.uri import CONNECTIONS
from serversessions.testing import Clock
from serversessions.testing.contract import HOUR, new_key

from .faults import Valkey
from .test_sessions import Site, puts

HASTE = "socket_timeout=0.5&socket_connect_timeout=0.5"


@pytest.fixture
async def admin(valkey_server: Valkey) -> AsyncIterator[Any]:
    """A client that looks at the server from outside."""
    async with Redis.from_url(valkey_server.url) as client:
        yield client


@pytest.fixture
async def store(valkey_server: Valkey) -> AsyncIterator[RedisStore]:
    store = RedisStore(f"{valkey_server.url}?{HASTE}", prefix="p")
    yield store
    await store.aclose()


@pytest.fixture
def record() -> Record:
    return Record(b"{}", time.time(), time.time() + HOUR)


async def calls(admin: Any) -> dict[str, int]:
    """How often each command was sent by a client, not by a script."""
    stats = await admin.info("commandstats")
    return {
        name.removeprefix("cmdstat_"): stat["calls"]
        for name, stat in stats.items()
        if name in ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_get", "cmdstat_script|load")
    }


async def reads(admin: Any) -> int:
    """How often the server has read from a connection: a batch is one such event."""
    return int((await admin.info("stats"))["total_reads_processed"])


class TestRoundTrips:
    async def test_a_sign_in_that_rotates_takes_a_load_and_one_script(
        self, store: RedisStore, admin: Any
    ) -> None:
        def sign_in(session: Session) -> None:
            session.rotate_id()
            session.owner = "ada"
            session["user"] = "ada"

        async with Site(store, Clock()).visitor() as visitor, Site(store, Clock()).visitor() as old:
            for _ in range(2):  # the first time, the server is given its scripts
                await visitor.does(puts(a=1))
                await visitor.does(sign_in)
                visitor.client.cookies.clear()
            await visitor.does(puts(a=1))
            assert visitor.id is not None
            old.brings(visitor.id)
            await admin.config_resetstat()
            before = await reads(admin)
            await visitor.does(sign_in)
            assert await calls(admin) == {"get": 1, "evalsha": 1}
            assert await reads(admin) - before <= 2 + 2  # and of the admin: stats, stats
            assert await old.sees() == {}
            assert await visitor.sees() == {"a": 1, "user": "ada"}

    async def test_loads_of_one_turn_of_the_event_loop_are_read_at_once(
        self, store: RedisStore, admin: Any, record: Record
    ) -> None:
        keys = [new_key() for _ in range(64)]
        await asyncio.gather(*(store.create(key, record) for key in keys))
        before = await reads(admin)
        assert await asyncio.gather(*(store.load(key) for key in keys)) == [record] * 64
        assert await reads(admin) - before <= 4  # 64 commands may not fit into one read

    async def test_more_than_a_batch_is_served(self, store: RedisStore, record: Record) -> None:
        keys = [new_key() for _ in range(5 * BATCH + 1)]
        assert all(await asyncio.gather(*(store.create(key, record) for key in keys)))
        assert [await store.load(key) for key in keys[::100]] == [record] * len(keys[::100])

    async def test_a_crowd_needs_few_connections(
        self, store: RedisStore, admin: Any, record: Record
    ) -> None:
        for _ in range(20):
            crowd = [asyncio.create_task(store.load(new_key())) for _ in range(100)]
            await asyncio.sleep(0)
            await asyncio.gather(*crowd, *(store.create(new_key(), record) for _ in range(100)))
        assert len(await admin.client_list()) - 1 <= CONNECTIONS


async def test_of_two_that_write_one_session_in_step_both_get_on(store: RedisStore) -> None:
    """Without a pause, one always comes second in the batch, and is refused a second time."""
    saved, end = {"one": 0, "other": 0}, time.monotonic() + 1

    async def write(name: str) -> None:
        async with site.visitor(visitor.id) as again:
            while time.monotonic() < end:
                await again.does(puts(**{name: saved[name]}))
                saved[name] += 1

    site = Site(store, Clock())
    async with site.visitor() as visitor:
        await visitor.does(puts(a=1))
        await asyncio.gather(*map(write, saved))
    assert min(saved.values()) > max(saved.values()) / 10


class TestFaults:
    async def test_one_bad_key_is_nothing_to_the_others(
        self, store: RedisStore, admin: Any, record: Record
    ) -> None:
        good, wrong, corrupt = new_key(), new_key(), new_key()
        await store.create(good, record)
        await admin.lpush(f"p:session:{wrong}", "a list")
        await admin.expire(f"p:session:{wrong}", HOUR)
        await admin.set(f"p:session:{corrupt}", "not a record")
        answers = await asyncio.gather(
            store.load(wrong),
            store.load(good),
            store.update(wrong, replace(record, version=2)),
            store.load(corrupt),
            store.update(good, replace(record, version=2)),
            store.touch(wrong, record.expires),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [
            StoreUnavailable,
            Record,
            StoreUnavailable,
            type(None),
            bool,
            StoreUnavailable,
        ]
        assert answers[4] is True

    async def test_who_leaves_takes_nobody_along(self, store: RedisStore, record: Record) -> None:
        keys = [new_key() for _ in range(30)]
        await asyncio.gather(*(store.create(key, record) for key in keys))
        for turns in range(6):
            loads = [asyncio.create_task(store.load(key)) for key in keys]
            for _ in range(turns):
                await asyncio.sleep(0)
            for load in loads[::2]:  # among them the one that came first
                load.cancel()
            assert await asyncio.gather(*loads[1::2]) == [record] * 15

    async def test_all_who_wait_hear_of_a_server_that_is_gone(
        self,
        store: RedisStore,
        record: Record,
        valkey_server: Valkey,
    ) -> None:
        key = new_key()
        await store.create(key, record)
        with valkey_server.paused():
            async with asyncio.timeout(3):
                crowd = (store.load(key) for _ in range(10 * BATCH))
                answers = await asyncio.gather(*crowd, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        assert len({id(answer) for answer in answers}) == len(answers)  # one for each
        assert await store.load(key) == record

    async def test_a_server_that_became_a_replica_is_left_for_the_primary(
        self, tmp_path: Path, record: Record
    ) -> None:
        link, key = tmp_path / "link", new_key()
        async with AsyncExitStack() as stack:
            old, new = (Valkey(Path(tempfile.mkdtemp(dir=tmp_path))) for _ in range(2))
            for server in (old, new):
                stack.callback(server.stop)
                await server.start()
            store = RedisStore(f"unix://{link}", prefix="p")
            stack.push_async_callback(store.aclose)

            link.symlink_to(old.socket)
            assert await store.create(key, record)
            await old.refuse_writes()
            update = store.update(key, replace(record, version=2))
            refused, found = await asyncio.gather(update, store.load(key), return_exceptions=True)
            assert "read only replica" in str(refused)
            assert found == record

            link.unlink()
            link.symlink_to(new.socket)
            assert await store.create(new_key(), record)
            assert await new.tell("DBSIZE") == 1

    async def test_a_server_that_forgets_its_scripts_amid_a_batch_does_all_of_it(
        self, store: RedisStore, admin: Any, record: Record
    ) -> None:
        for _ in range(5):
            keys = [new_key() for _ in range(50)]
            made, _ = await asyncio.gather(
                asyncio.gather(*(store.create(key, record) for key in keys)),
                admin.script_flush(),
            )
            assert made == [True] * 50
            updates = (store.update(key, replace(record, version=2)) for key in keys)
            assert await asyncio.gather(*updates) == [True] * 50

    async def test_closing_finishes_what_is_under_way_and_leaves_no_task(
        self, store: RedisStore, admin: Any, record: Record
    ) -> None:
        before = asyncio.all_tasks()
        await store.create(new_key(), record)
        writing = asyncio.create_task(store.create(new_key(), record))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await store.aclose()
        assert await writing
        assert asyncio.all_tasks() == before
        assert len(await admin.client_list()) == 1


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_each_event_loop_has_connections_of_its_own(valkey: str) -> None:
    """As with Starlette's TestClient, where a request may have a loop to itself."""
    store = RedisStore(valkey, prefix=f"test-{secrets.token_hex(8)}")
    key, now = new_key(), time.time()
    record = Record(b"{}", now, now + 60)
    assert asyncio.run(store.create(key, record))
    assert asyncio.run(store.load(key)) == record
    assert asyncio.run(store.delete(key))
    del store
    gc.collect()  # what closed loops have left open
