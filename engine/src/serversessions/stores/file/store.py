"""The store: reads in the event loop where they don't block, and all other work in threads."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec.structs import replace

from ...store import CorruptRecord, Record, StoreUnavailable
from ..threads import Threads
from . import disk, locks
from .folder import NAMES, Folder
from .owners import Owners
from .sweep import Sweep

T = TypeVar("T")

_AT_ONCE = 100  # records deleted before a thread is free for others


class FileStore:
    """A folder of sessions.

    What the kernel has in memory is read at once, which takes microseconds; all other work is done
    in threads, so that the event loop never waits for a disk. With ``fsync`` a change is on the
    disk before it is acknowledged; without, a power cut may lose the last seconds.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fsync: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = Folder(path, fsync=fsync)
        self._owners = Owners(self._folder)
        self._sweep = Sweep(self._folder, self._owners, clock)
        self._clock = clock
        # Readers never wait for a lock, and so not for writers that do. Neither waits for what
        # takes long, which has a thread of its own.
        self._readers = Threads(4, "file-reader")
        self._writers = Threads(4, "file-writer")
        self._sweeper = Threads(1, "file-sweeper")
        self._reads_at_once = False  # until a thread has found that the file system can do it

    async def create(self, key: str, record: Record) -> bool:
        return await self._run(self._writers, self._create, key, record)

    async def load(self, key: str) -> Record | None:
        if self._reads_at_once and self._folder.is_ready:
            try:
                raw = disk.read_from_memory(self._folder.path_of(key))
                return self._if_live(Record.from_bytes(raw))
            except FileNotFoundError:
                if self._folder.is_there():
                    return None
            except (OSError, CorruptRecord):
                pass  # not in memory, not all of it, or not as it should be: a thread looks
        return await self._run(self._readers, self._load, key)

    async def update(
        self,
        key: str,
        record: Record,
        *,
        move_to: str | None = None,
        leave: Record | None = None,
    ) -> bool:
        return await self._run(self._writers, self._update, key, record, move_to, leave)

    async def touch(self, key: str, expires: float) -> bool:
        return await self._run(self._writers, self._touch, key, expires)

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        count, left, patience = 0, list(keys), _Patience()
        failure: OSError | None = None  # which is no reason to leave the others
        try:
            while left:
                some, left = left[:_AT_ONCE], left[_AT_ONCE:]
                deleted = await self._writers.run(self._delete, some, owner)
                count += deleted.count
                failure = failure or deleted.failure
                if deleted.busy:
                    await patience.wait(next(iter(deleted.busy.values())))
                    left += deleted.busy
            if failure is not None:
                raise failure
        except OSError as error:
            raise self._unavailable(error) from error
        return count

    async def delete_expired(self, limit: int = 1000) -> int:
        return await self._run(self._sweeper, self._sweep.run, limit)

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        await self._make_index_whole()
        return await self._run(self._readers, self._list_owned, owner, after, limit)

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        failure: StoreUnavailable | None = None
        try:
            await self._make_index_whole()
        except StoreUnavailable as error:
            failure = error  # one folder that can't be read is no reason to miss the others
        # Again until none is new: one that moves meanwhile is marked before it does.
        count, done = 0, {except_key or ""}
        while keys := set(await self._run(self._readers, self._owners.keys_of, owner)) - done:
            count += await self.delete(*keys, owner=owner)
            done |= keys
        if failure is not None:
            raise failure
        return count

    async def repair(self) -> int:
        return await self._run(self._sweeper, self._owners.repair)

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        return await self._run(self._readers, self._scan, cursor, limit)

    async def ping(self) -> None:
        await self._run(self._writers, self._folder.probe)

    async def aclose(self) -> None:
        for threads in (self._readers, self._writers, self._sweeper):
            threads.shutdown(wait=False)  # what is being written is finished

    async def _make_index_whole(self) -> None:
        if not await self._run(self._readers, self._is_index_whole):
            await self._run(self._sweeper, self._repair)

    async def _run(self, threads: Threads, work: Callable[..., T], *args: object) -> T:
        """Work in a thread, which is free for others while another writer has the turn."""
        patience: _Patience | None = None
        try:
            while True:
                try:
                    return await threads.run(work, *args)
                except locks.Busy as busy:
                    patience = patience or _Patience()
                    await patience.wait(busy)
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        at = error.filename or self._folder.path
        return StoreUnavailable(f"file store: {error.strerror or error}: {at}")

    # What follows runs in threads.

    def _create(self, key: str, record: Record) -> bool:
        with self._folder.locked(key) as held:
            if self._folder.has(key):
                return False
            self._owners.mark(key, record.owner, record.expires)
            self._folder.write(key, record, held)
            return True

    def _load(self, key: str) -> Record | None:
        if not self._folder.is_ready and not self._folder.check():
            return None
        self._reads_at_once = disk.is_read_from_memory(self._folder.path_of(key))
        return self._read(key)

    def _read(self, key: str) -> Record | None:
        record = self._folder.read(key)
        return None if record is None else self._if_live(record)

    def _if_live(self, record: Record) -> Record | None:
        return record if record.expires > self._clock() else None

    def _update(self, key: str, record: Record, move_to: str | None, leave: Record | None) -> bool:
        new = move_to or key
        with self._folder.locked(key, new) as held:
            current = self._read(key)
            if current is None or current.version != record.version - 1:
                return False
            if move_to is not None and self._folder.has(move_to):
                return False
            self._owners.mark(new, record.owner, record.expires)
            self._folder.write(new, record, held)
            if move_to is not None:
                self._leave(key, leave, held)
            if move_to is not None or current.owner != record.owner:
                self._owners.unmark(key, current.owner)
            return True

    def _leave(self, key: str, record: Record | None, held: dict[str, locks.Lock]) -> None:
        """End what has moved away, and put a record in its place if there is one, and room."""
        try:
            if record is not None:
                return self._folder.write(key, record, held)
        except OSError:
            pass
        return self._folder.remove(key)

    def _touch(self, key: str, expires: float) -> bool:
        with self._folder.locked(key) as held:
            current = self._read(key)
            if current is None:
                return False
            self._owners.mark(key, current.owner, expires)
            self._folder.write(key, replace(current, expires=expires), held)
            return True

    def _delete(self, keys: Iterable[str], owner: str | None) -> _Deleted:
        deleted = _Deleted()
        for key in keys:
            try:
                deleted.count += self._delete_one(key, owner)
            except locks.Busy as busy:
                deleted.busy[key] = busy
            except OSError as error:
                deleted.failure = error
        return deleted

    def _delete_one(self, key: str, owner: str | None) -> bool:
        with self._folder.locked(key):
            record = self._folder.read(key)
            if owner is not None and (record is None or record.owner != owner):
                self._owners.unmark(key, owner)
                return False
            self._folder.remove(key)
            self._owners.unmark(key, record.owner if record else None)
            return record is not None and self._if_live(record) is not None

    def _list_owned(self, owner: str, after: str, limit: int) -> list[tuple[str, Record]]:
        keys = sorted(key for key in self._owners.keys_of(owner) if key > after)
        records = ((key, self._read(key)) for key in keys)
        theirs = ((key, each) for key, each in records if each is not None and each.owner == owner)
        return list(itertools.islice(theirs, limit))

    def _is_index_whole(self) -> bool:
        return not self._folder.check() or self._owners.is_whole()

    def _repair(self) -> int:
        """Unless another call has done so meanwhile."""
        return 0 if self._is_index_whole() else self._owners.repair()

    def _scan(self, cursor: str, limit: int) -> tuple[list[tuple[str, Record]], str]:
        """Whole sub-folders, from the one that the cursor names on."""
        found: list[tuple[str, Record]] = []
        for name in NAMES if self._folder.check() else ():
            if name < cursor:
                continue
            if len(found) >= limit:
                return found, name
            records = ((key, self._folder.read(key)) for key in self._folder.keys(name))
            found += [(key, record) for key, record in records if record is not None]
        return found, ""


@dataclass
class _Deleted:
    """How far a call came that deletes many records."""

    count: int = 0
    """the number that was live until then"""
    busy: dict[str, locks.Busy] = field(default_factory=dict)
    """those that another writer keeps from being deleted now"""
    failure: OSError | None = None


class _Patience:
    """How long one call waits for its turn. Its pauses grow, so that many who wait cost little."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + locks.TIMEOUT
        self._pause = 0.001  # seconds

    async def wait(self, busy: locks.Busy) -> None:
        if time.monotonic() > self._deadline:
            raise busy.as_timeout() from None
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 1.5, 0.02)
