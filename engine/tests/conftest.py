"""Fixtures: a clock that can be moved, and each store that a test is to run on."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from serversessions.config import DatabaseStoreConfig, ProjectConfig
from serversessions.migrations import migrate
from serversessions import SessionStore
from serversessions.stores.file import FileStore
from serversessions.stores.memory import MemoryStore

from . import servers

CONFIGS = sorted(Path("config").glob("*.toml"))


def kind_of(config: ProjectConfig) -> str:
    """The kind of store that a configuration needs: its type, or which database or cache."""
    if config.store_url is None:
        return config.middlewares.session.store.type
    scheme = config.store_url[1].partition(":")[0]
    if isinstance(config.middlewares.session.store, DatabaseStoreConfig):
        return "sqlite" if scheme.startswith("sqlite") else "postgresql"
    return scheme.partition("+")[2] or "cache"


def kinds() -> list[str]:
    """The memory store, and every store that a ``config/*.toml`` names."""
    configs = [ProjectConfig.from_toml(file.read_text(), source=str(file)) for file in CONFIGS]
    return sorted({"memory", *map(kind_of, configs)})


class Clock:
    """The time, as far ahead as a test wants it to be."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += seconds


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=kinds())
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A kind of store, and where one may be opened: the test runs once for each kind."""
    kind: str = request.param
    match kind:
        case "file":
            return kind, str(tmp_path / "sessions")
        case "sqlite":
            return kind, f"sqlite:///{tmp_path}/app.db"
        case "cache":
            return kind, request.getfixturevalue("valkey")
        case "sentinel" | "cluster" | "postgresql":
            return kind, request.getfixturevalue(kind)
    return kind, ""


@pytest.fixture
async def store(place: tuple[str, str], clock: Clock) -> AsyncIterator[SessionStore]:
    """An empty store of each kind."""
    match place:
        case "memory", _:
            yield MemoryStore(clock=clock)
        case "file", path:
            files = FileStore(path, clock=clock)
            yield files
            await files.aclose()
        case "cache" | "sentinel" | "cluster", uri:
            async for cache in _empty_cache(uri, clock):
                yield cache
        case _, url:
            async for database in _empty_database(url, clock):
                yield database


async def _empty_cache(uri: str, clock: Clock) -> AsyncIterator[SessionStore]:
    from serversessions.stores.redis import RedisStore

    prefix = f"test-{secrets.token_hex(8)}"
    store = RedisStore(uri, prefix=prefix, clock=clock)
    yield store
    for node in await store._server.primaries():
        for key in await node.send("KEYS", f"{prefix}:*"):
            await node.send("DEL", key)
    await store.aclose()


async def _empty_database(url: str, clock: Clock) -> AsyncIterator[SessionStore]:
    from serversessions.stores.database import DatabaseStore

    await migrate(url)
    store = DatabaseStore(url, clock=clock)
    yield store
    await store.aclose()
    await _execute(url, "DELETE FROM sessions")


async def _execute(url: str, statement: str) -> None:
    import sqlalchemy as sa

    from serversessions.stores.database import open_engine

    engine = open_engine(url)
    await engine.run(lambda connection: connection.execute(sa.text(statement)))
    await engine.aclose()


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URI of a real Valkey server."""
    with servers.valkey() as uri:
        yield uri


@pytest.fixture(scope="session")
def sentinel() -> Iterator[str]:
    """The URI of a real Valkey server that a sentinel names."""
    with servers.sentinel() as uri:
        yield uri


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The URI of a real Cluster of Valkey servers."""
    with servers.cluster() as uri:
        yield uri


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a new database on a real PostgreSQL server."""
    name = f"test_{secrets.token_hex(8)}"
    with servers.postgresql() as server:
        asyncio.run(_execute(server, f"CREATE DATABASE {name}"))
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
        asyncio.run(_execute(server, f"DROP DATABASE {name}"))
