"""The owner as ``request.user``: Starlette's own way to protect pages works on the sessions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from serversessions import Session, Sessions
from serversessions.auth import OwnerBackend

OWNERS: list[str | int | UUID] = ["ada", 7, UUID("12345678123456781234567812345678")]


async def public(request: Request) -> Response:
    return PlainTextResponse("for all")


async def sign_in(request: Request) -> Response:
    owner = OWNERS[int(request.query_params.get("who", "0"))]
    Session.of(request).owner = owner
    return PlainTextResponse(f"hello {request.user.display_name}")


@requires("authenticated")
async def sign_out(request: Request) -> Response:
    Session.of(request).flush()
    return PlainTextResponse(f"bye, {request.user.is_authenticated}")


@requires("authenticated", redirect="sign_in")
async def account(request: Request) -> Response:
    user = request.user
    return JSONResponse(
        {
            "is_owner": user.id == Session.of(request).owner,
            "type": type(user.id).__name__,
            "identity": user.identity,
            "display_name": user.display_name,
            "is_authenticated": user.is_authenticated,
            "scopes": request.auth.scopes,
        }
    )


@requires("authenticated")
def in_a_thread(request: Request) -> Response:
    return PlainTextResponse(request.user.identity)


async def whoever(request: Request) -> Response:
    user = request.user
    return JSONResponse([user.id, user.identity, user.display_name, user.is_authenticated])


@requires("authenticated")
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(websocket.user.identity)
    await websocket.close()


def site(sessions: Sessions, *middleware: Middleware) -> TestClient:
    app = Starlette(
        routes=[
            Route("/public", public),
            Route("/sign-in", sign_in, methods=["GET", "POST"], name="sign_in"),
            Route("/sign-out", sign_out, methods=["POST"]),
            Route("/account", account),
            Route("/thread", in_a_thread),
            Route("/whoever", whoever),
            WebSocketRoute("/socket", socket),
        ],
        middleware=middleware or [sessions.middleware, authentication()],
    )
    return TestClient(app, base_url="https://testserver", follow_redirects=False)


def authentication() -> Middleware:
    return Middleware(AuthenticationMiddleware, OwnerBackend())


@pytest.fixture
def client() -> TestClient:
    return site(Sessions("memory:"))


@pytest.fixture
def without_store() -> tuple[TestClient, dict[str, str]]:
    """A site whose store does not answer, and the cookie of a visitor who was there before."""
    sessions = Sessions("redis://127.0.0.1:1/0", exclude=["/public"])
    return site(sessions), {"cookie": f"{sessions.cookie_name}={'a' * 43}"}


class TestOwner:
    @pytest.mark.parametrize("who", range(len(OWNERS)))
    def test_an_owner_is_the_user_by_id_and_by_name(self, client: TestClient, who: int) -> None:
        client.post(f"/sign-in?who={who}")
        assert client.get("/account").json() == {
            "is_owner": True,
            "type": type(OWNERS[who]).__name__,
            "identity": str(OWNERS[who]),
            "display_name": str(OWNERS[who]),
            "is_authenticated": True,
            "scopes": ["authenticated"],
        }

    def test_nobody_is_a_user_without_id_and_name(self, client: TestClient) -> None:
        assert client.get("/whoever").json() == [None, "", "", False]

    def test_a_sign_in_and_a_sign_out_show_at_once(self, client: TestClient) -> None:
        assert client.post("/sign-in").text == "hello ada"
        assert client.post("/sign-out").text == "bye, False"
        assert client.get("/whoever").json() == [None, "", "", False]


class TestRequires:
    def test_who_is_not_signed_in_is_sent_to_do_so(self, client: TestClient) -> None:
        answer = client.get("/account")
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("https://testserver/sign-in?next=")
        assert client.post("/sign-out").status_code == 403

    def test_a_plain_function_is_protected_too(self, client: TestClient) -> None:
        assert client.get("/thread").status_code == 403
        client.post("/sign-in")
        assert client.get("/thread").text == "ada"

    def test_a_websocket_is_protected_too(self, client: TestClient) -> None:
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("wss://testserver/socket"),
        ):
            pass
        client.post("/sign-in")
        with client.websocket_connect("wss://testserver/socket") as connected:
            assert connected.receive_text() == "ada"


class TestCost:
    def test_a_visitor_without_a_cookie_costs_no_call_of_the_store(
        self, without_store: tuple[TestClient, dict[str, str]]
    ) -> None:
        client, _ = without_store
        assert client.get("/whoever").json() == [None, "", "", False]
        assert client.get("/account").status_code == 303

    def test_a_page_that_does_not_ask_for_the_user_may_be_cached_for_all(
        self, client: TestClient
    ) -> None:
        client.post("/sign-in")
        assert "vary" not in client.get("/public").headers
        assert client.get("/whoever").headers["vary"] == "Cookie"
        assert client.get("/account").headers["vary"] == "Cookie"


class TestFaults:
    def test_a_store_that_is_down_makes_no_anonymous_visitor(
        self, without_store: tuple[TestClient, dict[str, str]]
    ) -> None:
        client, cookie = without_store
        for path in ("/account", "/thread", "/whoever"):
            answer = client.get(path, headers=cookie)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        with (
            pytest.raises(WebSocketDisconnect) as closed,
            client.websocket_connect("wss://testserver/socket", headers=cookie),
        ):
            pass
        assert closed.value.code == 1013

    def test_a_store_that_is_down_hurts_no_page_that_does_not_ask(
        self, without_store: tuple[TestClient, dict[str, str]]
    ) -> None:
        client, cookie = without_store
        assert client.get("/public", headers=cookie).text == "for all"

    @pytest.mark.parametrize("order", ["before", "alone"])
    def test_without_sessions_it_says_where_they_go(self, order: str) -> None:
        sessions = Sessions("memory:")
        others: dict[str, list[Any]] = {"before": [sessions.middleware], "alone": []}
        client = site(sessions, authentication(), *others[order])
        with pytest.raises(RuntimeError, match=r"`sessions\.middleware` comes before"):
            client.get("/public")
