# Of a package that ships no types: what test_compatibility.py uses.
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

class CSRFProtectMiddleware:
    def __init__(self, app: ASGIApp, *, csrf_secret: str) -> None: ...
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

def csrf_protect(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]: ...
def csrf_token(request: Request) -> str: ...
