"""The example pages: delete them, ``templates/`` and ``static/`` when you begin your own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, pass_context
from jinja2.runtime import Context
from serversessions import Session
from serversessions.stores import describe
from starlette.authentication import requires
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates

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

# Not kept: or the Back button shows it after a sign-out.
PRIVATE = {"Cache-Control": "no-store"}


def open_templates(*, reload: bool) -> Jinja2Templates:
    """The HTML templates; with ``reload``, a change to one shows without a restart."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, auto_reload=reload)
    environment.globals["url_for"] = _url_for
    return Jinja2Templates(env=environment)


def url_for(request: Request, name: str, **parameters: Any) -> str:
    """The path of a route, below the prefix at which a proxy or another app has this one.

    Starlette's own begins with whatever the request's ``Host`` says, and knows no route of an app
    that is mounted in another.
    """
    return f"{request.scope['root_path']}{request.app.url_path_for(name, **parameters)}"


@pass_context
def _url_for(context: Context, name: str, **parameters: Any) -> str:
    return url_for(context["request"], name, **parameters)


async def home(request: Request) -> Response:
    """What the session knows. Nothing is stored before there is a name or an owner."""
    session = Session.of(request)
    if not session.is_new:
        session["visits"] = session.get("visits", 0) + 1
    store = describe(request.app.state.config) if request.app.debug else None
    return _render(request, "home.html", session=session, store=store)


async def remember_name(request: Request) -> Response:
    if name := await _read_field(request, "name"):
        request.session["name"] = name
    return _go_to(request, "home")


async def sign_in(request: Request) -> Response:
    """Only for trying it out: anyone may be anyone, so it is there in debug alone.

    Yours checks a password, or has another site vouch for the user. Then one line is left to do.
    """
    if not request.app.debug:
        raise HTTPException(404)
    if name := await _read_field(request, "name"):
        Session.of(request).owner = name
    return _go_to(request, "home")


async def sign_out(request: Request) -> Response:
    """And have the browser drop the pages that it keeps for the Back button (ASVS 5, 14.3.1)."""
    Session.of(request).flush()
    response = _go_to(request, "home")
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


async def devices(request: Request) -> Response:
    """Where the user is signed in: this session, and the others by when they were last seen."""
    session = Session.of(request)
    if session.owner is None:
        return _go_to(request, "home")
    found = await session.list_owned(limit=MAX_DEVICES)
    others = [each for each in found if not each.is_current]
    others.sort(key=lambda device: device.last_seen_at, reverse=True)
    return _render(
        request,
        "devices.html",
        owner=session.owner,
        current=next((each for each in found if each.is_current), None),
        others=others,
        shown=others if "all" in request.query_params else others[:SHOWN_DEVICES],
        has_more=len(found) == MAX_DEVICES,
        signed_out=session.pop("signed_out", None),
        browser_name=browser_name,
    )


@requires("authenticated")
async def sign_out_device(request: Request) -> Response:
    session = Session.of(request)
    session["signed_out"] = await session.delete_owned(await _read_field(request, "key"))
    return _go_to(request, "devices")


@requires("authenticated")
async def sign_out_others(request: Request) -> Response:
    session = Session.of(request)
    session["signed_out"] = await session.delete_others()
    return _go_to(request, "devices")


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
    async with request.form(max_files=0, max_fields=10) as form:
        text = form.get(name)
        return text.strip()[:MAX_FIELD] if isinstance(text, str) else ""


def _render(request: Request, template: str, **context: Any) -> Response:
    templates: Jinja2Templates = request.app.state.templates
    return templates.TemplateResponse(request, template, context, headers=PRIVATE)


def _go_to(request: Request, name: str) -> Response:
    return RedirectResponse(url_for(request, name), status_code=303)
