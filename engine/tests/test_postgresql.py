"""PostgreSQL where many share it: pools, indexes, sweeps at once, and URLs that are wrong."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from serversessions import Record, StoreUnavailable
from serversessions.cli import main
from serversessions.migrations import migrate
from serversessions.stores.database import DatabaseStore, open_engine
from serversessions.testing.contract import HOUR, new_key

from . import test_server_faults as faults
from .test_server_faults import (
    PASSWORD,
    PostgreSQL,
    until,
)

postgresql_server = faults.postgresql_server  # pytest finds the fixture by this name

SOON = 2  # seconds: what waits for nothing is done by then


@pytest.fixture
async def server(
    postgresql_server: PostgreSQL,
) -> AsyncIterator[PostgreSQL]:
    """A running server with an empty table."""
    await postgresql_server.start()
    await migrate(postgresql_server.url)
    yield postgresql_server
    await postgresql_server.tell("DELETE FROM sessions")
    postgresql_server.stop()


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[DatabaseStore]:
    store = DatabaseStore(url, **options)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture
async def store(server: PostgreSQL) -> AsyncIterator[DatabaseStore]:
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
    return f"SELECT key FROM sessions WHERE key = '{key}' FOR UPDATE"


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
            await asyncio.gather(*(store.load(new_key()) for _ in range(50)))
            assert await server.has_connections(at_most=3)
            assert not await server.has_connections(at_most=2)

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
        loads = 0
        async with opened(server.url, pool_size=1) as store:

            async def load_on() -> None:
                nonlocal loads
                while True:
                    await store.load(new_key())
                    loads += 1

            crowd = [asyncio.create_task(load_on()) for _ in range(3)]
            await asyncio.sleep(0.1)
            for _ in range(5):
                before = loads
                await store.load(new_key())
                assert loads - before <= len(crowd) + 1
            for task in crowd:
                task.cancel()
            await asyncio.wait(crowd)


class TestIndexes:
    """What a call costs does not grow with the sessions that it is not about."""

    @pytest.fixture(params=["sqlite", "postgresql"])
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path}/app.db"
        server: PostgreSQL = request.getfixturevalue("server")
        return server.url

    @pytest.fixture
    async def url(self, place: str) -> str:
        """A database with many records."""
        await migrate(place)
        now = time.time()
        rows = [
            {
                "key": secrets.token_hex(32),
                "data": b"{}",
                "created": now,
                "expires": now + number,
                "version": 1,
                "owner": f"{number // 10:064}" if number % 2 else None,
            }
            for number in range(5000)
        ]
        engine = open_engine(place)
        table = sa.table("sessions", *map(sa.column, rows[0]))
        await engine.run(lambda connection: connection.execute(table.insert(), rows), writes=True)
        await engine.run(lambda connection: connection.exec_driver_sql("ANALYZE"), writes=True)
        await engine.aclose()
        return place

    @pytest.mark.parametrize(
        ("call", "index"),
        [
            (lambda store: store.list_owned(f"{7:064}", limit=3), "ix_sessions_owner"),
            (lambda store: store.list_owned(f"{7:064}", after="5"), "ix_sessions_owner"),
            (lambda store: store.delete_owned(f"{7:064}"), "ix_sessions_owner"),
            (lambda store: store.delete_owned(f"{7:064}", except_key="5"), "ix_sessions_owner"),
            (lambda store: store.delete_expired(10), "ix_sessions_expires"),
            (lambda store: store.delete("5", "7", "9"), "key"),
            (lambda store: store.scan("5", limit=10), "key"),
        ],
    )
    async def test_it_goes_along_an_index(
        self, url: str, call: Callable[[DatabaseStore], Awaitable[object]], index: str
    ) -> None:
        said: list[tuple[str, Any]] = []

        def listen(_1: Any, _2: Any, statement: str, parameters: Any, *_: Any) -> None:
            said.append((statement, parameters))

        async with opened(url) as store:
            await store.ping()
            sa.event.listen(sa.Engine, "before_cursor_execute", listen)
            try:
                await call(store)
            finally:
                sa.event.remove(sa.Engine, "before_cursor_execute", listen)
        statement, parameters = said[-1]
        explain = "EXPLAIN " if url.startswith("postgresql") else "EXPLAIN QUERY PLAN "
        engine = open_engine(url)
        rows = await engine.run(
            lambda connection: connection.exec_driver_sql(explain + statement, parameters).all()
        )
        await engine.aclose()
        plan = "\n".join(str(row[-1]) for row in rows)
        used = index if index.startswith("ix") else r"sessions_pkey|sqlite_autoindex_sessions_1"
        assert re.search(used, plan), plan
        assert not re.search(r"Seq Scan|SCAN sessions$|TEMP B-TREE", plan), plan


class TestManyKeys:
    async def test_more_keys_than_one_statement_takes_are_deleted(
        self, store: DatabaseStore, record: Record
    ) -> None:
        keys = [new_key() for _ in range(1200)]
        await asyncio.gather(*(store.create(key, record) for key in keys))
        assert await store.delete(*keys, new_key(), keys[0]) == 1200
        assert await store.delete(*keys) == 0

    async def test_two_deadlocks_in_a_row_are_got_over(
        self, server: PostgreSQL, record: Record
    ) -> None:
        await server.set("deadlock_timeout", "5s")
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


class TestMigrations:
    async def test_they_wait_for_each_other_however_long_it_takes(self, server: PostgreSQL) -> None:
        other = await asyncpg.connect(server.url)
        await other.execute("SELECT pg_advisory_lock(7381940265)")
        migration = asyncio.create_task(migrate(f"{server.url}?command_timeout=0.2"))
        await until(lambda: are_waiting(server, 1))
        await asyncio.sleep(0.5)
        await other.close()
        await migration

    @pytest.mark.parametrize("driver", ["sqlite", "postgresql"])
    async def test_those_of_another_code_are_one_message(
        self, server: PostgreSQL, tmp_path: Path, driver: str
    ) -> None:
        url = f"sqlite:///{tmp_path}/app.db" if driver == "sqlite" else server.url
        await migrate(url)
        await faults.execute(url, "UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(StoreUnavailable, match=r"'9999'\. Is the database ahead"):
            await migrate(url)
        await faults.execute(url, "UPDATE alembic_version SET version_num = '0001'")
        await migrate(url)


class TestSweepsAtOnce:
    async def fill(self, server: PostgreSQL, count: int) -> None:
        """Records that have just expired."""
        await server.tell(
            "INSERT INTO sessions SELECT md5(n::text) || md5((-n)::text), '', 0,"
            f" {time.time() - 1}, 1, NULL FROM generate_series(1, {count}) AS n"
        )

    async def test_they_share_the_work_and_wait_for_nobody(self, server: PostgreSQL) -> None:
        await self.fill(server, 5000)
        locked = await server.tell("SELECT key FROM sessions LIMIT 1")

        async def sweep(store: DatabaseStore) -> int:
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
        assert await server.tell("SELECT key FROM sessions") == locked
        async with opened(server.url) as store:
            assert await store.delete_expired() == 1

    async def test_none_waits_for_one_under_way(
        self, server: PostgreSQL, store: DatabaseStore
    ) -> None:
        await self.fill(server, 10)
        async with transaction(server, "DELETE FROM sessions"), asyncio.timeout(SOON):
            assert await store.delete_expired() == 0
        assert await server.tell("SELECT count(*) FROM sessions") == 0

    async def test_what_is_touched_meanwhile_stays(
        self, server: PostgreSQL, store: DatabaseStore
    ) -> None:
        """By a worker whose clock is behind, say."""
        await self.fill(server, 10)
        later = f"UPDATE sessions SET expires = {time.time() + HOUR}"
        async with transaction(server, f"{later} WHERE key < '8'") as other:
            async with asyncio.timeout(SOON):
                await store.delete_expired()
            touched = await other.fetchval("SELECT count(*) FROM sessions")
        assert 0 < touched < 10
        assert await server.tell("SELECT count(*) FROM sessions") == touched

    async def test_one_removes_no_more_than_its_limit(
        self, server: PostgreSQL, store: DatabaseStore
    ) -> None:
        await self.fill(server, 1000)
        for _ in range(2):  # with an idea of how many there are, and without
            assert [await store.delete_expired(7) for _ in range(10)] == [7] * 10
            await server.tell("ANALYZE sessions")


CONFIG = '[database]\nurl = "{}"\n[middlewares.session.store]\ntype = "database"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command finds its configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    return tmp_path


def says(url: str, *command: str) -> Result:
    """What a command says of an environment whose sessions are at this URL."""
    Path("config/x.toml").write_text(CONFIG.format(url))
    return CliRunner().invoke(main, command)


SCHEMES = "not one of sqlite, sqlite+pysqlite, sqlite+aiosqlite, postgresql, postgresql+asyncpg"
OPTIONS = "not one of timeout, command_timeout, sslmode, prepared_statement_cache_size"
MODES = "allowed: disable, allow, prefer, require, verify-ca, verify-full"


@pytest.mark.usefixtures("folder")
class TestWrongURL:
    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("mysql://u:s3cret@h/x", f"'mysql' is {SCHEMES}"),
            ("mysql+aiomysql://u:s3cret@h/x", f"'mysql+aiomysql' is {SCHEMES}"),
            ("mariadb://u:s3cret@h/x", f"'mariadb' is {SCHEMES}"),
            ("postgres://u:s3cret@h/x", f"'postgres' is {SCHEMES}"),
            ("postgresql+psycopg://u:s3cret@h/x", f"'postgresql+psycopg' is {SCHEMES}"),
            ("postgresql:u:s3cret@h/x", "allowed: a URL: scheme://host:port/name"),
            ("postgresql://u:s3cret@h h/x", "allowed: a URL: scheme://host:port/name"),
            ("postgresql://u:s3/cret@h/x", "in a password, /, ?, # and @ are %2F"),
            ("postgresql://u:s3cret@h:port/x", "its port is not a number"),
            ("postgresql://u:s3cret@h:65536/x", "65536 is no port: they go from 1 to 65535"),
            ("postgresql://u:s3cret@h:0/x", "0 is no port"),
            ("postgresql://u:s3cret@h..h/x", "its host has a part that is empty"),
            ("postgresql://u:s3cret@h/x?sslmode=yes", f"sslmode: {MODES}"),
            ("postgresql://u:s3cret@h/x?ssl=true", f"ssl: {MODES}"),
            ("postgresql://u:s3cret@h/x?timeout=soon", "timeout: allowed: seconds, such as 2.5"),
            ("postgresql://u:s3cret@h/x?timeout=0", "timeout: allowed: seconds"),
            ("postgresql://u:s3cret@h/x?command_timeout=-1", "command_timeout: allowed: seconds"),
            ("postgresql://u:s3cret@h/x?command_timeout=nan", "command_timeout: allowed: seconds"),
            ("postgresql://u:s3cret@h/x?timeout=1&timeout=2", "timeout: allowed: seconds, such as"),
            ("postgresql://u:s3cret@h/x?pool_size=5", f"'pool_size' is {OPTIONS}"),
            ("postgresql://u:s3cret@h/x?password=s3cret", f"'password' is {OPTIONS}"),
            (
                "postgresql://u:s3cret@h/x?prepared_statement_cache_size=100",
                "prepared_statement_cache_size: allowed: 0",
            ),
            ("sqlite:///:memory:", "SQLite needs a file"),
            ("sqlite:///x.db?timeout=soon", "timeout: allowed: seconds, such as 2.5"),
            ("sqlite:///x.db?mode=ro", "'mode' is not timeout, the one option of SQLite"),
        ],
    )
    def test_what_is_malformed_is_refused_at_the_start(self, url: str, message: str) -> None:
        for status, *command in ((2, "run", "--env", "x"), (1, "config", "check", "x")):
            done = says(url, *command)
            assert done.exit_code == status, done.output
            assert message in done.output
            assert "database.url" in done.output
            assert "s3cret" not in done.output
            assert "Traceback" not in done.output

    def test_a_process_whose_user_has_no_name_must_name_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for variable in ("LOGNAME", "USER", "LNAME", "USERNAME", "PGUSER"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setattr(os, "getuid", lambda: 23456)
        done = says("postgresql://localhost/x", "config", "check", "x")
        assert done.exit_code == 1
        assert "database.url: found" in done.output
        assert "user: missing" in done.output

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
            ({}, "permission denied for table sessions"),
        ],
    )
    async def test_what_the_server_refuses_is_told_by_config_check(
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
            url = url.format_map(right | wrong)
            done = await asyncio.to_thread(says, url, "config", "check", "x")
        finally:
            await server.tell("DROP ROLE visitor")
        assert done.exit_code == 1
        assert message in done.output
        assert "database.url" in done.output
        assert "s3cret" not in done.output
        assert "Traceback" not in done.output
