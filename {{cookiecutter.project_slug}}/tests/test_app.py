"""The app as a visitor meets it, on every store."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from {{cookiecutter.package_name}} import pages
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

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
WEBKIT = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
SAFARI = f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0) {WEBKIT} Version/18.0 Safari/604.1"
CHROME = f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/140.0.0.0 Safari/537.36"

SignIn = Callable[[str], str]


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


class TestDevices:
    """The page that shows users where they are signed in, and signs them out there."""

    @pytest.fixture
    def sign_in(self, client: TestClient) -> SignIn:
        """Signs a new user in, on one more device each time, which ``client`` then is; its id."""
        name = secrets.token_hex(8)

        def sign_in(user_agent: str) -> str:
            client.cookies.clear()
            client.post("/sign-in", data={"name": name}, headers={"user-agent": user_agent})
            return client.cookies["id"]

        return sign_in

    @staticmethod
    def is_signed_in(client: TestClient, session_id: str) -> bool:
        cookie = {"cookie": f"id={session_id}"}
        return "Signed in as" in client.get("/", headers=cookie).text

    @staticmethod
    def keys(page: str) -> list[str]:
        return re.findall(r'name="key" value="(\w+)"', page)

    def test_a_user_sees_this_device_and_the_others(
        self, client: TestClient, sign_in: SignIn
    ) -> None:
        sign_in(SAFARI)
        sign_in(FIREFOX)
        assert 'href="/devices"' in client.get("/").text
        page = client.get("/devices").text
        this, others = page.split("1 other device")
        assert "This device" in this
        assert "Firefox on Linux" in this
        assert "Safari on iPhone" in others
        assert len(self.keys(page)) == 1

    def test_a_user_signs_another_device_out_and_hears_of_it_once(
        self, client: TestClient, sign_in: SignIn
    ) -> None:
        phone = sign_in(SAFARI)
        tablet = sign_in(CHROME)
        laptop = sign_in(FIREFOX)
        _, key = self.keys(client.get("/devices").text)  # the phone was seen before the tablet
        page = client.post("/devices/sign-out", data={"key": key}).text
        assert re.search('role="status".*Signed out of 1 other device', page)
        assert 'role="status"' not in client.get("/devices").text
        ids = (phone, tablet, laptop)
        assert [self.is_signed_in(client, each) for each in ids] == [False, True, True]
        assert "had ended before" in client.post("/devices/sign-out", data={"key": key}).text

    def test_a_user_signs_out_everywhere_else(self, client: TestClient, sign_in: SignIn) -> None:
        ids = [sign_in(each) for each in (SAFARI, CHROME, FIREFOX)]
        page = client.post("/devices/sign-out-others").text
        assert "Signed out of 2 other devices" in page
        assert "No other devices" in page
        assert [self.is_signed_in(client, each) for each in ids] == [False, False, True]

    def test_nobody_is_sent_home(self, client: TestClient) -> None:
        client.post("/devices/sign-out", data={"key": "0" * 64})
        client.post("/devices/sign-out-others")
        assert client.get("/devices").url.path == "/"
        assert "id" not in client.cookies

    def test_of_many_devices_the_last_seen_come_first(
        self, client: TestClient, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pages, "SHOWN_DEVICES", 1)
        monkeypatch.setattr(pages, "MAX_DEVICES", 3)
        for user_agent in (SAFARI, CHROME, FIREFOX):
            sign_in(user_agent)
        page = client.get("/devices").text
        assert "2 other devices or more" in page
        assert "Chrome on Windows" in page
        assert "Safari on iPhone" not in page
        assert "Show all 2" in page
        assert "Safari on iPhone" in client.get("/devices?all").text

    def test_what_a_browser_calls_itself_is_shown_as_text(
        self, client: TestClient, sign_in: SignIn
    ) -> None:
        sign_in("<script>&" + "W" * 400)
        sign_in(FIREFOX)
        page = client.get("/devices").text
        assert re.search(r"<bdi>&lt;script&gt;&amp;W{70}…</bdi>", page)

    @pytest.mark.parametrize(
        ("user_agent", "name"),
        [
            (FIREFOX, "Firefox on Linux"),
            (SAFARI, "Safari on iPhone"),
            (CHROME, "Chrome on Windows"),
            (f"{CHROME} Edg/140.0.0.0", "Edge on Windows"),
            ("curl/8.5.0", "curl/8.5.0"),
            ("\u202eabc\x00\x9b", "abc"),
            (None, "Unknown browser"),
        ],
    )
    def test_a_browser_has_a_short_name(self, user_agent: str | None, name: str) -> None:
        assert pages.browser_name(user_agent) == name


def test_no_form_is_taken_from_another_site(client: TestClient) -> None:
    forms = [route.path for route in pages.routes if "POST" in (route.methods or ())]
    for path in forms:
        refused = client.post(path, data={"name": "a"}, headers={"sec-fetch-site": "cross-site"})
        assert refused.status_code == 403
        assert "id" not in client.cookies


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({"sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-site"}, True),  # another subdomain, or another port
        ({"sec-fetch-site": "cross-site", "origin": "https://host"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, False),
        ({"origin": "https://host"}, False),
        ({"origin": "https://host:8443"}, True),
        ({"origin": "https://other.host"}, True),
        ({"origin": "https://host.evil"}, True),
        ({"origin": "null"}, True),
        ({"origin": ""}, True),
        ({}, False),  # curl
    ],
)
def test_a_browser_tells_where_a_form_is_from(headers: dict[str, str], is_refused: bool) -> None:
    assert pages.is_from_elsewhere(Headers({"host": "host", **headers})) == is_refused


def test_a_page_is_neither_kept_nor_framed(client: TestClient) -> None:
    client.post("/sign-in", data={"name": "ada"})
    for path in ("/", "/devices"):
        headers = client.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


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


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_it_is_live_and_ready(client: TestClient, path: str) -> None:
    assert client.get(path).json() == {"status": "ok"}


def test_a_custom_store_wins_over_the_configuration() -> None:
    class Another(MemoryStore):
        pass

    app = create_app(ProjectConfig(), session_store=Another())
    with TestClient(app, base_url="https://testserver") as client:
        assert "Another" in client.get("/").text


def test_while_its_store_is_down_it_is_live_but_not_ready() -> None:
    class Down(MemoryStore):
        async def ping(self) -> None:
            raise StoreUnavailable("down")

    app = create_app(ProjectConfig(), session_store=Down())
    with TestClient(app, base_url="https://testserver") as client:
        assert client.get("/healthz").status_code == 200
        not_ready = client.get("/readyz")
    assert (not_ready.status_code, not_ready.headers["retry-after"]) == (503, "5")


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
