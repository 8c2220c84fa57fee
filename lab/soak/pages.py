"""What a visitor can do. A copy of this module becomes part of the generated project."""

from __future__ import annotations

from typing import Any

from serversessions import Session
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def read(request: Request) -> Response:
    return _answer(dict(request.session))


async def put(request: Request) -> Response:
    """Also what begins a session."""
    request.session[request.query_params["key"]] = request.query_params["value"]
    return _answer({})


async def count(request: Request) -> Response:
    session = request.session
    session["count"] = session.get("count", 0) + 1
    return _answer({"count": session["count"]})


async def rotate(request: Request) -> Response:
    """As a sign-in."""
    Session.of(request).owner = request.query_params["user"]
    return _answer({})


async def sign_out(request: Request) -> Response:
    Session.of(request).flush()
    return _answer({})


def _answer(data: dict[str, Any]) -> Response:
    return JSONResponse(data)


routes = [
    Route(f"/soak/{act}", page, methods=["POST"])
    for act, page in {
        "begin": put,
        "put": put,
        "count": count,
        "read": read,
        "rotate": rotate,
        "sign-out": sign_out,
    }.items()
]
