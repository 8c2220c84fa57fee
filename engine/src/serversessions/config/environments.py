"""Writing environments: a new one, and the move of one to another store."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, select_autoescape

from .editing import set_table
from ..problems import ConfigError, redact, show
from .model import ProjectConfig
from .sources import OVERRIDE_PREFIX, Key, Sources, environment_file, parse_toml, read_environment

PLACES = {"file": "path", "database": "url", "cache": "uri"}  # the key that says where it is
STORE: Key = ("middlewares", "session", "store")
DATABASE: Key = ("database",)


@cache
def questions() -> dict[str, Any]:
    """What to ask of a new environment: the template's own labels, and this project's answers."""
    data: dict[str, Any] = json.loads((files(__package__) / "questions.json").read_text("utf-8"))
    return data


def new_environment(environment: str, store: str, place: str | None) -> str:
    """The text of a new environment's TOML file, as the template writes it.

    ``place`` is the store's path, URL or URI; without it, the one that the template was given.

    Raises:
        ConfigError: the name or the place can't be used.
    """
    places = {key: questions()[key]["default"] for key in PLACES.values()}
    if store in PLACES and place is not None:
        places[PLACES[store]] = place
    _refuse_unusable(store, places, environment_file(environment))
    # Escapes HTML alone: the strings of TOML are quoted by the template itself.
    jinja = Environment(
        autoescape=select_autoescape(default_for_string=False), trim_blocks=True, lstrip_blocks=True
    )
    source = (files(__package__) / "environment.toml.jinja").read_text("utf-8")
    return jinja.from_string(source).render(
        environment=environment,
        store=store,
        file_path=places["path"],
        database_url=places["url"],
        cache_uri=places["uri"],
    )


def move_environment(environment: str, store: str, place: str | None) -> tuple[str, str]:
    """The text of an environment's file now, and with another table for its store.

    Without a ``place`` the store is in the shared ``[database]`` or ``[cache]``.

    Raises:
        ConfigError: the file can't be read, is not TOML, or is wrong after the move too.
    """
    path = environment_file(environment)
    text = read_environment(environment)
    data = parse_toml(text, str(path))
    moved, expected = text, deepcopy(data)
    if store == "database" and place is not None:
        _set(expected, (*DATABASE, "url"), place, path)
        moved = set_table(moved, DATABASE, {"url": place}, keep_others=True)
        place = None
    values = {"type": store} | ({PLACES[store]: place} if place is not None else {})
    _set(expected, STORE, values, path)
    moved = set_table(moved, STORE, values)
    if parse_toml(moved, str(path)) != expected:
        raise ConfigError(
            f"{path}: write [{'.'.join(STORE)}] as a table of its own, then try again"
        )
    ProjectConfig.from_toml(moved, source=str(path), overrides=os.environ)
    return text, moved


def refuse_secret(url: str, key: str) -> None:
    """Keep passwords out of files.

    Raises:
        ConfigError: the URL holds one.
    """
    if redact(url) != url:
        variable = OVERRIDE_PREFIX + key.replace(".", "__").upper()
        raise ConfigError(
            f"{redact(url)}: leave the password out, since files are no place for it. Where the app"
            f" runs, set the whole URL in {variable}, or name a file that holds it in"
            f" {variable}_FILE"
        )


def write(path: Path, text: str, *, new: bool = False) -> None:
    """Put a file with this text in its place in one step: no half of it is ever seen.

    Raises:
        FileExistsError: it was to be ``new``, and is there.
        OSError: it can't be written. What was there is there.
    """
    real = Path(os.path.realpath(path))  # a link stays a link
    temporary = real.with_name(f".{real.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if not new:
                _copy_rights(real, file.fileno())
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        if new:
            os.link(temporary, real)
        else:
            temporary.replace(real)
    except OSError as error:
        error.filename = str(path)  # not the temporary file, or, where a disk is full, none
        raise
    finally:
        with suppress(OSError):  # on a read-only disk also where there is none
            temporary.unlink()


def _copy_rights(path: Path, file: int) -> None:
    """Give a new file the owner and the permissions of the one whose place it takes."""
    status = path.stat()
    os.fchown(file, status.st_uid if os.geteuid() == 0 else -1, status.st_gid)
    os.fchmod(file, status.st_mode)


def _set(data: dict[str, Any], key: Key, value: object, path: Path) -> None:
    for depth, part in enumerate(key[:-1], 1):
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            where = ".".join(key[:depth])
            raise ConfigError(f"{path}: {where}: found {show(data)}; allowed: a table")
    data[key[-1]] = value


def _refuse_unusable(store: str, places: Mapping[str, str], path: Path) -> None:
    """Refuse what the configuration would, before it is part of any TOML."""
    table = {"type": store}
    data: dict[str, Any] = {"middlewares": {"session": {"store": table}}}
    if store == "database":
        data["database"] = {"url": places["url"]}
    elif store in PLACES:
        table[PLACES[store]] = places[PLACES[store]]
    ProjectConfig.from_sources(Sources(str(path), data, {}))
