"""The pages of docs/, run as programs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_examples(
    page: str, monkeypatch: pytest.MonkeyPatch, *, heading: str | None = None
) -> dict[str, Any]:
    """What a page's Python examples define, run one after another as one module.

    With ``heading``, those of that section alone. Tracebacks show the page's own lines.
    """
    path = DOCS / page
    text = path.read_text(encoding="utf-8")
    begin, end = 0, len(text)
    if heading is not None:
        begin = text.index(f"\n## {heading}\n")
        end = text.find("\n## ", begin + 1) % (len(text) + 1)
    module = ModuleType(f"examples_of_{path.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # types are looked up there
    for block in _BLOCK.finditer(text, begin, end):
        lines_above = text.count("\n", 0, block.start(1))
        code = compile("\n" * lines_above + block[1], path, "exec")
        exec(code, module.__dict__)
    return module.__dict__
