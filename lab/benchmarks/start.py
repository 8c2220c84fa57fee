"""Before the first request: generating a project, and starting its app."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from serversessions.testing import servers

from .. import REPOSITORY
from ..projects import PACKAGE, bake
from .backends import open_backend
from .measure import Spread
from .rows import Row
from .targets import target_of

BAKE = "start bake of the default answers"
FIRST_ANSWER = "start first answer"
ON_DATABASES = {store: f"{FIRST_ANSWER} on {store}" for store in ("sqlite", "postgresql")}
FIRST_ANSWERS = (FIRST_ANSWER, *ON_DATABASES.values())
MEMORY = Path("/dev/shm")
BARE = """\
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("ok"))])
"""


def measure_bake(folder: Path, rounds: int) -> Row:
    """Milliseconds of a bake into memory, beside one onto a disk and that of one empty file.

    What a disk adds is its own, and changes with what else it does. (Where no folder is in memory,
    both are the disk's.)
    """
    empty = folder / "empty template" / "{{ cookiecutter.project_slug }}"
    empty.mkdir(parents=True)
    (empty / "empty").touch()
    (empty.parent / "cookiecutter.json").write_text('{"project_slug": "my-app"}')
    memory = MEMORY if MEMORY.is_dir() else folder
    sys.dont_write_bytecode = False  # users keep that of the template's extension, too
    bakes = {
        "ours": (REPOSITORY, memory),
        "ours, onto a disk": (REPOSITORY, folder),
        "an empty template": (empty.parent, memory),
    }
    times: dict[str, list[float]] = {name: [] for name in bakes}
    for number in range(rounds + 1):
        for name, (template, parent) in bakes.items():
            with tempfile.TemporaryDirectory(dir=parent) as target:
                start = time.perf_counter()
                bake(Path(target), template)
                if number > 0:  # the first one imports
                    times[name].append((time.perf_counter() - start) * 1000)
    cells: dict[str, Spread | str] = {name: Spread.of(each) for name, each in times.items()}
    return Row(BAKE, "ms", target_of(BAKE), cells)


def measure_first_answers(folder: Path, rounds: int) -> Iterator[Row]:
    """From the start of uvicorn to the whole first answer of a generated app.

    In memory over that of a bare app; on a database in milliseconds more than in memory.
    """
    (folder / "bare.py").write_text(BARE)
    project = bake(folder)
    with open_backend("postgresql", folder) as server:
        _configure(project, "memory")
        _configure(project, "sqlite", f"sqlite:///{folder}/first-answer.db")
        _configure(project, "postgresql", server.url)
        app = (f"{PACKAGE}.app:create_app", "--factory")
        found: dict[str, list[float]] = {"bare": [], "memory": [], "sqlite": [], "postgresql": []}
        for _ in range(rounds + 1):
            found["bare"].append(_first_answer(folder, "bare:app"))
            for store in ("memory", *ON_DATABASES):
                found[store].append(_first_answer(project, *app, env=store))
    # The first round wrote the bytecode.
    bare, memory, *databases = (seconds[1:] for seconds in found.values())
    ratios = [ours / base for ours, base in zip(memory, bare, strict=True)]
    yield Row(FIRST_ANSWER, "x", target_of(FIRST_ANSWER), {"ours": Spread.of(ratios)})
    for name, seconds in zip(ON_DATABASES.values(), databases, strict=True):
        more = [(ours - base) * 1000 for ours, base in zip(seconds, memory, strict=True)]
        yield Row(name, "ms more than in memory", target_of(name), {"ours": Spread.of(more)})


def _configure(project: Path, store: str, url: str = "") -> None:
    """An environment that is not for debugging, in which the app would migrate at its start."""
    toml = f'[middlewares.session.store]\ntype = "{"database" if url else store}"\n'
    toml += f'[database]\nurl = "{url}"\n' if url else ""
    (project / "config" / f"{store}.toml").write_text(toml)
    if url:
        command = [sys.executable, "-m", PACKAGE, "migrate", "--env", store]
        subprocess.run(
            command, cwd=project, env=_variables(project), stdout=subprocess.DEVNULL, check=True
        )


def _variables(project: Path, env: str = "") -> dict[str, str]:
    found = os.environ | {"PYTHONPATH": os.pathsep.join([str(project), str(project / "src")])}
    return found | {f"{PACKAGE.upper()}_ENV": env} if env else found


def _first_answer(project: Path, *app: str, env: str = "") -> float:
    port = servers.free_port()
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *app, "--port", str(port), "--log-level", "critical"],
        cwd=project,
        env=_variables(project, env),
    )
    try:
        _wait_for_answer(port, process)
        return time.perf_counter() - start
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _wait_for_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(
                    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
                    raise RuntimeError("the first answer is not 200")
                return
        except ConnectionRefusedError:
            time.sleep(0.001)
    raise RuntimeError(f"{process.args!r} ended")
