"""What can be configured: a TOML file for each environment, and environment variables over it.

All that is wrong is reported at once, as one ``ConfigError`` that a person can act on.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

PACKAGE = __name__.partition(".")[0]
ENVIRONMENT_VARIABLE = f"{PACKAGE.upper()}_ENV"
OVERRIDE_PREFIX = f"{PACKAGE.upper()}__"
FOLDER = Path("config")


class ConfigError(Exception):
    """Something is wrong with the configuration. Each line of the message is one such thing."""


def redact(text: str) -> str:
    """Hide the passwords of all URLs in a text."""
    text = re.sub(r"(://[^/?#\s:@]*):[^/?#\s]*@", r"\1:***@", text)
    return re.sub(r"([?&][^=&\s]*(?:password|secret|token)[^=&\s]*)=[^&\s\"']*", r"\1=***", text)


# The kinds of values -----------------------------------------------------------------------------

_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(\d+){unit})?" for unit in _UNITS))
_SHORTEST, _LONGEST = timedelta(seconds=1), timedelta(weeks=52 * 100)
_DURATION_RULE = 'a duration such as "30m", "2h", "7d" or "1h30m"'
_EXPIRY_RULE = f'"session", {_DURATION_RULE}, or a time with an offset: "2030-01-01T00:00:00Z"'


def parse_duration(value: object) -> timedelta:
    """A duration's text as a timedelta: weeks, days, hours, minutes, seconds, in this order."""
    if isinstance(value, str) and len(value) <= 32 and (match := _DURATION.fullmatch(value)):
        amounts = zip(match.groups(default="0"), _UNITS.values(), strict=True)
        seconds = sum(int(amount) * unit for amount, unit in amounts)
        value = timedelta(seconds=min(seconds, 10**12))
    if not isinstance(value, timedelta) or value.microseconds or not _SHORTEST <= value <= _LONGEST:
        raise ValueError(_DURATION_RULE)
    return value


def format_duration(value: timedelta) -> str:
    """The text that ``parse_duration`` reads back."""
    rest, text = int(value.total_seconds()), ""
    for unit, length in _UNITS.items():
        amount, rest = divmod(rest, length)
        text += f"{amount}{unit}" if amount else ""
    return text


def _parse_expiry(value: object) -> object:
    if value == "session":
        return value
    try:
        if isinstance(value, str) and "T" in value.upper() and "-" in value:
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo else parse_duration(None)
        return parse_duration(value)
    except (ValueError, OverflowError):
        raise ValueError(_EXPIRY_RULE) from None


def _matching(pattern: str, rule: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(rule)
        return value

    return AfterValidator(check)


def _check_prefixes(value: object) -> object:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(prefix, str) and prefix.startswith("/") for prefix in value
    ):
        raise ValueError('path prefixes, each beginning with "/": ["/static"]')
    return tuple(value)


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration)]
Expiry = Annotated[
    Literal["session"] | timedelta | datetime,
    BeforeValidator(_parse_expiry),
    PlainSerializer(lambda v: format_duration(v) if isinstance(v, timedelta) else v),
]
Text = Annotated[str, _matching(r"[^\x00-\x1f\x7f]+", "text without control characters")]
Url = Annotated[
    str, _matching(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s\x00-\x1f\x7f]+", "a URL: scheme://host:port/name")
]
CookieName = Annotated[
    str, _matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "letters, digits and !#$%&'*+-.^_`|~ (RFC 6265)")
]
CookiePath = Annotated[
    str, _matching(r"/[\x21-\x3a\x3c-\x7e]*", 'a path that begins with "/", in ASCII, without ";"')
]
CookieDomain = Annotated[str, _matching(r"[A-Za-z0-9.-]+", "a domain name: example.org")]
PathPrefixes = Annotated[tuple[str, ...], BeforeValidator(_check_prefixes)]


# The parts, as they nest in TOML -----------------------------------------------------------------


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """A configuration may be logged: its passwords may not."""
        for key, value in super().__repr_args__():
            yield key, redact(value) if isinstance(value, str) else value


class MemoryStoreConfig(_Table):
    """Sessions in the memory of the process."""

    type: Literal["memory"] = "memory"


class FileStoreConfig(_Table):
    """Sessions in files below ``path``, relative to where the command is run."""

    type: Literal["file"] = "file"
    path: Text
    fsync: bool = False


class CacheStoreConfig(_Table):
    """Sessions in the cache at ``uri``, in ``[caches.NAME]``, or else in ``[cache]``."""

    type: Literal["cache"] = "cache"
    uri: Url | None = None
    name: Text | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.uri is not None and self.name is not None:
            raise ValueError("`uri` and `name` exclude each other: keep one")
        return self


class DatabaseStoreConfig(_Table):
    """Sessions in the database that ``[database]`` names."""

    type: Literal["database"] = "database"


