"""Removing what has expired, at a cost that workers share and that has a limit.

The access time of a sub-folder's lock says when something in it may have expired: a sweep sets it,
and whoever writes a record that expires earlier lowers it. So a worker passes over what another has
just swept, and over all in which nothing is due, without looking at a single record.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import thread_time

from ...store import CorruptRecord, Record
from . import disk, locks
from .folder import NAMES, Folder, at_leisure, is_key, is_temporary
from .owners import Owners

logger = logging.getLogger(__name__)

_STALE = 3600  # seconds after which a file that is no record was left by a writer that died
_AT_ONCE = 10  # files removed in one turn, for whose end writers wait
_LATEST = 3600  # seconds after which a sub-folder is looked at again, whatever its lock says
_SHARE = 100  # sweeps take one part in so many of a processor's time, however much there is
_INTERVAL = 60  # seconds between two sweeps: to rest for less makes no difference
_PAUSE = 0.002  # seconds between two tries to get a lock


class Sweep:
    """Sweeps of one store, which run in a thread of their own, one at a time."""

    def __init__(self, folder: Folder, owners: Owners, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._owners = owners
        self._clock = clock

    def run(self, limit: int) -> int:
        """Remove what has expired, ``limit`` records at most; the number removed."""
        if not self._folder.check():
            return 0
        with _going_on(self._folder.path):
            if not self._owners.is_whole():
                self._owners.repair()
        removed = 0
        for name in NAMES:
            with _going_on(f"{self._folder.path}/{name}"):
                if removed < limit and self._due(name) <= self._clock():
                    removed += self._sweep(name, limit - removed)
        return removed

    def _due(self, name: str) -> float:
        folder = f"{self._folder.path}/{name}"
        try:
            return os.stat(f"{folder}/lock").st_atime
        except FileNotFoundError:
            os.stat(folder)  # raises if that is missing, too
            return 0

    def _sweep(self, name: str, limit: int) -> int:
        now, started = self._clock(), thread_time()
        with self._locked(name) as lock:
            lock.set_due(now + _LATEST)  # from here on, whoever writes lowers it
        removed, due = 0, now
        try:
            expired, due = self._look(name, now)
            while expired and removed < limit:
                size = min(limit - removed, _AT_ONCE)
                some, expired = expired[:size], expired[size:]
                with self._locked(name):
                    for entry in some:
                        with _going_on(entry.path):
                            left = self._remove_if_expired(entry)
                            removed += left is None
                            due = min(due, left or due)
            due = now if expired else max(due, now + _rest(thread_time() - started))
        finally:
            with self._locked(name) as lock:
                lock.confirm(due)
        return removed

    def _look(self, name: str, now: float) -> tuple[list[os.DirEntry[str]], float]:
        """What has expired as far as the hints tell, and when the next will."""
        expired, due = [], now + _LATEST
        with os.scandir(f"{self._folder.path}/{name}") as entries:
            for entry in at_leisure(entries):
                if is_key(entry.name) or is_temporary(entry.name):
                    with _going_on(entry.path):
                        expires = entry.stat(follow_symlinks=False).st_atime
                        if expires <= now:
                            expired.append(entry)
                        else:
                            due = min(due, expires)
        return expired, due

    def _remove_if_expired(self, entry: os.DirEntry[str]) -> float | None:
        """When to look again, or None if it is gone."""
        found = entry.stat(follow_symlinks=False)
        try:
            if is_temporary(entry.name):
                raise CorruptRecord("not yet a record")
            record = Record.from_bytes(disk.read(entry.path))
        except CorruptRecord:
            stale = found.st_mtime + _STALE
            if stale < time.time():
                os.unlink(entry.path)
            return stale
        if record.expires > self._clock():  # touched meanwhile; or the hint is lost, as in a copy
            os.utime(entry.path, (record.expires, found.st_mtime))
            return record.expires
        self._folder.remove(entry.name)
        self._owners.unmark(entry.name, record.owner)
        return None

    @contextmanager
    def _locked(self, name: str) -> Iterator[locks.Lock]:
        """Wait for the turn, but not for ever: whoever has it may have been stopped."""
        deadline = time.monotonic() + locks.TIMEOUT
        with ExitStack() as stack:
            while True:
                try:
                    held = stack.enter_context(self._folder.locked(name))
                    break
                except locks.Busy as busy:
                    if time.monotonic() > deadline:
                        raise busy.as_timeout() from None
                    time.sleep(_PAUSE)
            yield held[name]


def _rest(spent: float) -> float:
    """How long a sub-folder is left alone after a sweep took so many seconds of a processor."""
    rest = spent * len(NAMES) * _SHARE
    return rest if rest > _INTERVAL else 0


@contextmanager
def _going_on(path: str) -> Iterator[None]:
    """What a sweep can't do here stops it nowhere else."""
    try:
        yield
    except FileNotFoundError:  # someone else was faster
        pass
    except OSError as error:
        logger.warning("Could not sweep %s: %s", path, error.strerror)
