"""What can be configured: the tables of an environment's TOML, as frozen and checked models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from ..problems import redact, show
from .mistakes import explain
from .sources import Sources, current_environment
from .values import CookieDomain, CookieName, CookiePath, Duration, Expiry, PathPrefixes, Text, Url


class _Table(BaseModel):
    # The text below a key is its description: .env.example is made of these.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # it may hold a password
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """A configuration may be logged: its passwords may not."""
        for key, value in super().__repr_args__():
            yield key, redact(value) if isinstance(value, str) else value


class MemoryStoreConfig(_Table):
    """Sessions in the memory of the process."""

    type: Literal["memory"] = "memory"
    """where sessions live: memory, file, cache or database"""


class FileStoreConfig(_Table):
    """Sessions in files below ``path``, relative to where the command is run."""

    type: Literal["file"] = "file"
    path: Text
    """the folder of the file store"""
    fsync: bool = False
    """flush each change of the file store to the disk before it is answered"""


class CacheStoreConfig(_Table):
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


class SessionConfig(_Table):
    """``[middlewares.session]``: the cookie, the lifetime, and the store."""

    secure: bool = True
    """the cookie goes over HTTPS only; false needs debug"""
    http_only: bool = True
    """scripts can't read the cookie"""
    same_site: Literal["strict", "lax", "none"] = "strict"
    """strict, lax or none; signing in through another site (OAuth) needs lax"""
    domain: CookieDomain | None = None
    """the domain whose hosts get the cookie; without it, this host alone"""
    path: CookiePath = "/"
    """the paths that get the cookie"""
    name: CookieName = "id"
    """the cookie's name; try __Host-id in production"""
    partitioned: bool = False
    """CHIPS: one cookie for each site that embeds this one"""
    always_save: bool = False
    """renew session and cookie on every request that carries a session"""
    expiry: Expiry = "session"
    """session, a time of inactivity such as 30m or 7d, or a date: 2030-01-01T00:00:00Z"""
    max_lifetime: Duration | None = None
    """the end of a session, whatever the activity: 12h"""
    max_size: Annotated[int, Field(ge=1)] = 65536
    """bytes of one session's data"""
    keep_user_agent: bool = True
    """note which browser a user signs in with, to show it to that user"""
    exclude: PathPrefixes = ()
    """path prefixes without a session: ["/static"]"""
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
    """a cache server, such as redis://host:6379/0"""


class DatabaseConfig(_Table):
    """``[database]``."""

    url: Url
    """the database, as an SQLAlchemy URL: sqlite:///var/app.db, postgresql://user@host/name"""
    pool_size: Annotated[int, Field(ge=1)] | None = None
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


class ProjectConfig(_Table):
    """The whole configuration of one environment."""

    debug: bool = False
    """debug pages, template reload, migration at the start"""
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
                    f"middlewares.session.store.name: found {show(name)}; allowed: {known}"
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
        return cls.from_sources(Sources.read(environment or current_environment()))

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
        return cls.from_sources(Sources.parse(text, source, overrides or {}))

    @classmethod
    def from_sources(cls, sources: Sources) -> Self:
        """What was read from a file and from variables, checked.

        Raises:
            ConfigError: anything in it is wrong.
        """
        try:
            return cls.model_validate(sources.data)
        except ValidationError as error:
            raise explain(error, ProjectConfig, sources) from None

    def to_toml(self) -> str:
        """The configuration as TOML that ``from_toml`` reads back equal, passwords included."""
        import tomlkit

        return tomlkit.dumps(self.model_dump(exclude_none=True))
