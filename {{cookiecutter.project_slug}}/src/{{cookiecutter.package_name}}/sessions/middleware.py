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
from .session import CookieChange, Session, SessionClosed
from .store import SessionError, SessionStore, StoreUnavailable

logger = logging.getLogger(__name__)

_STARTS = {"http.response.start", "websocket.accept", "websocket.http.response.start"}


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._exclude and self._is_excluded(scope):
            reason = SessionError("this path has no session: `exclude` names it")
            scope["session"] = Session.unusable(self._sessions, reason)
            await self._app(scope, receive, send)
            return

        session = await self._sessions.load(self._cookie.read(scope["headers"]))
        scope["session"] = session

        unavailable: StoreUnavailable | None = None

        async def send_with_session(message: Message) -> None:
            nonlocal unavailable
            if message["type"] in _STARTS and not session._cookie_sent:
                try:
                    await self._start(session, message)
                except StoreUnavailable as error:
                    unavailable = error
                    raise
            await send(message)

        try:
            await self._app(scope, receive, send_with_session)
        except Exception as error:  # the app may have raised another one because of ours
            unavailable = error if isinstance(error, StoreUnavailable) else unavailable
            if unavailable is None or session._cookie_sent:
                raise
            logger.error("Session store unavailable: %s", unavailable)
            await _answer_unavailable(scope, receive, send)
            return
        finally:
            unavailable = None  # its traceback holds this frame: leave no cycle behind
        if lost := self._sessions.find_unsaved(session):
            if session._closed:
                raise SessionClosed.by(lost)
            logger.warning("Lost what changed without `await session.save()`: %s", lost)

    async def _start(self, session: Session, message: Message) -> None:
        """Save the session, and add to the response's headers what follows from it."""
        if message.get("status", 200) < 500:
            await self._sessions.save(session)
        else:
            session._lost = True
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
        path, root = scope["path"], scope.get("root_path", "").rstrip("/")
        if path.startswith(f"{root}/"):
            path = path[len(root) :]
        return any(path == prefix or path.startswith(f"{prefix}/") for prefix in self._exclude)


async def _answer_unavailable(scope: Scope, receive: Receive, send: Send) -> None:
    """Ask the visitor to come back (RFC 9110 15.6.4, RFC 6455 7.4.1)."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1013, "reason": "try again later"})
        return
    text = "Sessions are unavailable for the moment. Please try again.\n"
    await PlainTextResponse(text, 503, {"Retry-After": "5"})(scope, receive, send)
