"""Sessions in files: they survive a restart, and several processes on one machine share them.

``<folder>/ab/<key>`` holds the record whose key begins with ``ab``; ``<folder>/owners/`` holds an
empty marker for each session that has an owner. Folders are 0700 and files 0600. A record is
written to a temporary file that then takes its place, so a reader, or a crash at any instant, sees
the old record or the new one. Writers of one sub-folder take turns by locking it (flock), which
ends with the process that holds it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ..store import CorruptRecord, Record, StoreUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT = 5.0  # seconds to wait for another writer of the same sub-folder
_STALE = 3600  # seconds after which a file that is no record was left by a writer that died


class FileStore:
    """A folder of sessions. All file work is done in threads, never in the event loop."""

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = Path(path).absolute()
        self._owners = self._folder / "owners"
        self._clock = clock
        # Readers never wait for a lock, and so not for writers that do.
        self._readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="file-reader")
        self._writers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="file-writer")
        self._sweep: Iterator[bool] | None = None
        self._sweeping = threading.Lock()

    async def create(self, key: str, record: Record) -> bool:
        return await self._in_thread(self._create, key, record)

    async def load(self, key: str) -> Record | None:
        return await self._in_thread(self._read, key, of=self._readers)

    async def update(self, key: str, record: Record, *, move_to: str | None = None) -> bool:
        return await self._in_thread(self._update, key, record, move_to)

    async def touch(self, key: str, expires: float) -> bool:
        return await self._in_thread(self._touch, key, expires)

    async def delete(self, key: str) -> bool:
        return await self._in_thread(self._delete, key)

    async def delete_expired(self, limit: int = 1000) -> int:
        return await self._in_thread(self._delete_expired, limit)

    async def delete_owned(self, owner: str) -> int:
        return await self._in_thread(self._delete_owned, owner)

    async def ping(self) -> None:
        await self._in_thread(self._ping)

    async def aclose(self) -> None:
        for threads in (self._readers, self._writers):
            threads.shutdown(wait=False)  # what is being written is finished

    async def _in_thread(
        self, work: Callable[..., T], *args: object, of: ThreadPoolExecutor | None = None
    ) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(of or self._writers, work, *args)
        except OSError as error:
            at = error.filename or self._folder
            raise StoreUnavailable(f"file store: {error.strerror or error}: {at}") from error

    def _create(self, key: str, record: Record) -> bool:
        with self._locked(key):
            if self._path(key).exists():
                return False
            self._write(key, record)
            return True

    def _read(self, key: str) -> Record | None:
        record = self._read_any(key)
        return record if record is not None and record.expires > self._clock() else None

    def _read_any(self, key: str) -> Record | None:
        try:
            return Record.from_bytes(self._path(key).read_bytes())
        except FileNotFoundError:
            return None
        except CorruptRecord as error:
            logger.warning("Ignored %s: %s", self._path(key), error)
            return None

    def _update(self, key: str, record: Record, move_to: str | None) -> bool:
        with self._locked(key, move_to or key):
            current = self._read(key)
            if current is None or current.version != record.version - 1:
                return False
            if move_to is not None and self._path(move_to).exists():
                return False
            self._write(move_to or key, record)
            if move_to is not None:
                self._remove(key, current.owner)
            elif current.owner not in (None, record.owner):
                self._marker(key, current.owner).unlink(missing_ok=True)
            return True

    def _touch(self, key: str, expires: float) -> bool:
        with self._locked(key):
            current = self._read(key)
            if current is None:
                return False
            self._write(key, replace(current, expires=expires))
            return True

    def _delete(self, key: str, owner: str | None = None) -> bool:
        """Delete a record, or, with ``owner``, only one that still belongs to that owner."""
        with self._locked(key):
            record = self._read_any(key)
            if owner is not None and (record is None or record.owner != owner):
                self._marker(key, owner).unlink(missing_ok=True)
                return False
            self._remove(key, record.owner if record else None)
            return record is not None and record.expires > self._clock()

    def _delete_owned(self, owner: str) -> int:
        folder = self._marker("", owner)
        keys = [marker.name for marker in folder.iterdir()] if folder.is_dir() else []
        return sum([self._delete(key, owner) for key in keys])

    def _delete_expired(self, limit: int) -> int:
        """Go on where the last sweep stopped, until ``limit`` are removed or all was seen."""
        with self._sweeping:
            removed = 0
            self._sweep = self._sweep or self._sweep_all()
            for was_removed in self._sweep:
                removed += was_removed
                if removed == limit:
                    return removed
            self._sweep = None
            return removed

    def _sweep_all(self) -> Iterator[bool]:
        for path in self._folder.glob("[0-9a-f][0-9a-f]/*"):
            try:
                yield path.name != "lock" and self._sweep_one(path)
            except OSError as error:  # of this entry alone
                logger.warning("Could not sweep %s: %s", path, error.strerror)

    def _sweep_one(self, path: Path) -> bool:
        try:
            if path.suffix == ".tmp":
                raise CorruptRecord("not yet a record")
            record = Record.from_bytes(path.read_bytes())
        except FileNotFoundError:
            return False
        except CorruptRecord:
            if path.stat().st_mtime < time.time() - _STALE:
                path.unlink(missing_ok=True)
            return False
        if record.expires > self._clock():
            return False
        with self._locked(path.name):  # look again: it may have been touched meanwhile
            current = self._read_any(path.name)
            if current is None or current.expires > self._clock():
                return False
            self._remove(path.name, current.owner)
            return True

    def _ping(self) -> None:
        probe = self._temporary(self._folder / "00")
        self._make_folder(probe.parent)
        _write_private(probe, b"a full disk takes no byte")
        probe.unlink()

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key

    def _temporary(self, folder: Path) -> Path:
        """A name that nobody else uses; what is left under it is swept one day."""
        return folder / f"{secrets.token_hex(8)}.tmp"

    def _marker(self, key: str, owner: str) -> Path:
        return self._owners / hashlib.sha256(owner.encode()).hexdigest() / key

    def _write(self, key: str, record: Record) -> None:
        path = self._path(key)
        if record.owner is not None:  # marked before it is written: no owned session is missed
            marker = self._marker(key, record.owner)
            self._make_folder(marker.parent)
            _write_private(marker, b"")
        temporary = self._temporary(path.parent)
        try:
            _write_private(temporary, record.to_bytes())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _remove(self, key: str, owner: str | None) -> None:
        self._path(key).unlink(missing_ok=True)
        if owner is not None:
            self._marker(key, owner).unlink(missing_ok=True)

    @contextmanager
    def _locked(self, *keys: str) -> Iterator[None]:
        """Hold the sub-folders of these keys, in one order for all, so that none waits forever."""
        with ExitStack() as locks:
            for folder in sorted({self._path(key).parent for key in keys}):
                self._make_folder(folder)
                lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                locks.callback(os.close, lock)
                _lock(lock, folder)
            yield

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            if folder != self._folder:
                self._make_folder(folder.parent)
            folder.mkdir(mode=0o700, parents=folder == self._folder, exist_ok=True)


def _lock(file: int, folder: Path) -> None:
    """Wait for a lock, but not for ever: its holder may have been stopped."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"no turn to write within {TIMEOUT} s", str(folder)
                ) from None
            time.sleep(0.002)


def _write_private(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
