"""The app as a visitor meets it, on every store."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from {{cookiecutter.package_name}}.app import create_app
from {{cookiecutter.package_name}}.config import (
    CacheStoreConfig,
    DatabaseConfig,
    DatabaseStoreConfig,
    FileStoreConfig,
    MemoryStoreConfig,
    MiddlewaresConfig,
    ProjectConfig,
    SessionConfig,
)
from {{cookiecutter.package_name}}.sessions import StoreUnavailable
from {{cookiecutter.package_name}}.sessions.stores.memory import MemoryStore


@pytest.fixture
def config(place: tuple[str, str]) -> ProjectConfig:
    """A configuration of each kind of store; debug, so that a database is migrated."""
    store: Any
    match place:
        case "memory", _:
            store = MemoryStoreConfig()
        case "file", path:
            store = FileStoreConfig(path=path)
        case "cache" | "sentinel" | "cluster", uri:
            store = CacheStoreConfig(uri=uri)
        case _, url:
            session = SessionConfig(store=DatabaseStoreConfig())
            return ProjectConfig(
                debug=True,
                database=DatabaseConfig(url=url),
                middlewares=MiddlewaresConfig(session=session),
            )
    return ProjectConfig(
        debug=True, middlewares=MiddlewaresConfig(session=SessionConfig(store=store))
    )


@pytest.fixture
def client(config: ProjectConfig) -> Iterator[TestClient]:
    with TestClient(create_app(config), base_url="https://testserver") as client:
        yield client


def test_a_visitor_without_a_name_gets_no_cookie(client: TestClient) -> None:
    page = client.get("/")
    assert "What is your name?" in page.text
    assert "set-cookie" not in page.headers


def test_the_app_remembers_a_name_and_counts_visits(client: TestClient) -> None:
    client.post("/name", data={"name": "Ada"})
    page = client.get("/")
    assert "Ada" in page.text
    assert re.search(r"Visit number\W+2", page.text)


def test_a_name_is_shown_as_text(client: TestClient) -> None:
    page = client.post("/name", data={"name": "<script>&"})
    assert "&lt;script&gt;&amp;" in page.text


def test_the_page_tells_which_store_holds_the_session(
    client: TestClient, config: ProjectConfig
) -> None:
    assert config.middlewares.session.store.type in client.get("/").text


def test_signing_in_changes_the_id_and_signing_out_forgets(client: TestClient) -> None:
    client.post("/name", data={"name": "Ada"})
    before = client.cookies["id"]
    assert "Signed in as" in client.post("/sign-in", data={"name": "ada"}).text
    assert client.cookies["id"] != before
    client.post("/sign-out")
    assert "id" not in client.cookies
    assert "What is your name?" in client.get("/").text


def test_signing_in_as_another_user_leaves_nothing_of_the_first(client: TestClient) -> None:
    client.post("/sign-in", data={"name": "ada"})
    client.post("/name", data={"name": "Secret"})
    assert "Secret" not in client.post("/sign-in", data={"name": "bob"}).text


@pytest.mark.parametrize("path", ["/name", "/sign-in"])
def test_a_form_without_a_name_changes_nothing(client: TestClient, path: str) -> None:
    for form in ({}, {"name": "  "}):
        client.post(path, data=form)
    client.post(path, files={"name": b"a file"})
    assert "id" not in client.cookies


def test_sessions_survive_a_restart(config: ProjectConfig) -> None:
    if isinstance(config.middlewares.session.store, MemoryStoreConfig):
        expected = "What is your name?"  # memory is the one store that forgets
    else:
        expected = "Ada"
    with TestClient(create_app(config), base_url="https://testserver") as before:
        before.post("/name", data={"name": "Ada"})
    with TestClient(create_app(config), base_url="https://testserver") as after:
        after.cookies = before.cookies
        assert expected in after.get("/").text


def test_health_follows_the_store(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_custom_store_wins_over_the_configuration() -> None:
    class Down(MemoryStore):
        async def ping(self) -> None:
            raise StoreUnavailable("down")

    app = create_app(ProjectConfig(), session_store=Down())
    with TestClient(app, base_url="https://testserver") as client:
        assert "Down" in client.get("/").text
        assert client.get("/healthz").status_code == 503


def test_memory_outside_debug_warns(caplog: pytest.LogCaptureFixture) -> None:
    create_app(ProjectConfig())
    assert "memory" in caplog.text


def test_the_style_is_served(client: TestClient) -> None:
    page = client.get("/").text
    style = re.search(r'href="(/static/[^"]+)"', page)
    assert style is not None
    assert client.get(style[1]).headers["content-type"].startswith("text/css")


def test_no_store_is_imported_that_is_not_used() -> None:
    source = Path(__file__).parent.parent / "src"
    imports = (
        f"import sys; sys.path.insert(0, {str(source)!r});"
        "from {{cookiecutter.package_name}}.app import create_app;"
        "from {{cookiecutter.package_name}}.config import ProjectConfig;"
        "create_app(ProjectConfig());"
        "print([name for name in ('redis', 'sqlalchemy', 'alembic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", imports], capture_output=True, check=True)
    assert done.stdout == b"[]\n"
