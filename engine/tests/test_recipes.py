"""The recipes of docs/recipes.md do what the page says."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from serversessions import Sessions

from .documentation import read_examples, run_examples


def browser(app: ASGIApp) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app)
    return httpx2.AsyncClient(transport=transport, base_url="https://testserver")


class TestPassword:
    @pytest.fixture
    def recipe(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        heading = "A changed password ends what began with the old one"
        return run_examples("recipes.md", monkeypatch, heading=heading)

    @pytest.fixture
    def app(self, recipe: dict[str, Any]) -> Starlette:
        return Starlette(routes=recipe["routes"], middleware=[Sessions("memory:").middleware])

    async def test_a_change_ends_the_sessions_of_the_others_alone(self, app: Starlette) -> None:
        async with browser(app) as laptop, browser(app) as phone:
            for client in (laptop, phone):
                await client.post("/sign-in", data={"id": "7", "password": "old"})
                assert (await client.get("/account")).text == "User 7"
            wrong = await laptop.post("/password", data={"password": "new", "new": "new"})
            assert wrong.status_code == 403
            before = dict(laptop.cookies)
            await laptop.post("/password", data={"password": "old", "new": "new"})
            assert (await laptop.get("/account")).text == "User 7"
            assert dict(laptop.cookies) != before
            assert (await phone.get("/account")).text == "Nobody"
            again = await phone.post("/sign-in", data={"id": "7", "password": "old"})
            assert again.status_code == 403
            await phone.post("/sign-in", data={"id": "7", "password": "new"})
            assert (await phone.get("/account")).text == "User 7"

    async def test_a_sign_in_under_way_does_not_survive_the_change(
        self, app: Starlette, recipe: dict[str, Any]
    ) -> None:
        is_checked, may_go_on = asyncio.Event(), asyncio.Event()
        is_right = recipe["is_right"]

        async def is_right_and_slow(user: Any, password: str) -> bool:
            answer: bool = await is_right(user, password)
            is_checked.set()
            await may_go_on.wait()
            return answer

        async with browser(app) as owner, browser(app) as thief:
            await owner.post("/sign-in", data={"id": "7", "password": "old"})
            recipe["is_right"] = is_right_and_slow
            data = {"id": "7", "password": "old"}
            sign_in = asyncio.create_task(thief.post("/sign-in", data=data))
            await is_checked.wait()
            recipe["is_right"] = is_right
            await owner.post("/password", data={"password": "old", "new": "new"})
            may_go_on.set()
            assert (await sign_in).status_code == 200
            assert (await thief.get("/account")).text == "Nobody"
            assert (await owner.get("/account")).text == "User 7"


class TestSQLAdmin:
    @pytest.fixture
    def client(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
        monkeypatch.chdir(tmp_path)
        recipe = run_examples("recipes.md", monkeypatch, heading="SQLAdmin")
        with TestClient(
            recipe["app"], base_url="https://testserver", follow_redirects=False
        ) as client:
            yield client
        recipe["engine"].dispose()

    def test_only_admins_get_in(self, client: TestClient) -> None:
        for name, password in (("ada", "wrong"), ("bob", "builder")):
            client.post("/admin/login", data={"username": name, "password": password})
            assert client.get("/admin/").headers["location"].endswith("/admin/login")
        client.post("/admin/login", data={"username": "ada", "password": "countess"})
        assert client.get("/admin/").status_code == 200

    def test_a_copy_of_the_cookie_opens_nothing_after_the_logout(self, client: TestClient) -> None:
        client.post("/admin/login", data={"username": "ada", "password": "countess"})
        (stolen,) = client.cookies.items()
        assert client.get("/admin/").status_code == 200
        client.get("/admin/logout")
        client.cookies.clear()
        client.cookies.set(*stolen)
        assert client.get("/admin/").status_code == 302

    def test_another_site_logs_nobody_in(self, client: TestClient) -> None:
        data = {"username": "ada", "password": "countess"}
        elsewhere = {"sec-fetch-site": "cross-site"}
        assert client.post("/admin/login", data=data, headers=elsewhere).status_code == 403


class Collector(HTTPServer):
    """Takes what Sentry's SDK sends."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CollectorHandler)
        self.events: list[str] = []

    @property
    def dsn(self) -> str:
        return f"http://key@127.0.0.1:{self.server_port}/1"


class CollectorHandler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.events.append(gzip.decompress(body).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name for it
        pass


FAILING_APP = """
import sentry_sdk
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serversessions import Session, Sessions


async def sign_in(request):
    Session.of(request).owner = "ada"
    return PlainTextResponse("Hello")


async def fail(request):
    request.session["seen"] = Session.of(request).owner
    raise ZeroDivisionError


sessions = Sessions("memory:")
app = Starlette(
    routes=[Route("/sign-in", sign_in), Route("/fail", fail)], middleware=[sessions.middleware]
)
client = TestClient(app, base_url="https://testserver", raise_server_exceptions=False)
client.get("/sign-in")
print(client.cookies[sessions.cookie_name])
client.get("/fail")
sentry_sdk.flush()
"""


class TestSentry:
    def test_the_recipe_sends_no_id(self) -> None:
        session_id, sent = self.fail(read_examples("recipes.md", heading="Sentry"))
        assert session_id not in sent

    def test_without_the_recipe_the_id_is_sent(self) -> None:
        """Else the recipe is not needed any more."""
        session_id, sent = self.fail("import sentry_sdk\nsentry_sdk.init()\n")
        assert session_id in sent

    def fail(self, recipe: str) -> tuple[str, str]:
        """The id of a session, and all that is sent when a request with it fails.

        In a process of its own, since the SDK changes Starlette for good.
        """
        collector = Collector()
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        places = {"SENTRY_DSN": collector.dsn, "PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            done = subprocess.run(
                [sys.executable, "-c", recipe + FAILING_APP],
                env={**os.environ, **places},
                capture_output=True,
                check=True,
                text=True,
                timeout=60,
            )
        finally:
            collector.shutdown()
            thread.join()
            collector.server_close()
        sent = "\n".join(collector.events)
        assert "ZeroDivisionError" in sent
        return done.stdout.strip(), sent
