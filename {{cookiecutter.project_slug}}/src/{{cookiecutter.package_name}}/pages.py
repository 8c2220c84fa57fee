"""The example pages: delete them, ``templates/`` and ``static/`` when you begin your own."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates

from .sessions import Session

MAX_NAME = 80  # characters


def open_templates(*, reload: bool) -> Jinja2Templates:
    """The HTML templates; with ``reload``, a change to one shows without a restart."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    return Jinja2Templates(env=Environment(loader=loader, autoescape=True, auto_reload=reload))


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
        headers={"Cache-Control": "no-store"},  # or the Back button shows it after a sign-out
    )


async def remember_name(request: Request) -> Response:
    if name := await _submitted_name(request):
        request.session["name"] = name
    return _back_home()


async def sign_in(request: Request) -> Response:
    """What your own sign-in has to do, once it has checked the password."""
    if name := await _submitted_name(request):
        session = Session.of(request)
        if session.owner not in (None, name):
            session.flush()  # nothing of one user's is left for the next
        session.rotate_id()
        session.owner = name
    return _back_home()


async def sign_out(request: Request) -> Response:
    Session.of(request).flush()
    return _back_home()


routes = [
    Route("/", home),
    Route("/name", remember_name, methods=["POST"]),
    Route("/sign-in", sign_in, methods=["POST"]),
    Route("/sign-out", sign_out, methods=["POST"]),
]


async def _submitted_name(request: Request) -> str:
    async with request.form() as form:
        name = form.get("name")
        return name.strip()[:MAX_NAME] if isinstance(name, str) else ""


def _back_home() -> Response:
    return RedirectResponse("/", status_code=303)
