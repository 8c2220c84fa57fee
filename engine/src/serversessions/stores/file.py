"""Sessions in files: they survive a restart, and several processes on one machine share them.

``<folder>/ab/<key>`` holds the record whose key begins with ``ab``;
``<folder>/owners/cd/<owner>/<key>`` is an empty marker for a session that has an owner. Folders are
0700 and files 0600. A record is written to a temporary file that then takes its place, so a reader,
or a crash at any instant, sees the old record or the new one. Writers of one sub-folder take turns
by locking it (flock), which ends with the process that holds it.

The access time of a file is the expiry of its record, so that a sweep need not read what is alive.
It is only a hint, since the record's bytes are the truth; and reading leaves it alone, because it
lies in the future (relatime, mount(8)).
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from ..store import CorruptRecord, Record, StoreUnavailable
from .threads import Threads

logger = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT = 5.0  # seconds to wait for another writer of the same sub-folder
_STALE = 3600  # seconds after which a file that is no record was left by a writer that died
_SUB_FOLDERS = [f"{number:02x}" for number in range(256)]
_STINT = 0.0005  # seconds that a sweep works without a break
_BREAK = 0.0005  # seconds
_AT_ONCE = 10  # files removed in one turn, for whose end writers wait
_SMALL = 32768  # bytes: what is larger is not read in the event loop


class FileStore:
    """A folder of sessions.

    What the kernel has in memory is read at once, which takes microseconds; all other work is done
    in threads, so that the event loop never waits for a disk. With ``fsync`` a change is on the
    disk before it is acknowledged; without, a power cut may lose the last seconds.
    """

    def __init__(
        self, path: str | Path, *, fsync: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = os.path.abspath(path)
        self._fsync = fsync
        self._clock = clock
        # Readers never wait for a lock, and so not for writers that do.
        self._readers = Threads(4, "file-reader")
        self._writers = Threads(4, "file-writer")
        self._reads_at_once = False  # until a thread has found that the file system can do it
        self._sweep: Iterator[tuple[str, os.DirEntry[str]]] | None = None
        self._sweeping = threading.Lock()

    async def create(self, key: str, record: Record) -> bool:
        return await self._in_thread(self._create, key, record)

    async def load(self, key: str) -> Record | None:
        if self._reads_at_once:
            try:
                return self._if_live(Record.from_bytes(_read_from_memory(self._path(key))))
            except FileNotFoundError:
                return None
            except (OSError, CorruptRecord):
                pass  # not in memory, not all of it, or not as it should be: a thread looks
        return await self._in_thread(self._load, key, of=self._readers)

    async def update(self, key: str, record: Record, *, move_to: str | None = None) -> bool:
        return await self._in_thread(self._update, key, record, move_to)

    async def touch(self, key: str, expires: float) -> bool:
        return await self._in_thread(self._touch, key, expires)

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        return await self._in_thread(self._delete_all, keys, owner)

    async def delete_expired(self, limit: int = 1000) -> int:
        return await self._in_thread(self._delete_expired, limit)

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        return await self._in_thread(self._list_owned, owner, after, limit, of=self._readers)

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        return await self._in_thread(self._delete_owned, owner, except_key)

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        return await self._in_thread(self._scan, cursor, limit, of=self._readers)

    async def ping(self) -> None:
        await self._in_thread(self._ping)

    async def aclose(self) -> None:
        for threads in (self._readers, self._writers):
            threads.shutdown(wait=False)  # what is being written is finished

    async def _in_thread(
        self, work: Callable[..., T], *args: object, of: Threads | None = None
    ) -> T:
        try:
            return await (of or self._writers).run(work, *args)
        except OSError as error:
            at = error.filename or self._folder
            raise StoreUnavailable(f"file store: {error.strerror or error}: {at}") from error

    def _create(self, key: str, record: Record) -> bool:
        with self._locked(key):
            if os.path.exists(self._path(key)):
                return False
            self._mark(key, record.owner)
            self._write(key, record)
            return True

    def _load(self, key: str) -> Record | None:
        self._reads_at_once = _is_read_from_memory(self._path(key))
        return self._read(key)

    def _read(self, key: str) -> Record | None:
        record = self._read_any(key)
        return None if record is None else self._if_live(record)

    def _read_any(self, key: str) -> Record | None:
        path = self._path(key)
        try:
            return Record.from_bytes(_read(path))
        except FileNotFoundError:
            return None
        except CorruptRecord as error:
            logger.warning("Ignored %s: %s", path, error)
            return None

    def _if_live(self, record: Record) -> Record | None:
        return record if record.expires > self._clock() else None

    def _update(self, key: str, record: Record, move_to: str | None) -> bool:
        with self._locked(key, move_to or key):
            current = self._read(key)
            if current is None or current.version != record.version - 1:
                return False
            if move_to is not None and os.path.exists(self._path(move_to)):
                return False
            if move_to is not None or current.owner != record.owner:
                self._mark(move_to or key, record.owner)
            self._write(move_to or key, record)
            if move_to is not None:
                self._remove(key, current.owner)
            elif current.owner != record.owner:
                self._unmark(key, current.owner)
            return True

    def _touch(self, key: str, expires: float) -> bool:
        with self._locked(key):
            current = self._read(key)
            if current is None:
                return False
            self._write(key, replace(current, expires=expires))
            return True

    def _delete_all(self, keys: Iterable[str], owner: str | None) -> int:
        return sum([self._delete(key, owner) for key in keys])

    def _delete(self, key: str, owner: str | None) -> bool:
        with self._locked(key):
            record = self._read_any(key)
            if owner is not None and (record is None or record.owner != owner):
                self._unmark(key, owner)
                return False
            self._remove(key, record.owner if record else None)
            return record is not None and record.expires > self._clock()

    def _list_owned(self, owner: str, after: str, limit: int) -> list[tuple[str, Record]]:
        keys = sorted(key for key in self._keys_of(owner) if key > after)
        records = ((key, self._read(key)) for key in keys)
        theirs = ((key, each) for key, each in records if each is not None and each.owner == owner)
        return list(itertools.islice(theirs, limit))

    def _delete_owned(self, owner: str, except_key: str | None) -> int:
        # Again until none is new: one that moves meanwhile is marked before it does.
        count, done = 0, {except_key}
        while keys := set(self._keys_of(owner)) - done:
            count += self._delete_all(keys, owner)
            done |= keys
        return count

    def _keys_of(self, owner: str) -> list[str]:
        """What is marked as the owner's: more than it is, after a crash or a change of owner."""
        try:
            return os.listdir(self._owned_by(owner))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _scan(self, cursor: str, limit: int) -> tuple[list[tuple[str, Record]], str]:
        """Whole sub-folders, from the one that the cursor names on."""
        found: list[tuple[str, Record]] = []
        for name in _SUB_FOLDERS:
            if name < cursor:
                continue
            if len(found) >= limit:
                return found, name
            with suppress(FileNotFoundError, NotADirectoryError):
                keys = [key for key in os.listdir(f"{self._folder}/{name}") if len(key) == 64]
                records = ((key, self._read_any(key)) for key in keys)
                found += [(key, each) for key, each in records if each is not None]
        return found, ""

    def _delete_expired(self, limit: int) -> int:
        """Go on where the last sweep stopped, until ``limit`` are removed or all was seen."""
        removed = 0
        with self._sweeping:
            self._sweep = self._sweep or self._find_expired()
            while some := list(itertools.islice(self._sweep, min(limit - removed, _AT_ONCE))):
                for folder, entries in itertools.groupby(some, itemgetter(0)):
                    removed += self._remove_expired(folder, [entry for _, entry in entries])
            if removed < limit:
                self._sweep = None
        return removed

    def _find_expired(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """What has expired as far as the hints tell, with its sub-folder."""
        started = time.perf_counter()
        for name in _SUB_FOLDERS:
            try:
                with os.scandir(f"{self._folder}/{name}") as folder:
                    entries = [entry for entry in folder if entry.name != "lock"]
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                with _going_on(entry.path):
                    if entry.stat(follow_symlinks=False).st_atime <= self._clock():
                        yield name, entry
                if time.perf_counter() > started + _STINT:
                    time.sleep(_BREAK)  # the event loop would wait for the interpreter's lock
                    started = time.perf_counter()

    def _remove_expired(self, folder: str, entries: Iterable[os.DirEntry[str]]) -> int:
        """In one turn; how many it were."""
        removed = 0
        with _going_on(f"{self._folder}/{folder}"), self._locked(folder):
            for entry in entries:
                with _going_on(entry.path):
                    removed += self._remove_if_expired(entry)
        return removed

    def _remove_if_expired(self, entry: os.DirEntry[str]) -> bool:
        found = entry.stat(follow_symlinks=False)
        try:
            if entry.name.endswith(".tmp"):
                raise CorruptRecord("not yet a record")
            record = Record.from_bytes(_read(entry.path))
        except CorruptRecord:
            if found.st_mtime < time.time() - _STALE:
                os.unlink(entry.path)
            return False
        if record.expires > self._clock():  # touched meanwhile; or the hint is lost, as in a copy
            os.utime(entry.path, (record.expires, found.st_mtime))
            return False
        self._remove(entry.name, record.owner)
        return True

    def _ping(self) -> None:
        folder = f"{self._folder}/00"
        self._make_folder(folder)
        probe = _temporary(folder)
        try:
            self._write_new(probe, b"a full disk takes no byte")
        finally:
            _unlink(probe)

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key[:2]}/{key}"

    def _owned_by(self, owner: str) -> str:
        if not owner.isalnum():
            raise ValueError(f"owner: found {owner!r}; allowed: what hash_owner() returns")
        return f"{self._folder}/owners/{owner[:2]}/{owner}"

    def _mark(self, key: str, owner: str | None) -> None:
        """Before a record is written, so that no session of an owner is ever missed."""
        if owner is not None:
            folder = self._owned_by(owner)
            while True:
                self._make_folder(folder)
                with suppress(FileNotFoundError):  # who ended the last session took it away
                    os.close(os.open(f"{folder}/{key}", os.O_WRONLY | os.O_CREAT, 0o600))
                    break
            self._sync(folder)

    def _unmark(self, key: str, owner: str | None) -> None:
        if owner is not None:
            folder = self._owned_by(owner)
            _unlink(f"{folder}/{key}")
            with suppress(OSError):  # there are others
                os.rmdir(folder)

    def _write(self, key: str, record: Record) -> None:
        path = self._path(key)
        folder = os.path.dirname(path)
        temporary = _temporary(folder)
        try:
            self._write_new(temporary, record.to_bytes(), expires=record.expires)
            os.replace(temporary, path)
        except BaseException:
            _unlink(temporary)
            raise
        self._sync(folder)

    def _write_new(self, path: str, content: bytes, *, expires: float | None = None) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(file, rest) :]
            if expires is not None:
                os.utime(file, (expires, time.time()))
            if self._fsync:
                os.fsync(file)
        finally:
            os.close(file)

    def _remove(self, key: str, owner: str | None) -> None:
        path = self._path(key)
        _unlink(path)
        self._sync(os.path.dirname(path))
        self._unmark(key, owner)

    def _sync(self, folder: str) -> None:
        """Let the names in a folder survive a power cut, too."""
        if self._fsync:
            file = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    @contextmanager
    def _locked(self, *keys: str) -> Iterator[None]:
        """Hold the sub-folders of these keys, in one order for all, so that none waits forever."""
        locks: list[int] = []
        try:
            for name in sorted({key[:2] for key in keys}):
                folder = f"{self._folder}/{name}"
                locks.append(self._open_lock(folder))
                _lock(locks[-1], folder)
            yield
        finally:
            for lock in locks:
                os.close(lock)

    def _open_lock(self, folder: str) -> int:
        try:
            return os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            self._make_folder(folder)
            return os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT, 0o600)

    def _make_folder(self, folder: str) -> None:
        """Make it and those above it that are missing; only ours are private."""
        if os.path.isdir(folder):
            return
        above = os.path.dirname(folder)
        if folder == self._folder:
            os.makedirs(above, exist_ok=True)
        else:
            self._make_folder(above)
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        self._sync(above)


