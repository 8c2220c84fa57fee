"""The command, as typed: what it says when something is wrong, and that it serves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from serversessions.cli import main
from serversessions.config import ENVIRONMENT_VARIABLE, OVERRIDE_PREFIX
from serversessions.testing.servers import free_port, running

COMMAND = [sys.executable, "-m", "serversessions"]
SOURCE = str(Path(__file__).parent.parent / "src")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an environment ``dev``, in which the command runs."""
    for variable in list(os.environ):
        if variable == ENVIRONMENT_VARIABLE or variable.startswith(OVERRIDE_PREFIX):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    write("dev", "debug = true\n[middlewares.session]\nsecure = false")
    return tmp_path


def write(environment: str, text: str) -> None:
    Path("config", f"{environment}.toml").write_text(text)


def refused(status: int, *arguments: str) -> str:
    """What the command says on refusing, which it must do in one message."""
    done = CliRunner().invoke(main, arguments, prog_name="app")
    assert done.exit_code == status, done.output
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    return done.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_mistake_in_toml_is_refused() -> None:
    write("dev", "debug = true\ncolour = 1")
    assert "config/dev.toml: colour: unknown key" in refused(2, "run")


def test_an_environment_without_a_file_is_refused() -> None:
    assert "Environments here: dev" in refused(2, "run", "--env", "prod")
    assert "not a plain name" in refused(2, "run", "--env", "../dev")


def test_a_port_in_use_is_refused(taken_port: int) -> None:
    said = refused(1, "run", "--port", str(taken_port))
    assert f"port {taken_port}: address already in use; stop what listens there" in said


def test_an_address_of_another_machine_is_refused() -> None:
    assert "choose other ones with --host" in refused(1, "run", "--host", "192.0.2.1")


def test_several_workers_cannot_share_memory() -> None:
    assert "can't share the memory store" in refused(2, "run", "--workers", "2")


def test_reload_runs_one_process() -> None:
    assert "--reload" in refused(2, "run", "--workers", "2", "--reload")


def test_a_migration_needs_a_database() -> None:
    assert "config/dev.toml has no [database] url" in refused(2, "migrate")


@pytest.mark.parametrize(
    ("store", "says"),
    [
        ('type = "cache"\nuri = "nosql://:s3cret@h"', "allowed schemes: "),
        ('type = "cache"\nuri = "redis://:s3cret@h:port"', "port of h: allowed: a number"),
        ('type = "cache"\nuri = "redis://u:s3cret"', "port of u: allowed: a number"),
        ('type = "cache"\nuri = "redis://:s3cret%40h:6379/0"', "host: missing"),
    ],
)
def test_a_wrong_uri_is_refused_without_its_password(store: str, says: str) -> None:
    if not _is_installed("redis"):
        says = "allowed schemes" if "nosql" in store else "pip install -e '.[cache]'"
    write("dev", f"[middlewares.session.store]\n{store}")
    said = refused(2, "run")
    assert says in said
    assert "s3cret" not in said


def test_a_wrong_uri_is_told_while_another_app_has_the_port(taken_port: int) -> None:
    write("dev", '[middlewares.session.store]\ntype = "cache"\nuri = "nosql://h"')
    assert "middlewares.session.store" in refused(2, "run", "--port", str(taken_port))


def test_a_wrong_uri_in_a_variable_is_told_by_the_variables_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variable = f"{OVERRIDE_PREFIX}MIDDLEWARES__SESSION__STORE__"
    monkeypatch.setenv(f"{variable}TYPE", "cache")
    monkeypatch.setenv(f"{variable}URI", "nosql://h")
    assert f"{variable}URI: middlewares.session.store.uri: found" in refused(2, "run")


def test_a_missing_extra_is_refused_with_its_name(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "redis.py").write_text("raise ModuleNotFoundError(name='redis')")
    monkeypatch.setenv("PYTHONPATH", f"{project}:{SOURCE}")
    write("dev", '[middlewares.session.store]\ntype = "cache"\nuri = "redis://localhost"')
    done = subprocess.run([*COMMAND, "run"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "pip install -e '.[cache]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_app_is_served_until_it_is_told_to_stop() -> None:
    port = free_port()
    with (
        running([*COMMAND, "run", "--port", port], port, signal.SIGTERM) as process,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as answer,
    ):
        assert answer.read() == b'{"status":"ok"}'
    assert process.returncode == 0


def _is_installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None
