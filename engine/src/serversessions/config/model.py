"""What can be configured: the tables of an environment's TOML, as frozen and checked models."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ..cookie import prefixed_name
from ..location import Location
from ..problems import Problem, show
from .mistakes import explain
from .sources import Sources, current_environment, environment_file, read_environment
from .table import Table, WrongTable
from .values import (
    CookieDomain,
    CookieName,
    CookiePath,
    Duration,
    Expiry,
    Hosts,
    PathPrefixes,
    Recheck,
    Text,
    Url,
    to_plain,
)

_LARGEST = 2**63 - 1  # whole number of TOML


class MemoryStoreConfig(Table):
    """Sessions in the memory of the process."""

    type: Literal["memory"] = "memory"
    """where sessions live: memory, file, cache or database"""


class FileStoreConfig(Table):
    """Sessions in files below ``path``, relative to where the command is run."""

    type: Literal["file"] = "file"
    path: Text
    """the folder of the file store"""
    fsync: bool = False
    """flush each change of the file store to the disk before it is answered"""


class CacheStoreConfig(Table):
    """Sessions in the cache at ``uri``, in ``[caches.NAME]``, or else in ``[cache]``."""

    type: Literal["cache"] = "cache"
    uri: Url | None = None
    """the server of the cache store, such as redis://host:6379/0"""
    name: Text | None = None
    """or one of [caches.NAME]; without either, the cache store takes [cache]"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.uri is not None and self.name is not None:
            raise ValueError("`uri` and `name` exclude each other: keep one")
        return self


class DatabaseStoreConfig(Table):
    """Sessions in the database that ``[database]`` names."""

    type: Literal["database"] = "database"


StoreConfig = Annotated[
    Annotated[
        MemoryStoreConfig | FileStoreConfig | CacheStoreConfig | DatabaseStoreConfig,
        Field(discriminator="type"),
    ],
    BeforeValidator(lambda v: {"type": "memory", **v} if isinstance(v, dict) else v),
]


class SessionConfig(Table):
    """``[middlewares.session]``: the cookie, the lifetime, and the store."""

    secure: bool = True
    """the cookie goes over HTTPS only; false needs debug"""
    http_only: bool = True
    """scripts can't read the cookie"""
    same_site: Literal["strict", "lax", "none"] = "lax"
    """strict, lax or none; signing in through another site (OAuth) needs lax"""
    domain: CookieDomain | None = None
    """the domain whose hosts get the cookie; without it, this host alone"""
    path: CookiePath = "/"
    """the paths that get the cookie"""
    name: CookieName | None = None
    """the cookie's name; without it, the project's. Where secure, domain and path allow, __Host- is
    put before it"""
    partitioned: bool = False
    """CHIPS: one cookie for each site that embeds this one"""
    always_save: bool = False
    """renew session and cookie on every request that carries a session"""
    expiry: Expiry = "session"
    """session, a time of inactivity such as 30m or 7d, or a date: 2030-01-01T00:00:00Z"""
    max_lifetime: Duration | None = None
    """the end of a session, whatever the activity: 12h"""
    max_size: Annotated[int, Field(ge=1, le=_LARGEST)] = 65536
    """bytes of one session's data"""
    keep_user_agent: bool = True
    """note which browser a user signs in with, to show it to that user"""
    exclude: PathPrefixes = ()
    """path prefixes without a session: ["/static"]"""
    recheck: Recheck = timedelta(seconds=30)
    """how often an open WebSocket looks whether its session has ended; never: not at all"""
    store: StoreConfig = MemoryStoreConfig()

    @model_validator(mode="after")
    def _check_cookie(self) -> Self:
        """Browsers ignore cookies that break these rules (RFC 6265bis 4.1.3 and 5.7, CHIPS)."""
        name = self.name or ""
        needs_secure = {
            f'name = "{name}"': name.lower().startswith(("__host-", "__secure-")),
            'same_site = "none"': self.same_site == "none",
            "partitioned = true": self.partitioned,
        }
        wrong = [f"{key} needs secure = true" for key, is_set in needs_secure.items() if is_set]
        if self.secure:
            wrong = []
        if name.lower().startswith("__host-") and not self._is_for_one_host:
            wrong.append(f'name = "{name}" needs path = "/" and no domain')
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def _is_for_one_host(self) -> bool:
        return self.path == "/" and self.domain is None


class MiddlewaresConfig(Table):
    """``[middlewares]``."""

    session: SessionConfig = SessionConfig()


class CacheConfig(Table):
    """``[cache]`` or ``[caches.NAME]``."""

    url: Url
    """a cache server, such as redis://host:6379/0"""


