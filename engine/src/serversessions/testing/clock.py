"""A clock that a test can move, so that none has to wait."""

from __future__ import annotations

import time


class Clock:
    """The time in Unix seconds, ``ahead`` of the machine's by as many as a test wants."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self.ahead += seconds
