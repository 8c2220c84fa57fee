"""The app: its sessions, and what tests ask of it."""

from __future__ import annotations

import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from serversessions import Session, Sessions

from .config import AppConfig

STARTED = time.time()


def scope(request: Request) -> JSONResponse:
    """Where the server says that the app is."""
    return JSONResponse({key: request.scope[key] for key in ("root_path", "path")})


def sign_in(request: Request) -> JSONResponse:
    Session.of(request).owner = "ada"
    return JSONResponse({})


def mail_host(request: Request) -> JSONResponse:
    return JSONResponse(request.app.state.config.mail.host)


def started(request: Request) -> JSONResponse:
    """When this process began, which tells it from the one before."""
    return JSONResponse(STARTED)


def create_app(config: AppConfig | None = None) -> Starlette:
    config = config or AppConfig.load()
    sessions = Sessions(config)
    app = Starlette(
        debug=config.debug,
        routes=[
            Route("/scope", scope),
            Route("/sign-in", sign_in),
            Route("/mail-host", mail_host),
            Route("/started", started),
            *sessions.routes,
        ],
        middleware=[sessions.middleware],
        lifespan=sessions.lifespan,
    )
    app.state.config = config
    return app
