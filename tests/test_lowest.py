"""A generated project works with the lowest versions that its pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from .conftest import KINDS, TEMPLATE, Bake, project_on, run, run_tests

PYTHON = str(TEMPLATE / ".venv-lowest" / "bin" / "python")
BOUND = re.compile(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)")


def test_the_lowest_versions_are_those_that_are_installed(bake: Bake) -> None:
    lowest = (TEMPLATE / "requirements" / "lowest.txt").read_text()
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", lowest, re.MULTILINE))
    project = tomllib.loads((bake() / "pyproject.toml").read_text())
    lists = [
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ]
    for requirement in (each for some in lists for each in some if isinstance(each, str)):
        bound = BOUND.match(requirement)
        assert bound, requirement
        name, version = bound.groups()
        assert re.fullmatch(rf"{re.escape(version)}(\.0)*", pins[name]), requirement


def test_its_tests_and_checks_pass_with_them(bake: Bake, tmp_path: Path) -> None:
    if not Path(PYTHON).exists():
        pytest.fail("make .venv-lowest/done")
    project = project_on(bake, KINDS)
    run_tests(project, python=PYTHON)
    run(project, PYTHON, "-m", "ruff", "check", "--no-cache")
    run(project, PYTHON, "-m", "mypy", "--cache-dir", str(tmp_path))
