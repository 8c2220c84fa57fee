"""Behind PgBouncer, which hands out a connection to PostgreSQL for one transaction at a time."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from serversessions import Record, StoreUnavailable
from serversessions.stores.postgresql import PostgreSQLStore
from serversessions.testing import servers
from serversessions.testing.contract import new_key

from . import test_postgresql
from .faults import PostgreSQL, until
from .programs import find, need
from .test_migrations import App
from .test_postgresql import are_waiting, lock, opened, transaction

# pytest finds the fixtures by these names.
server, record = test_postgresql.server, test_postgresql.record

OWNER, OTHER = "a" * 64, "b" * 64
PGBOUNCER = find("pgbouncer")


def version() -> tuple[int, ...]:
    if PGBOUNCER is None:
        return (0,)
    said = subprocess.run([PGBOUNCER, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said.stdout)
    assert found is not None
    return tuple(map(int, found.groups()))


KEEPS_STATEMENTS = version() >= (1, 21)
UNPREPARED = "?prepared_statement_cache_size=0"


@contextmanager
def pgbouncer(server: PostgreSQL, folder: Path, **settings: object) -> Iterator[str]:
    """The URL of a PgBouncer that hands out a connection for one transaction at a time."""
    place, port = urlsplit(server.url), servers.free_port()
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "user": "nobody",  # it refuses to be root
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": 4,
        **settings,
    }
    if KEEPS_STATEMENTS:
        settings.setdefault("max_prepared_statements", 200)
    lines = [f"{name} = {value}" for name, value in settings.items()]
    database = f"* = host=127.0.0.1 port={place.port} user=postgres"
    file = folder / "pgbouncer.ini"
    file.write_text("\n".join(["[databases]", database, "[pgbouncer]", *lines]))
    with servers.running([need("pgbouncer"), file], port, signal.SIGINT):
        yield place._replace(netloc=f"postgres@127.0.0.1:{port}").geturl()


@pytest.fixture(params=["", UNPREPARED] if KEEPS_STATEMENTS else [UNPREPARED])
def url(request: pytest.FixtureRequest, server: PostgreSQL, tmp_path: Path) -> Iterator[str]:
    """With prepared statements where it can keep them, and without."""
    with pgbouncer(server, tmp_path) as url:
        yield url + request.param


async def test_workers_share_few_connections_and_no_call_fails(url: str, record: Record) -> None:
    async def visit(store: PostgreSQLStore) -> None:
        for _ in range(5):
            key, new = new_key(), new_key()
            newer = Record(b"newer", record.created, record.expires, 2, OWNER)
            assert await store.create(key, record)
            assert not await store.create(key, record)
            assert await store.update(key, newer, move_to=new)
            assert await store.load(new) == newer
            assert await store.touch(new, record.expires + 1)
            assert await store.delete(new, key, owner=OTHER) == 0
            assert await store.delete(new) == 1

    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened(url)) for _ in range(3)]
        await asyncio.gather(*(visit(store) for store in stores for _ in range(15)))


async def test_many_migrate_at_once(
    url: str, server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(tmp_path, url)
    monkeypatch.syspath_prepend(tmp_path)
    await asyncio.gather(*(app.migrate() for _ in range(3)), app.alembic("upgrade", "head"))
    assert await server.tell(f"SELECT count(*) FROM {app.name}_alembic_version") == 1
    assert await server.tell("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


async def test_a_call_that_takes_too_long_is_cancelled_on_the_server(
    url: str, server: PostgreSQL, record: Record
) -> None:
    key = new_key()
    hasty_url = f"{url}{'&' if '?' in url else '?'}command_timeout=1"
    async with opened(url) as store, opened(hasty_url) as hasty:
        await store.create(key, record)
        async with transaction(server, lock(key)):
            with pytest.raises(StoreUnavailable):
                await hasty.touch(key, record.expires + 1)
            await until(lambda: are_waiting(server, 0))
        assert await store.load(key) == record


async def test_visitors_who_leave_leave_nothing_behind(
    url: str, server: PostgreSQL, record: Record
) -> None:
    keys = [new_key() for _ in range(3)]
    async with opened(url) as store:
        for key in keys:
            await store.create(key, record)
        async with transaction(server, *map(lock, keys)):
            calls = [asyncio.create_task(store.touch(key, 0)) for key in keys]
            await until(lambda: are_waiting(server, 3))
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            await until(lambda: are_waiting(server, 0))
        for key in keys:
            assert await store.load(key) == record
            assert await store.touch(key, record.expires + 1)


async def test_one_that_forgets_statements_is_an_error_with_the_remedy(
    server: PostgreSQL, tmp_path: Path
) -> None:
    settings = {"max_prepared_statements": 0} if KEEPS_STATEMENTS else {}
    with pgbouncer(server, tmp_path, **settings) as url:
        async with opened(url, pool_size=1) as store:
            await store.load(new_key())
            other = await asyncpg.connect(url, statement_cache_size=0)
            await other.execute("BEGIN")  # takes the connection that knows the statement
            with pytest.raises(StoreUnavailable, match=r"\?prepared_statement_cache_size=0"):
                await store.load(new_key())
            await other.close()
