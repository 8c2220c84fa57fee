"""The generated project, baked from the template and driven by its public contract alone."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from cookiecutter.main import cookiecutter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from .place import Place
from .workloads import routes

PACKAGE = "my_app"  # the template's default answer


def bake(template: Path, folder: Path) -> Path:
    """Generate a project of the default answers below ``folder``, in silence; its folder."""
    config = folder / "cookiecutter.yaml"
    config.write_text(
        f"cookiecutters_dir: {json.dumps(str(folder / 'templates'))}\n"
        f"replay_dir: {json.dumps(str(folder / 'replay'))}\n"
    )
    with redirect_stdout(None):
        baked: str = cookiecutter(
            str(template), no_input=True, output_dir=str(folder), config_file=str(config)
        )
    return Path(baked)


def ours(place: Place) -> ASGIApp:
    """The generated app on this store, with the workloads' routes in front of its pages."""
    toml = to_toml(place)
    if place.store in ("sqlite", "postgresql"):
        migrate(place.project, toml)
    app = create_app(place.project, toml)
    app.router.routes[:0] = routes(login=_login)
    return app


def create_app(project: Path, toml: str, **options: Any) -> Starlette:
    """``create_app`` of the project's own, for a configuration."""
    if str(project / "src") not in sys.path:
        sys.path.insert(0, str(project / "src"))
    config = importlib.import_module(f"{PACKAGE}.config").ProjectConfig.from_toml(toml)
    app: Starlette = importlib.import_module(f"{PACKAGE}.app").create_app(config, **options)
    return app


def to_toml(place: Place) -> str:
    """The environment's configuration: the store, and else the defaults."""
    kind = place.store if place.store in ("memory", "file", "cache") else "database"
    store = f'[middlewares.session.store]\ntype = "{kind}"\n'
    match kind:
        case "file":
            return f"{store}path = {json.dumps(str(place.folder / 'sessions'))}\n"
        case "cache":
            return f"{store}uri = {json.dumps(place.url)}\n"
        case "database":
            return f"{store}[database]\nurl = {json.dumps(place.url)}\n"
    return store


async def _login(request: Request) -> Response:
    session: Any = request.session
    session["user"] = session["user"]
    session.owner = session["user"]
    session.rotate_id()
    return PlainTextResponse("ok")


def migrate(project: Path, toml: str) -> None:
    (project / "config" / "benchmark.toml").write_text(toml)
    subprocess.run(
        [sys.executable, "-m", PACKAGE, "migrate", "--env", "benchmark"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project / "src")},
        stdout=subprocess.DEVNULL,
        check=True,
    )