class DatabaseConfig(Table):
    """``[database]``."""

    url: Url
    """the database, as an SQLAlchemy URL: sqlite:///var/app.db, postgresql://user@host/name"""
    pool_size: Annotated[int, Field(ge=1, le=_LARGEST)] | None = None
    """connections of each worker to PostgreSQL, at most; without it, 15"""
    pool_timeout: Duration | None = None
    """how long a request waits for one of them; without it, 5s"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        pool = [key for key in ("pool_size", "pool_timeout") if getattr(self, key) is not None]
        if pool and self.url.startswith("sqlite"):
            raise ValueError(
                f"{' and '.join(pool)}: PostgreSQL alone has a pool. Remove it: SQLite needs none"
            )
        return self


class ProjectConfig(Table):
    """The whole configuration of one environment. Derive your app's own from it.

    ``app_name`` is the app's name wherever it is to be told from others: in the names of variables
    (MY_APP_ENV, MY_APP__CACHE__URL), of the cookie, of tables and of a cache's keys. ``migrations``
    is the package that holds the migrations of its database, such as "my_app:migrations".
    """

    app_name: ClassVar[str] = "app"
    migrations: ClassVar[str | None] = None

    debug: bool = False
    """debug pages, template reload, migration at the start; for your own machine alone"""
    allowed_hosts: Hosts = ("*",)
    """the hosts that the app answers for: ["example.org", "*.example.org"]"""
    cache: CacheConfig | None = None
    caches: dict[str, CacheConfig] = Field(default={})
    database: DatabaseConfig | None = None
    middlewares: MiddlewaresConfig = MiddlewaresConfig()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", cls.app_name):
            raise TypeError(
                f"{cls.__name__}.app_name: found {cls.app_name!r}; allowed: a letter, then letters,"
                " digits and _"
            )

    @model_validator(mode="after")
    def _check_session(self) -> Self:
        session = self.middlewares.session
        wrong = []
        if not session.secure and not self.debug:
            rule = "true, or debug = true beside it"
            advice = "Remove it and serve the app over HTTPS"
            text = f"found false; allowed: {rule}. {advice}"
            wrong.append(Problem("middlewares.session.secure", "false", rule, text))
        match session.store:
            case DatabaseStoreConfig() if self.database is None:
                text = "missing; the database store needs it"
                wrong.append(Problem("database.url", None, "a URL", text))
            case CacheStoreConfig(uri=None, name=None) if self.cache is None:
                text = "missing; give it, or [cache] url"
                wrong.append(Problem("middlewares.session.store.uri", None, "a URL", text))
            case CacheStoreConfig(name=str(name)) if name not in self.caches:
                known = ", ".join(self.caches) or f"none; add [caches.{name}] with its url"
                wrong.append(Problem("middlewares.session.store.name", show(name), known))
        if wrong:
            raise WrongTable(*wrong)
        return self

    @property
    def location(self) -> Location:
        """Where the sessions live, as ``open_store`` takes it."""
        match self.middlewares.session.store:
            case FileStoreConfig(path=path, fsync=fsync):
                key = "middlewares.session.store.path"
                return Location(f"file:{path}", self.app_name, {"fsync": fsync}, key)
            case CacheStoreConfig(uri=str(uri)):
                return Location(uri, self.app_name, key="middlewares.session.store.uri")
            case CacheStoreConfig(name=str(name)):
                return Location(self.caches[name].url, self.app_name, key=f"caches.{name}.url")
            case CacheStoreConfig() if self.cache is not None:
                return Location(self.cache.url, self.app_name, key="cache.url")
            case DatabaseStoreConfig() if (database := self.database) is not None:
                pool = {"pool_size": database.pool_size, "pool_timeout": database.pool_timeout}
                options = {key: value for key, value in pool.items() if value is not None}
                return Location(database.url, self.app_name, options, "database.url")
        return Location("memory:", self.app_name, key="middlewares.session.store.type")

    def session_options(self) -> dict[str, Any]:
        """The keyword arguments of ``SessionMiddleware``."""
        session = self.middlewares.session
        options = {key: getattr(session, key) for key in type(session).model_fields}
        del options["store"]
        options["name"] = prefixed_name(
            session.name or self.app_name,
            secure=session.secure,
            path=session.path,
            domain=session.domain,
        )
        options["recheck"] = None if session.recheck == "never" else session.recheck
        return options

    @classmethod
    def load(cls, environment: str | None = None) -> Self:
        """Read ``config/<environment>.toml``, and the environment variables that override it.

        Without an argument the environment is ``<APP_NAME>_ENV``, else ``dev``.

        Raises:
            ConfigError: the file is missing or unreadable, or anything in it is wrong.
        """
        return cls.from_sources(cls.read_sources(environment or current_environment(cls.app_name)))

    @classmethod
    def from_toml(
        cls, text: str, *, source: str = "TOML", overrides: Mapping[str, str] | None = None
    ) -> Self:
        """Read a configuration from the text of a TOML file.

        ``source`` is what error messages call it. ``overrides`` are variables; those that begin
        with ``<APP_NAME>__`` win over the text.

        Raises:
            ConfigError: anything is wrong with either.
        """
        return cls.from_sources(Sources.parse(cls, cls.app_name, text, source, overrides or {}))

    @classmethod
    def read_sources(cls, environment: str) -> Sources:
        """An environment's file, with this process's variables over it, not checked yet.

        Raises:
            ConfigError: the file or a variable's file can't be read, or is not TOML.
        """
        text = read_environment(environment, cls.app_name)
        name = str(environment_file(environment))
        return Sources.parse(cls, cls.app_name, text, name, os.environ)

    @classmethod
    def from_sources(cls, sources: Sources) -> Self:
        """What was read from a file and from variables, checked.

        Raises:
            ConfigError: anything in it is wrong.
        """
        try:
            return cls.model_validate(sources.data)
        except ValidationError as error:
            raise explain(error, cls, sources) from None

    def to_toml(self) -> str:
        """The configuration as TOML that ``from_toml`` reads back equal, secrets included."""
        import tomlkit

        return tomlkit.dumps(to_plain(self.model_dump(exclude_none=True)))
