"""A pytest plugin: a clock, and real servers that start once for all tests of a process.

In ``conftest.py``::

    pytest_plugins = ["serversessions.testing.fixtures"]
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from . import servers
from .clock import Clock


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests marked with ``anyio`` run on asyncio, as Starlette's servers do."""
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    """The time, which ``clock.advance(seconds)`` moves."""
    return Clock()


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URI of a Valkey server."""
    with servers.valkey() as uri:
        yield uri


@pytest.fixture(scope="session")
def sentinel() -> Iterator[str]:
    """The URI of a Valkey server that a sentinel names."""
    with servers.sentinel() as uri:
        yield uri


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The URI of a Cluster of three Valkey servers."""
    with servers.cluster() as uri:
        yield uri


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a new database on a PostgreSQL server: no other process of tests has it."""
    name = f"test_{secrets.token_hex(8)}"
    with servers.postgresql() as server:
        asyncio.run(_execute(server, f"CREATE DATABASE {name}"))
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
        asyncio.run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
