"""What the measured apps are asked to do, and what their sessions hold."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

Handler = Callable[[Request], Awaitable[Response]]

EVERYWHERE = {
    "untouched": "no cookie, and no look at the session",
    "untouched with cookie": "a cookie, and no look at the session",
    "read": "one value is read",
    "write": "one value is read and changed",
    "login": "a user signs in, and the id changes",
}
WORKLOADS = EVERYWHERE | {"outside with cookie": "a cookie, on a route without the middleware"}
SIZES = {"300 B": 300, "10 KB": 10_000}  # bytes of JSON
CLIENTS = 64  # as many sessions, and as many requests at once


def session_data(size: int, user: str) -> dict[str, Any]:
    """What a shop may know of a visitor: about ``size`` bytes as compact JSON, nested."""
    data: dict[str, Any] = {
        "user": user,
        "csrf_token": "Zm9yIGEgYmVuY2htYXJrLCBub3QgZm9yIGEgc2VjcmV0",
        "visits": 0,
        "locale": "en",
        "cart": [],
        "note": "",
    }
    while len(_json(data)) < size - 130:
        data["cart"].append(
            {
                "article": f"AB-{len(data['cart']):05}",
                "title": "A pot of black tea, two cups, and a tray",
                "count": 1,
            }
        )
    data["note"] = "x" * (size - len(_json(data)))
    return data


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"))


async def answer(request: Request) -> Response:
    return PlainTextResponse("ok")


async def read(request: Request) -> Response:
    request.session.get("visits")
    return PlainTextResponse("ok")


async def write(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return PlainTextResponse("ok")


async def login(request: Request) -> Response:
    """Where there is neither owner nor rotation, this is all."""
    request.session["user"] = request.session["user"]
    return PlainTextResponse("ok")


async def seed(request: Request) -> Response:
    query = request.query_params
    request.session.update(session_data(int(query["size"]), query["user"]))
    return PlainTextResponse("ok")


async def count(request: Request) -> Response:
    return PlainTextResponse(str(request.session.get("visits")))


def routes(
    *, login: Handler = login, wrap: Callable[[Handler], Handler] = lambda handler: handler
) -> list[Route]:
    """A Starlette app's routes for all workloads. ``wrap`` is for what must precede a session."""
    handlers = {"read": read, "write": write, "login": login, "seed": seed, "count": count}
    return [
        Route("/untouched", answer),
        *[Route(f"/{name}", wrap(handler)) for name, handler in handlers.items()],
    ]


def routes_without_session(read: Handler = answer, write: Handler = answer) -> list[Route]:
    """The same paths in the same order, where there is no session at all."""
    names = ("untouched", "read", "write", "login", "outside")
    handlers = {"read": read, "write": write}
    return [Route(f"/{name}", handlers.get(name, answer)) for name in names]
