"""The example pages, as a visitor meets them. This file goes when they go."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from serversessions.stores import describe
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from {{cookiecutter.package_name}} import pages
from {{cookiecutter.package_name}}.app import create_app
from {{cookiecutter.package_name}}.config import AppConfig

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
WEBKIT = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
SAFARI = f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0) {WEBKIT} Version/18.0 Safari/604.1"
CHROME = f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/140.0.0.0 Safari/537.36"

SignIn = Callable[[str], str]


def test_a_visitor_without_a_name_gets_no_cookie(client: TestClient) -> None:
    page = client.get("/")
    assert "What is your name?" in page.text
    assert "set-cookie" not in page.headers


def test_a_name_is_remembered_shown_as_text_and_visits_are_counted(client: TestClient) -> None:
    client.post("/name", data={"name": "<script>&"})
    page = client.get("/").text
    assert "&lt;script&gt;&amp;" in page
    assert re.search(r"Visit number\W+2", page)


def test_static_files_have_neither_a_session_nor_its_cookie(client: TestClient) -> None:
    client.post("/name", data={"name": "Ada"})
    style = client.get("/static/style.css")
    assert style.headers["content-type"].startswith("text/css")
    assert not style.headers.keys() & {"set-cookie", "vary"}


@pytest.mark.parametrize("path", ["/name", "/sign-in"])
def test_a_form_without_a_name_changes_nothing(client: TestClient, path: str) -> None:
    for data in ({}, {"name": " "}):
        assert client.post(path, data=data).url.path == "/"
    assert client.post(path, files={"name": b"a file"}).status_code == 400
    assert not client.cookies


def test_signing_in_changes_the_id_and_signing_out_forgets(client: TestClient) -> None:
    client.post("/name", data={"name": "Ada"})
    before = dict(client.cookies)
    assert "Signed in as" in client.post("/sign-in", data={"name": "ada"}).text
    assert client.cookies.keys() == before.keys()
    assert dict(client.cookies) != before
    client.post("/sign-out")
    assert not client.cookies
    assert "What is your name?" in client.get("/").text


def test_signing_in_as_another_user_leaves_nothing_of_the_first(client: TestClient) -> None:
    client.post("/sign-in", data={"name": "ada"})
    client.post("/name", data={"name": "Secret"})
    assert "Secret" not in client.post("/sign-in", data={"name": "bob"}).text


def test_outside_debug_nobody_signs_in_without_a_password_or_sees_the_store(
    config: AppConfig,
) -> None:
    app = create_app(config.model_copy(update={"debug": False}))
    with TestClient(app, base_url="https://testserver") as client:
        assert client.post("/sign-in", data={"name": "ada"}).status_code == 404
        page = client.get("/").text
    assert "session.owner = user.id" in page
    assert describe(config) not in page


def test_the_pages_are_not_kept(signed_in: TestClient) -> None:
    for path in ("/", "/devices"):
        assert signed_in.get(path).headers["cache-control"] == "no-store"


class TestPrefix:
    """Behind a proxy with a prefix, or mounted in another app, all links begin with it."""

    def test_a_proxy_may_have_one(self, app: Starlette) -> None:
        self.check(TestClient(app, base_url="https://testserver", root_path="/shop"))

    def test_another_app_may_mount_this_one(self, app: Starlette) -> None:
        lifespan: Any = app.router.lifespan_context
        outer = Starlette(routes=[Mount("/shop", app)], lifespan=lifespan)
        self.check(TestClient(outer, base_url="https://testserver"))

    def check(self, client: TestClient) -> None:
        with client:
            page = client.post("/shop/sign-in", data={"name": "ada"})
            assert page.history[0].headers["location"] == "/shop/"
            for text in (page.text, client.get("/shop/devices").text):
                links = re.findall(r'(?:href|action)="(/[^"]*)"', text)
                assert len(links) > 3
                assert all(link.startswith("/shop/") for link in links)
            assert client.get("/shop/static/style.css").status_code == 200


class TestDevices:
    @pytest.fixture
    def sign_in(self, client: TestClient) -> SignIn:
        """Sign ada in with one more browser; the cookie that it then has."""

        def sign_in(user_agent: str) -> str:
            client.cookies.clear()
            headers = {"user-agent": user_agent}
            client.post("/sign-in", data={"name": "ada"}, headers=headers)
            return "; ".join(f"{name}={value}" for name, value in client.cookies.items())

        return sign_in

    @staticmethod
    def is_signed_in(client: TestClient, cookie: str) -> bool:
        return "Signed in as" in client.get("/", headers={"cookie": cookie}).text

    @staticmethod
    def keys(page: str) -> list[str]:
        return re.findall(r'name="key" value="(\w+)"', page)

    def test_a_user_sees_this_one_and_the_others(self, client: TestClient, sign_in: SignIn) -> None:
        sign_in(SAFARI)
        sign_in(FIREFOX)
        this, others = client.get("/devices").text.split("1 other device")
        assert "Firefox on Linux" in this
        assert "Safari on iPhone" in others
        assert len(self.keys(others)) == 1

    def test_a_user_signs_another_device_out_and_hears_of_it_once(
        self, client: TestClient, sign_in: SignIn
    ) -> None:
        cookies = [sign_in(each) for each in (SAFARI, CHROME, FIREFOX)]
        _, key = self.keys(client.get("/devices").text)  # the phone was seen before the tablet
        page = client.post("/devices/sign-out", data={"key": key}).text
        assert re.search('role="status".*Signed out of 1 other device', page)
        assert 'role="status"' not in client.get("/devices").text
        assert [self.is_signed_in(client, each) for each in cookies] == [False, True, True]
        assert "had ended before" in client.post("/devices/sign-out", data={"key": key}).text

    def test_a_user_signs_out_everywhere_else_and_then_here(
        self, client: TestClient, sign_in: SignIn
    ) -> None:
        cookies = [sign_in(each) for each in (SAFARI, CHROME, FIREFOX)]
        page = client.post("/devices/sign-out-others").text
        assert "Signed out of 2 other devices" in page
        assert "No other devices" in page
        assert [self.is_signed_in(client, each) for each in cookies] == [False, False, True]
        assert "Sign out here" in page
        client.post("/sign-out")
        assert not self.is_signed_in(client, cookies[-1])

    def test_who_is_not_signed_in_has_none(self, client: TestClient) -> None:
        assert client.get("/devices").url.path == "/"
        for path in ("/devices/sign-out", "/devices/sign-out-others"):
            assert client.post(path, data={"key": "0" * 64}).status_code == 403

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
