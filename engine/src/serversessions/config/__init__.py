"""The configuration: a TOML file for each environment, and environment variables over it.

``model`` says what can be configured, ``sources`` where it comes from, ``environments`` how a new
environment is written and how one moves to another store. All that is wrong is reported at once, as
one ``ConfigError`` that a person can act on.
"""

from ..problems import ConfigError, redact
from .model import (
    CacheConfig,
    CacheStoreConfig,
    DatabaseConfig,
    DatabaseStoreConfig,
    FileStoreConfig,
    MemoryStoreConfig,
    MiddlewaresConfig,
    ProjectConfig,
    SessionConfig,
    StoreConfig,
)
from .sources import (
    ENVIRONMENT_VARIABLE,
    OVERRIDE_PREFIX,
    PACKAGE,
    Key,
    Sources,
    current_environment,
    environment_file,
    known_environments,
)
from .values import format_duration, parse_duration

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "OVERRIDE_PREFIX",
    "PACKAGE",
    "CacheConfig",
    "CacheStoreConfig",
    "ConfigError",
    "DatabaseConfig",
    "DatabaseStoreConfig",
    "FileStoreConfig",
    "Key",
    "MemoryStoreConfig",
    "MiddlewaresConfig",
    "ProjectConfig",
    "SessionConfig",
    "Sources",
    "StoreConfig",
    "current_environment",
    "environment_file",
    "format_duration",
    "known_environments",
    "parse_duration",
    "redact",
]
