"""Protection: no requests in a visitor's name, no endless bodies, and headers for the browser."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Collection, Iterable

from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

HEADERS: Headers = [
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
HTTPS_HEADERS: Headers = [*HEADERS, (b"strict-transport-security", b"max-age=31536000")]  # a year

_NAMES = {name for name, _ in HTTPS_HEADERS}
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}  # they change nothing: RFC 9110 9.2.1
_STARTS = {"http.response.start", "websocket.http.response.start"}
# In lower case, without a path and without the port that the scheme stands for: RFC 6454 6.2.
_ORIGIN = re.compile(
    r"(?!http:.*:80$|https:.*:443$)[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:\d+)?"
)


class Protection:
    """What every page needs and none has to think of. It goes first:

        middleware = [Middleware(Protection), sessions.middleware]

    **Other sites** can't act in a visitor's name (CSRF), whatever the cookie's ``same_site`` is. To
    their pages, a method that may change something answers 403, and a WebSocket is refused. Links
    and other GETs pass: let none of yours change anything. Clients that are no browser pass, too,
    since they hold no visitor's cookie. ``trusted_origins`` are sites whose pages may do it all the
    same, as in ``["https://app.example.com"]``; to read the answers, they need Starlette's
    ``CORSMiddleware`` as well.

    **Bodies** of more than ``max_body`` bytes get 413. A route that takes larger ones says so:
    ``Route("/upload", upload, max_body_size=100 * 1024 * 1024)``.

    **Headers**: ``HEADERS``, or ``HTTPS_HEADERS`` over HTTPS outside debug, on every response that
    does not set them itself. (What Starlette answers if the app raises passes no middleware.)
    """

    def __init__(
        self, app: ASGIApp, *, max_body: int = 1024 * 1024, trusted_origins: Collection[str] = ()
    ) -> None:
        if isinstance(max_body, bool) or not isinstance(max_body, int) or max_body < 0:
            raise ValueError(f"max_body: found {max_body!r}; allowed: a number of bytes")
        self._app = app
        self._limited = RequestBodyLimitMiddleware(app, max_body)
        self._trusted = frozenset(map(_encode_origin, trusted_origins))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        wanted = HEADERS
        if scope["scheme"] in ("https", "wss") and not getattr(scope.get("app"), "debug", False):
            wanted = HTTPS_HEADERS

        # No coroutine and no closure, since every message passes here: a default is faster.
        def send_with_headers(
            message: Message, send: Send = send, wanted: Headers = wanted
        ) -> Awaitable[None]:
            if message["type"] in _STARTS:
                message["headers"] = _with_missing(message.get("headers", ()), wanted)
            return send(message)

        headers = dict(scope["headers"])
        may_change = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        if may_change and self._is_from_elsewhere(scope, headers):
            await _refuse(scope, headers, receive, send_with_headers)
        elif _may_have_body(scope, headers):
            await self._limited(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _is_from_elsewhere(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        """Whether a browser says that a page of another origin sends this.

        OWASP's CSRF Prevention Cheat Sheet: Fetch Metadata, and where a browser sends none (before
        2023, without TLS, or for a WebSocket) the origin, compared with the host that it asked for.
        """
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        if origin in self._trusted:
            return False
        if site:
            return site not in (b"same-origin", b"none")
        if origin is None:
            return False
        scheme, _, host = origin.partition(b"://")
        is_downgrade = scheme == b"http" and scope["scheme"] in ("https", "wss")
        return is_downgrade or host != headers.get(b"host", b"").lower()


async def _refuse(scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
    origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))
    logger.warning(
        "Refused %s %.200r: a page at %.200r sent it, and this site is %.200r, as the Host header "
        "says. If that page may send it, `trusted_origins` has to name its origin",
        scope.get("method", "a WebSocket to"),
        scope["path"],
        origin,
        host,
    )
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # a policy: RFC 6455 7.4.1
        return
    response = PlainTextResponse("Refused: a page of another site sent this.\n", 403)
    await response(scope, receive, send)


def _may_have_body(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Whether a body may follow. In HTTP/1, one of two headers announces it (RFC 9112 6.3)."""
    if scope["type"] != "http":
        return False
    is_announced = b"content-length" in headers or b"transfer-encoding" in headers
    return is_announced or not scope["http_version"].startswith("1")


def _with_missing(own: Iterable[tuple[bytes, bytes]], wanted: Headers) -> Headers:
    """The response's own headers, and those that it lacks."""
    headers = list(own)  # of a response that may be sent to others, too
    for name, _ in headers:
        if name.lower() in _NAMES:
            break
    else:  # as nearly always
        headers += wanted
        return headers
    names = {name.lower() for name, _ in headers}
    if b"x-frame-options" in names:  # which a policy of ours would overrule
        names.add(b"content-security-policy")
    headers += [header for header in wanted if header[0] not in names]
    return headers


def _encode_origin(origin: str) -> bytes:
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(
            f"trusted_origins: found {origin!r}; allowed: origins as browsers send them, "
            "such as 'https://app.example.com' or 'http://localhost:5173'"
        )
    return origin.encode()
