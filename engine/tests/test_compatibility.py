"""What people put on ``request.session`` works unchanged on this SessionMiddleware."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
import uvicorn
from authlib.integrations.starlette_client import OAuth, OAuthError
from joserfc import jwt
from joserfc.jwk import ECKey
from sqladmin import Admin
from sqladmin.authentication import AuthenticationBackend
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from starlette_flash import flash
from starlette_wtf import CSRFProtectMiddleware, csrf_protect, csrf_token

from serversessions import Session, SessionMiddleware, SessionStore
from serversessions.testing import Clock

Page = Callable[[Request], Awaitable[Response]]


async def show(request: Request) -> Response:
    return JSONResponse(dict(request.session))


def app_with(
    store: SessionStore,
    clock: Clock,
    pages: dict[str, Page],
    behind: Sequence[Middleware] = (),
    **options: Any,
) -> Starlette:
    sessions = Middleware(SessionMiddleware, store=store, clock=clock, **options)
    return Starlette(
        routes=[
            Route("/session", show),
            *(Route(path, page, methods=["GET", "POST"]) for path, page in pages.items()),
        ],
        middleware=[sessions, *behind],
    )


def browser(app: ASGIApp) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app)
    return httpx2.AsyncClient(transport=transport, base_url="https://testserver")


@asynccontextmanager
async def served(app: ASGIApp, listener: socket.socket) -> AsyncIterator[str]:
    """The URL of an app on a real server."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
    serving = asyncio.create_task(server.serve([listener]))
    yield url_of(listener)
    server.should_exit = True
    await serving


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


