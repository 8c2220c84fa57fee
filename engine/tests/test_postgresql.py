"""PostgreSQL where many share it: pools, locks, clocks, failovers, and what URLs say."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from msgspec.structs import replace

from serversessions import Record, StoreUnavailable
from serversessions.stores.postgresql import PostgreSQLStore
from serversessions.stores.sql import POSTGRESQL, SQLITE, Statements
from serversessions.testing import Clock, servers
from serversessions.testing.contract import ADA, HOUR, new_key

from .faults import PASSWORD, PostgreSQL, create_table, until
from .programs import need

SOON = 2  # seconds: what waits for nothing is done by then


@pytest.fixture
async def server(postgresql_server: PostgreSQL) -> AsyncIterator[PostgreSQL]:
    """A running server with an empty table."""
    await postgresql_server.start()
    await create_table(postgresql_server.url)
    yield postgresql_server
    await postgresql_server.tell("DELETE FROM app_sessions")
    postgresql_server.stop()


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[PostgreSQLStore]:
    store = PostgreSQLStore(url, **options)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture
async def store(server: PostgreSQL) -> AsyncIterator[PostgreSQLStore]:
    async with opened(server.url) as store:
        yield store


@pytest.fixture
def record() -> Record:
    return Record(b"{}", time.time(), time.time() + HOUR)


@asynccontextmanager
async def transaction(server: PostgreSQL, *statements: str) -> AsyncIterator[asyncpg.Connection]:
    """Another client that has executed these, and has not committed; it does at the end."""
    connection = await asyncpg.connect(server.url)
    try:
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement)
            yield connection
    finally:
        await connection.close()


def lock(key: str) -> str:
    return f"SELECT key FROM app_sessions WHERE key = '{key}' FOR UPDATE"


async def are_waiting(server: PostgreSQL, count: int) -> bool:
    """Whether so many clients wait for a lock."""
    found = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    return bool(await server.tell(found) == count)


async def is_locked(server: PostgreSQL, key: str) -> bool:
    """Whether a client holds the record's row."""
    return await server.tell(f"{lock(key)} SKIP LOCKED") is None


class TestPool:
    async def test_a_worker_opens_no_more_connections_than_pool_size(
        self, server: PostgreSQL
    ) -> None:
        async with opened(server.url, pool_size=3) as store:
            await asyncio.gather(*(store.touch(new_key(), 0) for _ in range(50)))
            assert await server.has_connections(at_most=3)
            assert not await server.has_connections(at_most=2)

    async def test_loads_at_once_share_a_connection(self, server: PostgreSQL) -> None:
        async with opened(server.url) as store:
            await asyncio.gather(*(store.load(new_key()) for _ in range(50)))
            assert await server.has_connections(at_most=1)

    async def test_an_error_reaches_all_loads_that_share_a_statement(
        self, server: PostgreSQL
    ) -> None:
        server.stop()
        async with opened(server.url) as store:
            loads = (store.load(new_key()) for _ in range(200))
            errors = await asyncio.gather(*loads, return_exceptions=True)
        assert {type(error) for error in errors} == {StoreUnavailable}
        await server.start()

    async def test_who_waits_longer_than_pool_timeout_hears_why(
        self, server: PostgreSQL, record: Record
    ) -> None:
        key = new_key()
        pool = opened(server.url, pool_size=1, pool_timeout=timedelta(seconds=0.2))
        async with pool as store:
            await store.create(key, record)
            async with transaction(server, lock(key)):
                slow = asyncio.create_task(store.touch(key, record.expires))
                await until(lambda: are_waiting(server, 1))
                with pytest.raises(StoreUnavailable, match="is pool_size too small"):
                    await store.load(key)
            assert await slow
            assert await store.load(key) == record

    async def test_nobody_overtakes_who_waits_for_a_connection(self, server: PostgreSQL) -> None:
        touches = 0
        async with opened(server.url, pool_size=1) as store:

            async def touch_on() -> None:
                nonlocal touches
                while True:
                    await store.touch(new_key(), 0)
                    touches += 1

            crowd = [asyncio.create_task(touch_on()) for _ in range(3)]
            await asyncio.sleep(0.1)
            for _ in range(5):
                before = touches
                await store.touch(new_key(), 0)
                assert touches - before <= len(crowd) + 1
            for task in crowd:
                task.cancel()
            await asyncio.wait(crowd)

    async def test_a_locked_row_holds_one_connection_and_not_all(
        self, server: PostgreSQL, record: Record
    ) -> None:
        key, other = new_key(), new_key()
        async with opened(server.url, pool_size=3) as store:
            await store.create(key, replace(record, owner=ADA))
            async with transaction(server, lock(key)):
                touches = [store.touch(key, record.expires + number) for number in range(10)]
                ends = [store.delete_owned(ADA) for _ in range(5)]
                waiting = [asyncio.create_task(work) for work in (*touches, *ends)]
                await until(lambda: are_waiting(server, 2))
                async with asyncio.timeout(SOON):
                    assert await store.load(key) is not None
                    assert await store.create(other, record)
                    assert await store.touch(other, record.expires + 1)
                assert not any(task.done() for task in waiting)
            changed = await asyncio.gather(*waiting)
        assert sum(changed[10:]) == 1

    async def test_who_waits_too_long_for_another_change_hears_why(
        self, server: PostgreSQL, record: Record
    ) -> None:
        key = new_key()
        async with opened(server.url, pool_timeout=timedelta(seconds=0.2)) as store:
            await store.create(key, record)
            async with transaction(server, lock(key)):
                slow = asyncio.create_task(store.touch(key, record.expires))
                await until(lambda: are_waiting(server, 1))
                with pytest.raises(StoreUnavailable, match="an earlier change of the same session"):
                    await store.touch(key, record.expires)
            assert await slow


