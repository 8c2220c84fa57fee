"""The peers: other people's sessions, doing the same work. Another one is one more function here.

Each function imports its packages itself; where one is missing, the table says so. A peer has its
own defaults, but for limits that would make it forget sessions while it is measured.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .backends import Backend
from .workloads import Handler, routes, session_data


def starlette_cookie(backend: Backend) -> ASGIApp:
    """Starlette's SessionMiddleware: the session itself is in the signed cookie."""
    from starlette.middleware.sessions import SessionMiddleware

    middleware = Middleware(SessionMiddleware, secret_key="a secret of the benchmarks")
    return Starlette(routes=routes(), middleware=[middleware])


def starsessions(backend: Backend) -> ASGIApp:
    """starsessions, which loads a session only where the handler asks for it, as these do."""
    from redis.asyncio import Redis
    from starsessions import (
        InMemoryStore,
        SessionMiddleware,
        load_session,
        regenerate_session_id,
    )
    from starsessions.stores.redis import RedisStore

    def loaded(handler: Handler) -> Handler:
        async def load_and_handle(request: Request) -> Response:
            await load_session(request)
            return await handler(request)

        return load_and_handle

    async def login(request: Request) -> Response:
        request.session["user"] = request.session["user"]
        regenerate_session_id(request)
        return PlainTextResponse("ok")

    client = Redis.from_url(backend.url) if backend.store == "cache" else None
    store = InMemoryStore() if client is None else RedisStore(connection=client)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        if client is not None:
            await client.aclose()

    return Starlette(
        routes=routes(login=login, wrap=loaded),
        middleware=[Middleware(SessionMiddleware, store=store)],
        lifespan=lifespan,
    )


def litestar(backend: Backend) -> ASGIApp:
    """Litestar's server-side sessions, with Litestar's own cost of a request."""
    from litestar.middleware.session.server_side import ServerSideSessionConfig
    from litestar.stores.file import FileStore
    from litestar.stores.memory import MemoryStore
    from litestar.stores.redis import RedisStore

    store: Any
    match backend.store:
        case "memory":
            store = MemoryStore()
        case "file":
            store = FileStore(backend.folder)
        case _:
            store = RedisStore.with_client(backend.url)
    return _litestar(middleware=[ServerSideSessionConfig().middleware], stores={"sessions": store})


def litestar_sqlalchemy(backend: Backend) -> ASGIApp:
    """Litestar's sessions in a database, by Advanced Alchemy and SQLAlchemy's asyncio."""
    from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin
    from advanced_alchemy.extensions.litestar.session import (
        SessionModelMixin,
        SQLAlchemyAsyncSessionBackend,
    )
    from litestar.middleware.base import DefineMiddleware
    from litestar.middleware.session.base import SessionMiddleware
    from litestar.middleware.session.server_side import ServerSideSessionConfig

    scheme = "sqlite+aiosqlite" if backend.store == "sqlite" else "postgresql+asyncpg"
    alchemy = SQLAlchemyAsyncConfig(
        connection_string=f"{scheme}:{backend.url.partition(':')[2]}", create_all=True
    )
    table = f"litestar_{backend.store}_{backend.size}"
    model = type(table, (SessionModelMixin,), {"__tablename__": table, "__module__": __name__})
    sessions = SQLAlchemyAsyncSessionBackend(
        config=ServerSideSessionConfig(), alchemy_config=alchemy, model=model
    )
    return _litestar(
        middleware=[DefineMiddleware(SessionMiddleware, backend=sessions)],
        plugins=[SQLAlchemyPlugin(config=alchemy)],
    )


def litestar_without_sessions(backend: Backend) -> ASGIApp:
    """Litestar alone: what a request costs there."""
    return _litestar()


def django(backend: Backend) -> ASGIApp:
    """Django's session engine, called synchronously behind the twin of Django's middleware."""
    engine = _django_engine(backend)

    async def login(request: Request) -> Response:
        session: Any = request.session
        session["user"] = session["user"]
        session.cycle_key()
        return PlainTextResponse("ok")

    middleware = Middleware(_DjangoSessions, engine=engine)
    return Starlette(routes=routes(login=login), middleware=[middleware])


