"""Each kind of store that the tests run on, empty."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from serversessions import SessionStore
from serversessions.location import Location
from serversessions.stores import open_store
from serversessions.testing import Clock, servers

pytest_plugins = ["serversessions.testing.fixtures", "tests.faults"]

# For processes that a test starts: the library in place, as pytest's own `pythonpath` has it.
os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent / "src")

KINDS = ["memory", "file", "sqlite", "postgresql", "cache"]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A kind of store, and the URL of an empty one: the test runs once for each kind.

    A test on some of them, or on a ``sentinel`` or a ``cluster``, names them:
    ``@pytest.mark.parametrize("place", ["file", "cluster"], indirect=True)``.
    """
    kind: str = request.param
    match kind:
        case "file":
            return kind, f"file:{tmp_path}/sessions"
        case "sqlite":
            return kind, f"sqlite:///{tmp_path}/app.db"
        case "postgresql":
            url: str = request.getfixturevalue("postgresql")
            asyncio.run(empty_postgresql(url))
            return kind, url
        case "cache":
            uri: str = request.getfixturevalue("valkey")
            empty_valkey(uri)
            return kind, uri
        case "sentinel" | "cluster":
            return kind, request.getfixturevalue(kind)
    return kind, f"{kind}:"


@pytest.fixture
async def store(place: tuple[str, str], clock: Clock) -> AsyncIterator[SessionStore]:
    """An empty store of each kind."""
    kind, url = place
    store = await new_store(kind, url, clock)
    yield store
    if servers.VALKEY_VARIABLE in os.environ and kind in ("cache", "sentinel", "cluster"):
        await empty(store)
    await store.aclose()


async def new_store(kind: str, url: str, clock: Callable[[], float]) -> SessionStore:
    """A store of one kind, ready to be used."""
    shares = kind in ("cache", "sentinel", "cluster")  # a server, which may not be emptied
    app = f"test-{secrets.token_hex(8)}" if shares else "app"
    store = open_store(Location(url, app), clock=clock)
    if kind in ("sqlite", "postgresql"):
        # Of the SQL stores alone, which is no part of the protocol.
        await store.create_table()  # type: ignore[attr-defined]
    return store


async def empty(store: SessionStore) -> None:
    """Remove what a test left on a server that is not the tests' own."""
    cursor = ""
    while True:
        records, cursor = await store.scan(cursor)
        await store.delete(*(key for key, _ in records))
        if not cursor:
            return


async def empty_postgresql(url: str) -> None:
    """Remove all tables of the tests' own database."""
    import asyncpg

    connection = await asyncpg.connect(url)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()


def empty_valkey(uri: str) -> None:
    """Remove all keys, unless the server is not the tests' own."""
    from redis import Redis

    if servers.VALKEY_VARIABLE not in os.environ:
        with Redis.from_url(uri) as client:
            client.flushall()
