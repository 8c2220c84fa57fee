"""How to write a store of your own: one in SQLite, with the standard library alone.

``ExampleStore`` is whole: copy it, put your database's calls in place of ``sqlite3``'s, and run the
contract against it, as ``TestContract`` does. What follows shows the two ways to use it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from serversessions import Record, Session, Sessions, SessionStore, StoreUnavailable, stores
from serversessions.config import ConfigError, ProjectConfig
from serversessions.testing import Clock, StoreContract

Steps = list[tuple[str, tuple[Any, ...]]]  # statements with their values


class ExampleStore:
    """Sessions in an SQLite file. It needs no base class: to have these methods is enough."""

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        # The app starts while its store is down: connect at the first call, not here.
        self._connection: sqlite3.Connection | None = None
        # Ask this clock, not the database's, so that no test has to wait until a record expires.
        self._clock = clock
        # sqlite3 blocks: not in the event loop, then, but in a thread; one, for one call at a time.
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def create(self, key: str, record: Record) -> bool:
        # Never "insert or replace": that would hand one visitor's session to another.
        sql = "INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, ?, ?, ?) RETURNING key"
        return bool(await self._run(sql, key, *_columns(record)))

    async def load(self, key: str) -> Record | None:
        # The sweeper comes when it comes: here and below, ask only for what has not expired.
        sql = "SELECT data, created, expires, version, owner FROM sessions"
        rows = await self._run(f"{sql} WHERE key = ? AND expires > ?", key, self._clock())
        return Record(*rows[0]) if rows else None

    async def update(
        self,
        key: str,
        record: Record,
        *,
        move_to: str | None = None,
        leave: Record | None = None,
    ) -> bool:
        # One atomic step. Had it two, first "is this still the version that was loaded?" and then
        # "replace it", a slow request could undo the sign-out that came between them.
        sql = """UPDATE OR IGNORE sessions
            SET key = ?, data = ?, created = ?, expires = ?, version = ?, owner = ?
            WHERE key = ? AND version = ? AND expires > ? RETURNING key"""
        loaded = (key, record.version - 1, self._clock())
        steps: Steps = [(sql, (move_to or key, *_columns(record), *loaded))]
        if leave is not None:
            # What a rotated id leaves for a minute: a record as any other.
            insert = "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?) RETURNING key"
            steps.append((insert, (key, *_columns(leave))))
        return bool(await self._run_all(steps))

    async def touch(self, key: str, expires: float) -> bool:
        # The version stays: a visit that changes nothing is no conflict for one that does.
        sql = "UPDATE sessions SET expires = ? WHERE key = ? AND expires > ? RETURNING key"
        return bool(await self._run(sql, expires, key, self._clock()))

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        # With an owner, check and delete in one step too: the session may change hands meanwhile.
        # Whether it looks live is no question: this machine's clock may be wrong. It only counts.
        sql = """DELETE FROM sessions
            WHERE key = ? AND (owner = ? OR ? IS NULL) RETURNING expires > ?"""
        values = (owner, owner, self._clock())
        rows = [row for key in keys for row in await self._run(sql, key, *values)]
        return sum(was_live for (was_live,) in rows)

    async def delete_expired(self, limit: int = 1000) -> int:
        # A batch, and requests get their turn. A database that forgets by itself: return 0.
        expired = "SELECT key FROM sessions WHERE expires <= ? LIMIT ?"
        sql = f"DELETE FROM sessions WHERE key IN ({expired}) RETURNING key"
        return len(await self._run(sql, self._clock(), limit))

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        # The index on owner and key makes this as cheap among millions as among ten.
        sql = """SELECT key, data, created, expires, version, owner FROM sessions
            WHERE owner = ? AND key > ? AND expires > ? ORDER BY key LIMIT ?"""
        rows = await self._run(sql, owner, after, self._clock(), limit)
        return [(key, Record(*values)) for key, *values in rows]

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        sql = "DELETE FROM sessions WHERE owner = ? AND key IS NOT ? RETURNING expires > ?"
        rows = await self._run(sql, owner, except_key, self._clock())
        return sum(was_live for (was_live,) in rows)

    async def repair(self) -> int:
        # The database keeps its index by itself.
        return 0

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        # The cursor is whatever finds the next page again: here the last key of this one.
        sql = """SELECT key, data, created, expires, version, owner FROM sessions
            WHERE key > ? ORDER BY key LIMIT ?"""
        rows = await self._run(sql, cursor, limit)
        found = [(key, Record(*values)) for key, *values in rows]
        return found, found[-1][0] if len(found) == limit else ""

    async def ping(self) -> None:
        await self._run("SELECT key FROM sessions LIMIT 1")

    async def aclose(self) -> None:
        self._thread.shutdown()
        if self._connection is not None:
            self._connection.close()

    async def _run(self, sql: str, *values: Any) -> list[Any]:
        return await self._run_all([(sql, values)])

    async def _run_all(self, steps: Steps) -> list[Any]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._execute, steps)
        except sqlite3.Error as error:
            # This error alone means "not now": visitors see a 503, and stay signed in.
            raise StoreUnavailable(f"{self._path}: {error}") from error

    def _execute(self, steps: Steps) -> list[Any]:
        """The rows of the last step, all in one transaction; none if one before finds nothing."""
        connection, rows = self._connect(), []
        with connection:  # commits, or rolls back an error
            connection.execute("BEGIN IMMEDIATE" if len(steps) > 1 else "BEGIN")
            for sql, values in steps:
                rows = connection.execute(sql, values).fetchall()
                if not rows:
                    break
        return rows

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            connection.execute(
                "CREATE TABLE IF NOT EXISTS sessions (key TEXT PRIMARY KEY, data BLOB,"
                " created REAL, expires REAL, version INTEGER, owner TEXT)"
            )
            connection.execute("CREATE INDEX IF NOT EXISTS by_owner ON sessions (owner, key)")
            self._connection = connection
        return self._connection


def _columns(record: Record) -> tuple[bytes, float, float, int, str | None]:
    return record.data, record.created, record.expires, record.version, record.owner


class TestContract(StoreContract):
    """Every promise of ``SessionStore``, kept by this store."""

    @pytest.fixture
    async def store(self, tmp_path: Path, clock: Clock) -> AsyncIterator[SessionStore]:
        store = ExampleStore(tmp_path / "sessions.db", clock=clock)
        yield store
        await store.aclose()


def open_example(uri: str) -> SessionStore:
    """What is registered for ``example:///path/of/the/file``."""
    if not (path := urlsplit(uri).path):
        raise ValueError("a path is missing, as in example:///var/lib/app/sessions.db")
    return ExampleStore(path)


