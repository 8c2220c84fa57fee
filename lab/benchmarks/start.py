"""Before the first request: baking a project, and starting its app."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .measure import Spread
from .place import servers_of
from .project import PACKAGE, bake
from .rows import Row
from .targets import target_of

BAKE = "start bake of the default answers"
FIRST_ANSWER = "start first answer"
MEMORY = Path("/dev/shm")


def measure_bake(template: Path, folder: Path, rounds: int) -> Row:
    """Milliseconds of a bake into memory, beside one onto a disk and that of one empty file.

    What a disk adds is its own, and changes with what else it does. (Where no folder is in memory,
    both are the disk's.)
    """
    empty = folder / "empty template" / "{{ cookiecutter.project_slug }}"
    empty.mkdir(parents=True)
    (empty / "empty").touch()
    (empty.parent / "cookiecutter.json").write_text('{"project_slug": "my-app"}')
    memory = MEMORY if MEMORY.is_dir() else folder
    # As users have it: the first bake keeps the bytecode of the template's extension.
    sys.dont_write_bytecode = False
    bakes = {
        "ours": (template, memory),
        "ours, onto a disk": (template, folder),
        "an empty template": (empty.parent, memory),
    }
    times: dict[str, list[float]] = {name: [] for name in bakes}
    for number in range(rounds + 1):
        for name, (source, place) in bakes.items():
            with tempfile.TemporaryDirectory(dir=place) as target:
                start = time.perf_counter()
                bake(source, Path(target))
                if number > 0:  # the first one imports
                    times[name].append((time.perf_counter() - start) * 1000)
    cells: dict[str, Spread | str] = {name: Spread.of(each) for name, each in times.items()}
    return Row(BAKE, "ms", target_of(BAKE), cells)


def measure_first_answer(project: Path, folder: Path, rounds: int) -> Row:
    """From the start of uvicorn to the whole first answer, over the same of a bare app."""
    (folder / "bare.py").write_text(
        "from starlette.applications import Starlette\n"
        "from starlette.responses import PlainTextResponse\n"
        "from starlette.routing import Route\n"
        "app = Starlette(routes=[Route('/', lambda request: PlainTextResponse('ok'))])\n"
    )
    ratios = []
    for _ in range(rounds + 1):
        bare = _first_answer(project, folder, "bare:app")
        ours = _first_answer(project, project / "src", f"{PACKAGE}.app:create_app", "--factory")
        ratios.append(ours / bare)
    # The first round wrote the bytecode.
    return Row(FIRST_ANSWER, "x", target_of(FIRST_ANSWER), {"ours": Spread.of(ratios[1:])})


def _first_answer(project: Path, source: Path, *app: str) -> float:
    port = servers_of(project).free_port()
    command = [sys.executable, "-m", "uvicorn", *app, "--port", str(port)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--log-level", "critical"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(source)},
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
