"""Opens the store that a URL or a configuration names. A store is imported only when chosen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, Protocol

from ..location import Location
from ..problems import ConfigError, Problem, redact
from ..store import SessionStore

__all__ = ["MissingPackage", "describe", "kind_of", "open_store", "register_cache_backend"]

Kind = Literal["memory", "file", "database", "cache"]
Clock = Callable[[], float]

_DATABASES = ("postgres", "postgresql", "sqlite")  # a driver may follow: postgresql+asyncpg
_cache_backends: dict[str, Callable[[Location, Clock], SessionStore]] = {}


class Located(Protocol):
    """Whatever knows where its sessions live, such as a ``ProjectConfig``."""

    @property
    def location(self) -> Location: ...


class MissingPackage(ConfigError):
    """A store needs a package that is not installed. ``extra`` is the extra that brings it."""

    def __init__(self, extra: str, package: str | None) -> None:
        self.extra = extra
        name = str(package).partition(".")[0]
        super().__init__(
            f"the {extra} store needs the package {name!r}, which is not installed: "
            f"install it, or the extra {extra!r}"
        )


def open_store(where: str | Location | Located, *, clock: Clock = time.time) -> SessionStore:
    """The store at a URL, at a ``Location``, or where a configuration says. Nothing connects yet.

    A URL is ``memory:``, ``file:PATH``, a database's as SQLAlchemy writes it
    (``sqlite:///var/app.db``, ``postgresql://user@host/name``), or a cache's, with one of the
    registered schemes (``redis://host:6379/0``). ``clock`` tells the time in seconds since 1970;
    a store that ``register_cache_backend`` added has its own.

    Raises:
        ConfigError: the URL is wrong. The message names its key, and hides passwords.
        MissingPackage: a package that the store needs is not installed.
    """
    location = _locate(where)
    kind = kind_of(location.url)
    try:
        _require_scheme(location, kind)
        return _open(location, kind, clock)
    except ModuleNotFoundError as error:
        if kind in ("memory", "file"):
            raise
        raise MissingPackage(str(kind), error.name) from None
    except ValueError as error:
        found = f'"{redact(location.url)}"'
        text = f"found {found}; {redact(str(error))}"
        raise ConfigError(Problem(key=location.key, found=found, text=text)) from None


def register_cache_backend(scheme: str, factory: Callable[[str], SessionStore]) -> None:
    """Let ``factory`` open the store for every cache URI with this scheme, before the app starts.

    ``factory`` takes the URI and connects later. It raises ``ValueError`` for a URI that it can't
    read.
    """
    _cache_backends[scheme] = lambda location, clock: factory(location.url)


def describe(where: str | Location | Located) -> str:
    """The kind of a store and where it is, for people: without passwords."""
    url = _locate(where).url
    match kind_of(url):
        case "memory":
            return "memory"
        case "file":
            return f"file: {url.removeprefix('file:')}"
        case kind:
            return f"{kind or 'unknown'}: {redact(url)}"


def kind_of(url: str) -> Kind | None:
    """Which kind of store a URL names, if any."""
    scheme = url.partition(":")[0]
    if scheme == "memory":
        return "memory"
    if scheme == "file":
        return "file"
    if scheme.partition("+")[0] in _DATABASES:
        return "database"
    return "cache" if scheme in _cache_backends else None


def _locate(where: str | Location | Located) -> Location:
    if isinstance(where, str):
        return Location(where)
    return where if isinstance(where, Location) else where.location


def _require_scheme(location: Location, kind: Kind | None) -> None:
    """Refuse what can't be opened, or a cache where the key of the URL asks for a database."""
    caches, databases = sorted(_cache_backends), ["postgresql", "sqlite"]
    if not location.key:
        allowed, is_allowed = ["memory", "file", *databases, *caches], kind is not None
    elif location.key.startswith("database."):
        allowed, is_allowed = databases, kind == "database"
    else:
        allowed, is_allowed = caches, kind == "cache"
    if not is_allowed and kind not in ("memory", "file"):
        raise ValueError(f"allowed schemes: {', '.join(allowed)}")


def _open(location: Location, kind: Kind | None, clock: Clock) -> SessionStore:
    url, options = location.url, location.options
    match kind:
        case "memory":
            from .memory import MemoryStore

            return MemoryStore(clock=clock)
        case "file":
            from .file import FileStore

            fsync = options.get("fsync", False)
            return FileStore(url.removeprefix("file:"), fsync=fsync, clock=clock)
        case "database" if url.startswith("sqlite"):
            from .sqlite import SQLiteStore

            return SQLiteStore(url, table=f"{location.app}_sessions", clock=clock)
        case "database":
            from .postgresql import PostgreSQLStore

            pool = {key: options[key] for key in ("pool_size", "pool_timeout") if key in options}
            return PostgreSQLStore(url, table=f"{location.app}_sessions", clock=clock, **pool)
    return _cache_backends[url.partition(":")[0]](location, clock)


def _open_redis(location: Location, clock: Clock) -> SessionStore:
    from .redis import RedisStore

    return RedisStore(location.url, prefix=location.app, clock=clock)


for _scheme in ("redis", "rediss", "valkey", "valkeys", "unix"):
    _cache_backends[_scheme] = _open_redis
for _scheme in ("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"):
    _cache_backends[_scheme] = _open_redis