NOW = time.time()
ROWS = [
    (new_key(), b"{}", NOW, NOW + HOUR + number, 1, f"{number // 10:064}" if number % 2 else None)
    for number in range(5000)
]


class TestIndexes:
    """What a statement costs does not grow with the sessions that it is not about."""

    @pytest.mark.parametrize(
        ("name", "values", "index"),
        [
            ("list_owned", (f"{7:064}", "5", 0.0, 3), "ix_app_sessions_owner"),
            ("delete_owned", (f"{7:064}", "5", 0.0), "ix_app_sessions_owner"),
            ("delete_expired", (HOUR + 9.0, 10, HOUR + 9.0), "ix_app_sessions_expires"),
            ("delete_many", (["5", "7", "9"], 0.0), "key"),
            ("load_many", (["5", "7", "9"], 0.0), "key"),
            ("delete", ("5", 0.0), "key"),
            ("load", ("5", 0.0), "key"),
            ("scan", ("5", 10), "key"),
        ],
    )
    async def test_it_goes_along_an_index(
        self, server: PostgreSQL, name: str, values: tuple[Any, ...], index: str
    ) -> None:
        for plan in (
            await self.explain(server, name, values),
            self.explain_in_sqlite(name, values),
        ):
            used = index if index != "key" else r"app_sessions_pkey|sqlite_autoindex_app_sessions_1"
            assert re.search(used, plan), plan
            assert not re.search(r"Seq Scan on|SCAN app_sessions$|TEMP B-TREE", plan), plan

    async def explain(self, server: PostgreSQL, name: str, values: tuple[Any, ...]) -> str:
        connection = await asyncpg.connect(server.url)
        try:
            if not await connection.fetchval("SELECT count(*) FROM app_sessions"):
                await connection.copy_records_to_table("app_sessions", records=ROWS)
                await connection.execute("ANALYZE app_sessions")
            statement = POSTGRESQL.write(getattr(Statements(), name), "app_sessions")
            return "\n".join(
                row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *values)
            )
        finally:
            await connection.close()

    def explain_in_sqlite(self, name: str, values: tuple[Any, ...]) -> str:
        with closing(sqlite3.connect(":memory:")) as connection:
            for definition in SQLITE.write_table("app_sessions"):
                connection.execute(definition)
            connection.executemany("INSERT INTO app_sessions VALUES (?, ?, ?, ?, ?, ?)", ROWS)
            connection.execute("ANALYZE")
            statement = SQLITE.write(getattr(Statements(), name), "app_sessions")
            values = tuple(
                json.dumps(each)
                if isinstance(each, list)
                else NOW + each
                if isinstance(each, float)  # from now on, or since 1970
                else each
                for each in values
            )
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)
            return "\n".join(row[-1] for row in rows)


