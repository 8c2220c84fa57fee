"""The wiring: what holds for every page."""

from __future__ import annotations

import pytest
from serversessions import StoreUnavailable
from serversessions.stores.memory import MemoryStore
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from {{cookiecutter.package_name}}.app import create_app
from {{cookiecutter.package_name}}.config import AppConfig

HTTPS = "https://testserver"
ELSEWHERE = {"sec-fetch-site": "cross-site"}


async def page(request: Request) -> Response:
    if request.method == "POST":
        request.session["name"] = "Ada"
    return PlainTextResponse(name_of(request))


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(name_of(websocket))
    await websocket.close()


def name_of(connection: HTTPConnection) -> str:
    return str(connection.session.get("name", "nobody"))


def add_routes(app: Starlette) -> Starlette:
    routes = [Route("/page", page, methods=["GET", "POST"]), WebSocketRoute("/socket", socket)]
    app.router.routes[:0] = routes
    return app


@pytest.fixture
def app(app: Starlette, config: AppConfig) -> Starlette:  # pytest 8 has to be told of config
    """The app, with a page and a socket that know a name."""
    return add_routes(app)


def test_sessions_survive_a_restart_unless_they_are_in_memory(
    client: TestClient, config: AppConfig
) -> None:
    is_in_memory = config.middlewares.session.store.type == "memory"
    assert client.post("/page").text == "Ada"
    with TestClient(add_routes(create_app(config)), base_url=HTTPS) as after:
        after.cookies = client.cookies
        assert after.get("/page").text == ("nobody" if is_in_memory else "Ada")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_it_is_live_and_ready(client: TestClient, path: str) -> None:
    assert client.get(path).json() == {"status": "ok"}


def test_a_custom_store_wins_over_the_configuration(config: AppConfig) -> None:
    class Down(MemoryStore):
        async def ping(self) -> None:
            raise StoreUnavailable("down")

    app = create_app(config, session_store=Down())
    with TestClient(app, base_url=HTTPS) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503


@pytest.mark.parametrize("path", ["/page", "/healthz", "/not-there"])
def test_every_response_has_the_headers_that_protect_it(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_a_form_of_another_site_is_refused_and_a_link_is_not(client: TestClient) -> None:
    assert client.post("/page", headers=ELSEWHERE).status_code == 403
    assert client.get("/page", headers=ELSEWHERE).text == "nobody"


def test_a_socket_of_another_site_is_refused(client: TestClient) -> None:
    client.post("/page")
    socket = "wss://testserver/socket"
    with client.websocket_connect(socket, headers={"origin": HTTPS}) as own:
        assert own.receive_text() == "Ada"
    other = client.websocket_connect(socket, headers={"origin": "https://elsewhere.test"})
    with pytest.raises(WebSocketDisconnect), other:
        pass


def test_only_the_hosts_that_are_allowed_are_served(config: AppConfig) -> None:
    strict = config.model_copy(update={"allowed_hosts": ("example.org",)})
    with TestClient(create_app(strict)) as client:
        assert client.get("/healthz", headers={"host": "example.org"}).status_code == 200
        assert client.get("/healthz", headers={"host": "evil.test"}).status_code == 400
