"""The apps that `make compare` puts to the test: ours and its peers', as their manuals say.

All have the same routes, one an action. Each runs in its own framework, Django in its own handler
with its own middleware; what a session can't do there is left out of the action.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from serversessions import Session, SessionMiddleware
from serversessions.stores import open_store
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .backends import Backend
from .measure import lifespan
from .peers import configure_django, open_django_database
from .watch import DjangoWatch, NoStore, ValkeyWatch, Watch

SECRET = "a secret of the comparison"


@dataclass
class Setup:
    """How an app is to be set up, and what it tells of its work.

    ``idle`` and ``absolute`` are the limits of a session in seconds, 0 for the default. ``errors``
    are those that a framework answers with a 500 and raises no further.
    """

    idle: int = 0
    absolute: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    errors: list[BaseException] = field(default_factory=list)

    async def pause(self) -> None:
        """Where a slow request waits, with its session loaded."""
        self.reached.set()
        await self.may_go_on.wait()


@dataclass(frozen=True)
class Candidate:
    """An app with sessions, and the packages that its claims hold for.

    ``store`` is the kind that it needs, "" where the cookie is the session.
    """

    name: str
    packages: tuple[str, ...]
    store: str
    open: Callable[[Backend, Setup], AbstractAsyncContextManager[ASGIApp]]
    watch: Callable[[str], Watch]
    how: str


async def act(action: str, session: Any, query: Any, setup: Setup) -> object:
    """What every app does the same way; the value for the answer."""
    match action:
        case "read":
            return session.get(query["key"])
        case "write":
            session[query["key"]] = json.loads(query["value"])
        case "append":
            session["list"].append("new")
        case "slow":
            session.get("user")
            await setup.pause()
            session[query["key"]] = json.loads(query["value"])
        case "fail":
            session["failed"] = "saved"
            raise RuntimeError("this handler fails")
        case "error":
            session["failed"] = "saved"
        case "object":
            session["thing"] = threading.Lock()  # nor can it be pickled
    return None


def _status(action: str) -> int:
    return 500 if action == "error" else 200


Intent = Callable[[Request], Awaitable[Any]]


def starlette_routes(
    setup: Setup, sign_in: Intent, sign_out: Intent, load: Intent | None = None
) -> list[Route]:
    """Those of a Starlette app; ``load`` must precede a session."""

    async def handle(request: Request) -> Response:
        action = request.path_params["action"]
        if action == "untouched":
            return JSONResponse(None)
        if load is not None:
            await load(request)
        value: object = None
        if action == "sign-in":
            request.session["user"] = request.query_params["user"]
            await sign_in(request)
        elif action == "sign-out":
            await sign_out(request)
        else:
            value = await act(action, request.session, request.query_params, setup)
        return JSONResponse(value, _status(action))

    return [Route("/act/{action}", handle)]


async def _clear(request: Request) -> None:
    request.session.clear()


async def _nothing(request: Request) -> None:
    pass


@asynccontextmanager
async def open_ours(backend: Backend, setup: Setup) -> AsyncIterator[ASGIApp]:
    """The engine's middleware, with its defaults but for the limits."""

    async def sign_in(request: Request) -> None:
        Session.of(request).owner = request.query_params["user"]

    async def sign_out(request: Request) -> None:
        Session.of(request).flush()

    async def sign_out_elsewhere(request: Request) -> Response:
        session = Session.of(request)
        devices = len(await session.list_owned())
        await session.delete_others()
        return JSONResponse(devices)

    limits: dict[str, Any] = {}
    if setup.idle:
        limits["expiry"] = timedelta(seconds=setup.idle)
    if setup.absolute:
        limits["max_lifetime"] = timedelta(seconds=setup.absolute)
    store = open_store(backend.url)
    routes = [
        Route("/act/sign-out-elsewhere", sign_out_elsewhere),
        *starlette_routes(setup, sign_in, sign_out),
    ]
    middleware = Middleware(SessionMiddleware, store=store, **limits)
    async with lifespan(app := Starlette(routes=routes, middleware=[middleware])):
        yield app
    await store.aclose()


@asynccontextmanager
async def open_starlette(backend: Backend, setup: Setup) -> AsyncIterator[ASGIApp]:
    from starlette.middleware.sessions import SessionMiddleware

    limit: dict[str, Any] = {"max_age": setup.idle} if setup.idle else {}
    middleware = Middleware(SessionMiddleware, secret_key=SECRET, **limit)
    app = Starlette(routes=starlette_routes(setup, _nothing, _clear), middleware=[middleware])
    async with lifespan(app):
        yield app


@asynccontextmanager
async def open_starsessions(backend: Backend, setup: Setup) -> AsyncIterator[ASGIApp]:
    from redis.asyncio import Redis
    from starsessions import SessionMiddleware, load_session, regenerate_session_id
    from starsessions.stores.redis import RedisStore

    async def sign_in(request: Request) -> None:
        regenerate_session_id(request)

    client = Redis.from_url(backend.url)
    middleware = Middleware(
        SessionMiddleware,
        store=RedisStore(connection=client),
        lifetime=setup.absolute or setup.idle,
        rolling=not setup.absolute,
    )
    app = Starlette(
        routes=starlette_routes(setup, sign_in, _clear, load_session), middleware=[middleware]
    )
    async with lifespan(app):
        yield app
    await client.aclose()