class TestManyKeys:
    async def test_more_keys_than_one_statement_takes_are_deleted(
        self, store: PostgreSQLStore, record: Record
    ) -> None:
        keys = [new_key() for _ in range(1200)]
        await asyncio.gather(*(store.create(key, record) for key in keys))
        assert await store.delete(*keys, new_key(), keys[0]) == 1200
        assert await store.delete(*keys) == 0

    async def test_two_deadlocks_in_a_row_are_got_over(
        self, server: PostgreSQL, record: Record
    ) -> None:
        await server.set("deadlock_timeout", "2s")
        first, second = sorted((new_key(), new_key()))  # as an index would find them, too
        async with opened(f"{server.url}?command_timeout=30") as store:
            await store.create(first, record)
            await store.create(second, record)
            mine = ("SET LOCAL deadlock_timeout = '1min'", lock(second))
            async with transaction(server, *mine) as other:
                deletion = asyncio.create_task(store.delete(first, second))
                for _ in range(2):
                    await until(lambda: is_locked(server, first))
                    await until(lambda: are_waiting(server, 1))
                    await other.execute("SAVEPOINT before")
                    await other.execute(lock(first))  # and now each waits for the other
                    await other.execute("ROLLBACK TO before")
            assert await deletion == 2


class TestReady:
    """What makes ``create`` fail makes ``ping`` fail."""

    async def test_a_server_that_takes_no_writes_is_not_ready(
        self, server: PostgreSQL, store: PostgreSQLStore, record: Record
    ) -> None:
        await store.ping()
        await server.refuse_writes()
        for call in (store.ping, lambda: store.create(new_key(), record)):
            with pytest.raises(StoreUnavailable, match="read-only"):
                await call()
        await server.accept_writes()
        await store.ping()

    async def test_a_user_who_may_only_read_is_not_ready(
        self, server: PostgreSQL, record: Record
    ) -> None:
        url = await server.behind_password(PASSWORD)
        await server.tell("GRANT SELECT ON app_sessions TO visitor")
        try:
            async with opened(url) as store:
                assert await store.load(new_key()) is None
                for call in (store.ping, lambda: store.create(new_key(), record)):
                    with pytest.raises(StoreUnavailable, match="permission denied"):
                        await call()
        finally:
            await server.tell("DROP OWNED BY visitor")
            await server.tell("DROP ROLE visitor")


class Pair:
    """A primary with its standby."""

    def __init__(self, new: servers.PostgreSQLData) -> None:
        ports = servers.free_port(), servers.free_port()
        follow = "primary_conninfo=host=127.0.0.1 user=postgres port={}"
        self.primary = PostgreSQL(new, follow.format(ports[1]), port=ports[0])
        self._data = dataclasses.replace(new, data=new.data.parent / "standby")
        self._other = follow.format(ports[0]), ports[1]

    async def start(self) -> None:
        await self.primary.start()
        source = f"--dbname={self.primary.url}"
        program = str(self._data.programs / "pg_basebackup")
        command = [program, "-D", str(self._data.data), "-R", source]
        await asyncio.to_thread(lambda: subprocess.run(command, check=True, **self._data.options))
        settings, port = self._other
        self.standby = PostgreSQL(self._data, settings, port=port)
        await self.standby.start()

    async def switch(self) -> None:
        """Let them change their roles."""
        self.primary.stop()
        await self.standby.tell("SELECT pg_promote()")
        (self.primary.new.data / "standby.signal").touch()
        self.primary, self.standby = self.standby, self.primary
        await self.standby.start()

    def stop(self) -> None:
        self.primary.stop()
        self.standby.stop()


