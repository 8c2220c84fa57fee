"""Somebody who types the project's commands while the site runs, as its operator would."""

from __future__ import annotations

import itertools
import threading
from collections import Counter

from .site import Site

COMMANDS = (
    "migrate",
    "sessions stats --json",
    "config check soak",
    "sessions purge",
    "sessions list",
    "sessions revoke --owner nobody --yes",
)
STATUSES = (0, 1, 2)  # done; the store is away; there is no database to migrate


class Operator:
    """Types one command after the other, from ``start`` to ``stop``."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._type, name="operator")
        self.typed: Counter[str] = Counter()
        self._failed: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the last command end.

        Raises:
            RuntimeError: one ended in a way that a command never should.
        """
        self._is_over.set()
        self._thread.join()
        if self._failed:
            raise RuntimeError("\n".join(self._failed))

    def _type(self) -> None:
        for command in itertools.cycle(COMMANDS):
            if self._is_over.is_set():
                return
            status, printed = self._site.type(*command.split())
            self.typed[command] += 1
            if status not in STATUSES or "Traceback" in printed:
                self._failed.append(f"{command}: status {status}\n{printed}")
