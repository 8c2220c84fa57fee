"""What goes wrong, and when: all of it first, in order, then anything, as the seed has it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, zip_longest
from random import Random

from .site import Site
from .workload import Clients

GAP = (0.5, 1.5)  # seconds between two faults
LONGEST = 6.0  # seconds that one lasts: more than the timeouts of the stores' clients


@dataclass(frozen=True)
class Fault:
    """``act`` does it, for so many seconds, and undoes it."""

    kind: str
    act: Callable[[float], None]
    is_possible: Callable[[], bool] = lambda: True
    is_of_store: bool = True


@dataclass(frozen=True)
class Event:
    """A fault that happened, by the monotonic clock."""

    kind: str
    is_of_store: bool
    began: float
    ended: float


def disturb(faults: list[Fault], seconds: float, random: Random) -> list[Event]:
    """One fault after the other, for about so many seconds."""
    end = time.monotonic() + seconds
    longest = min(LONGEST, seconds / 8)
    events: list[Event] = []
    waiting = list(faults)
    while time.monotonic() + GAP[1] + longest < end:
        time.sleep(random.uniform(*GAP))
        fault = next((each for each in waiting if each.is_possible()), None)
        if fault is None:
            continue
        began = time.monotonic()
        fault.act(random.uniform(longest / 4, longest))
        events.append(Event(fault.kind, fault.is_of_store, began, time.monotonic()))
        waiting.remove(fault)
        if not waiting:
            waiting = random.sample(faults, len(faults))
    time.sleep(max(0, end - time.monotonic()))
    return events


def interleave(one: list[Fault], other: list[Fault]) -> list[Fault]:
    """Of each in turn, so that a short run has some of both."""
    pairs = chain.from_iterable(zip_longest(one, other))
    return [fault for fault in pairs if fault is not None]


def faults_of_processes(site: Site, clients: Clients, random: Random) -> list[Fault]:
    """Those of every run: of the app, of its workers, which it starts again, and of clients."""

    def kill_worker(seconds: float) -> None:
        _signal(random.choice(site.workers()), signal.SIGKILL)

    def pause_worker(seconds: float) -> None:
        worker = random.choice(site.workers())
        _signal(worker, signal.SIGSTOP)
        time.sleep(seconds)
        _signal(worker, signal.SIGCONT)

    def kill_client(seconds: float) -> None:
        clients.kill_one(random)

    def kill_site(seconds: float) -> None:
        site.kill()
        site.start()
        site.wait_until_ready()

    return [
        Fault("worker killed", kill_worker, site.is_complete, is_of_store=False),
        Fault("worker paused", pause_worker, site.is_complete, is_of_store=False),
        Fault("site killed", kill_site, site.is_complete, is_of_store=False),
        Fault("client killed", kill_client, is_of_store=False),
    ]


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
