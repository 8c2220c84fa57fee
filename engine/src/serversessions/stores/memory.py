"""Sessions in this process's memory: the fastest, and gone when it stops."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from msgspec.structs import replace

from ..store import Record

logger = logging.getLogger(__name__)

_STEP = 100  # records swept before requests get their turn
_PART = 50_000  # keys in one set: to grow or to free a larger one takes too long at once


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
        self._owned: dict[str, str | set[str]] = {}  # most own one key: a set of its own is big
        self._by_minute: dict[int, list[set[str]]] = {}
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
        return self._find(key)

    async def update(
        self,
        key: str,
        record: Record,
        *,
        move_to: str | None = None,
        leave: Record | None = None,
    ) -> bool:
        current = self._find(key)
        if current is None or current.version != record.version - 1:
            return False
        if move_to is None:
            self._replace(key, current, record)
            return True
        if move_to in self._records:
            return False
        self._remove(key)
        self._add(move_to, record)
        if leave is not None:
            self._add(key, leave)
        return True

    async def touch(self, key: str, expires: float) -> bool:
        current = self._find(key)
        if current is None:
            return False
        self._replace(key, current, replace(current, expires=expires))
        return True

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        live = 0
        for key in keys:
            record = self._records.get(key)
            if record is not None and owner in (None, record.owner):
                live += record.expires > self._clock()
                self._remove(key)
        return live

    async def delete_expired(self, limit: int = 1000) -> int:
        this_minute = _minute(self._clock())
        removed = 0
        while self._minutes and self._minutes[0] < this_minute and removed < limit:
            parts = self._by_minute[self._minutes[0]]
            if parts[-1]:
                self._remove(parts[-1].pop())  # a set's first key would be found ever more slowly
                removed += 1
                if removed % _STEP == 0:
                    await asyncio.sleep(0)
            elif len(parts) > 1:
                parts.pop()
            else:
                del self._by_minute[heapq.heappop(self._minutes)]
        return removed

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        keys = sorted(key for key in self._keys_of(owner) if key > after)
        live = ((key, record) for key in keys if (record := self._find(key)) is not None)
        return list(itertools.islice(live, limit))

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        return await self.delete(*(key for key in self._keys_of(owner) if key != except_key))

    async def repair(self) -> int:
        return 0

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        return list(self._records.items()), ""  # a process looks at its own memory alone

    async def ping(self) -> None:
        """Memory is always there."""

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _find(self, key: str) -> Record | None:
        record = self._records.get(key)
        return record if record is not None and record.expires > self._clock() else None

    def _keys_of(self, owner: str) -> set[str]:
        keys = self._owned.get(owner, set())
        return {keys} if isinstance(keys, str) else keys.copy()

    def _add(self, key: str, record: Record) -> None:
        self._records[key] = record
        if record.owner is not None:
            keys = self._owned.setdefault(record.owner, key)
            if isinstance(keys, set):
                keys.add(key)
            elif keys != key:
                self._owned[record.owner] = {keys, key}
        minute = _minute(record.expires)
        if minute not in self._by_minute:
            self._by_minute[minute] = [set()]
            heapq.heappush(self._minutes, minute)
        parts = self._by_minute[minute]
        if len(parts[-1]) == _PART:
            parts.append(set())
        parts[-1].add(key)

    def _remove(self, key: str) -> None:
        record = self._records.pop(key)
        for part in self._by_minute[_minute(record.expires)]:
            part.discard(key)
        if record.owner is not None:
            keys = self._owned[record.owner]
            if isinstance(keys, set) and len(keys) > 1:
                keys.remove(key)
            else:
                del self._owned[record.owner]

    def _replace(self, key: str, current: Record, record: Record) -> None:
        is_same_minute = current.expires == record.expires or (
            _minute(current.expires) == _minute(record.expires)
        )
        if is_same_minute and current.owner == record.owner:
            self._records[key] = record
        else:
            self._remove(key)
            self._add(key, record)

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