class Provider:
    """An OpenID provider with one user, who always says yes (OpenID Connect Core 1.0, 3.1)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._key = ECKey.generate_key("P-256", {"kid": "1", "use": "sig"})
        self._nonces: dict[str, str] = {}
        self.app = Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._metadata),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/keys", self._keys),
            ]
        )

    async def _metadata(self, request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
                "id_token_signing_alg_values_supported": ["ES256"],
            }
        )

    async def _authorize(self, request: Request) -> Response:
        code, asked = secrets.token_urlsafe(), request.query_params
        self._nonces[code] = asked["nonce"]
        return RedirectResponse(f"{asked['redirect_uri']}?code={code}&state={asked['state']}")

    async def _token(self, request: Request) -> Response:
        async with request.form() as form:
            nonce = self._nonces.pop(str(form["code"]), None)  # a code works once
        if nonce is None:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {"iss": self.url, "aud": "me", "sub": "ada", "iat": now, "exp": now + 60}
        id_token = jwt.encode({"alg": "ES256", "kid": "1"}, claims | {"nonce": nonce}, self._key)
        return JSONResponse({"access_token": "t", "token_type": "Bearer", "id_token": id_token})

    async def _keys(self, request: Request) -> Response:
        return JSONResponse({"keys": [self._key.as_dict(private=False)]})


class TestAuthlib:
    """Sign-in at an OpenID provider, over real sockets.

    It needs ``same_site = "lax"``: the way back from the provider is a cross-site navigation, on
    which a browser sends no "strict" cookie, so Authlib would miss the state that it left in the
    session. (This client has no such rule; the option is here for who copies it.)
    """

    @pytest.fixture
    async def site(self, store: SessionStore, clock: Clock) -> AsyncIterator[str]:
        """The URL of a site whose users sign in at a provider."""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        provider = Provider(url_of(sockets[0]))
        oauth = OAuth()
        oauth.register(
            "provider",
            client_id="me",
            client_secret="secret",
            server_metadata_url=f"{provider.url}/.well-known/openid-configuration",
            client_kwargs={"scope": "openid", "code_challenge_method": "S256"},
        )

        async def login(request: Request) -> Response:
            answer: Response = await oauth.provider.authorize_redirect(
                request, request.url_for("callback")
            )
            return answer

        async def callback(request: Request) -> Response:
            try:
                token = await oauth.provider.authorize_access_token(request)
            except OAuthError as error:
                return PlainTextResponse(error.error, 400)
            session = Session.of(request)
            session.rotate_id()
            session["user"] = session.owner = token["userinfo"]["sub"]
            return RedirectResponse("/session")

        app = app_with(
            store,
            clock,
            {"/login": login, "/callback": callback},
            secure=False,
            same_site="lax",
        )
        async with served(provider.app, sockets[0]), served(app, sockets[1]) as url:
            yield url

    async def test_a_user_signs_in_and_nothing_of_the_way_is_left(self, site: str) -> None:
        async with httpx2.AsyncClient(base_url=site, follow_redirects=True) as client:
            await client.get("/login", follow_redirects=False)
            (state,) = (await client.get("/session")).json()
            assert state.startswith("_state_provider_")
            before = client.cookies["id"]
            arrived = await client.get("/login")
            assert arrived.url.path == "/session"
            assert arrived.json() == {"user": "ada"}
            assert client.cookies["id"] != before

    async def test_a_wrong_state_is_refused(self, site: str) -> None:
        async with httpx2.AsyncClient(base_url=site) as client:
            await client.get("/login")
            answer = await client.get("/callback?code=x&state=wrong")
            assert (answer.status_code, answer.text) == (400, "mismatching_state")
            assert "user" not in (await client.get("/session")).json()

    async def test_a_state_works_only_in_its_own_session_and_once(self, site: str) -> None:
        async with httpx2.AsyncClient() as ada, httpx2.AsyncClient() as eve:
            asked = await ada.get(f"{site}/login")
            callback = (await ada.get(asked.headers["location"])).headers["location"]
            assert (await eve.get(callback)).text == "mismatching_state"
            assert (await ada.get(callback)).status_code == 307
            assert (await ada.get(callback)).text == "mismatching_state"


class TokenInSession(AuthenticationBackend):
    """SQLAdmin's login as its documentation writes it, on the app's own sessions.

    ``AuthenticationBackend.__init__`` puts Starlette's cookie session round the admin pages, which
    would hide this app's. Empty ``middlewares``, and ``request.session`` is the app's own.
    """

    def __init__(self) -> None:
        self.middlewares = []

    async def login(self, request: Request) -> bool:
        async with request.form() as form:
            if form["password"] != "right":
                return False
        request.session.update({"token": secrets.token_hex()})
        return True

    async def logout(self, request: Request) -> bool:
        request.session.clear()
        return True

    async def authenticate(self, request: Request) -> bool:
        return bool(request.session.get("token"))


class TestSQLAdmin:
    @pytest.fixture
    async def client(self, store: SessionStore, clock: Clock) -> AsyncIterator[httpx2.AsyncClient]:
        app = app_with(store, clock, {})
        engine = sa.create_engine("sqlite://")
        Admin(app, engine, authentication_backend=TokenInSession())
        async with browser(app) as client:
            yield client
        engine.dispose()

    async def test_only_who_has_logged_in_sees_the_admin_pages(
        self, client: httpx2.AsyncClient
    ) -> None:
        assert (await client.get("/admin/")).headers["location"].endswith("/admin/login")
        await client.post("/admin/login", data={"username": "ada", "password": "wrong"})
        assert (await client.get("/admin/")).status_code == 302
        await client.post("/admin/login", data={"username": "ada", "password": "right"})
        assert (await client.get("/admin/")).status_code == 200
        assert list(client.cookies) == ["id"]

    async def test_a_logout_ends_the_session_for_a_stolen_cookie_too(
        self, client: httpx2.AsyncClient
    ) -> None:
        await client.post("/admin/login", data={"username": "ada", "password": "right"})
        stolen = client.cookies["id"]
        await client.get("/admin/logout")
        assert (await client.get("/admin/")).status_code == 302
        client.cookies.set("id", stolen, domain="testserver.local", path="/")
        assert (await client.get("/admin/")).status_code == 302


class TestCsrf:
    """Starlette-WTF signs a token that it keeps in ``request.session["csrf_token"]``."""

    @pytest.fixture
    def app(self, store: SessionStore, clock: Clock) -> Starlette:
        async def form(request: Request) -> Response:
            return PlainTextResponse(csrf_token(request) if request.method == "GET" else "done")

        async def logout(request: Request) -> Response:
            request.session.clear()
            return PlainTextResponse("bye")

        protection = Middleware(CSRFProtectMiddleware, csrf_secret="secret")
        pages: dict[str, Page] = {"/form": csrf_protect(form), "/logout": logout}
        return app_with(store, clock, pages, [protection])

    async def submit(self, client: httpx2.AsyncClient, token: str) -> int:
        site = {"referer": "https://testserver/form"}
        answer = await client.post("/form", data={"csrf_token": token}, headers=site)
        return answer.status_code

    async def test_a_form_is_taken_with_the_sessions_token_alone(self, app: Starlette) -> None:
        async with browser(app) as ada, browser(app) as eve:
            mine, hers = (await ada.get("/form")).text, (await eve.get("/form")).text
            assert await self.submit(ada, mine) == 200
            assert await self.submit(ada, mine) == 200
            assert await self.submit(ada, hers) == 403
            assert await self.submit(ada, "") == 403

    async def test_a_token_ends_with_its_session(self, app: Starlette) -> None:
        async with browser(app) as client:
            token = (await client.get("/form")).text
            await client.get("/logout")
            assert await self.submit(client, token) == 403


class TestFlashMessages:
    async def by_hand(self, request: Request) -> Response:
        if request.method == "POST":
            request.session.setdefault("_messages", []).append("saved")
            return RedirectResponse("/", 303)
        return JSONResponse(request.session.pop("_messages", []))

    async def by_starlette_flash(self, request: Request) -> Response:
        if request.method == "POST":
            flash(request).success("saved")
            return RedirectResponse("/", 303)
        return JSONResponse([message["message"] for message in flash(request)])

    @pytest.mark.parametrize("page", ["by_hand", "by_starlette_flash"])
    async def test_messages_are_shown_once(
        self, store: SessionStore, clock: Clock, page: str
    ) -> None:
        async with browser(app_with(store, clock, {"/": getattr(self, page)})) as client:
            await client.post("/")
            await client.post("/")
            assert (await client.get("/")).json() == ["saved", "saved"]
            assert (await client.get("/")).json() == []

    async def test_looking_for_messages_begins_no_session(
        self, store: SessionStore, clock: Clock
    ) -> None:
        async with browser(app_with(store, clock, {"/": self.by_hand})) as client:
            assert "set-cookie" not in (await client.get("/")).headers