StoreConfig = Annotated[
    Annotated[
        MemoryStoreConfig | FileStoreConfig | CacheStoreConfig | DatabaseStoreConfig,
        Field(discriminator="type"),
    ],
    BeforeValidator(lambda v: {"type": "memory", **v} if isinstance(v, dict) else v),
]
_STORES = (MemoryStoreConfig, FileStoreConfig, CacheStoreConfig, DatabaseStoreConfig)


class SessionConfig(_Table):
    """``[middlewares.session]``: the cookie, the lifetime, and the store."""

    secure: bool = True
    http_only: bool = True
    same_site: Literal["strict", "lax", "none"] = "strict"
    domain: CookieDomain | None = None
    path: CookiePath = "/"
    name: CookieName = "id"
    partitioned: bool = False
    always_save: bool = False
    expiry: Expiry = "session"
    max_lifetime: Duration | None = None
    max_size: Annotated[int, Field(ge=1)] = 65536
    exclude: PathPrefixes = ()
    store: StoreConfig = MemoryStoreConfig()

    @model_validator(mode="after")
    def _check_cookie(self) -> Self:
        """Browsers ignore cookies that break these rules (RFC 6265bis 4.1.3 and 5.7, CHIPS)."""
        needs_secure = {
            f'name = "{self.name}"': self.name.startswith(("__Host-", "__Secure-")),
            'same_site = "none"': self.same_site == "none",
            "partitioned = true": self.partitioned,
        }
        wrong = [f"{key} needs secure = true" for key, is_set in needs_secure.items() if is_set]
        if self.secure:
            wrong = []
        if self.name.startswith("__Host-") and (self.path != "/" or self.domain is not None):
            wrong.append(f'name = "{self.name}" needs path = "/" and no domain')
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def options(self) -> dict[str, Any]:
        """What ``SessionMiddleware`` takes: all but the store."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "store"}


class MiddlewaresConfig(_Table):
    """``[middlewares]``."""

    session: SessionConfig = SessionConfig()


class CacheConfig(_Table):
    """``[cache]`` or ``[caches.NAME]``."""

    url: Url


class DatabaseConfig(_Table):
    """``[database]``: an SQLAlchemy URL."""

    url: Url


class ProjectConfig(_Table):
    """The whole configuration of one environment."""

    debug: bool = False
    cache: CacheConfig | None = None
    caches: dict[str, CacheConfig] = {}
    database: DatabaseConfig | None = None
    middlewares: MiddlewaresConfig = MiddlewaresConfig()

    @model_validator(mode="after")
    def _check_session(self) -> Self:
        session = self.middlewares.session
        wrong = []
        if not session.secure and not self.debug:
            wrong.append(
                "middlewares.session.secure: found false; allowed: true, or debug = true beside it."
                " Remove the line and serve the app over HTTPS"
            )
        match session.store:
            case DatabaseStoreConfig() if self.database is None:
                wrong.append("database.url: missing; the database store needs it")
            case CacheStoreConfig(uri=None, name=None) if self.cache is None:
                wrong.append("middlewares.session.store.uri: missing; give it, or [cache] url")
            case CacheStoreConfig(name=str(name)) if name not in self.caches:
                known = ", ".join(self.caches) or f"none; add [caches.{name}] with its url"
                wrong.append(
                    f"middlewares.session.store.name: found {_show(name)}; allowed: {known}"
                )
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    @property
    def store_url(self) -> tuple[str, str] | None:
        """The URL of the server or database that holds the sessions, after its key in TOML."""
        match self.middlewares.session.store:
            case CacheStoreConfig(uri=str(uri)):
                return "middlewares.session.store.uri", uri
            case CacheStoreConfig(name=str(name)):
                return f"caches.{name}.url", self.caches[name].url
            case CacheStoreConfig() if self.cache is not None:
                return "cache.url", self.cache.url
            case DatabaseStoreConfig() if self.database is not None:
                return "database.url", self.database.url
        return None

    @classmethod
    def load(cls, environment: str | None = None) -> Self:
        """Read ``config/<environment>.toml``, and the environment variables that override it.

        Without an argument the environment is ``<PACKAGE>_ENV``, else ``dev``.

        Raises:
            ConfigError: the file is missing or unreadable, or anything in it is wrong.
        """
        path = environment_file(environment or current_environment())
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.toml"))) or "none"
            raise ConfigError(
                f"{path}: no such file in {Path.cwd()}. Environments here: {known}. Run the command"
                f" in the project's folder, and name one with --env or {ENVIRONMENT_VARIABLE}"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: can't be read: {error}") from None
        return cls.from_toml(text, source=str(path), overrides=os.environ)

    @classmethod
    def from_toml(
        cls, text: str, *, source: str = "TOML", overrides: Mapping[str, str] | None = None
    ) -> Self:
        """Read a configuration from the text of a TOML file.

        ``source`` is what error messages call it. ``overrides`` are variables; those that begin
        with ``<PACKAGE>__`` win over the text.

        Raises:
            ConfigError: anything is wrong with either.
        """
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{source}: not valid TOML: {error}") from None
        variables = _override(data, overrides or {})
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            details = error.errors(include_url=False)
            lines = [line for one in details for line in _explain(one, source, variables)]
            raise ConfigError("\n".join(dict.fromkeys(lines))) from None

    def to_toml(self) -> str:
        """The configuration as TOML that ``from_toml`` reads back equal, passwords included."""
        import tomlkit

        return tomlkit.dumps(self.model_dump(exclude_none=True))


# Where it comes from, and what to say when it is wrong -------------------------------------------


def current_environment() -> str:
    """The environment that ``<PACKAGE>_ENV`` names, else ``dev``."""
    return os.environ.get(ENVIRONMENT_VARIABLE) or "dev"


def environment_file(environment: str) -> Path:
    """The TOML file of an environment.

    Raises:
        ConfigError: the environment's name is not a plain one.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", environment):
        raise ConfigError(
            f"environment {_show(environment[:80])} is not a plain name: up to 64 letters, digits,"
            " - and _"
        )
    return FOLDER / f"{environment}.toml"


