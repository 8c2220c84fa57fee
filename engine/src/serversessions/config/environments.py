"""Writing environments: a new one, and the move of one to another store."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from ..problems import ConfigError, Problem, redact, show
from .editing import set_table
from .model import ProjectConfig
from .sources import (
    FOLDER,
    Sources,
    environment_file,
    known_environments,
    override_variable,
    parse_toml,
    read_environment,
    why_unreadable,
)
from .table import Key, tables_in, types_at

TEMPLATE = FOLDER / "environment.toml.jinja"
LOCATED_BY = {"file": "path", "database": "url", "cache": "uri"}  # the key that locates a store
STORE: Key = ("middlewares", "session", "store")
DATABASE: Key = ("database",)


def new_environment(
    config_class: type[ProjectConfig], environment: str, store: str, located: Mapping[str, str]
) -> str:
    """The text of a new environment's TOML file, rendered from the project's template.

    ``located`` has a ``path``, a ``url`` and a ``uri``, of which the template takes one.

    Raises:
        ConfigError: the template can't be rendered, or the name or the location can't be used.
    """
    _refuse_unusable(config_class, store, located, environment_file(environment))
    from jinja2 import Environment, StrictUndefined, TemplateError, select_autoescape

    # Escapes HTML alone: the template quotes the strings of TOML itself.
    jinja = Environment(
        autoescape=select_autoescape(default_for_string=False),
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    try:
        source = TEMPLATE.read_bytes().decode()
        return jinja.from_string(source).render(
            environment=environment,
            store=store,
            file_path=located["path"],
            database_url=located["url"],
            cache_uri=located["uri"],
        )
    except FileNotFoundError:
        text = (
            f"no such file in {Path.cwd()}. New environments are made from it: restore it, or write"
            f" {environment_file(environment)} by hand"
        )
        raise ConfigError(Problem(text=text, source=str(TEMPLATE))) from None
    except (OSError, UnicodeDecodeError) as error:
        text = f"can't be read: {why_unreadable(error)}"
        raise ConfigError(Problem(text=text, source=str(TEMPLATE))) from None
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        text = f"can't be rendered: {error}{where}"
        raise ConfigError(Problem(text=text, source=str(TEMPLATE))) from None


def move_environment(
    config_class: type[ProjectConfig], environment: str, store: str, located: str | None
) -> tuple[str, str]:
    """The text of an environment's file now, and with another table for its store.

    ``located`` is the store's path, URL or URI; without it the store is in the shared
    ``[database]`` or ``[cache]``.

    Raises:
        ConfigError: the file can't be read, is not TOML, or is still wrong after the move.
    """
    path = environment_file(environment)
    text = read_environment(environment, config_class.app_name)
    data = parse_toml(text, str(path))
    moved, expected = text, deepcopy(data)
    if store == "database" and located is not None:
        _set(expected, (*DATABASE, "url"), located, path)
        moved = set_table(moved, DATABASE, {"url": located}, keep_others=True)
        located = None
    values = {"type": store} | ({LOCATED_BY[store]: located} if located is not None else {})
    _set(expected, STORE, values, path)
    moved = set_table(moved, STORE, values)
    if parse_toml(moved, str(path)) != expected:
        text = f"write [{'.'.join(STORE)}] as a table of its own, then try again"
        raise ConfigError(Problem(text=text, source=str(path)))
    config_class.from_toml(moved, source=str(path), overrides=os.environ)
    return text, moved


def refuse_secret(url: str, app: str, key: str) -> None:
    """Keep passwords and tokens out of files.

    Raises:
        ConfigError: the URL holds one.
    """
    if redact(url) != url:
        variable = override_variable(app, tuple(key.split(".")))
        raise ConfigError(
            f"{redact(url)}: leave the password or token out, since files are no place for it."
            f" Where the app runs, set the whole URL in {variable}, or name a file that holds it in"
            f" {variable}_FILE"
        )


def write(path: Path, text: str, *, new: bool = False) -> None:
    """Put a file with this text in its place in one step: no half of it is ever seen.

    Raises:
        FileExistsError: it was to be ``new``, and is there.
        OSError: it can't be written. What was there is unchanged.
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
        error.filename = str(path)  # not the temporary file's; on a full disk there is none
        raise
    finally:
        with suppress(OSError):  # which a read-only disk raises even where there is no file
            temporary.unlink()


def _copy_rights(path: Path, file: int) -> None:
    """Give a new file the owner and the permissions of the one that it replaces."""
    status = path.stat()
    os.fchown(file, status.st_uid if os.geteuid() == 0 else -1, status.st_gid)
    os.fchmod(file, status.st_mode)


def _set(data: dict[str, Any], key: Key, value: object, path: Path) -> None:
    for depth, part in enumerate(key[:-1], 1):
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(
                Problem(".".join(key[:depth]), show(data), "a table", source=str(path))
            )
    data[key[-1]] = value


def _refuse_unusable(
    config_class: type[ProjectConfig], store: str, located: Mapping[str, str], path: Path
) -> None:
    """Refuse what the configuration would, before it is part of any TOML."""
    table = {"type": store}
    data: dict[str, Any] = {"middlewares": {"session": {"store": table}}}
    if store == "database":
        data["database"] = {"url": located["url"]}
    elif store in LOCATED_BY:
        table[LOCATED_BY[store]] = located[LOCATED_BY[store]]
    ProjectConfig.from_sources(Sources(str(path), data, {}, config_class))


def find_missing(
    config_class: type[ProjectConfig], text: str, name: str
) -> tuple[ProjectConfig, list[str]]:
    """The engine's own part of a new environment's configuration, and the required keys it lacks.

    Raises:
        ConfigError: anything else is wrong with it.
    """
    data = parse_toml(text, name)
    missing: list[str] = []
    try:
        config_class.from_sources(Sources(name, data, {}, config_class))
    except ConfigError as error:
        if not all(problem.is_missing for problem in error.problems):
            raise
        keys = [tuple(problem.key.split(".")) for problem in error.problems]
        missing = [".".join(key) for each in keys for key in _required(config_class, each)]
    own = {key: value for key, value in data.items() if key in ProjectConfig.model_fields}
    return ProjectConfig.from_sources(Sources(name, own, {}, ProjectConfig)), missing


def _required(config_class: type[ProjectConfig], key: Key) -> Iterator[Key]:
    """What has to be set for a missing key: of a table, each key without a default."""
    tables = [each for one in types_at(config_class, key) for each in tables_in(one)]
    below = [
        each
        for name, field in (tables[0].model_fields.items() if tables else ())
        if field.is_required()
        for each in _required(config_class, (*key, name))
    ]
    yield from below or [key]


def list_own_keys(config_class: type[ProjectConfig], text: str) -> dict[str, list[str]]:
    """The keys of the app's own tables that other environments set and this text doesn't, by file.

    Environments that can't be read are left out.
    """
    here = set(_own_keys(parse_toml(text, "")))
    found: dict[str, list[str]] = {}
    for environment in known_environments():
        with suppress(ConfigError):
            data = parse_toml(read_environment(environment, config_class.app_name), environment)
            if keys := [key for key in _own_keys(data) if key not in here]:
                found[str(environment_file(environment))] = keys
    return found


def _own_keys(data: Mapping[str, Any]) -> Iterator[str]:
    left = [(key, data[key]) for key in data if key not in ProjectConfig.model_fields]
    for key, value in left:
        if isinstance(value, dict):
            left += [(f"{key}.{name}", below) for name, below in value.items()]
        else:
            yield key
