"""SessionMiddleware: gives every request its session, and every response the session's cookie."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .cookie import SessionCookie
from .expiry import Expiry
from .manager import SessionManager
from .session import CookieChange, Session
from .store import SessionError, SessionStore, StoreUnavailable

logger = logging.getLogger(__name__)

_STARTS = {"http.response.start", "websocket.accept", "websocket.http.response.start"}
_UNAVAILABLE = PlainTextResponse(
    "Sessions are unavailable for the moment. Please try again.\n", 503, {"Retry-After": "5"}
)


class SessionMiddleware:
    """Puts a server-side ``Session`` into ``scope["session"]``, in place of Starlette's own.

    The options are the keys of ``[middlewares.session]``; see the README. ``store`` is any
    ``SessionStore``, and ``clock`` gives Unix time in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        store: SessionStore,
        *,
        name: str = "id",
        path: str = "/",
        domain: str | None = None,
        secure: bool = True,
        http_only: bool = True,
        same_site: Literal["strict", "lax", "none"] = "strict",
        partitioned: bool = False,
        always_save: bool = False,
        expiry: Literal["session"] | timedelta | datetime = "session",
        max_lifetime: timedelta | None = None,
        max_size: int = 65536,
        exclude: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._cookie = SessionCookie(name, path, domain, secure, http_only, same_site, partitioned)
        self._sessions = SessionManager(
            store,
            expiry=Expiry(expiry, max_lifetime),
            max_size=max_size,
            always_save=always_save,
            clock=clock,
        )
        self._exclude = tuple(prefix.rstrip("/") for prefix in exclude)
        self._excluded = Session.unusable(
            self._sessions, SessionError("this path has no session: `exclude` names it")
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._exclude and self._is_excluded(scope):
            scope["session"] = self._excluded
            await self._app(scope, receive, send)
            return

        session = await self._sessions.load(self._cookie.read(scope["headers"]))
        scope["session"] = session

        async def send_with_session(message: Message) -> None:
            if message["type"] in _STARTS and not session._cookie_sent:
                await self._start(session, message)
            await send(message)

        try:
            await self._app(scope, receive, send_with_session)
        except StoreUnavailable as error:
            if session._cookie_sent:
                raise
            logger.error("Session store unavailable: %s", error)
            if scope["type"] == "http":
                await _UNAVAILABLE(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1013, "reason": "try again later"})
        if scope["type"] == "websocket" and self._sessions.is_unsaved(session):
            logger.warning("A WebSocket changed its session without `await session.save()`: lost")

    async def _start(self, session: Session, message: Message) -> None:
        """Save the session, and add to the response's headers what follows from it."""
        if message.get("status", 200) < 500:
            await self._sessions.save(session)
        session._cookie_sent = True
        session._closed = message["type"] != "websocket.accept"
        headers = MutableHeaders(raw=list(message.get("headers", [])))
        if session.accessed:
            headers.add_vary_header("Cookie")
        if session._cookie is CookieChange.SET and session._id is not None:
            max_age = self._sessions.max_age(session)
            headers.append("Set-Cookie", self._cookie.set(session._id, max_age))
        elif session._cookie is CookieChange.REMOVE:
            headers.append("Set-Cookie", self._cookie.remove())
        message["headers"] = headers.raw

    def _is_excluded(self, scope: Scope) -> bool:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        return any(path == prefix or path.startswith(prefix + "/") for prefix in self._exclude)
