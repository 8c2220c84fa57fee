"""The configuration: a TOML file for each environment, and environment variables over it.

An app derives its own from ``ProjectConfig``, and its own tables from ``Table``. All that is wrong
is reported at once, as one ``ConfigError`` that a person can act on.
"""

from ..problems import ConfigError, Problem, redact
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
)
from .table import Table
from .values import Duration

__all__ = [
    "CacheConfig",
    "CacheStoreConfig",
    "ConfigError",
    "DatabaseConfig",
    "DatabaseStoreConfig",
    "Duration",
    "FileStoreConfig",
    "MemoryStoreConfig",
    "MiddlewaresConfig",
    "Problem",
    "ProjectConfig",
    "SessionConfig",
    "Table",
    "redact",
]
