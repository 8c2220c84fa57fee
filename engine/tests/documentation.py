"""The pages of docs/, run as programs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def read_examples(page: str, *, heading: str | None = None) -> str:
    """The Python examples of a page, or of one section of it, as one program.

    Every line stands where the page has it, so that tracebacks point there.
    """
    program = []
    is_wanted, language = heading is None, None
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            language = line.removeprefix("```") if language is None else None
        elif line.startswith("## ") and language is None:
            is_wanted = heading is None or line == f"## {heading}"
        elif language == "python" and is_wanted:
            program.append(line)
            continue
        program.append("")
    assert any(program), f"{page} has no example below {heading!r}"
    return "\n".join(program)


def run_examples(
    page: str, monkeypatch: pytest.MonkeyPatch, *, heading: str | None = None
) -> dict[str, Any]:
    """What the examples define, run as one module."""
    module = ModuleType(f"examples_of_{Path(page).stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where types are looked up
    exec(compile(read_examples(page, heading=heading), DOCS / page, "exec"), module.__dict__)
    return module.__dict__
