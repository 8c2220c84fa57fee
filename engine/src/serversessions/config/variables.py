"""The text of .env.example: every environment variable that the configuration knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from .model import ProjectConfig
from .sources import environment_variable, override_variable
from .table import Key, members, tables_in
from .values import SECRETS, to_plain

_HEAD = """\
# Every environment variable that wins over config/*.toml; "config variables" prints this file.
# Copy it to .env, which git ignores, and take away the # before what you set. The project's command
# reads .env; so do "docker run --env-file .env" and EnvironmentFile= of systemd. A variable that is
# set already wins over .env, and an empty one is not set.
#
# The name of each may end in _FILE: it is then the path of a file that holds the value, as
# containers mount secrets. Values are written as in TOML; texts need no quotes.

# which config/NAME.toml
#{variable}=dev
"""


def list_variables(config_class: type[ProjectConfig]) -> str:
    """One variable for each key of a configuration, with its meaning and its default."""
    app = config_class.app_name
    seen: dict[str, str] = {}
    for key, meaning, default in _keys(config_class):
        variable = override_variable(app, key)
        note = f"\n# {meaning}" if meaning else ""
        seen.setdefault(variable, f"{note}\n#{variable}={default}\n")
    return _HEAD.format(variable=environment_variable(app)) + "".join(seen.values())


def _keys(table: type[BaseModel], above: Key = ()) -> Iterator[tuple[Key, str, str]]:
    for name, field in table.model_fields.items():
        key = (*above, name)
        if any(get_origin(one) is dict for one in members(field.annotation)):
            key += ("name",)
        tables = list(tables_in(field.annotation))
        for one in tables:
            yield from _keys(one, key)
        if not tables:
            yield key, " ".join((field.description or "").split()), _show(field.default)


def _show(default: Any) -> str:
    if default is None or default is PydanticUndefined or isinstance(default, SECRETS):
        return ""
    import tomlkit

    plain = to_plain(default)
    return plain if isinstance(plain, str) else tomlkit.item(plain).as_string()
