"""Where sessions may live: a folder, and a real server where the store needs one."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

STORES = ("memory", "file", "cache", "sqlite", "postgresql")


@dataclass(frozen=True)
class Place:
    """A store, and all that an app needs to use it.

    ``folder`` is for the app's files, ``project`` that of the generated project, ``url`` that of
    the server or database, "" where there is none. ``size`` is that of a session, in bytes.
    """

    store: str
    folder: Path
    project: Path
    url: str = ""
    size: int = 300

    def of(self, name: str, size: int) -> Self:
        """The place of one app, apart from those of all others."""
        folder = self.folder / f"{name}-{size}".replace(" ", "-").replace("/", "-")
        folder.mkdir(parents=True)
        url = f"sqlite:///{folder}/app.db" if self.store == "sqlite" else self.url
        return replace(self, folder=folder, url=url, size=size)

    @property
    def value(self) -> bytes:
        """What a floor reads and writes instead of a session."""
        return b"x" * self.size


def servers_of(project: Path) -> Any:
    """The generated project's own module that starts real servers from wheels."""
    return SimpleNamespace(**runpy.run_path(str(project / "tests" / "servers.py")))


@contextmanager
def open_place(store: str, project: Path, folder: Path) -> Iterator[Place]:
    """Start what the store needs."""
    servers = servers_of(project)
    if store == "cache":
        with servers.valkey() as url:
            yield Place(store, folder, project, url)
    elif store == "postgresql":
        with servers.postgresql() as url:
            yield Place(store, folder, project, url)
    else:
        yield Place(store, folder, project)
