"""Generated projects, made by plain cookiecutter."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cookiecutter.main import cookiecutter

from . import REPOSITORY

PACKAGE = "my_app"  # the template's default answer


def bake(folder: Path, template: Path = REPOSITORY, **answers: str) -> Path:
    """Generate a project below ``folder``, in silence and without prompts; its folder."""
    config = folder / "cookiecutter.yaml"
    config.write_text(
        f"cookiecutters_dir: {json.dumps(str(folder / 'templates'))}\n"
        f"replay_dir: {json.dumps(str(folder / 'replay'))}\n"
    )
    with _silence():
        project: str = cookiecutter(
            str(template),
            no_input=True,
            extra_context=answers,
            output_dir=str(folder),
            config_file=str(config),
        )
    return Path(project)


@contextmanager
def _silence() -> Iterator[None]:
    """Drop what is printed, by hooks too, which are processes of their own."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
        sys.stdout.flush()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
