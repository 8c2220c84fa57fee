"""The engine's hard tests, on every store: see engine/README.md."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .conftest import PYTHON, TEMPLATE, check_types, need, run, run_tests

ENGINE = TEMPLATE / "tests" / "engine"
PROGRAMS = {"test_pgbouncer.py": ["pgbouncer"], "test_tls.py": ["openssl", "redis-server"]}
FILES = sorted(file.name for file in ENGINE.glob("test_*.py"))


@pytest.fixture
def project(project_on_all_stores: Path) -> Path:
    """A project on all stores, with these tests among its own."""
    for file in FILES:
        shutil.copy(ENGINE / file, project_on_all_stores / "tests")
    return project_on_all_stores


@pytest.mark.parametrize("file", FILES)
def test_the_engine_holds(project: Path, file: str) -> None:
    for program in PROGRAMS.get(file, ()):
        need(program)
    run_tests(project, f"tests/{file}")


def test_these_tests_are_as_clean_as_the_project(project: Path) -> None:
    run(project, PYTHON, "-m", "ruff", "check", "--no-cache")
    run(project, PYTHON, "-m", "ruff", "format", "--check", "--no-cache")
    check_types(project, ENGINE / "stubs")
