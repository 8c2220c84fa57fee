"""Sessions: the middleware, the lifespan and the health checks of an app, on one store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from .cookie import SessionCookie, prefixed_name
from .location import Location
from .middleware import SessionMiddleware
from .problems import ConfigError, Problem
from .store import SessionStore, StoreUnavailable
from .stores import kind_of, open_store
from .sweeper import sweep_forever
from .telemetry import observe

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

logger = logging.getLogger(__name__)

_RETRY = 5.0  # seconds between two tries to create a table in a database that is down


class Config(Protocol):
    """What ``Sessions`` asks of a configuration. ``ProjectConfig`` has it."""

    @property
    def debug(self) -> bool: ...

    @property
    def app_name(self) -> str: ...

    @property
    def migrations(self) -> str | None: ...

    @property
    def database(self) -> Any: ...

    @property
    def location(self) -> Location: ...

    def session_options(self) -> Mapping[str, Any]: ...


class Sessions:
    """The sessions of one app: everything that is to be wired, in one object.

        sessions = Sessions("redis://localhost:6379/0", expiry=timedelta(hours=1))
        app = Starlette(
            routes=[..., *sessions.routes],
            middleware=[sessions.middleware],
            lifespan=sessions.lifespan,
        )

    ``config`` is a ``ProjectConfig``, a ``Location``, or a URL as ``open_store`` takes it.
    ``store`` wins over the one that ``config`` names. ``options`` are those of
    ``SessionMiddleware``, and win over the configuration's. The cookie is named after the app, with
    ``__Host-`` before it wherever browsers take that.

    Raises:
        ConfigError: the URL is wrong, or its store needs a package that is missing.
    """

    def __init__(
        self, config: Config | Location | str, store: SessionStore | None = None, **options: Any
    ) -> None:
        self._config = None if isinstance(config, (Location, str)) else config
        self._location = Location(config) if isinstance(config, str) else _location_of(config)
        self._own_store = open_store(self._location) if store is None else None
        if self._own_store is not None:
            store, label = self._own_store, str(kind_of(self._location.url))
        else:
            label = type(store).__name__
        assert store is not None
        self.store: SessionStore = observe(store, label)
        """the store, for code outside of requests: ``delete_owned(sessions.store, user.id)``"""
        if self._config is not None:
            self._options = {**self._config.session_options(), **options}
        else:
            self._options = {**options, "name": self._name_cookie(**options)}
        self._engines: list[AsyncEngine] = []

    @property
    def middleware(self) -> Middleware:
        """For ``Starlette(middleware=[...])``, or for a ``Mount`` or a ``Route`` alone.

        Several in one app share the store, and each request has one session.
        """
        return Middleware(SessionMiddleware, store=self.store, **self._options)

    @property
    def cookie_name(self) -> str:
        """What the session's cookie is called."""
        return str(self._options.get("name", SessionCookie.name))

    def _name_cookie(
        self,
        *,
        name: str | None = None,
        secure: bool = True,
        path: str = "/",
        domain: str | None = None,
        **others: object,
    ) -> str:
        """After the app, so that two apps on one host are apart."""
        own = self._location.app if name is None else name
        return prefixed_name(own, secure=secure, path=path, domain=domain)

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """``/healthz`` (the process answers) and ``/readyz`` (and so does its store)."""
        return [
            Route("/healthz", _answer_ok, name="healthz"),
            Route("/readyz", self._answer_if_ready, name="readyz"),
        ]

    def open_engine(self) -> AsyncEngine:
        """An SQLAlchemy engine on ``[database]``, for tables of your own; closed with the app.

        Raises:
            ConfigError: there is no ``[database]``.
            ModuleNotFoundError: the extra ``database`` is not installed.
        """
        url = self._database_url
        if url is None:
            text = "missing; an engine for tables of your own needs it"
            raise ConfigError(Problem("database.url", None, "a URL", text))
        from .database import open_engine

        self._engines.append(open_engine(url))
        return self._engines[-1]

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """For ``Starlette(lifespan=...)``: prepare a database, sweep, and close the store at last.

        In debug the ``[database]`` is migrated before the app starts, wherever sessions live. Where
        there is no configuration, the table of the sessions is created.
        """
        self._warn_of_memory()
        preparing = await self._prepare()
        sweeper = asyncio.create_task(sweep_forever(self.store))
        try:
            yield
        finally:
            tasks = [task for task in (preparing, sweeper) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(engine.dispose() for engine in self._engines))
            await self.store.aclose()

    @property
    def _database_url(self) -> str | None:
        if self._config is not None:
            database = self._config.database
            return None if database is None else str(database.url)
        return self._location.url if kind_of(self._location.url) == "database" else None

    def _warn_of_memory(self) -> None:
        is_memory = self._own_store is not None and kind_of(self._location.url) == "memory"
        if is_memory and self._config is not None and not self._config.debug:
            logger.warning(
                "Sessions are in this process's memory and end with it. Another store keeps them: "
                "change [middlewares.session.store]"
            )

    async def _prepare(self) -> asyncio.Task[None] | None:
        """Make a database ready; the task that goes on trying while it is down."""
        if self._config is not None:
            if self._config.debug and self._database_url is not None:
                from .migrations import migrate

                name, migrations = self._config.app_name, self._config.migrations
                await migrate(self._database_url, app=name, migrations=migrations)
            return None
        if self._own_store is None or kind_of(self._location.url) != "database":
            return None
        if await _create_table(self._own_store):
            return None
        return asyncio.create_task(_create_table_at_last(self._own_store))

    async def _answer_if_ready(self, request: Request) -> JSONResponse:
        try:
            await self.store.ping()
        except StoreUnavailable:
            problem = {"status": "session store unavailable"}
            return JSONResponse(problem, 503, {"Retry-After": "5"})
        return JSONResponse({"status": "ok"})


async def _answer_ok(request: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


def _location_of(config: Config | Location) -> Location:
    return config if isinstance(config, Location) else config.location


async def _create_table(store: Any) -> bool:
    try:
        await store.create_table()
    except StoreUnavailable as error:
        logger.warning("Could not create the table of the sessions: %s", error)
        return False
    return True


async def _create_table_at_last(store: SessionStore) -> None:
    is_created = False
    while not is_created:
        await asyncio.sleep(_RETRY)
        is_created = await _create_table(store)
