"""The stores: what each needs, what the app is told of it, and what goes wrong with it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from serversessions.testing.servers import postgresql_data

from .faults import Fault
from .network import Network
from .servers import DURABLE, PostgreSQL, Server, Valkey


@dataclass(frozen=True)
class Store:
    """An open one: the configuration of an app on it, and the faults of its own."""

    toml: str
    faults: list[Fault] = field(default_factory=list)
    is_whole: Callable[[], bool] = lambda: True  # whether nothing of a fault is left

    @classmethod
    def in_cache(
        cls, uri: str, faults: list[Fault], is_whole: Callable[[], bool] = lambda: True
    ) -> Store:
        """What speaks Redis."""
        store = f'[middlewares.session.store]\ntype = "cache"\nuri = "{uri}"\n'
        return cls(store, faults, is_whole)

    @classmethod
    def in_database(cls, url: str, faults: list[Fault]) -> Store:
        """What speaks SQL."""
        store = '[middlewares.session.store]\ntype = "database"\n'
        return cls(f'[database]\nurl = "{url}"\n{store}', faults)


Opened = AbstractContextManager[Store]
Open = Callable[[Path, Network, Random], Opened]


@contextmanager
def file(folder: Path, network: Network, random: Random) -> Iterator[Store]:
    path = json.dumps(str(folder / "sessions"))
    yield Store(f'[middlewares.session.store]\ntype = "file"\npath = {path}\n')


@contextmanager
def sqlite(folder: Path, network: Network, random: Random) -> Iterator[Store]:
    yield Store.in_database(f"sqlite:///{folder}/app.db", [])


@contextmanager
def postgresql(folder: Path, network: Network, random: Random) -> Iterator[Store]:
    with postgresql_data() as data:
        server = PostgreSQL(network.new_host(), data)
        aborted = Fault("store aborted", _during(server.abort, server.start))
        with server.running():
            url = f"postgresql://postgres@{server.address}/postgres"
            yield Store.in_database(url, [*_faults_of(server), aborted])


@contextmanager
def valkey(folder: Path, network: Network, random: Random) -> Iterator[Store]:
    with _one_valkey(folder, network, DURABLE) as store:
        yield store


@contextmanager
def snapshots(folder: Path, network: Network, random: Random) -> Iterator[Store]:
    """What it says of itself is not what it does: shows that broken promises are found."""
    with _one_valkey(folder, network, ("--save", "1", "1")) as store:
        yield store


@contextmanager
def _one_valkey(folder: Path, network: Network, options: tuple[object, ...]) -> Iterator[Store]:
    server = Valkey(network.new_host(), folder / "valkey", *options)
    with server.running():
        yield Store.in_cache(f"redis://{server.address}/0", _faults_of(server))


def _faults_of(server: Server) -> list[Fault]:
    """Those of a store that is one server."""
    return [
        Fault("store killed", _during(server.kill, server.start)),
        Fault(f"network {server.host.cut_name}", _during(server.cut, server.mend)),
        Fault("store paused", _during(server.pause, server.resume)),
    ]


def _during(begin: Callable[[], None], end: Callable[[], None]) -> Callable[[float], None]:
    def act(seconds: float) -> None:
        begin()
        try:
            time.sleep(seconds)
        finally:
            end()

    return act
