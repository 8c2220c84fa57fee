"""Sessions in this process's memory: the fastest, and gone when it stops."""

from __future__ import annotations

import heapq
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from ..store import Record

logger = logging.getLogger(__name__)


class MemoryStore:
    """A bounded dict. When it is full, the session that began first makes room for a new one.

    Keys are filed by the minute in which they expire, so that neither a request nor a sweep does
    work that grows with the number of sessions.
    """

    def __init__(
        self, *, max_sessions: int = 1_000_000, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_sessions = max_sessions
        self._clock = clock
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._owned: dict[str, set[str]] = {}
        self._by_minute: dict[int, set[str]] = {}
        self._minutes: list[int] = []  # the keys of _by_minute, as a heap
        self._warned = False

    async def create(self, key: str, record: Record) -> bool:
        if key in self._records:
            return False
        if len(self._records) >= self._max_sessions:
            self._drop_oldest()
        self._add(key, record)
        return True

    async def load(self, key: str) -> Record | None:
        record = self._records.get(key)
        return record if record is not None and record.expires > self._clock() else None

    async def update(self, key: str, record: Record, *, move_to: str | None = None) -> bool:
        current = await self.load(key)
        if current is None or current.version != record.version - 1:
            return False
        if move_to is not None and move_to in self._records:
            return False
        self._replace(key, record, move_to or key)
        return True

    async def touch(self, key: str, expires: float) -> bool:
        current = await self.load(key)
        if current is None:
            return False
        self._replace(key, replace(current, expires=expires), key)
        return True

    async def delete(self, key: str) -> bool:
        live = await self.load(key) is not None
        if key in self._records:
            self._remove(key)
        return live

    async def delete_expired(self, limit: int = 1000) -> int:
        this_minute = _minute(self._clock())
        removed = 0
        while self._minutes and self._minutes[0] < this_minute and removed < limit:
            if keys := self._by_minute[self._minutes[0]]:
                self._remove(next(iter(keys)))
                removed += 1
            else:
                del self._by_minute[heapq.heappop(self._minutes)]
        return removed

    async def delete_owned(self, owner: str) -> int:
        return sum([await self.delete(key) for key in list(self._owned.get(owner, ()))])

    async def ping(self) -> None:
        """Memory is always there."""

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _add(self, key: str, record: Record) -> None:
        self._records[key] = record
        if record.owner is not None:
            self._owned.setdefault(record.owner, set()).add(key)
        minute = _minute(record.expires)
        if minute not in self._by_minute:
            self._by_minute[minute] = set()
            heapq.heappush(self._minutes, minute)
        self._by_minute[minute].add(key)

    def _remove(self, key: str) -> None:
        record = self._records.pop(key)
        self._by_minute[_minute(record.expires)].discard(key)
        if record.owner is not None:
            self._owned[record.owner].discard(key)
            if not self._owned[record.owner]:
                del self._owned[record.owner]

    def _replace(self, key: str, record: Record, new_key: str) -> None:
        current = self._records[key]
        in_place = key == new_key and current.owner == record.owner
        if in_place and _minute(current.expires) == _minute(record.expires):
            self._records[key] = record
        else:
            self._remove(key)
            self._add(new_key, record)

    def _drop_oldest(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "The memory store is full (%d sessions): from now on the oldest are dropped. "
                "A file, database or cache store has no such limit.",
                self._max_sessions,
            )
        self._remove(next(iter(self._records)))


def _minute(time: float) -> int:
    return int(time // 60)
