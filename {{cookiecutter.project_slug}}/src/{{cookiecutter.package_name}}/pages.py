"""The example pages: delete them, ``templates/`` and ``static/`` when you begin your own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates

from .sessions import Session

MAX_FIELD = 80  # characters of a submitted text
MAX_DEVICES = 1000  # are read at most
SHOWN_DEVICES = 50  # until all are asked for

# By what browsers send. Most claim to be others as well: the first one found is right.
BROWSERS = {
    "Edg": "Edge",
    "OPR/": "Opera",
    "SamsungBrowser/": "Samsung Internet",
    "Firefox/": "Firefox",
    "FxiOS/": "Firefox",
    "Chrome/": "Chrome",
    "CriOS/": "Chrome",
    "Safari/": "Safari",
}
PLATFORMS = {
    "Android": "Android",
    "iPhone": "iPhone",
    "iPad": "iPad",
    "CrOS": "ChromeOS",
    "Windows": "Windows",
    "Macintosh": "macOS",
    "Linux": "Linux",
}

# Private: or the Back button shows it after a sign-out. Unframed: or another site may lay its own
# page over a button.
PRIVATE = {"Cache-Control": "no-store", "Content-Security-Policy": "frame-ancestors 'none'"}

Handler = Callable[[Request], Awaitable[Response]]


def open_templates(*, reload: bool) -> Jinja2Templates:
    """The HTML templates; with ``reload``, a change to one shows without a restart."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    return Jinja2Templates(env=Environment(loader=loader, autoescape=True, auto_reload=reload))


def is_from_elsewhere(headers: Headers) -> bool:
    """Whether a browser says that a page of another origin sent this request.

    Other clients say nothing, and have no visitor's cookie to abuse (OWASP CSRF Prevention Cheat
    Sheet, "Fetch Metadata", with its fallback for browsers before 2023 and sites without TLS).
    """
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def own_forms_only(handler: Handler) -> Handler:
    """Refuse what the form of another site sent (CSRF), whatever ``same_site`` is."""

    @wraps(handler)
    async def guarded(request: Request) -> Response:
        if is_from_elsewhere(request.headers):
            return PlainTextResponse("Refused: another site sent this form.\n", 403)
        return await handler(request)

    return guarded


async def home(request: Request) -> Response:
    """What the session knows. Nothing is stored before there is a name or an owner."""
    session = Session.of(request)
    if not session.is_new:
        session["visits"] = session.get("visits", 0) + 1
    templates: Jinja2Templates = request.app.state.templates
    return templates.TemplateResponse(
        request,
        "home.html",
        {"session": session, "store": request.app.state.session_store},
        headers=PRIVATE,
    )


@own_forms_only
async def remember_name(request: Request) -> Response:
    if name := await _read_field(request, "name"):
        request.session["name"] = name
    return _go_to("/")


@own_forms_only
async def sign_in(request: Request) -> Response:
    """What your own sign-in has to do, once it has checked the password."""
    if name := await _read_field(request, "name"):
        session = Session.of(request)
        if session.owner not in (None, name):
            session.flush()  # nothing of one user's is left for the next
        session.rotate_id()
        session.owner = name
    return _go_to("/")


@own_forms_only
async def sign_out(request: Request) -> Response:
    """And have the browser drop the pages that it keeps for the Back button (ASVS 5, 14.3.1)."""
    Session.of(request).flush()
    response = _go_to("/")
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


async def devices(request: Request) -> Response:
    """Where the user is signed in: this session, and the others by when they were last seen."""
    session = Session.of(request)
    if session.owner is None:
        return _go_to("/")
    found = await session.list_owned(limit=MAX_DEVICES)
    others = [each for each in found if not each.is_current]
    others.sort(key=lambda device: device.last_seen_at, reverse=True)
    templates: Jinja2Templates = request.app.state.templates
    return templates.TemplateResponse(
        request,
        "devices.html",
        {
            "owner": session.owner,
            "current": next((each for each in found if each.is_current), None),
            "others": others,
            "shown": others if "all" in request.query_params else others[:SHOWN_DEVICES],
            "has_more": len(found) == MAX_DEVICES,
            "signed_out": session.pop("signed_out", None),
            "browser_name": browser_name,
        },
        headers=PRIVATE,
    )


@own_forms_only
async def sign_out_device(request: Request) -> Response:
    session = Session.of(request)
    if session.owner is not None:
        key = await _read_field(request, "key")
        session["signed_out"] = await session.delete_owned(key)
    return _go_to("/devices")


@own_forms_only
async def sign_out_others(request: Request) -> Response:
    session = Session.of(request)
    if session.owner is not None:
        session["signed_out"] = await session.delete_others()
    return _go_to("/devices")


def browser_name(user_agent: str | None) -> str:
    """A browser and its platform, such as "Firefox on Linux", or else what it calls itself."""
    sent = "".join(filter(str.isprintable, user_agent or "")).strip()
    browser, platform = (
        next((name for mark, name in names.items() if mark in sent), "")
        for names in (BROWSERS, PLATFORMS)
    )
    return f"{browser} on {platform}" if browser and platform else sent or "Unknown browser"


routes = [
    Route("/", home),
    Route("/name", remember_name, methods=["POST"]),
    Route("/sign-in", sign_in, methods=["POST"]),
    Route("/sign-out", sign_out, methods=["POST"]),
    Route("/devices", devices),
    Route("/devices/sign-out", sign_out_device, methods=["POST"]),
    Route("/devices/sign-out-others", sign_out_others, methods=["POST"]),
]


async def _read_field(request: Request, name: str) -> str:
    """A text of the submitted form; "" if there is none."""
    async with request.form() as form:
        text = form.get(name)
        return text.strip()[:MAX_FIELD] if isinstance(text, str) else ""


def _go_to(path: str) -> Response:
    return RedirectResponse(path, status_code=303)