class Address:
    """Where clients connect to, by TLS or not, whichever server is behind it."""

    def __init__(self, target: PostgreSQL, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        relay = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        port = relay.sockets[0].getsockname()[1]
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        relay.close()
        for task in self._tasks:
            task.cancel()

    def move(self, target: PostgreSQL) -> None:
        """New connections go there. Those that are open stay where they are."""
        self._target = target

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._tls is not None:
            await reader.readexactly(8)  # SSLRequest
            writer.write(b"S")
            try:
                await writer.start_tls(self._tls)
            except (OSError, EOFError):  # the client does not trust it
                return
        port = urlsplit(self._target.url).port
        to_server, from_client = await asyncio.open_connection("127.0.0.1", port)
        for source, target in ((reader, from_client), (to_server, writer)):
            task = asyncio.create_task(self._pipe(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while part := await source.read(65536):
                target.write(part)
        except ConnectionError:
            pass
        finally:
            target.close()


class TestFailover:
    @pytest.fixture
    async def pair(self) -> AsyncIterator[Pair]:
        with servers.postgresql_data() as new:
            pair = Pair(new)
            await pair.start()
            yield pair
            pair.stop()

    async def test_writes_go_on_within_seconds_when_an_address_moves_to_another_primary(
        self, pair: Pair, record: Record
    ) -> None:
        address = Address(pair.primary)
        await create_table(pair.primary.url)
        async with address.open() as url, opened(url) as store:
            keys = [new_key() for _ in range(20)]
            await asyncio.gather(*(store.create(key, record) for key in keys))
            await pair.switch()
            await asyncio.gather(*(store.list_owned(key) for key in keys))
            with pytest.raises(StoreUnavailable, match="read-only"):  # the standby's answer
                await store.ping()
            address.move(pair.primary)
            await self.create_within(SOON, store, record)
            await store.ping()
            assert None not in await asyncio.gather(*(store.load(key) for key in keys))
            assert await pair.standby.has_connections(at_most=0)

    async def test_of_several_hosts_the_one_that_takes_writes_is_found_again(
        self, pair: Pair, record: Record
    ) -> None:
        await create_table(pair.primary.url)
        ports = [urlsplit(server.url).port for server in (pair.standby, pair.primary)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        async with opened(f"postgresql://postgres@{hosts}/postgres") as store:
            await store.create(new_key(), record)
            await pair.switch()
            await self.create_within(SOON, store, record)

    async def create_within(self, seconds: float, store: PostgreSQLStore, record: Record) -> None:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    assert await store.create(new_key(), record)
                    return
                except StoreUnavailable:
                    await asyncio.sleep(0.05)


class TestRevocation:
    @pytest.mark.parametrize("leaves_a_mark", [False, True])
    async def test_a_session_that_moves_at_that_moment_does_not_escape(
        self, server: PostgreSQL, store: PostgreSQLStore, record: Record, leaves_a_mark: bool
    ) -> None:
        key, new = new_key(), new_key()
        mark = replace(record, version=0) if leaves_a_mark else None
        await store.create(key, replace(record, owner=ADA))
        async with opened(server.url) as other:
            async with transaction(server, lock(key)):
                moved = replace(record, version=2, owner=ADA)
                move = asyncio.create_task(store.update(key, moved, move_to=new, leave=mark))
                await until(lambda: are_waiting(server, 1))
                end = asyncio.create_task(other.delete_owned(ADA))
                await until(lambda: are_waiting(server, 2))
            assert await move
            assert await end == 1
        assert await store.list_owned(ADA) == []
        assert await store.load(key) == mark


class TestIsolation:
    @pytest.mark.parametrize("level", ["repeatable read", "serializable"])
    async def test_a_change_that_came_between_is_got_over(
        self, server: PostgreSQL, record: Record, level: str
    ) -> None:
        key = new_key()
        await server.set("default_transaction_isolation", level)
        async with opened(server.url) as store:
            await store.create(key, replace(record, owner=ADA))
            change = "UPDATE app_sessions SET expires = expires + 1"
            async with transaction(server, change):
                ends = asyncio.create_task(store.delete_owned(ADA))
                await until(lambda: are_waiting(server, 1))
            assert await ends == 1


AHEAD = """
import asyncio, sys, time
real = time.time
time.time = lambda: real() + float(sys.argv[2])

from serversessions.stores import open_store

async def main():
    store = open_store(sys.argv[1])
    assert await store.load("a" * 64) is not None
    assert await store.delete_expired() == 0
    print(await store.delete_owned(sys.argv[3]), await store.delete("b" * 64))
    await store.aclose()

asyncio.run(main())
"""


class TestClocks:
    """The server's counts."""

    @pytest.mark.parametrize(
        ("ahead", "warning"), [(1200, "1200 s behind"), (-1200, "1200 s ahead")]
    )
    async def test_a_worker_with_a_wrong_clock_sees_what_the_others_see(
        self, server: PostgreSQL, store: PostgreSQLStore, ahead: int, warning: str
    ) -> None:
        now = time.time()
        await store.create("a" * 64, Record(b"", now, now + 900, owner=ADA))
        await store.create("b" * 64, Record(b"", now, now + 900))
        command = [sys.executable, "-c", AHEAD, server.url, str(ahead), ADA]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        assert done.stdout == "1 1\n", done.stderr
        assert f"clock is {warning}" in done.stderr
        assert await store.load("a" * 64) is None

    async def test_what_looks_expired_is_ended_too(
        self, server: PostgreSQL, record: Record, clock: Clock
    ) -> None:
        keys = [new_key() for _ in range(5)]
        async with opened(server.url, clock=clock) as store:
            for key in keys:
                await store.create(key, replace(record, owner=ADA))
            clock.advance(2 * HOUR)
            assert await store.delete(keys[0]) == 0
            assert await store.delete(*keys[1:3]) == 0
            assert await store.delete(keys[3], owner=ADA) == 0
            assert await store.delete_owned(ADA) == 0
        assert await server.tell("SELECT count(*) FROM app_sessions") == 0


class TestSweepsAtOnce:
    async def fill(self, server: PostgreSQL, count: int) -> None:
        """Records that have just expired."""
        await server.tell(
            "INSERT INTO app_sessions SELECT md5(n::text) || md5((-n)::text), '', 0,"
            f" {time.time() - 1}, 1, NULL FROM generate_series(1, {count}) AS n"
        )

    async def test_they_share_the_work_and_wait_for_nobody(self, server: PostgreSQL) -> None:
        await self.fill(server, 5000)
        locked = await server.tell("SELECT key FROM app_sessions LIMIT 1")

        async def sweep(store: PostgreSQLStore) -> int:
            swept = 0
            while part := await store.delete_expired(100):
                swept += part
            return swept

        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(opened(server.url)) for _ in range(4)]
            await stack.enter_async_context(transaction(server, lock(locked)))
            async with asyncio.timeout(30):
                sweeps = [asyncio.create_task(sweep(store)) for store in stores]
                shares = await asyncio.gather(*sweeps)
        assert sum(shares) == 4999
        assert all(shares)
        assert await server.tell("SELECT key FROM app_sessions") == locked
        async with opened(server.url) as store:
            assert await store.delete_expired() == 1

    async def test_none_waits_for_one_under_way(
        self, server: PostgreSQL, store: PostgreSQLStore
    ) -> None:
        await self.fill(server, 10)
        async with transaction(server, "DELETE FROM app_sessions"), asyncio.timeout(SOON):
            assert await store.delete_expired() == 0
        assert await server.tell("SELECT count(*) FROM app_sessions") == 0

    async def test_what_is_touched_meanwhile_stays(
        self, server: PostgreSQL, store: PostgreSQLStore
    ) -> None:
        """By a worker whose clock is behind, say."""
        await self.fill(server, 10)
        later = f"UPDATE app_sessions SET expires = {time.time() + HOUR}"
        async with transaction(server, f"{later} WHERE key < '8'") as other:
            async with asyncio.timeout(SOON):
                await store.delete_expired()
            touched = await other.fetchval("SELECT count(*) FROM app_sessions")
        assert 0 < touched < 10
        assert await server.tell("SELECT count(*) FROM app_sessions") == touched

    async def test_one_removes_no_more_than_its_limit(
        self, server: PostgreSQL, store: PostgreSQLStore
    ) -> None:
        await self.fill(server, 1000)
        for _ in range(2):  # before the planner has its statistics, and after
            assert [await store.delete_expired(7) for _ in range(10)] == [7] * 10
            await server.tell("ANALYZE app_sessions")


class TestURL:
    """The URLs that hosts hand out are understood."""

    @pytest.mark.parametrize(
        "form",
        [
            "postgres://postgres@127.0.0.1:{port}/postgres",
            "postgresql+psycopg://postgres@127.0.0.1:{port}/postgres",
            "postgresql+asyncpg://postgres:any@127.0.0.1:{port}/postgres",
            "postgresql://postgres@/postgres?host=127.0.0.1&port={port}",
            "postgresql://postgres@/postgres?host={folder}&port={port}",
            "postgresql://postgres@{quoted}:{port}/postgres",
            "postgresql://postgres@/postgres?host=127.0.0.1:1&host=127.0.0.1:{port}",
            "postgresql://postgres@127.0.0.1:1,127.0.0.1:{port}/postgres",
            "postgresql://postgres@/postgres?host=127.0.0.1,127.0.0.1&port=1,{port}",
            "postgresql://postgres@127.0.0.1:{port}/postgres?target_session_attrs=primary",
            "postgresql://postgres@127.0.0.1:{port}/postgres?connect_timeout=10&sslmode=prefer",
            "postgresql://postgres@127.0.0.1:{port}/postgres?channel_binding=prefer",
        ],
    )
    async def test_it_leads_to_the_server(self, server: PostgreSQL, form: str) -> None:
        folder = server.new.data.parent
        port = urlsplit(server.url).port
        url = form.format(port=port, folder=folder, quoted=str(folder).replace("/", "%2F"))
        async with opened(url) as store:
            await store.ping()

    async def test_the_name_and_the_options_of_a_session_are_handed_on(
        self, server: PostgreSQL
    ) -> None:
        await server.tell("CREATE SCHEMA IF NOT EXISTS own")
        query = "application_name=shop&options=-c%20search_path%3Down"
        async with opened(f"{server.url}?{query}", table="named_sessions") as store:
            await store.create_table()
            await store.ping()
            names = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop'"
            assert await server.tell(names) == 1
        found = "SELECT schemaname FROM pg_tables WHERE tablename = 'named_sessions'"
        assert await server.tell(found) == "own"

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"host": "-nowhere"}, "its host is not known"),  # as the system says without asking
            ({"port": "1"}, "Connect call failed ('127.0.0.1', 1)"),
            ({"database": "nowhere"}, 'database "nowhere" does not exist'),
            ({"password": "wrong-s3cret"}, 'password authentication failed for user "visitor"'),
            ({"user": "nobody"}, 'role "nobody" does not exist'),
            ({"query": "?sslmode=require"}, "rejected SSL upgrade"),
            ({"query": "?sslmode=verify-full"}, "root certificate"),
            ({"query": "?options=-c%20nothing%3D1"}, "nothing"),
            ({"query": "?target_session_attrs=read-write"}, "permission denied for table"),
            ({}, "permission denied for table app_sessions"),
        ],
    )
    async def test_what_the_server_refuses_is_one_line(
        self, server: PostgreSQL, wrong: dict[str, str], message: str
    ) -> None:
        right = {
            "user": "visitor",
            "password": PASSWORD,
            "host": "127.0.0.1",
            "port": str(urlsplit(server.url).port),
            "database": "postgres",
            "query": "",
        }
        url = "postgresql://{user}:{password}@{host}:{port}/{database}{query}"
        await server.behind_password(PASSWORD)
        try:
            async with opened(url.format_map(right | wrong)) as store:
                with pytest.raises(StoreUnavailable, match=re.escape(message)) as raised:
                    await store.ping()
        finally:
            await server.tell("DROP ROLE visitor")
        assert "s3cret" not in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one that is shown, for localhost, with its key."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    make = (need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x")
    files = ("-addext", "subjectAltName=DNS:localhost", "-keyout", file, "-out", f"{file}.crt")
    subprocess.run([*make, *files], check=True, capture_output=True)
    return file


