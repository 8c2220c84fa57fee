"""The engine in a bare Starlette app, by its public API alone and with all its defaults."""

from __future__ import annotations

from serversessions import Session, Sessions, SessionStore
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .backends import Backend
from .workloads import answer, routes


def ours(backend: Backend, store: SessionStore | None = None) -> ASGIApp:
    """The middleware round the whole app, as in a generated project."""
    sessions = Sessions(backend.url, store)
    return Starlette(
        routes=routes(login=_login), middleware=[sessions.middleware], lifespan=sessions.lifespan
    )


def ours_on_some_routes(backend: Backend) -> ASGIApp:
    """The middleware round each route but one, which is what is measured."""
    sessions = Sessions(backend.url)
    inside = [
        Route(route.path, route.endpoint, middleware=[sessions.middleware])
        for route in routes(login=_login)
    ]
    inside.insert(4, Route("/outside", answer))  # where the bare app has it
    return Starlette(routes=inside, lifespan=sessions.lifespan)


async def _login(request: Request) -> Response:
    session = Session.of(request)
    session["user"] = session["user"]
    session.owner = session["user"]
    return PlainTextResponse("ok")
