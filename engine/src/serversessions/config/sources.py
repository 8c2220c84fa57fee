"""Where a configuration comes from: an environment's TOML file, and variables over it."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..problems import ConfigError, show

PACKAGE = __name__.partition(".")[0]
ENVIRONMENT_VARIABLE = f"{PACKAGE.upper()}_ENV"
OVERRIDE_PREFIX = f"{PACKAGE.upper()}__"
FOLDER = Path("config")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

Key = tuple[str, ...]  # of a value, as it nests in TOML: ("cache", "url")

_STORE = ("middlewares", "session", "store")
_LONGEST_SECRET = 65536  # bytes
_IN_FILE = "_FILE"  # ends the name of a variable that holds a file's path instead of the value


def current_environment() -> str:
    """The environment that ``<PACKAGE>_ENV`` names, else ``dev``."""
    return os.environ.get(ENVIRONMENT_VARIABLE) or "dev"


def environment_file(environment: str) -> Path:
    """The TOML file of an environment.

    Raises:
        ConfigError: the environment's name is not a plain one.
    """
    if not PLAIN_NAME.fullmatch(environment):
        raise ConfigError(
            f"environment {show(environment[:80])} is not a plain name: up to 64 letters, digits,"
            " - and _"
        )
    return FOLDER / f"{environment}.toml"


def known_environments() -> list[str]:
    """The environments that have a file here; an editor's, such as ``.#dev.toml``, is none."""
    return sorted(file.stem for file in FOLDER.glob("*.toml") if PLAIN_NAME.fullmatch(file.stem))


def read_environment(environment: str) -> str:
    """The text of an environment's TOML file, its line endings as they are.

    Raises:
        ConfigError: the file is missing or unreadable.
    """
    path = environment_file(environment)
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        known = ", ".join(known_environments()) or "none"
        raise ConfigError(
            f"{path}: no such file in {Path.cwd()}. Environments here: {known}. Run the command"
            f" in the project's folder, and name one with --env or {ENVIRONMENT_VARIABLE}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {_reason(error)}") from None


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """The data of a TOML text, which messages call ``name``.

    Raises:
        ConfigError: it is not TOML; the message tells line and column.
    """
    try:
        return tomllib.loads(text)
    except ValueError as error:  # its own, or Python's of a number with thousands of digits
        last = text.count("\n") + 1
        end = f"at line {last}, column {len(text) - text.rfind(chr(10))}, the end"
        reason = str(error).replace("at end of document", end)
        raise ConfigError(f"{name}: not valid TOML: {reason}") from None
    except RecursionError:
        raise ConfigError(f"{name}: its arrays or tables are nested too deeply") from None


@dataclass(frozen=True)
class Sources:
    """The data of one configuration, and where each value of it comes from."""

    name: str
    data: dict[str, Any]
    variables: Mapping[Key, str]

    @classmethod
    def read(cls, environment: str) -> Sources:
        """An environment's file, with this process's variables over it."""
        return cls.parse(
            read_environment(environment), str(environment_file(environment)), os.environ
        )

    @classmethod
    def parse(cls, text: str, name: str, variables: Mapping[str, str]) -> Sources:
        """A TOML text that messages call ``name``, with those ``variables`` over it that are ours.

        A variable ``<PACKAGE>__A__B`` sets ``a.b``. Its value is read as TOML where it is TOML
        (true, 10, ["/static"]), and is a string otherwise. ``<PACKAGE>__A__B_FILE`` names a file
        that holds the value instead, as containers mount secrets.

        Raises:
            ConfigError: the text is not TOML, or a variable's file can't be read.
        """
        data = parse_toml(text, name)
        ours: dict[Key, str] = {}
        values: dict[Key, object] = {}
        for variable in sorted(variables):
            if not variable.upper().startswith(OVERRIDE_PREFIX):
                continue
            path = variable.upper()[len(OVERRIDE_PREFIX) :]
            key = tuple(path.removesuffix(_IN_FILE).lower().split("__"))
            if key in ours:
                raise ConfigError(f"{variable}: {ours[key]} sets the same key: keep one of them")
            is_path = path.endswith(_IN_FILE)
            value = variables[variable]
            ours[key] = variable
            values[key] = _read_value(_read_secret(variable, value) if is_path else value)
        if (*_STORE, "type") in values:  # another type: none of the old one's keys may stay
            _put(data, _STORE, {})
        for key, set_to in values.items():
            _put(data, key, set_to)
        return cls(name, data, ours)

    def variable(self, key: Key) -> str | None:
        """The variable that sets a key, or the table in which it is."""
        names = [name for ours, name in self.variables.items() if key[: len(ours)] == ours]
        return names[-1] if names else None  # the longest: it won

    def variable_in(self, key: Key) -> str | None:
        """The variable that sets something in a table."""
        names = (name for ours, name in self.variables.items() if ours[: len(key)] == key)
        return next(names, None)

    def origin(self, key: Key) -> str:
        """Who sets a key: a variable, the file, or nobody ("default")."""
        data: Any = self.data
        for part in key:
            if not isinstance(data, dict) or part not in data:
                return "default"
            data = data[part]
        return self.variable(key) or self.name

    def show(self, key: Key, value: object) -> str:
        """A value for a message: of what a variable's file holds, nothing."""
        if (self.variable(key) or "").upper().endswith(_IN_FILE):
            return "what its file holds"
        return show(value)


def _read_secret(variable: str, path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_LONGEST_SECRET).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{variable}: can't read {show(path)}: {_reason(error)}") from None


def _reason(error: OSError | UnicodeDecodeError) -> str | None:
    return error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"


def _read_value(text: str) -> object:
    try:
        data = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return data["value"] if len(data) == 1 else text  # and not a statement after it


def _put(data: dict[str, Any], key: Key, value: object) -> None:
    for part in key[:-1]:
        if not isinstance(data.get(part), dict):
            data[part] = {}
        data = data[part]
    data[key[-1]] = value
