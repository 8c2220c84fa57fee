"""BUILD.md, followed to the letter on a freshly generated project: clean after each step."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import PYTHON, Bake, check_types, run, run_tests

BIN = Path(PYTHON).parent
# What the page tells to do: a file to create or to change, or commands to type.
PART = re.compile(
    r"^(?P<what>Create|Change) `(?P<file>[^`]+)`:$"
    r"|^```(?P<language>python|diff|console)\n(?P<block>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def steps(page: str) -> Iterator[tuple[str, str]]:
    """The heading and the text of each."""
    for step in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        heading, _, text = step.partition("\n")
        yield heading, text


def follow(project: Path, text: str) -> None:
    what, file = "", ""
    for part in PART.finditer(text):
        if part["what"]:
            what, file = part["what"], part["file"]
        elif part["language"] == "console":
            for line in part["block"].splitlines():
                type_line(project, line.removeprefix("$ "))
        elif part["language"] == "python":
            assert what == "Create", file
            (project / file).write_text(part["block"])
        else:
            change(project / file, part["block"])


def type_line(project: Path, line: str) -> None:
    """As in a shell of the project's, whose command is the package."""
    line = re.sub(r"^my-app ", f"{shlex.quote(PYTHON)} -m my_app ", line)
    run(project, "sh", "-ec", line, PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}")


def change(file: Path, block: str) -> None:
    """Carry out a diff: its lines without a sign are where, and stand in the file once."""
    lines = [line if line.strip() else " \n" for line in block.splitlines(keepends=True)]
    old = "".join(line[1:] for line in lines if line[0] != "+")
    new = "".join(line[1:] for line in lines if line[0] != "-")
    text = file.read_text()
    assert text.count(old) == 1, f"{file} has this {text.count(old)} times:\n{old}"
    file.write_text(text.replace(old, new))


@pytest.fixture
def project(bake: Bake) -> Path:
    return bake(session_store="file")


def test_every_step_leaves_the_project_clean(project: Path) -> None:
    for heading, text in steps((project / "BUILD.md").read_text()):
        follow(project, text)
        run(project, PYTHON, "-m", "ruff", "check", "--no-cache")
        run(project, PYTHON, "-m", "ruff", "format", "--check", "--no-cache")
        check_types(project)
        assert run_tests(project), heading
