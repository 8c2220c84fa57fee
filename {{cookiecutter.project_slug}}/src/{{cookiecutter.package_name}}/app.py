"""The app: its configuration, its session store, its middleware, its pages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from . import pages
from .config import DatabaseStoreConfig, MemoryStoreConfig, ProjectConfig
from .migrations import migrate
from .sessions import SessionMiddleware, SessionStore, StoreUnavailable
from .sessions.middleware import as_function
from .sessions.stores import describe_store, open_store
from .sessions.sweeper import sweep_forever
from .sessions.telemetry import observe

logger = logging.getLogger(__name__)


def create_app(
    config: ProjectConfig | None = None, *, session_store: SessionStore | None = None
) -> Starlette:
    """The whole app. Without ``config`` it is that of the current environment.

    ``session_store`` wins over the store that the configuration names; the app closes it.

    Raises:
        ConfigError: the configuration is wrong, or its store needs a package that is missing.
    """
    config = config or ProjectConfig.load()
    settings = config.middlewares.session
    if session_store is None:
        store = observe(open_store(config), settings.store.type)
    else:
        store = observe(session_store, type(session_store).__name__)
    if isinstance(settings.store, MemoryStoreConfig) and session_store is None and not config.debug:
        logger.warning(
            "Sessions are in this process's memory and end with it. Another store keeps them: "
            "change [middlewares.session.store]"
        )

    async def healthz(request: Request) -> JSONResponse:
        """Live: the process answers, whatever the store does."""
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> JSONResponse:
        """Ready: the store answers too, within the time that it is given."""
        try:
            await store.ping()
        except StoreUnavailable:
            problem = {"status": "session store unavailable"}
            return JSONResponse(problem, 503, {"Retry-After": "5"})
        return JSONResponse({"status": "ok"})

    def add_sessions(app: ASGIApp) -> ASGIApp:
        return as_function(SessionMiddleware(app, store, **settings.options()))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if config.debug and config.database and isinstance(settings.store, DatabaseStoreConfig):
            await migrate(config.database.url)
        sweeper = asyncio.create_task(sweep_forever(store))
        try:
            yield
        finally:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
            await store.aclose()

    app = Starlette(
        debug=config.debug,
        routes=[
            *pages.routes,
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        middleware=[Middleware(add_sessions)],
        lifespan=lifespan,
    )
    app.state.templates = pages.open_templates(reload=config.debug)
    app.state.session_store = (
        describe_store(config) if session_store is None else type(session_store).__name__
    )
    return app
