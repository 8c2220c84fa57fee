"""SessionMiddleware: gives every request its session, and every response the session's cookie."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .cookie import SessionCookie
from .events import log_event
from .expiry import Expiry
from .manager import SessionManager
from .session import Session, SessionClosed, UnusableSession
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
        keep_user_agent: bool = True,
        exclude: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._app = as_function(app)
        self._cookie = SessionCookie(name, path, domain, secure, http_only, same_site, partitioned)
        self._sessions = SessionManager(
            store,
            expiry=Expiry(expiry, max_lifetime, always_save),
            max_size=max_size,
            clock=clock,
        )
        self._keep_user_agent = keep_user_agent
        self._new_session = self._sessions.new_session
        self._exclude = tuple(f"{prefix.rstrip('/')}/" for prefix in exclude)
        self._excluded = UnusableSession(
            SessionError("this path has no session: `exclude` names it")
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._exclude and self._is_excluded(scope):
            scope["session"] = self._excluded
            await self._app(scope, receive, send)
            return

        # By local names, since Python 3.11 is slow to call what an instance has for an attribute.
        app, new_session = self._app, self._new_session
        session = None
        for name, value in scope["headers"]:
            if name == b"cookie" and (session_id := self._cookie.read(value)):
                session = await self._sessions.load(session_id)
                break
        if session is None:
            session = new_session()
            session._id = session._key = session._record = None
        session._started, session.accessed = None, False
        scope["session"] = session

        # No coroutine of its own: only a save has to wait for something. And no closure, since a
        # default is made several times faster than a cell.
        def send_with_session(
            message: Message,
            self: SessionMiddleware = self,
            scope: Scope = scope,
            send: Send = send,
            session: Session = session,
        ) -> Awaitable[None]:
            if session._started is None and message["type"] in _STARTS:
                if session.accessed or session._record is not None:
                    return self._start(scope, session, message, send)
                session._started = message["type"]
            return send(message)

        try:
            await app(scope, receive, send_with_session)
        except Exception as error:  # the app may have raised another one because of ours
            reason = _why_unavailable(error) or session._failure
            if reason is None or session._started is not None:
                raise
            log_event("session.store_unavailable", level=logging.ERROR, reason=reason)
            await _answer_unavailable(scope, receive, send)
            return
        if session.accessed and (lost := self._sessions.find_unsaved(session)):
            if session._is_closed:
                raise SessionClosed.by(lost)
            logger.warning("Lost what changed without `await session.save()`: %s", lost)

    def _start(
        self, scope: Scope, session: Session, message: Message, send: Send
    ) -> Awaitable[None]:
        if message.get("status", 200) >= 500:
            session._lost = True
        elif not self._sessions.is_saved(session):
            return self._save_and_send(scope, session, message, send)
        self._seal(session, message)
        return send(message)

    async def _save_and_send(
        self, scope: Scope, session: Session, message: Message, send: Send
    ) -> None:
        try:
            is_sign_in = session._owner is not None and session._has_new_owner
            await self._sessions.save(session, self._user_agent(scope) if is_sign_in else None)
        except StoreUnavailable as error:
            session._failure = str(error)
            raise
        self._seal(session, message)
        await send(message)

    def _seal(self, session: Session, message: Message) -> None:
        """Add to the response's headers what follows from the session, which is final now."""
        session._started = message["type"]
        if not session.accessed and session._cookie is None:
            return
        headers = list(message.get("headers", ()))  # of a response that may be sent to others too
        _vary_by_cookie(headers)  # what renews a cookie, too, is this visitor's alone
        if session._cookie == "set" and session._id is not None:
            cookie = self._cookie.set(session._id, self._sessions.max_age(session))
            headers.append((b"set-cookie", cookie.encode("latin-1")))
        elif session._cookie == "remove":
            headers.append((b"set-cookie", self._cookie.remove().encode("latin-1")))
        message["headers"] = headers

    def _user_agent(self, scope: Scope) -> str | None:
        """What the browser calls itself."""
        return Headers(scope=scope).get("user-agent") if self._keep_user_agent else None

    def _is_excluded(self, scope: Scope) -> bool:
        path, root = scope["path"], scope.get("root_path", "").rstrip("/")
        if path.startswith(f"{root}/"):
            path = path[len(root) :]
        return f"{path}/".startswith(self._exclude)


def as_function(app: Any) -> ASGIApp:
    """What does the same as an object that can be called, without Python's detour to call that."""
    call: ASGIApp = app.__call__
    return call


def _vary_by_cookie(headers: list[tuple[bytes, bytes]]) -> None:
    """Tell caches so (RFC 9110 12.5.5)."""
    for name, _ in headers:
        if name == b"vary":
            MutableHeaders(raw=headers).add_vary_header("Cookie")
            return
    headers.append((b"vary", b"Cookie"))


def _why_unavailable(error: Exception) -> str | None:
    """What a store has raised, and nothing else has: in task groups, perhaps."""
    while isinstance(error, ExceptionGroup) and error.split(StoreUnavailable)[1] is None:
        error = error.exceptions[0]
    return str(error) if isinstance(error, StoreUnavailable) else None


async def _answer_unavailable(scope: Scope, receive: Receive, send: Send) -> None:
    """Ask the visitor to come back (RFC 9110 15.6.4, RFC 6455 7.4.1)."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1013, "reason": "try again later"})
        return
    text = "Sessions are unavailable for the moment. Please try again.\n"
    await PlainTextResponse(text, 503, {"Retry-After": "5"})(scope, receive, send)