def _override(data: dict[str, Any], variables: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Put ``<PACKAGE>__A__B=value`` into ``data`` as ``a.b``; which variable set which key.

    A value is read as TOML where it is TOML (true, 10, ["/static"]), and is a string otherwise.
    """
    names = {
        tuple(name[len(OVERRIDE_PREFIX) :].lower().split("__")): name
        for name in sorted(variables)
        if name.upper().startswith(OVERRIDE_PREFIX)
    }
    store = ("middlewares", "session", "store")
    if (*store, "type") in names:  # another type: none of the old one's keys may stay
        _put(data, store, {})
    for path, name in names.items():
        _put(data, path, _read_value(variables[name]))
    return names


def _put(data: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for part in path[:-1]:
        if not isinstance(data.get(part), dict):
            data[part] = {}
        data = data[part]
    data[path[-1]] = value


def _read_value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


_ALLOWED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "string_type": "a string",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dict_type": "a table",
    "greater_than_equal": "{ge} or more",
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
}


def _explain(
    error: ErrorDetails, source: str, variables: Mapping[tuple[str, ...], str]
) -> list[str]:
    """The lines that tell a person what pydantic found."""
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    path = _path(error["loc"])
    if kind == "union_tag_invalid":
        path, found = (*path, "type"), found["type"]
    set_by = [name for key, name in variables.items() if path[: len(key)] == key]
    where = f"{set_by[0]} (environment variable)" if set_by else source
    where += f": {'.'.join(path)}" if path else ""
    if kind == "extra_forbidden":
        return [f"{where}: unknown key; {_hint(error['loc'])}"]
    if kind == "missing":
        return [f"{where}: missing; it is required here"]
    if kind == "value_error" and isinstance(found, dict | BaseModel):
        return [f"{where}: {line}" for line in str(context["error"]).splitlines()]
    if kind == "value_error":
        rule = str(context["error"])
    else:
        rule = _ALLOWED.get(kind, error["msg"]).format(**context).replace("'", '"')
    return [f"{where}: found {_show(found)}; allowed: {rule}"]


def _path(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Where an error is, as in TOML: pydantic also names the type of store that it tried."""
    parts = [str(part) for part in loc]
    if parts[:3] == ["middlewares", "session", "store"]:
        del parts[3:4]
    return tuple(parts)


def _hint(loc: tuple[int | str, ...]) -> str:
    """What is allowed beside an unknown key, and what it may have been meant to be."""
    key, table = str(loc[-1]), _table_at(loc[:-1])
    known = list(table.model_fields)
    owners = [store for store in _STORES if key in store.model_fields]
    if issubclass(table, _STORES) and owners:
        return f'it belongs to type = "{_type_of(owners[0])}"; allowed: {", ".join(known)}'
    close = get_close_matches(key, known, 1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}allowed: {', '.join(known)}"


def _table_at(loc: tuple[int | str, ...]) -> type[_Table]:
    """The table in which an unknown key was found."""
    table: type[_Table] = ProjectConfig
    for part, following in zip_longest(loc, loc[1:]):
        if part in table.model_fields:
            tables = _tables_in(table.model_fields[str(part)].annotation)
            table = next((one for one in tables if _type_of(one) == following), tables[0])
    return table


def _tables_in(annotation: Any) -> list[type[_Table]]:
    if isinstance(annotation, type) and issubclass(annotation, _Table):
        return [annotation]
    return [table for part in get_args(annotation) for table in _tables_in(part)]


def _type_of(table: type[_Table]) -> object:
    return table.model_fields["type"].default if "type" in table.model_fields else None


def _show(value: object) -> str:
    """A value as in TOML, without passwords."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return redact(json.dumps(value, ensure_ascii=False, default=str))
