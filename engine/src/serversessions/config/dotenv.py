"""The text of .env.example: every environment variable that the configuration knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_origin

import tomlkit
from pydantic_core import PydanticUndefined

from .mistakes import Table, tables_in
from .model import ProjectConfig
from .sources import ENVIRONMENT_VARIABLE, OVERRIDE_PREFIX

_HEAD = f"""\
# Every environment variable that wins over config/*.toml; "config variables" prints this file.
# Copy it to .env, which git ignores, and take away the # before what you set. Read it with
# "uv run --env-file .env", "docker run --env-file .env", or EnvironmentFile= of systemd.
#
# The name of each may end in _FILE: it is then the path of a file that holds the value, as
# containers mount secrets. Values are written as in TOML; texts need no quotes.

# which config/NAME.toml
#{ENVIRONMENT_VARIABLE}=dev
"""


def list_variables() -> str:
    """One variable for each key of ``ProjectConfig``, with its meaning and its default."""
    seen: dict[str, str] = {}
    for variable, meaning, default in _variables(ProjectConfig, OVERRIDE_PREFIX):
        seen.setdefault(variable, f"\n# {meaning}\n#{variable}={default}\n")
    return _HEAD + "".join(seen.values())


def _variables(table: Table, prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in table.model_fields.items():
        below = list(tables_in(field.annotation))
        part = f"{prefix}{name.upper()}"
        if get_origin(field.annotation) is dict:
            part += "__NAME"
        for one in below:
            yield from _variables(one, f"{part}__")
        if not below:
            default = "" if field.default in (None, PydanticUndefined) else field.default
            shown = default if isinstance(default, str) else tomlkit.item(default).as_string()
            yield part, field.description or "", shown
