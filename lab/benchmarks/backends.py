"""Where sessions live while they are measured: a folder, or a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from serversessions.testing import servers

STORES = ("memory", "file", "cache", "sqlite", "postgresql")


@dataclass(frozen=True)
class Backend:
    """A store's kind, its URL, and a folder for files.

    ``size`` is that of a session, in bytes of JSON.
    """

    store: str
    folder: Path
    url: str
    size: int = 300

    def of(self, name: str, size: int) -> Self:
        """The backend of one app, apart from those of all others."""
        folder = self.folder / f"{name}-{size}".replace(" ", "-").replace("/", "-")
        folder.mkdir(parents=True)
        urls = {"file": f"file:{folder}/sessions", "sqlite": f"sqlite:///{folder}/app.db"}
        return replace(self, folder=folder, url=urls.get(self.store, self.url), size=size)

    @property
    def value(self) -> bytes:
        """What a floor reads and writes instead of a session."""
        return b"x" * self.size


@contextmanager
def open_backend(store: str, folder: Path) -> Iterator[Backend]:
    """Start what the store needs."""
    if store == "cache":
        with servers.valkey() as url:
            yield Backend(store, folder, url)
    elif store == "postgresql":
        with servers.postgresql() as url:
            yield Backend(store, folder, url)
    else:
        yield Backend(store, folder, f"{store}:")
