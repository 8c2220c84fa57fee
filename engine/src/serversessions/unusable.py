"""The session of a request whose session can't be had: its store is down, or its path has none."""

from __future__ import annotations

from copy import copy

from .session import Session
from .store import SessionError


class UnusableSession(Session):
    """Raises ``error`` as soon as anyone touches it. Who does not touch it notices nothing."""

    def __init__(self, error: SessionError) -> None:
        super().__init__()
        self._error = error

    def mark_accessed(self) -> None:
        raise copy(self._error)  # its traceback would hold on to the request

    def _change(self, key: str) -> None:
        self.mark_accessed()

    async def save(self) -> None:
        self.mark_accessed()
