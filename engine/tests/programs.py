"""Programs that no wheel ships: ``.ci/run`` installs them, where it may."""

from __future__ import annotations

import os
import shutil

import pytest

# Debian puts some where only root looks.
_PATH = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"


def find(program: str) -> str | None:
    """The path of a program, if it is there."""
    return shutil.which(program, path=_PATH)


def need(program: str) -> str:
    """The path of a program. Without it the test is skipped, or fails where ``CI`` is set."""
    found = find(program)
    if found is not None:
        return found
    missing = f"no {program} here: apt-get install {program}"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)
