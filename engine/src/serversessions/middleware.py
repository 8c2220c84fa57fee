"""SessionMiddleware: gives every request its session, and every response the session's cookie."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .caching import keep_private, vary_by_cookie
from .cookie import SameSite, SessionCookie
from .events import log_event
from .expiry import Expiry
from .manager import NOTHING, SessionManager
from .session import Session
from .sockets import Watch
from .state import FAILED, SessionClosed
from .store import SessionError, SessionStore, StoreUnavailable
from .unusable import UnusableSession

logger = logging.getLogger(__name__)

_STARTS = {"http.response.start", "websocket.accept", "websocket.http.response.start"}


class SessionMiddleware:
    """Puts a server-side ``Session`` into ``scope["session"]``, in place of Starlette's own.

    It serves a whole app, a ``Mount`` or a single ``Route``. Where it is not, there is no session
    and no cost. ``Sessions.middleware`` has its options from the configuration.

    ``store``: any ``SessionStore``.
    ``name``, ``path``, ``domain``, ``secure``, ``http_only``, ``same_site``, ``partitioned``: the
    cookie and its attributes (RFC 6265bis). ``same_site="strict"`` hides it from links on other
    sites, too.
    ``expiry``: "session" (until the browser closes; the server forgets after two weeks), a time of
    inactivity, or a date with an offset (ASVS 5, 7.3.1). ``Session.set_expiry`` wins over it.
    ``max_lifetime``: the absolute limit, from the sign-in or, without one, from the beginning
    (ASVS 5, 7.3.2).
    ``always_save``: renew the session with each request, not only when a twentieth of its time has
    passed.
    ``max_size``: of one session's data, in bytes of JSON.
    ``keep_user_agent``: note which browser a user signs in with, for ``Session.list_owned``.
    ``exclude``: path prefixes that never load a session, such as "/static".
    ``recheck``: how often an open WebSocket looks whether its session has ended, by one load. It is
    closed then. None: never.
    ``clock``: gives Unix time in seconds.
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
        same_site: SameSite = "lax",
        partitioned: bool = False,
        always_save: bool = False,
        expiry: Literal["session"] | timedelta | datetime = "session",
        max_lifetime: timedelta | None = None,
        max_size: int = 65536,
        keep_user_agent: bool = True,
        exclude: Sequence[str] = (),
        recheck: timedelta | None = timedelta(seconds=30),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._cookie = SessionCookie(name, path, domain, secure, http_only, same_site, partitioned)
        self._sessions = SessionManager(
            store,
            expiry=Expiry(expiry, max_lifetime, always_save),
            max_size=max_size,
            clock=clock,
        )
        self._keep_user_agent = keep_user_agent
        self._recheck = recheck
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

        ids: list[str] = []
        for name, value in scope["headers"]:
            if name == b"cookie":
                ids += self._cookie.read(value)
        try:
            data, stored, lost = await self._sessions.load(ids) if ids else NOTHING
            headers = scope["headers"] if self._keep_user_agent else ()
            session = Session(data, self._sessions, stored, headers)
            if lost is not None:
                session._lose(lost)
        except StoreUnavailable as error:
            session = UnusableSession(error.with_traceback(None))
        scope["session"] = session
        watch = None
        if scope["type"] == "websocket" and session._stored is not None and self._recheck:
            seconds = self._recheck.total_seconds()
            watch = Watch(lambda: self._sessions.is_live(session), seconds, send)
            send = watch.send

        # No coroutine of its own: only a save has to wait for something.
        def send_with_session(message: Message) -> Awaitable[None]:
            if session._started is None and message["type"] in _STARTS:
                if watch is not None and message["type"] == "websocket.accept":
                    watch.start()
                if session.accessed or session._stored is not None:
                    return self._start(session, message, send)
                session._start(message["type"])
            return send(message)

        try:
            await self._app(scope, receive, send_with_session)
        except Exception as error:  # the app may have raised another one because of ours
            reason = _why_unavailable(error) or session._failure
            if reason is None or session._started is not None:
                raise
            log_event("session.store_unavailable", level=logging.ERROR, reason=reason)
            await _answer_unavailable(scope, receive, send)
            return
        finally:
            if watch is not None:
                watch.stop()
        if session.accessed and (unsaved := self._sessions.find_unsaved(session)):
            if session._is_closed:
                raise SessionClosed.by(unsaved)
            logger.warning("Lost what changed without `await session.save()`: %s", unsaved)

    def _start(self, session: Session, message: Message, send: Send) -> Awaitable[None]:
        if message.get("status", 200) >= 500:
            session._lose(FAILED)
        elif not self._sessions.is_saved(session):
            return self._save_and_send(session, message, send)
        self._finish(session, message)
        return send(message)

    async def _save_and_send(self, session: Session, message: Message, send: Send) -> None:
        try:
            await self._sessions.save(session)
        except StoreUnavailable as error:
            session._fail(str(error))
            raise
        self._finish(session, message)
        await send(message)

    def _finish(self, session: Session, message: Message) -> None:
        """Add to the response's headers what follows from the session, which is final now."""
        session._start(message["type"])
        if not session.accessed and session._cookie is None:
            return
        headers = list(message.get("headers", ()))  # of a response that may be sent to others too
        vary_by_cookie(headers)  # what renews a cookie, too, is this visitor's alone
        if session._cookie is not None and (cookie := self._write_cookie(session)):
            keep_private(headers)
            headers.append((b"set-cookie", cookie.encode("latin-1")))
        message["headers"] = headers

    def _write_cookie(self, session: Session) -> str | None:
        """The value of Set-Cookie, if the browser has to hear of anything."""
        if session._cookie == "set" and session._stored is not None:
            max_age = self._sessions.max_age(session._stored)
            return self._cookie.set(session._stored.id, max_age)
        return self._cookie.remove() if session._cookie == "remove" else None

    def _is_excluded(self, scope: Scope) -> bool:
        path, root = scope["path"], scope.get("root_path", "").rstrip("/")
        if path.startswith(f"{root}/"):
            path = path[len(root) :]
        return f"{path}/".startswith(self._exclude)


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
