"""The pictures of README.md show the template as it is. Else: make pictures."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from lab import REPOSITORY
from lab.pictures import prompts, structure

DOCS = REPOSITORY / "docs"
MAX_SIZE = 300_000  # bytes: README.md is to open at once


@pytest.mark.parametrize(
    ("name", "module"), [("prompts.svg", prompts), ("structure.svg", structure)]
)
def test_the_picture_is_up_to_date(name: str, module: ModuleType) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == module.draw(REPOSITORY)


@pytest.mark.parametrize("name", ["prompts.svg", "structure.svg", "pages.png"])
def test_the_picture_is_light_and_tells_nothing_of_the_machine(name: str) -> None:
    content = (DOCS / name).read_bytes()
    assert len(content) < MAX_SIZE
    if name.endswith(".svg"):
        assert not re.search(rb"url\((?!#)|href=|/(tmp|home|root)/", content)
