"""What any test may ask for: the app, on the store of each environment, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from serversessions import Session, SessionStore, StoreNotReady
from serversessions.stores import kind_of, open_store
from serversessions.testing import Clock, empty
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from {{cookiecutter.package_name}}.app import create_app
from {{cookiecutter.package_name}}.config import AppConfig

pytest_plugins = ["serversessions.testing.fixtures"]

ENVIRONMENTS = sorted(file.stem for file in Path("config").glob("[!.]*.toml"))
STORE = "MIDDLEWARES__SESSION__STORE__"


@pytest.fixture(params=ENVIRONMENTS)
def config(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AppConfig:
    """An environment's configuration in debug, with a store of its kind that is the tests' own."""
    own = {"DEBUG": "true", "ALLOWED_HOSTS": '["*"]'}
    loaded = AppConfig.load(request.param)
    scheme = loaded.location.url.partition(":")[0]
    match kind_of(loaded.location.url):
        case "file":
            own[f"{STORE}PATH"] = str(tmp_path / "sessions")
        case "cache" if scheme.startswith(("redis", "valkey", "unix")):
            own[f"{STORE}TYPE"] = "cache"
            own[f"{STORE}URI"] = request.getfixturevalue(scheme.partition("+")[2] or "valkey")
    if loaded.database is not None:
        is_sqlite = loaded.database.url.startswith("sqlite")
        own["DATABASE__URL"] = (
            f"sqlite:///{tmp_path}/app.db" if is_sqlite else request.getfixturevalue("postgresql")
        )
    for key, value in own.items():
        monkeypatch.setenv(f"{AppConfig.app_name.upper()}__{key}", value)
    return AppConfig.load(request.param)


@pytest.fixture
def app(config: AppConfig) -> Iterator[Starlette]:
    yield create_app(config)
    with suppress(StoreNotReady):  # the app was not started, so it has no tables
        asyncio.run(empty(open_store(config)))


@pytest.fixture
def client(app: Starlette) -> Iterator[TestClient]:
    """A browser, over https: so a cookie that is Secure comes back."""
    with TestClient(app, base_url="https://testserver") as client:
        yield client


@pytest.fixture
def signed_in(app: Starlette, client: TestClient) -> TestClient:
    """The same browser, signed in as ada: by a route of the tests, whatever your sign-in is."""

    async def sign_in(request: Request) -> Response:
        Session.of(request).owner = "ada"
        return Response()

    app.router.routes.insert(0, Route("/sign-in-of-tests", sign_in, methods=["POST"]))
    assert client.post("/sign-in-of-tests").is_success
    return client


@pytest.fixture
async def store(config: AppConfig, clock: Clock) -> AsyncIterator[SessionStore]:
    """The store alone: empty, and with a clock that a test can move."""
    if kind_of(config.location.url) == "database":
        from serversessions.migrations import migrate

        await migrate(config.location.url, app=config.app_name, migrations=config.migrations)
    store = open_store(config, clock=clock)
    yield store
    await empty(store)
