"""Where a store is: its URL, whose it is, and what else was said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Location:
    """What ``open_store`` needs to know.

    ``url`` is ``memory:``, ``file:PATH``, a database's SQLAlchemy URL or a cache's URI. ``app`` is
    the application's name, which keeps apart what several applications store in one place.
    ``options`` are ``fsync`` (a bool), ``pool_size`` (an int) and ``pool_timeout`` (a timedelta).
    ``key`` is the key of the configuration that gave the URL, for messages.
    """

    url: str = field(repr=False)  # it may hold a password
    app: str = "app"
    options: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
