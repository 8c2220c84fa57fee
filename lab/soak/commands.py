"""Who types the project's commands beside the running site, one after the other, all the time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from .faults import Event
from .site import Site

COMMANDS = (
    "migrate",
    "sessions stats --json",
    "sessions list",
    "config check",
    "sessions purge",
)
NO_DATABASE = 2  # the exit status of `migrate` where there is none


@dataclass(frozen=True)
class Typed:
    """A command that has ended, by the monotonic clock."""

    command: str
    status: int
    output: str
    began: float
    ended: float

    def is_excused(self, events: Iterable[Event], recovery: float) -> bool:
        """Whether something was wrong meanwhile, or until ``recovery`` seconds before."""
        return any(
            event.began < self.ended and self.began < event.ended + recovery for event in events
        )


class Operator:
    """Types from a thread, so that faults go on meanwhile."""

    def __init__(self, site: Site) -> None:
        self.typed: list[Typed] = []
        self._site = site
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._type, daemon=True)
        self._thread.start()

    def stop(self) -> list[Typed]:
        """Let the last command end; all that were typed.

        Raises:
            RuntimeError: not one was.
        """
        self._is_over.set()
        self._thread.join()
        if not self.typed:
            raise RuntimeError("the operator typed nothing")
        return self.typed

    def _type(self) -> None:
        for command in itertools.cycle(COMMANDS):
            began = time.monotonic()
            status, output = self._site.run(*command.split())
            if command == "migrate" and not self._site.has_database and status == NO_DATABASE:
                status = 0
            self.typed.append(Typed(command, status, output, began, time.monotonic()))
            if self._is_over.is_set():
                return


def find_failures(typed: list[Typed], events: list[Event], recovery: float) -> list[Typed]:
    """Commands that failed while nothing was wrong, or that no operator should ever see."""
    return [
        each
        for each in typed
        if "Traceback" in each.output
        or (each.status != 0 and not (each.status == 1 and each.is_excused(events, recovery)))
    ]
