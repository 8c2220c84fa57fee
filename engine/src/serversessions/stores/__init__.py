"""The registry: which store a configuration names. A store is imported only when it is chosen."""

from __future__ import annotations

from collections.abc import Callable

from ..config import (
    PACKAGE,
    CacheStoreConfig,
    ConfigError,
    DatabaseStoreConfig,
    FileStoreConfig,
    ProjectConfig,
    redact,
)
from ..store import SessionStore


class MissingPackage(ConfigError):
    """A store needs an extra of this project that is not installed: ``extra``."""

    def __init__(self, extra: str, package: str | None) -> None:
        self.extra = extra
        super().__init__(
            f"the {extra} store needs the package {package!r}, which is not installed: "
            f"pip install -e '.[{extra}]' in the project's folder"
        )


_cache_backends: dict[str, Callable[[str], SessionStore]] = {}


def register_cache_backend(scheme: str, factory: Callable[[str], SessionStore]) -> None:
    """Let ``factory`` open the store for every cache URI with this scheme, before the app starts.

    ``factory`` takes the URI and connects later; it raises ``ValueError`` for a URI that it can't
    read.
    """
    _cache_backends[scheme] = factory


def open_store(config: ProjectConfig) -> SessionStore:
    """The store that ``[middlewares.session.store]`` names. Nothing connects yet.

    Raises:
        ConfigError: its URL is wrong.
        MissingPackage: a package that it needs is not installed.
    """
    chosen = config.middlewares.session.store
    try:
        match chosen:
            case FileStoreConfig():
                from .file import FileStore

                return FileStore(chosen.path, fsync=chosen.fsync)
            case CacheStoreConfig():
                return _open_cache(_url(config))
            case DatabaseStoreConfig():
                from .database import DatabaseStore

                assert config.database is not None
                pool_size, pool_timeout = config.database.pool_size, config.database.pool_timeout
                return DatabaseStore(
                    config.database.url, pool_size=pool_size, pool_timeout=pool_timeout
                )
            case _:
                from .memory import MemoryStore

                return MemoryStore()
    except ModuleNotFoundError as error:
        raise MissingPackage(chosen.type, error.name) from None
    except ValueError as error:
        assert config.store_url is not None
        key, url = config.store_url
        raise ConfigError(f'{key}: found "{redact(url)}"; {redact(str(error))}') from None


def describe_store(config: ProjectConfig) -> str:
    """The store and its place, for people: without passwords."""
    chosen = config.middlewares.session.store
    if isinstance(chosen, FileStoreConfig):
        return f"file: {chosen.path}"
    return chosen.type if config.store_url is None else f"{chosen.type}: {redact(_url(config))}"


def _url(config: ProjectConfig) -> str:
    assert config.store_url is not None
    return config.store_url[1]


def _open_cache(uri: str) -> SessionStore:
    scheme = uri.partition(":")[0]
    if scheme not in _cache_backends:
        raise ValueError(f"allowed schemes: {', '.join(sorted(_cache_backends))}")
    return _cache_backends[scheme](uri)


def _open_redis(uri: str) -> SessionStore:
    from .redis import RedisStore

    return RedisStore(uri, prefix=PACKAGE)


_SCHEMES = (
    *("redis", "rediss", "valkey", "valkeys", "unix"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
)
for _scheme in _SCHEMES:
    register_cache_backend(_scheme, _open_redis)
