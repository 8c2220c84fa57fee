"""Requests in process: each workload on each store, beside the floors and the peers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import product

from .backends import Backend
from .measure import Client, Effort, Work, at_once, compare, in_turn, lifespan
from .rows import Row
from .subjects import BARE, PEERS, Subject, subjects_of
from .targets import target_of
from .workloads import CLIENTS, EVERYWHERE, SIZES


@dataclass(frozen=True)
class Case:
    """One row of a store's table."""

    store: str
    workload: str
    size: str
    at_once: bool

    @property
    def name(self) -> str:
        """What distinguishes it; the usual (300 bytes, one at a time) goes without saying."""
        more = [self.size] * (self.size != "300 B") + ["64 at once"] * self.at_once
        return ", ".join([f"{self.store} {self.workload}", *more])


def cases(store: str) -> list[Case]:
    """Every combination that tells something."""
    found = [
        Case(store, workload, size, at_once)
        for size, workload, at_once in product(SIZES, EVERYWHERE, (False, True))
    ]
    found = [case for case in found if case.size == "300 B" or case.workload in ("read", "write")]
    if store == "memory":  # what happens outside the middleware is the same on all
        found.append(Case(store, "outside with cookie", "300 B", at_once=False))
    return found


async def measure_store(
    backend: Backend, wanted: list[Case], effort: Effort, missing: dict[str, str]
) -> AsyncIterator[Row]:
    """Measure these cases of one store. Notes in ``missing`` whom it could not build, and why."""
    for size in dict.fromkeys(case.size for case in wanted):
        async with AsyncExitStack() as stack:
            apps: dict[Subject, list[Client]] = {}
            for number, subject in enumerate((BARE, *subjects_of(backend.store))):
                try:
                    app = subject.build(backend.of(f"{number} {subject.name}", SIZES[size]))
                    await stack.enter_async_context(lifespan(app))
                    apps[subject] = [Client(app) for _ in range(CLIENTS)]
                    await _begin_sessions(subject, apps[subject], SIZES[size])
                except ImportError as error:
                    missing[subject.name] = str(error)
            for case in wanted:
                if case.size == size:
                    yield await _measure(case, apps, effort, missing)


async def _begin_sessions(subject: Subject, clients: list[Client], size: int) -> None:
    """Give each client a session, and prove that it is kept."""
    if not subject.has_sessions:
        return
    for number, client in enumerate(clients):
        await client.get("/seed", f"size={size}&user=user-{number}")
    await clients[0].get("/write")
    await clients[0].get("/login")
    for client, visits in ((clients[0], b"1"), (clients[1], b"0")):
        if await client.get("/count") != visits:
            raise RuntimeError(f"{subject.name} forgot a session")


async def _measure(
    case: Case, apps: dict[Subject, list[Client]], effort: Effort, missing: dict[str, str]
) -> Row:
    works = {
        subject.name: _work(case, clients)
        for subject, clients in apps.items()
        if subject != BARE and case.workload in subject.workloads
    }
    base = _work(case, apps[BARE])
    if case.store == "memory":
        effort = replace(effort, clock=time.process_time)
    found = await compare(base, works, effort, least=CLIENTS if case.at_once else 1)
    row = Row(case.name, target=target_of(case.name), base_ms=found.base_seconds * 1000)
    row.peers = tuple(peer.name for peer in PEERS)
    for subject in subjects_of(case.store):
        is_missing = subject.name in missing and case.workload in subject.workloads
        nothing = "missing" if is_missing else ""
        row.cells[subject.name] = found.ratios.get(subject.name, nothing)
    return row


def _work(case: Case, clients: list[Client]) -> Work:
    if case.workload == "untouched":
        clients = [Client(client.app) for client in clients]
    path = f"/{case.workload.partition(' ')[0]}"
    return at_once(clients, path) if case.at_once else in_turn(clients, path)
