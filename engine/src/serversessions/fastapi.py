"""Sessions in FastAPI: dependencies for handlers, and the cookie in the OpenAPI schema."""

from __future__ import annotations

from typing import Annotated, Any

from starlette.requests import HTTPConnection

from .cookie import SessionCookie
from .owners import UserId
from .session import Session
from .wiring import Sessions

try:
    from fastapi import Depends, FastAPI, HTTPException, WebSocketException
    from fastapi.security import APIKeyCookie
    from fastapi.security.base import SecurityBase
except ImportError as error:
    raise ImportError(
        "serversessions.fastapi needs FastAPI: `uv add fastapi`, or `pip install fastapi`"
    ) from error

_SCHEME = "session"


class _SessionCookie(SecurityBase):
    """The session of a request or a WebSocket; in OpenAPI, the cookie that it comes with."""

    def __init__(self) -> None:
        self.scheme_name = _SCHEME
        self.model = APIKeyCookie(
            name=SessionCookie.name,
            description="Names the session. The server sets it; a browser sends it by itself.",
        ).model

    async def __call__(self, connection: HTTPConnection) -> Session:
        return Session.of(connection)


get_session = _SessionCookie()

SessionDep = Annotated[Session, Depends(get_session)]
"""``session: SessionDep`` is the session, in any handler or dependency."""


async def get_owner(connection: HTTPConnection, session: SessionDep) -> UserId:
    """The user's id, for an alias of your own: ``UserDep = Annotated[int, Depends(get_owner)]``.

    Raises:
        HTTPException: 401, nobody is signed in.
        WebSocketException: the same, with code 1008.
    """
    if session.owner is not None:
        return session.owner
    if connection.scope["type"] == "websocket":
        raise WebSocketException(1008, "Not authenticated")
    raise HTTPException(401, "Not authenticated", {"WWW-Authenticate": "APIKey"})


OwnerDep = Annotated[UserId, Depends(get_owner)]
"""``owner: OwnerDep`` is ``session.owner``. Without one, the answer is 401."""


def name_cookie(app: FastAPI, sessions: Sessions) -> None:
    """Call the cookie in the app's OpenAPI schema what ``sessions`` call it."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        schemes = schema.get("components", {}).get("securitySchemes", {})
        if _SCHEME in schemes:
            schemes[_SCHEME]["name"] = sessions.cookie_name
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents
