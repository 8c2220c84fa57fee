"""``Sessions``: all that an app wires, from a URL, a location or a configuration."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from serversessions import Record, Session, Sessions, SessionStore, StoreUnavailable, delete_owned
from serversessions.location import Location
from serversessions.problems import ConfigError
from serversessions.stores import describe, open_store, register_cache_backend
from serversessions.stores.memory import MemoryStore
from serversessions.testing import Clock

URLS = ["memory:", "file:{}/sessions", "sqlite:///{}/app.db"]


async def visits(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session["visits"])


async def sign_in(request: Request) -> Response:
    Session.of(request).owner = 7
    return JSONResponse("welcome")


def app_on(sessions: Sessions, *routes: BaseRoute, **options: Any) -> Starlette:
    return Starlette(
        routes=[Route("/", visits), Route("/sign-in", sign_in), *routes, *sessions.routes],
        middleware=options.pop("middleware", [sessions.middleware]),
        lifespan=sessions.lifespan,
        **options,
    )


@asynccontextmanager
async def started(app: Starlette) -> AsyncIterator[httpx2.AsyncClient]:
    """A browser of an app whose lifespan runs."""
    async with app.router.lifespan_context(app), browser(app) as client:
        yield client


def browser(app: Starlette) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app)
    return httpx2.AsyncClient(transport=transport, base_url="https://testserver")


@pytest.mark.parametrize("url", URLS)
async def test_a_url_is_enough_to_keep_sessions(url: str, tmp_path: Path) -> None:
    sessions = Sessions(url.format(tmp_path))
    async with started(app_on(sessions)) as client:
        assert [(await client.get("/")).json() for _ in range(3)] == [1, 2, 3]
        assert (await client.get("/readyz")).json() == {"status": "ok"}


@pytest.mark.parametrize("place", ["postgresql", "cache"], indirect=True)
async def test_the_url_of_a_server_is_enough_too(place: tuple[str, str]) -> None:
    async with started(app_on(Sessions(place[1]))) as client:
        assert [(await client.get("/")).json() for _ in range(3)] == [1, 2, 3]


async def test_a_location_names_the_app_that_keeps_its_sessions_apart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    shop, blog = Sessions(Location(url, "shop")), Sessions(Location(url, "blog"))
    async with started(app_on(shop)) as client, started(app_on(blog)) as other:
        await client.get("/")
        assert list(client.cookies) == ["__Host-shop"]
        other.cookies.set("__Host-blog", client.cookies["__Host-shop"])
        assert (await other.get("/")).json() == 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "__Host-app"),
        ({"name": "sid"}, "__Host-sid"),
        ({"name": "__Secure-sid"}, "__Secure-sid"),
        ({"secure": False}, "app"),
        ({"path": "/shop"}, "app"),
        ({"domain": "example.org"}, "app"),
    ],
)
def test_the_cookie_has_a_prefix_where_browsers_take_it(options: dict[str, Any], name: str) -> None:
    assert Sessions("memory:", **options).cookie_name == name


class TestWhere:
    """One store, put on as much of an app as its owner likes."""

    async def test_a_route_alone_has_sessions(self) -> None:
        sessions = Sessions("memory:")
        route = Route("/account", visits, middleware=[sessions.middleware])
        app = Starlette(routes=[Route("/", plain), route])
        async with browser(app) as client:
            assert "vary" not in (await client.get("/")).headers
            assert [(await client.get("/account")).json() for _ in range(2)] == [1, 2]

    async def test_mounts_and_routes_share_the_store(self) -> None:
        sessions = Sessions("memory:")
        app = Starlette(
            routes=[
                Mount("/shop", routes=[Route("/", visits)], middleware=[sessions.middleware]),
                Route("/basket", visits, middleware=[sessions.middleware]),
                Route("/", plain),
            ],
        )
        async with browser(app) as client:
            seen = [(await client.get(path)).json() for path in ("/shop/", "/basket", "/shop/")]
            assert seen == [1, 2, 3]
            assert (await client.get("/")).json() == "plain"


async def plain(request: Request) -> Response:
    assert "session" not in request.scope
    return JSONResponse("plain")


class TestLifespan:
    async def test_the_store_is_swept_and_closed(self, clock: Clock) -> None:
        closed: list[bool] = []

        class Closing(MemoryStore):
            async def aclose(self) -> None:
                closed.append(True)

        store = Closing(clock=clock)
        await store.create("0" * 64, Record(b"{}", clock(), clock() + 1))
        clock.advance(3600)
        async with started(app_on(Sessions("memory:", store))):
            await asyncio.sleep(0.01)
            assert (await store.scan())[0] == []
            assert closed == []
        assert closed == [True]

    async def test_a_database_that_is_down_gets_its_table_when_it_is_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("serversessions.wiring._RETRY", 0.01)
        blocked = tmp_path / "folder"
        blocked.touch()
        sessions = Sessions(f"sqlite:///{blocked}/app.db")
        async with started(app_on(sessions)) as client:
            assert (await client.get("/")).status_code == 503
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).status_code == 200
            blocked.unlink()
            blocked.mkdir()
            for _ in range(500):
                if (await client.get("/readyz")).status_code == 200:
                    break
                await asyncio.sleep(0.01)
            assert (await client.get("/")).json() == 1


class TestConfiguration:
    """What a ``ProjectConfig`` says, by the few things that are asked of it."""

    class Config:
        def __init__(self, location: Location, *, debug: bool = False) -> None:
            self.location = location
            self.debug = debug
            self.app_name = "shop"
            self.database = SimpleNamespace(url=location.url) if "://" in location.url else None
            self.migrations: str | None = None

        def session_options(self) -> dict[str, Any]:
            return {"name": "shop", "secure": False, "expiry": timedelta(hours=1)}

    async def test_its_options_are_the_middlewares_unless_code_says_otherwise(self) -> None:
        config = self.Config(Location("memory:"))
        async with browser(app_on(Sessions(config))) as client:
            assert "Max-Age=3600" in (await client.get("/")).headers["set-cookie"]
        async with browser(app_on(Sessions(config, http_only=False))) as client:
            cookie = (await client.get("/")).headers["set-cookie"]
            assert "HttpOnly" not in cookie
            assert cookie.startswith("shop=")

    async def test_in_debug_its_database_is_migrated(self, tmp_path: Path) -> None:
        location = Location(f"sqlite:///{tmp_path}/app.db", "shop")
        async with started(app_on(Sessions(self.Config(location)))) as client:
            assert (await client.get("/")).status_code == 503
        async with started(app_on(Sessions(self.Config(location, debug=True)))) as client:
            assert (await client.get("/")).json() == 1

    @pytest.mark.parametrize("debug", [False, True])
    async def test_memory_is_warned_of_where_it_matters(
        self, debug: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = self.Config(Location("memory:"), debug=debug)
        for sessions in (Sessions(config), Sessions(config, MemoryStore()), Sessions("memory:")):
            async with started(app_on(sessions)):
                pass
        assert caplog.text.count("end with it") == (0 if debug else 1)


async def test_the_store_signs_a_user_out_from_outside_of_requests() -> None:
    sessions = Sessions("memory:")
    async with started(app_on(sessions)) as client:
        await client.get("/sign-in")
        assert await delete_owned(sessions.store, 7) == 1
        assert await delete_owned(sessions.store, "7") == 0


class TestStores:
    @pytest.mark.parametrize(
        ("where", "says"),
        [
            ("nothing", r"found \"nothing\"; allowed schemes: memory, file, postgresql, sqlite"),
            ("mysql://u:s3cret@h/db", r"found \"mysql://u:\*\*\*@h/db\"; allowed schemes: memory"),
            (Location("redis://h", key="database.url"), "database.url: .*: postgresql, sqlite$"),
            (
                Location("sqlite:///x", key="cache.url"),
                "cache.url: found .* schemes: .*redis",
            ),
            (Location("redis://h:x/0", key="cache.url"), "cache.url: found"),
        ],
    )
    def test_a_wrong_url_is_refused_by_its_key_and_without_its_password(
        self, where: str | Location, says: str
    ) -> None:
        with pytest.raises(ConfigError, match=says) as refused:
            open_store(where)
        [problem] = refused.value.problems
        assert problem.key == (where.key if isinstance(where, Location) else "")
        assert "s3cret" not in str(refused.value)

    def test_a_scheme_can_be_registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("serversessions.stores._cache_backends", {})
        opened: list[str] = []

        def open_mine(uri: str) -> SessionStore:
            opened.append(uri)
            return MemoryStore()

        register_cache_backend("mine", open_mine)
        assert isinstance(open_store("mine://host"), MemoryStore)
        assert opened == ["mine://host"]

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("memory:", "memory"),
            ("file:var/sessions", "file: var/sessions"),
            ("sqlite:///app.db", "database: sqlite:///app.db"),
            ("redis://u:s3cret@h/0", "cache: redis://u:***@h/0"),
        ],
    )
    def test_a_store_is_described_without_its_password(self, url: str, text: str) -> None:
        assert describe(url) == text

    def test_a_missing_package_is_named_with_the_extra_that_brings_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in list(sys.modules):
            if name.startswith(("redis.", "serversessions.stores.redis")):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "redis", None)
        with pytest.raises(ConfigError, match="needs the package 'redis'") as missing:
            open_store("redis://localhost")
        assert getattr(missing.value, "extra", None) == "cache"


async def test_readiness_says_no_while_the_store_is_down() -> None:
    class Down(MemoryStore):
        async def ping(self) -> None:
            raise StoreUnavailable("gone")

    async with browser(app_on(Sessions("memory:", Down()))) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert (await client.get("/healthz")).status_code == 200


def test_what_a_store_needs_is_imported_with_it_alone() -> None:
    code = """
import sys
import serversessions
serversessions.Sessions("memory:")
heavy = {"alembic", "asyncpg", "click", "pydantic", "redis", "sqlalchemy", "sqlite3", "tomlkit"}
print(sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_the_middleware_is_one_of_starlettes() -> None:
    assert isinstance(Sessions("memory:").middleware, Middleware)
