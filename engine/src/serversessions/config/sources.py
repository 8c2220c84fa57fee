"""Where a configuration comes from: an environment's TOML file, and variables over it."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..problems import ConfigError, Problem, show
from .table import Key, holds_secret, is_text, types_at

FOLDER = Path("config")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

_STORE = ("middlewares", "session", "store")
_LONGEST_SECRET = 65536  # bytes
_IN_FILE = "_FILE"  # ends the name of a variable that holds a file's path instead of the value


def environment_variable(app: str) -> str:
    """The variable that names the environment of an app: MY_APP_ENV."""
    return f"{app.upper()}_ENV"


def override_variable(app: str, key: Key) -> str:
    """The variable that wins over a key: MY_APP__CACHE__URL."""
    return "__".join((app, *key)).upper()


def current_environment(app: str) -> str:
    """The environment that the app's variable names, else ``dev``, else the only one here."""
    known = known_environments()
    default = known[0] if len(known) == 1 else "dev"
    return os.environ.get(environment_variable(app)) or default


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
    """The environments that have a file here. An editor's file, such as ``.#dev.toml``, is none."""
    return sorted(file.stem for file in FOLDER.glob("*.toml") if PLAIN_NAME.fullmatch(file.stem))


def read_environment(environment: str, app: str) -> str:
    """The text of an environment's TOML file, with its own line endings.

    Raises:
        ConfigError: the file is missing or unreadable.
    """
    path = environment_file(environment)
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        known = ", ".join(known_environments()) or "none"
        raise ConfigError(
            Problem(
                text=f"no such file in {Path.cwd()}. Environments here: {known}. Run the command in"
                f" the project's folder, and name one with --env or {environment_variable(app)}",
                source=str(path),
            )
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            Problem(text=f"can't be read: {why_unreadable(error)}", source=str(path))
        ) from None


def why_unreadable(error: OSError | UnicodeDecodeError) -> str | None:
    """Why a file can't be read, for a message."""
    return error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """The data of a TOML text that messages call ``name``.

    Raises:
        ConfigError: it is not TOML; the message tells line and column.
    """
    try:
        data = tomllib.loads(text)
    except ValueError as error:  # its own, or Python's about a number with thousands of digits
        last = text.count("\n") + 1
        end = f"at line {last}, column {len(text) - text.rfind(chr(10))}, the end"
        reason = str(error).replace("at end of document", end)
        raise ConfigError(Problem(text=f"not valid TOML: {reason}", source=name)) from None
    except RecursionError:
        deep = Problem(text="its arrays or tables are nested too deeply", source=name)
        raise ConfigError(deep) from None
    for key in _huge_numbers(data):
        text = "not valid TOML: a whole number has up to 64 bits"
        raise ConfigError(Problem(".".join(key), text=text, source=name))
    return data


@dataclass(frozen=True, repr=False)  # it may hold passwords
class Sources:
    """The data of one configuration, and where each value of it comes from."""

    name: str
    data: dict[str, Any]
    variables: Mapping[Key, str]
    root: type[BaseModel]

    @classmethod
    def parse(
        cls, root: type[BaseModel], app: str, text: str, name: str, variables: Mapping[str, str]
    ) -> Sources:
        """A TOML text that messages call ``name``, with the app's variables over it.

        ``MY_APP__A__B`` sets ``a.b``, unless it is empty. A value that is TOML (true, 10,
        ["/static"]) is read as such, except for a key that ``root`` has for text; any other is a
        string. ``MY_APP__A__B_FILE`` names a file that holds it, as containers mount secrets.

        Raises:
            ConfigError: the text is not TOML, or a variable's file can't be read.
        """
        data = parse_toml(text, name)
        prefix = override_variable(app, ("",))
        ours: dict[Key, str] = {}
        values: dict[Key, object] = {}
        for variable in sorted(variables):
            value = variables[variable]
            if not value or not variable.upper().startswith(prefix):
                continue
            key = _key(variable[len(prefix) :])
            is_path = variable.upper().endswith(_IN_FILE) and not types_at(root, key)
            if is_path:
                key = _key(variable[len(prefix) : -len(_IN_FILE)])
            if key in ours:
                raise ConfigError(f"{variable}: {ours[key]} sets the same key: keep one of them")
            ours[key] = variable
            value = _read_secret(variable, value) if is_path else value
            types = types_at(root, key)
            values[key] = _read_value(value, as_text=bool(types) and all(map(is_text, types)))
        if (*_STORE, "type") in values:  # another type: none of the old one's keys may stay
            _put(data, _STORE, {})
        for key, set_to in values.items():
            _put(data, key, set_to)
        return cls(name, data, ours, root)

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

    def blame(self, key: Key) -> str:
        """Who sets a key, for a message about it."""
        variable = self.variable(key)
        return f"{variable} (environment variable)" if variable else self.name

    def show(self, key: Key, value: object) -> str:
        """A value for a message: of a secret, and of what a variable's file holds, nothing."""
        variable = (self.variable(key) or "").upper()
        if variable.endswith(_IN_FILE):
            return "what its file holds"
        known = (types_at(self.root, key[:depth]) for depth in range(len(key), 0, -1))
        types = next(filter(None, known), [])
        return "***" if any(map(holds_secret, types)) else show(value)


def _key(name: str) -> Key:
    return tuple(name.lower().split("__"))


def _read_secret(variable: str, path: str) -> str:
    try:
        with open(path, "rb") as file:
            secret = file.read(_LONGEST_SECRET).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{variable}: can't read {show(path)}: {why_unreadable(error)}") from None
    if not secret:
        raise ConfigError(f"{variable}: {show(path)} is empty; it has to hold the value")
    return secret


def _read_value(text: str, *, as_text: bool) -> object:
    try:
        data = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    value = data["value"]
    if len(data) > 1 or any(_huge_numbers(data)):  # a statement after it, or no value of TOML
        return text
    return value if isinstance(value, str) or not as_text else text


def _huge_numbers(data: object) -> Iterator[Key]:
    """The keys of numbers that are beyond TOML's 64 bits."""
    left: list[tuple[Key, object]] = [((), data)]
    while left:  # a loop, since tables may be nested deeper than Python calls
        key, value = left.pop()
        if isinstance(value, dict):
            left += [((*key, part), below) for part, below in value.items()]
        elif isinstance(value, list):
            left += [(key, below) for below in value]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield key


def _put(data: dict[str, Any], key: Key, value: object) -> None:
    for part in key[:-1]:
        if not isinstance(data.get(part), dict):
            data[part] = {}
        data = data[part]
    data[key[-1]] = value