@contextmanager
def _going_on(path: str) -> Iterator[None]:
    """What a sweep can't do here stops it nowhere else."""
    try:
        yield
    except FileNotFoundError:  # someone else was faster
        pass
    except OSError as error:
        logger.warning("Could not sweep %s: %s", path, error.strerror)


def _lock(file: int, folder: str) -> None:
    """Wait for a lock, but not for ever: its holder may have been stopped."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"no turn to write within {TIMEOUT} s", folder
                ) from None
            time.sleep(0.002)


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, os.fstat(file).st_size)
    finally:
        os.close(file)


def _read_from_memory(path: str) -> bytes:
    """As much as the kernel has in memory, and no more than is soon copied.

    Raises:
        BlockingIOError: it has nothing.
        OSError: it can't tell, on this file system or this platform.
    """
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
    buffer = bytearray(_SMALL)
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.preadv(file, [buffer], 0, os.RWF_NOWAIT)
    finally:
        os.close(file)
    return bytes(memoryview(buffer)[:size])


def _is_read_from_memory(path: str) -> bool:
    try:
        _read_from_memory(path)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _temporary(folder: str) -> str:
    """A name that nobody else uses; what is left under it is swept one day."""
    return f"{folder}/{secrets.token_hex(8)}.tmp"


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