@pytest.fixture
def example_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """``register_cache_backend``, undone after the test."""
    monkeypatch.setattr(stores, "_cache_backends", stores._cache_backends.copy())
    stores.register_cache_backend("example", open_example)


async def page(request: Request) -> Response:
    session = Session.of(request)
    if request.url.path == "/sign-in":
        session.owner = "ada"
    elif request.url.path == "/sign-out":
        session.flush()
    return JSONResponse(session.owner)


def app_with(sessions: Sessions) -> Starlette:
    routes = [Route(path, page) for path in ("/", "/sign-in", "/sign-out")]
    return Starlette(
        routes=[*routes, *sessions.routes],
        middleware=[sessions.middleware],
        lifespan=sessions.lifespan,
    )


def assert_it_keeps_sessions(open_sessions: Callable[[], Sessions]) -> None:
    """Sign in, restart the app, and sign out."""

    def client(cookies: Any = None) -> TestClient:
        app = app_with(open_sessions())
        return TestClient(app, base_url="https://testserver", cookies=cookies)

    with client() as browser:
        assert browser.get("/sign-in").json() == "ada"
        cookies = browser.cookies
    with client(cookies) as browser:
        assert browser.get("/").json() == "ada"
        browser.get("/sign-out")
    with client(cookies) as browser:
        assert browser.get("/").json() is None


def test_an_app_keeps_its_sessions_in_a_store_that_is_handed_over(tmp_path: Path) -> None:
    assert_it_keeps_sessions(lambda: Sessions("memory:", ExampleStore(tmp_path / "sessions.db")))


@pytest.mark.usefixtures("example_scheme")
def test_an_app_keeps_its_sessions_in_a_store_that_its_uri_names(tmp_path: Path) -> None:
    assert_it_keeps_sessions(lambda: Sessions(f"example://{tmp_path}/sessions.db"))
    assert (tmp_path / "sessions.db").exists()


@pytest.mark.usefixtures("example_scheme")
def test_a_configuration_may_name_it_too(tmp_path: Path) -> None:
    uri = f"example://{tmp_path}/sessions.db"
    assert_it_keeps_sessions(lambda: Sessions(config_with(uri)))
    assert (tmp_path / "sessions.db").exists()


@pytest.mark.usefixtures("example_scheme")
def test_a_uri_that_the_factory_refuses_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match='uri: found "example://nothing"; a path is missing'):
        Sessions(config_with("example://nothing"))


def test_a_scheme_that_nobody_registered_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="allowed schemes: "):
        Sessions(config_with("example:///sessions.db"))


def config_with(uri: str) -> ProjectConfig:
    table = f'[middlewares.session.store]\ntype = "cache"\nuri = "{uri}"\n'
    return ProjectConfig.from_toml(table, source="config/example.toml")


def test_while_the_store_is_down_visitors_see_503_and_then_are_known_again(tmp_path: Path) -> None:
    file, aside = tmp_path / "store" / "sessions.db", tmp_path / "aside"
    file.parent.mkdir()
    app = app_with(Sessions("memory:", ExampleStore(file)))
    file.parent.rename(aside)
    with TestClient(app, base_url="https://testserver") as client:
        assert client.get("/sign-in").status_code == 503
        assert client.get("/readyz").status_code == 503
        aside.rename(file.parent)
        assert client.get("/sign-in").json() == "ada"
        assert client.get("/readyz").status_code == 200