FORK = """
import asyncio, multiprocessing, sys, time
from serversessions import Record
from serversessions.stores import open_store

store = open_store(sys.argv[1])

async def create_and_load():
    key = f"{time.time_ns():064}"
    await store.create(key, Record(b"", time.time(), time.time() + 60))
    found = await asyncio.gather(*(store.load(key) for _ in range(5)))
    assert None not in found

def run_child():
    asyncio.events._set_running_loop(None)  # it was forked while one ran
    asyncio.run(create_and_load())

async def main():
    await create_and_load()
    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=run_child)
        child.start()
        child.join()
        assert child.exitcode == 0
        await create_and_load()
    await store.aclose()

asyncio.run(main())
asyncio.run(create_and_load())  # another event loop, as each request of a test client has
"""


async def test_a_forked_process_and_another_loop_have_connections_of_their_own(
    server: PostgreSQL,
) -> None:
    command = [sys.executable, "-c", FORK, server.url]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=30)
    assert await server.tell("SELECT count(*) FROM app_sessions") == 6


class TestTLS:
    """The server of the tests' wheel has none: what is before it speaks TLS, as a pooler does."""

    @pytest.mark.parametrize(
        ("host", "query", "message"),
        [
            ("localhost", "sslmode=verify-full&sslrootcert={}", ""),
            ("127.0.0.1", "sslmode=verify-ca&sslrootcert={}", ""),
            ("127.0.0.1", "sslmode=require", ""),
            ("127.0.0.1", "sslmode=verify-full&sslrootcert={}", "not valid for '127.0.0.1'"),
            ("localhost", "sslmode=verify-full&sslrootcert=system", "self-signed certificate"),
            ("localhost", "sslrootcert=system", "self-signed certificate"),
        ],
    )
    async def test_the_server_is_trusted_as_far_as_the_url_says(
        self, server: PostgreSQL, certificate: Path, host: str, query: str, message: str
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{certificate}.crt", certificate)
        async with Address(server, context).open() as url:
            url = url.replace("127.0.0.1", host)
            async with opened(f"{url}?{query.format(f'{certificate}.crt')}") as store:
                if not message:
                    await store.ping()
                    return
                with pytest.raises(StoreUnavailable, match=re.escape(message)):
                    await store.ping()
