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
_OVERHEAD = 600  # bytes that a session takes beside its data
_PART = 50_000  # keys in one set: to grow or to free a larger one takes too long at once


class MemoryStore:
    """A dict of at most ``max_bytes``.

    When it is full, the oldest sessions make room for new ones, those without an owner first:
    nobody signs others out by visiting often. "Oldest" is what was created, moved to a new id or
    renewed before all others.

    Keys are filed by the minute in which they expire, so that neither a request nor a sweep does
    work that grows with the number of sessions.
    """

    def __init__(
        self, *, max_bytes: int = 256 * 1024**2, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._clock = clock
        # In the order in which they would be dropped.
        self._anonymous: OrderedDict[str, Record] = OrderedDict()
        self._signed_in: OrderedDict[str, Record] = OrderedDict()
        self._owned: dict[str, str | set[str]] = {}  # most own one key: a set of its own is big
        self._by_minute: dict[int, list[set[str]]] = {}
        self._minutes: list[int] = []  # the keys of _by_minute, as a heap
        self._warned = False

    async def create(self, key: str, record: Record) -> bool:
        if self._get(key) is not None:
            return False
        self._add(key, record)
        if self._bytes > self._max_bytes:
            self._make_room(key)
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
        elif self._get(move_to) is not None:
            return False
        else:
            self._remove(key)
            self._add(move_to, record)
            if leave is not None:
                self._add(key, leave)
        if self._bytes > self._max_bytes:
            self._make_room(move_to or key)
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
            record = self._get(key)
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
        """Nothing to do: what is in memory is whole."""
        return 0

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        # All at once, since a process looks at its own memory alone.
        return [*self._anonymous.items(), *self._signed_in.items()], ""

    async def ping(self) -> None:
        """Memory is always there."""

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _get(self, key: str) -> Record | None:
        return self._anonymous.get(key) or self._signed_in.get(key)

    def _find(self, key: str) -> Record | None:
        record = self._anonymous.get(key) or self._signed_in.get(key)
        return record if record is not None and record.expires > self._clock() else None

    def _keys_of(self, owner: str) -> set[str]:
        keys = self._owned.get(owner, set())
        return {keys} if isinstance(keys, str) else keys.copy()

    def _add(self, key: str, record: Record) -> None:
        self._bytes += _OVERHEAD + len(record.data)
        if record.owner is None:
            self._anonymous[key] = record
        else:
            self._signed_in[key] = record
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
        record = self._anonymous.pop(key, None) or self._signed_in.pop(key)
        self._bytes -= _OVERHEAD + len(record.data)
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
            (self._anonymous if record.owner is None else self._signed_in)[key] = record
            self._bytes += len(record.data) - len(current.data)
        else:
            self._remove(key)
            self._add(key, record)

    def _make_room(self, key: str) -> None:
        """Drop the oldest until the rest fits, but not the one that is being written."""
        for records in (self._anonymous, self._signed_in):
            while self._bytes > self._max_bytes and records:
                oldest = next(iter(records))
                if oldest == key and len(records) == 1:
                    break
                if oldest == key:
                    records.move_to_end(key)
                    continue
                self._warn_once()
                self._remove(oldest)

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "The memory store is full (%d MB): from now on the oldest sessions are dropped, "
                "those without an owner first. A file, database or cache store has no such limit.",
                self._max_bytes // 1024**2,
            )


def _minute(time: float) -> int:
    return int(time // 60)
