"""Baking projects, and running their own tools on them."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import pytest
from pytest_cookies.plugin import Cookies
from serversessions.testing import servers

TEMPLATE = Path(__file__).parent.parent
SETTINGS: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text())
CHOICES = {
    question: choices
    for question, choices in SETTINGS.items()
    if isinstance(choices, list) and not question.startswith("_")
}
# Every combination that cookiecutter.json allows.
COMBINATIONS = [dict(zip(CHOICES, answers, strict=True)) for answers in product(*CHOICES.values())]
# What no choice covers: the database's second engine, and an environment that is not for debugging.
VARIANTS = [
    {"session_store": "database", "_database_url": "postgresql://localhost/app"},
    *({"session_store": store, "environment": "prod"} for store in CHOICES["session_store"]),
]
# Each kind of store: its engines differ, whatever the question calls them.
KINDS = {
    "memory": {"session_store": "memory"},
    "file": {"session_store": "file"},
    "cache": {"session_store": "cache"},
    "sqlite": {"session_store": "database"},
    "postgresql": {"session_store": "database", "_database_url": "postgresql://localhost/app"},
}
# The same store on more than one server.
GROUPS = {
    "sentinel": {"session_store": "cache", "_cache_uri": "redis+sentinel://localhost/app"},
    "cluster": {"session_store": "cache", "_cache_uri": "redis+cluster://localhost"},
}
SHARED = [kind for kind in KINDS if kind != "memory"]  # by several workers
PYTHON = sys.executable
ENGINE = TEMPLATE / "engine"

Bake = Callable[..., Path]


def named(answers: dict[str, str]) -> str:
    """A combination's name in a test's."""
    return "-".join(answers.values()).split(":")[0]


@pytest.fixture
def bake(cookies: Cookies) -> Bake:
    """Generate a project; its folder."""
    return baking(cookies)


@pytest.fixture(scope="session")
def born(cookies_session: Cookies) -> Bake:
    """A project as it is generated, once for all tests that only read it; its folder."""
    bake = baking(cookies_session)
    made: dict[str, Path] = {}

    def born(**answers: str) -> Path:
        name = json.dumps(answers, sort_keys=True)
        if name not in made:
            made[name] = bake(**answers)
        return made[name]

    return born


def baking(cookies: Cookies) -> Bake:
    def bake(**answers: str) -> Path:
        result = cookies.bake(extra_context=answers)
        assert result.exception is None, result.exception
        path: Path = result.project_path
        return path

    return bake


@pytest.fixture
def own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the project that a benchmark imports."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_app"]:
        del sys.modules[name]


def project_on(bake: Bake, kinds: dict[str, dict[str, str]]) -> Path:
    """A project with an environment for each of these, so that its tests run on all of them."""
    project = bake(**next(iter(kinds.values())))
    for kind, answers in kinds.items():
        folder = bake(**answers, environment=kind) / "config"
        shutil.copy(folder / f"{kind}.toml", project / "config")
    return project


@pytest.fixture
def project(bake: Bake, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A project whose sessions live in ``request.param``, with the server that this needs."""
    answers = dict(KINDS[request.param])
    with ExitStack() as stack:
        if request.param == "cache":
            answers["_cache_uri"] = stack.enter_context(servers.valkey())
        elif request.param == "postgresql":
            answers["_database_url"] = stack.enter_context(servers.postgresql())
        yield bake(**answers)


@contextmanager
def serving(
    project: Path, *options: str, stop: signal.Signals = signal.SIGTERM
) -> Iterator[httpx2.Client]:
    """The project's app, run by its own command; a client of it."""
    with started(project, *options, stop=stop) as (client, _):
        yield client


@contextmanager
def started(
    project: Path, *options: str, stop: signal.Signals = signal.SIGTERM
) -> Iterator[tuple[httpx2.Client, int]]:
    """The same, and the process's number."""
    port = servers.free_port()
    command = [PYTHON, "-m", "my_app", "run", "--port", str(port), *options]
    environment = {"PYTHONPATH": str(project / "src"), "PATH": ""}
    with (
        servers.running(command, port, stop, cwd=project, env=environment) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True) as client,
    ):
        yield client, process.pid


def asked_alone(client: httpx2.Client, app: int) -> Iterator[httpx2.Client]:
    """The same visitor before each of the app's workers, while the others are stopped."""
    workers = workers_of(app)
    assert len(workers) > 1
    for one in workers:
        others = [pid for pid in workers if pid != one]
        _stop(others)
        # Whoever has not started yet takes his time.
        with httpx2.Client(base_url=client.base_url, cookies=client.cookies, timeout=60) as same:
            yield same
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def _stop(processes: list[int]) -> None:
    """Stop processes at a moment when none of them holds a file's lock, which others wait for."""
    while True:
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        while any(_state_of(pid) != "T" for pid in processes):
            time.sleep(0.001)
        locks = Path("/proc/locks").read_text()
        if not any(f" WRITE {pid} " in locks for pid in processes):
            return
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def workers_of(app: int) -> list[int]:
    """The processes of an app that answer requests."""
    children = Path(f"/proc/{app}/task/{app}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in _command_of(pid)]


def _command_of(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


def run(folder: Path, *command: str, status: int = 0, **variables: str) -> str:
    """Run a command in a generated project, as its user would; what it printed."""
    ours = {name for name in os.environ if name.startswith(("PYTEST_", "MY_APP", "COV_"))}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment | {"PYTHONPATH": str(folder / "src")} | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def run_tests(
    project: Path,
    *arguments: str,
    summary: str = r"\d+ passed(, \d+ deselected)?",
    python: str = PYTHON,
) -> str:
    """What a project's tests print, all of which must have passed, with none skipped."""
    # Of pytest's plugins, those that a project installs: the others take two seconds a run.
    plugins = ("-p", "no:cacheprovider", "-p", "anyio")
    command = (python, "-m", "pytest", *plugins, *arguments)
    printed = run(project, *command, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert re.search(rf"^=+ {summary} in ", printed, re.MULTILINE), printed
    return printed


def check_types(project: Path, stubs: Path | str = "") -> None:
    """Run its mypy, which reads the packages once for all projects: so these take turns."""
    cache = TEMPLATE / ".mypy_cache" / "generated"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        run(project, PYTHON, "-m", "mypy", "--cache-dir", str(cache), MYPYPATH=str(stubs))


def need(program: str) -> None:
    """Go on only where a program is that no wheel ships."""
    if shutil.which(program) is None:
        do_without(f"no {program} on the PATH: apt-get install {program}")


def do_without(missing: str) -> NoReturn:
    """Skip a test on a machine that can't run it: ``make test`` needs no root, who could mend that.

    The gate sets ``CI``. There nobody reads what was skipped, so the test fails.
    """
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def read(folder: Path) -> dict[str, str]:
    """Every file of a project as text, by its path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def dockerfile(project: Path) -> dict[str, list[str]]:
    """The arguments of a project's Dockerfile, by instruction."""
    steps: dict[str, list[str]] = {}
    for line in (project / "Dockerfile").read_text().replace("\\\n", "").splitlines():
        if line and not line.startswith("#"):
            instruction, arguments = line.split(maxsplit=1)
            steps.setdefault(instruction, []).append(arguments)
    return steps