@asynccontextmanager
async def open_litestar(backend: Backend, setup: Setup) -> AsyncIterator[ASGIApp]:
    from litestar import Litestar
    from litestar import Request as LitestarRequest
    from litestar import Response as LitestarResponse
    from litestar import get as route
    from litestar.middleware.session.server_side import ServerSideSessionConfig
    from litestar.stores.redis import RedisStore

    async def handle(request: Any, action: str) -> Any:
        value: object = None
        if action == "sign-in":
            request.session["user"] = request.query_params["user"]
        elif action == "sign-out":
            request.clear_session()
        elif action != "untouched":
            value = await act(action, request.session, request.query_params, setup)
        return LitestarResponse(json.dumps(value), status_code=_status(action))

    async def note(error: Exception, scope: Any) -> None:
        setup.errors.append(error)

    handle.__annotations__ |= {"request": LitestarRequest, "action": str, "return": Any}
    limit = {"max_age": setup.idle} if setup.idle else {}
    app: ASGIApp = Litestar(
        route_handlers=[route("/act/{action:str}")(handle)],
        middleware=[ServerSideSessionConfig(**limit).middleware],
        stores={"sessions": RedisStore.with_client(backend.url)},
        after_exception=[note],
        openapi_config=None,
    )
    async with lifespan(app):
        yield app


@asynccontextmanager
async def open_django(backend: Backend, setup: Setup) -> AsyncIterator[ASGIApp]:
    configure_django()
    from django.core.asgi import get_asgi_application
    from django.core.signals import got_request_exception
    from django.http import JsonResponse
    from django.test import override_settings
    from django.urls import path

    async def handle(request: Any, action: str) -> Any:
        session, value = request.session, None
        if action == "untouched":
            return JsonResponse(None, safe=False)
        await session.ahas_key("user")  # loads it: what follows may then be synchronous
        if action == "sign-in":
            session["user"] = request.GET["user"]
            if setup.absolute:
                session.set_expiry(timedelta(seconds=setup.absolute))
            await session.acycle_key()
        elif action == "sign-out":
            await session.aflush()
        else:
            value = await act(action, session, request.GET, setup)
        return JsonResponse(value, safe=False, status=_status(action))

    def note(**signal: Any) -> None:
        if error := sys.exc_info()[1]:
            setup.errors.append(error)

    settings: dict[str, Any] = {
        "ALLOWED_HOSTS": ["*"],
        "ROOT_URLCONF": (path("act/<action>", handle),),
        "MIDDLEWARE": ["django.contrib.sessions.middleware.SessionMiddleware"],
    }
    if setup.idle:
        settings |= {"SESSION_COOKIE_AGE": setup.idle, "SESSION_SAVE_EVERY_REQUEST": True}
    if backend.store == "cache":
        cache = "django.core.cache.backends.redis.RedisCache"
        settings |= {
            "CACHES": {"default": {"BACKEND": cache, "LOCATION": backend.url}},
            "SESSION_ENGINE": "django.contrib.sessions.backends.cache",
        }
    else:
        open_django_database(backend)
    got_request_exception.connect(note)
    with override_settings(**settings):
        yield get_asgi_application()
    got_request_exception.disconnect(note)


OURS = Candidate(
    "ours",
    (),
    "cache",
    open_ours,
    ValkeyWatch,
    "`SessionMiddleware` of `serversessions` on Valkey; sign-in is `session.owner = user.id`,"
    " sign-out `flush()`",
)
STARLETTE = Candidate(
    "Starlette",
    ("starlette", "itsdangerous"),
    "",
    open_starlette,
    lambda url: NoStore(),
    "`SessionMiddleware`: the session is in the signed cookie; sign-out is `session.clear()`",
)
PEERS = [
    STARLETTE,
    Candidate(
        "starsessions",
        ("starsessions",),
        "cache",
        open_starsessions,
        ValkeyWatch,
        "`RedisStore`; `load_session()` where a session is used, sign-in is"
        " `regenerate_session_id()`, sign-out `session.clear()`",
    ),
    Candidate(
        "Litestar",
        ("litestar",),
        "cache",
        open_litestar,
        ValkeyWatch,
        "`ServerSideSessionConfig` on `RedisStore`; it has no way to change an id at sign-in;"
        " sign-out is `request.clear_session()`",
    ),
    Candidate(
        "Django, db",
        ("django", "psycopg"),
        "postgresql",
        open_django,
        DjangoWatch,
        "the default engine, on PostgreSQL, behind Django's own middleware and handler; sign-in is"
        " `cycle_key()`, which is what `login()` calls, sign-out `flush()`, as `logout()` does",
    ),
    Candidate(
        "Django, cache",
        ("django",),
        "cache",
        open_django,
        ValkeyWatch,
        "the same with `backends.cache` on `RedisCache`",
    ),
]
