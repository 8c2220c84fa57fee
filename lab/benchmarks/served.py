"""Requests through uvicorn: one worker, kept-alive connections, a load generator beside it."""

from __future__ import annotations

import http.client
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from serversessions.testing import servers

from .. import REPOSITORY
from .backends import Backend, open_backend
from .load import Load, load
from .measure import Effort, Spread, on_one_core, on_other_cores
from .rows import Row
from .subjects import BARE, Subject, subjects_of
from .targets import target_of


@dataclass(frozen=True)
class Case:
    """Requests of one workload, from so many connections."""

    store: str
    workload: str
    connections: int

    @property
    def name(self) -> str:
        """The rows' name, but for what they tell."""
        where = "" if self.workload == "untouched" else f"{self.store} "
        plural = "s" if self.connections > 1 else ""
        return f"uvicorn {where}{self.workload}, {self.connections} connection{plural}"


CASES = [
    Case("memory", "untouched", 1),
    Case("memory", "untouched", 32),
    Case("memory", "read", 1),
    Case("memory", "read", 32),
    Case("memory", "write", 32),
    Case("cache", "read", 1),
    Case("cache", "read", 32),
    Case("cache", "write", 32),
    Case("postgresql", "read", 32),
    Case("postgresql", "write", 32),
]
FIGURES = ("requests a second", "p99")  # each a row
NAMES = ("ours", "Starlette's cookie", "starsessions")


@dataclass(frozen=True)
class Server:
    """A running one, and the cookie of a session that it knows."""

    port: int
    cookie: str


async def measure_served(
    folder: Path, wanted: list[Case], effort: Effort, missing: dict[str, str]
) -> AsyncIterator[Row]:
    """Two rows for each case: requests a second, and the 99th percentile of their times."""
    for store in dict.fromkeys(case.store for case in wanted):
        with ExitStack() as stack:
            backend = stack.enter_context(open_backend(store, folder / store))
            running = {}
            for subject in (BARE, *_subjects(store)):
                try:
                    subject.build(backend.of(f"{subject.name} import", 300))
                except ImportError as error:
                    missing[subject.name] = str(error)
                else:
                    own = backend.of(subject.name, 300)
                    running[subject.name] = stack.enter_context(_serving(subject, own))
            for case in wanted:
                if case.store == store:
                    with on_other_cores() if case.connections > 1 else nullcontext():
                        rows = await _measure(case, running, effort, missing)
                    for row in rows:
                        yield row


def _subjects(store: str) -> list[Subject]:
    return [each for each in subjects_of(store) if each.name in NAMES and "read" in each.workloads]


async def _measure(
    case: Case, running: dict[str, Server], effort: Effort, missing: dict[str, str]
) -> list[Row]:
    rates: dict[str, list[float]] = {name: [] for name in running if name != BARE.name}
    p99s: dict[str, list[float]] = {name: [] for name in rates}
    for _ in range(effort.rounds):
        for name in rates:
            bare = await _load(running[BARE.name], case, effort)
            found = await _load(running[name], case, effort)
            rates[name].append(found.rate / bare.rate)
            p99s[name].append(found.p99 / bare.p99)
    rows = []
    for what, ratios in zip(FIGURES, (rates, p99s), strict=True):
        row = Row(f"{case.name}, {what}")
        row.target = target_of(row.name)
        for name in NAMES:
            if name in ratios:
                row.cells[name] = Spread.of(ratios[name])
            elif name in missing:
                row.cells[name] = "missing"
        rows.append(row)
    return rows


async def _load(server: Server, case: Case, effort: Effort) -> Load:
    cookie = "" if case.workload == "untouched" else server.cookie
    path = f"/{case.workload}"
    return await load(
        server.port, path, cookie, connections=case.connections, seconds=effort.seconds
    )


@contextmanager
def _serving(subject: Subject, backend: Backend) -> Iterator[Server]:
    """Serve an app in a process of its own."""
    port = servers.free_port()
    told = json.dumps({key: str(value) for key, value in asdict(backend).items()})
    command = [sys.executable, "-m", __name__, subject.name, str(port), told]
    with ExitStack() as stack:
        with on_one_core():  # and so the load has another one, where there are two
            stack.enter_context(servers.running(command, port, signal.SIGTERM, cwd=REPOSITORY))
        yield Server(port, _begin_session(port) if subject.has_sessions else "")


def _begin_session(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/seed?size=300&user=user-1")
    cookie = connection.getresponse().headers["Set-Cookie"]
    connection.close()
    return cookie.partition(";")[0]


def serve(name: str, port: str, told: str) -> None:
    """What the process does. Uvicorn takes uvloop and httptools where they are installed."""
    import uvicorn

    where = json.loads(told)
    backend = Backend(where["store"], Path(where["folder"]), where["url"])
    subject = next(each for each in (BARE, *subjects_of(backend.store)) if each.name == name)
    uvicorn.run(subject.build(backend), port=int(port), log_level="critical", access_log=False)


if __name__ == "__main__":
    serve(*sys.argv[1:])
