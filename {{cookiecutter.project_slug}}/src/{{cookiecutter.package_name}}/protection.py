"""Two middlewares against what other sites may try: forms in a visitor's name, and frames."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}  # RFC 9110, 9.2.1: they change nothing

# A handler that sets one of these itself has the last word.
HEADERS = {
    "Content-Security-Policy": "base-uri 'none'; frame-ancestors 'none'; object-src 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
HTTPS_ONLY = {"Strict-Transport-Security": "max-age=31536000"}  # seconds: a year


class OwnFormsOnly:
    """Refuse what a page of another origin sends (CSRF), whatever the cookie's ``same_site`` is.

    Browsers say where a request is from (OWASP CSRF Prevention Cheat Sheet, "Fetch Metadata", and
    its fallback for browsers before 2023 and sites without TLS). Other clients say nothing, and
    have no visitor's cookie to abuse. A WebSocket is refused like a form: its handshake is a GET
    that carries the cookie, and no browser keeps another site from opening it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_form = scope["type"] == "http" and scope["method"] not in SAFE_METHODS
        if (is_form or scope["type"] == "websocket") and is_from_elsewhere(Headers(scope=scope)):
            if is_form:
                refusal = PlainTextResponse("Refused: another site sent this form.\n", 403)
                await refusal(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, send)


def is_from_elsewhere(headers: Headers) -> bool:
    """Whether a browser says that a page of another origin sent this request."""
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


class SecurityHeaders:
    """Give every response the headers above."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in wanted.items():
                    headers.setdefault(name, value)
            await send(message)

        wanted = HEADERS | HTTPS_ONLY if scope.get("scheme") == "https" else HEADERS
        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)
