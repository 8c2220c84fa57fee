"""The app: its configuration, its sessions, its pages. The whole wiring is here."""

from __future__ import annotations

from pathlib import Path

from serversessions import Sessions, SessionStore
from serversessions.auth import OwnerBackend
from serversessions.protection import Protection
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from . import pages
from .config import AppConfig

STATIC = Path(__file__).parent / "static"


def create_app(
    config: AppConfig | None = None, *, session_store: SessionStore | None = None
) -> Starlette:
    """The whole app. Without ``config`` it is that of the current environment.

    ``session_store`` wins over the store that the configuration names; the app closes it.

    Raises:
        ConfigError: the configuration is wrong, or its store needs a package that is missing.
    """
    config = config or AppConfig.load()
    sessions = Sessions(config, session_store)
    app = Starlette(
        debug=config.debug,
        routes=[
            *pages.routes,
            *sessions.routes,  # /healthz and /readyz
            Mount("/static", StaticFiles(directory=STATIC), name="static"),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=config.allowed_hosts),
            Middleware(Protection),  # against forms of other sites, frames and endless bodies
            sessions.middleware,
            Middleware(AuthenticationMiddleware, OwnerBackend()),  # @requires("authenticated")
        ],
        lifespan=sessions.lifespan,
    )
    app.state.config = config
    app.state.sessions = sessions
    app.state.templates = pages.open_templates(reload=config.debug)
    return app
