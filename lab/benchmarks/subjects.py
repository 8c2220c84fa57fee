"""Who is measured on which store: the columns of the tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp

from . import floors, peers
from .backends import STORES, Backend
from .ours import ours, ours_on_some_routes
from .workloads import EVERYWHERE


@dataclass(frozen=True)
class Subject:
    """An app that does the workloads on some stores.

    ``login`` says what a login is to it, beside writing a value.
    """

    name: str
    build: Callable[[Backend], ASGIApp]
    stores: tuple[str, ...]
    workloads: tuple[str, ...] = tuple(EVERYWHERE)
    has_sessions: bool = True
    login: str = ""


BARE = Subject("bare", floors.bare, STORES, has_sessions=False)
OURS = Subject("ours", ours, STORES, login="session.owner = user.id")
OURS_OUTSIDE = Subject("ours", ours_on_some_routes, ("memory",), ("outside with cookie",))


def _floor(name: str, build: Callable[[Backend], ASGIApp], store: str) -> Subject:
    return Subject(name, build, (store,), ("read", "write"), has_sessions=False)


FLOORS = [
    _floor("floor", floors.file, "file"),
    _floor("floor", floors.cache, "cache"),
    _floor("floor", floors.sqlite, "sqlite"),
    _floor("floor", floors.postgresql, "postgresql"),
]

PEERS = [
    Subject(
        "Starlette's cookie",
        peers.starlette_cookie,
        ("memory",),
        login="nothing more: the cookie is the session",
    ),
    Subject(
        "starsessions",
        peers.starsessions,
        ("memory", "cache"),
        login="regenerate_session_id()",
    ),
    Subject(
        "Litestar",
        peers.litestar,
        ("memory", "file", "cache"),
        login="nothing more: it can't rotate an id",
    ),
    Subject(
        "Litestar, SQLAlchemy",
        peers.litestar_sqlalchemy,
        ("sqlite", "postgresql"),
        login="nothing more: it can't rotate an id",
    ),
    Subject(
        "Litestar, no sessions",
        peers.litestar_without_sessions,
        ("memory",),
        ("untouched",),
        has_sessions=False,
    ),
    Subject("Django", peers.django, STORES, login="cycle_key()"),
]


def subjects_of(store: str) -> list[Subject]:
    """All but the bare app, in the order of the columns."""
    return [subject for subject in (OURS, OURS_OUTSIDE, *FLOORS, *PEERS) if store in subject.stores]
