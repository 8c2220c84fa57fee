"""A project's folder in which the sample app's command runs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from .sample.cli import main

VARIABLE = "MY_APP_ENV"
PREFIX = "MY_APP__"
TESTS = Path(__file__).parent
COMMAND = [sys.executable, "-m", "tests.sample"]
OTHERS = ["HOST", "PORT", "WEB_CONCURRENCY", "UV_RUN_RECURSION_DEPTH"]  # that the command reads
PYPROJECT = """\
[project]
name = "my-app"
[project.optional-dependencies]
cache = ["redis"]
database = ["alembic"]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project's folder without environments: the current one, free of variables for it."""
    with monkeypatch.context() as patch:
        for variable in list(os.environ):
            if variable.startswith("MY_APP_") or variable in OTHERS:
                patch.delenv(variable)
        patch.setenv("PYTHONPATH", f"{TESTS.parent / 'src'}:{TESTS.parent}:{extra_path()}")
        patch.setattr(sys, "prefix", str(tmp_path))  # as if it were not uv's
        patch.chdir(tmp_path)
        (tmp_path / "config").mkdir()
        (tmp_path / "pyproject.toml").write_text(PYPROJECT)
        shutil.copy(TESTS / "sample/environment.toml.jinja", tmp_path / "config")
        before = dict(os.environ)
        yield tmp_path
        for variable in os.environ.keys() - before.keys():  # that .env has set
            del os.environ[variable]


def extra_path() -> str:
    """Where this process finds packages that its interpreter does not."""
    return os.environ.get("PYTHONPATH", "")


def write(environment: str, text: str) -> Path:
    """Give the project an environment."""
    path = Path("config", f"{environment}.toml")
    path.write_bytes(text.encode())
    return path


def read(environment: str) -> str:
    return Path("config", f"{environment}.toml").read_bytes().decode()


def invoke(*arguments: str, answers: str = "", status: int = 0) -> Result:
    """Run the command, which must end with that status, and never with a traceback."""
    done = CliRunner().invoke(main, arguments, input=answers, prog_name="app")
    assert done.exit_code == status, (done.output, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done