def _litestar(**options: Any) -> ASGIApp:
    from litestar import Litestar, MediaType
    from litestar import Request as LitestarRequest
    from litestar import get as route

    async def untouched() -> str:
        return "ok"

    async def read(request: LitestarRequest) -> str:
        request.session.get("visits")
        return "ok"

    async def write(request: LitestarRequest) -> str:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return "ok"

    async def login(request: LitestarRequest) -> str:
        request.session["user"] = request.session["user"]
        return "ok"

    async def seed(request: LitestarRequest, size: int, user: str) -> str:
        request.session.update(session_data(size, user))
        return "ok"

    async def count(request: LitestarRequest) -> str:
        return str(request.session.get("visits"))

    for handler in (read, write, login, seed, count):  # the names are local to this function
        handler.__annotations__["request"] = LitestarRequest
    handlers = [
        route(f"/{handler.__name__}", media_type=MediaType.TEXT)(handler)
        for handler in (untouched, read, write, login, seed, count)
    ]
    app: ASGIApp = Litestar(route_handlers=handlers, openapi_config=None, **options)
    return app


class _DjangoSessions:
    """What django.contrib.sessions.middleware does, without Django's requests and responses.

    That favours Django: the cost of its handler, its middleware chain and its threads is left out.
    """

    def __init__(self, app: ASGIApp, engine: type[Any]) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        session = scope["session"] = self._engine(_cookie(scope))

        async def send_with_session(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if session.accessed:
                    headers.add_vary_header("Cookie")
                if session.modified and not session.is_empty():
                    session.save()
                    lifetime = f"Max-Age={session.get_expiry_age()}; Path=/; HttpOnly; SameSite=Lax"
                    headers.append("set-cookie", f"sessionid={session.session_key}; {lifetime}")
            await send(message)

        await self._app(scope, receive, send_with_session)


def _cookie(scope: Scope) -> str | None:
    from django.http import parse_cookie

    for name, value in scope["headers"]:
        if name == b"cookie":
            cookie: str | None = parse_cookie(value.decode("latin-1")).get("sessionid")
            return cookie
    return None


class DjangoRouter:
    """Sends Django's sessions to the database that was opened last."""

    database = "default"

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return self.database

    db_for_write = db_for_read


def configure_django() -> None:
    """Set Django up, once a process."""
    import django
    from django.conf import settings

    if not settings.configured:
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # to block the event loop
        settings.configure(
            SECRET_KEY="a secret of the benchmarks",
            INSTALLED_APPS=["django.contrib.sessions"],
            DATABASE_ROUTERS=[f"{__name__}.DjangoRouter"],
        )
        django.setup()


def _django_engine(backend: Backend) -> type[Any]:
    """Django's class of sessions, for this store."""
    configure_django()
    from django.contrib.sessions.backends import cache, db, file
    from django.contrib.sessions.backends.base import SessionBase
    from django.core.cache.backends.locmem import LocMemCache
    from django.core.cache.backends.redis import RedisCache

    if backend.store == "file":
        return type("FileSessions", (file.SessionStore,), {"_storage_path": str(backend.folder)})
    if backend.store in ("sqlite", "postgresql"):
        open_django_database(backend)
        in_database: type[Any] = db.SessionStore
        return in_database
    caches = (
        RedisCache(backend.url, {})
        if backend.store == "cache"
        else LocMemCache(str(backend.folder), {"OPTIONS": {"MAX_ENTRIES": 10_000_000}})
    )

    def open_session(self: Any, session_key: str | None = None) -> None:
        self._cache = caches
        SessionBase.__init__(self, session_key)

    return type("CacheSessions", (cache.SessionStore,), {"__init__": open_session})


def open_django_database(backend: Backend) -> None:
    """Make this database the one that Django's sessions are in."""
    from django.core.management import call_command
    from django.db import connections

    if backend.store == "sqlite":
        pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"
        database = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": backend.folder / "app.db",
            "OPTIONS": {"init_command": pragmas, "transaction_mode": "IMMEDIATE"},
        }
    else:
        url = urlsplit(backend.url)
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.path.lstrip("/"),
            "USER": url.username,
            "HOST": url.hostname,
            "PORT": url.port,
        }
    alias = f"{backend.store}-{backend.size}"
    connections.settings |= connections.configure_settings({"default": {}, alias: database})
    DjangoRouter.database = alias
    call_command("migrate", database=alias, verbosity=0)
