"""The folder of a store: whether it is there and can be trusted, and the records in it."""

from __future__ import annotations

import logging
import os
import pwd
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from ...store import CorruptRecord, Record, StoreUnavailable
from . import disk
from .locks import Lock

logger = logging.getLogger(__name__)

T = TypeVar("T")

NAMES = [f"{number:02x}" for number in range(256)]
is_key = re.compile("[0-9a-f]{64}").fullmatch
is_temporary = re.compile(r"[0-9a-f]{16}\.tmp").fullmatch

_STINT = 0.0005  # seconds that a long job works without a break
_BREAK = 0.0005  # seconds
_ABOUT = """\
Server-side sessions, one file each. Its name is the SHA-256 of the session's id.

Leave this file where it is: without it, the application takes this for the folder of a volume
that is not mounted, and answers 503. To end all sessions, stop the application, remove the
whole folder, and start the application again.
"""


class Folder:
    """Where records are, by their key.

    Its methods block, and raise ``OSError`` for what the operating system refuses.
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool) -> None:
        self.path = os.path.abspath(path)
        self.about = f"{self.path}/README.txt"
        self.is_ready = False
        """Whether it was there, and ours, when it was last looked at."""
        self._was_there = False
        self._fsync = fsync
        self.owner: disk.Owner | None = None
        """Whom new files are to be given to, if not to whoever makes them."""

    def is_there(self) -> bool:
        """Whether the file is in it that a folder of sessions has from its beginning."""
        try:
            os.stat(self.about)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def check(self) -> bool:
        """Whether the folder has been made, and can be trusted with sessions.

        Raises:
            StoreUnavailable: it has gone since it was seen, or somebody else can write to it.
        """
        was_there = self._was_there  # before the look: another thread may make it meanwhile
        has_folder = os.path.exists(self.path)
        if has_folder:
            self._refuse_what_others_can_write()
            self.owner = disk.owner_of_new_files(self.path)
        if not self.is_there():
            self.is_ready = False
            if was_there:  # a store that has gone away is not an empty one
                raise StoreUnavailable(
                    f"file store: {self.path} has gone. If a volume is mounted there, mount it"
                    " again; if the folder was removed on purpose, restart the application"
                )
            if not has_folder:
                return False
            with suppress(FileExistsError):
                disk.write_new(self.about, _ABOUT.encode(), owner=self.owner)
                logger.info("Sessions are kept in %s from now on", self.path)
        self.is_ready = self._was_there = True
        return True

    def _refuse_what_others_can_write(self) -> None:
        """Whoever can write a record can sign in as anybody."""
        found, user, wrong = os.stat(self.path), os.geteuid(), ""
        if found.st_mode & stat.S_IWOTH:
            wrong = "every user may write to it"
        elif found.st_uid not in (user, 0):
            # Root works for the site's user, but not where anybody may have made the folder.
            above = os.stat(os.path.dirname(self.path))
            if user != 0 or above.st_mode & stat.S_IWOTH:
                wrong = f"it belongs to the user {_name(found.st_uid)}, not to {_name(user)}"
        if wrong:
            self.is_ready = False
            raise StoreUnavailable(
                f"file store: {self.path} is not safe for sessions: {wrong}. Name another folder,"
                " or make it private to the user that the application runs as"
            )

    def prepare(self) -> None:
        """Make the folder at its first use. Afterwards it has to be there."""
        if not self.check():
            self.make(self.path)
            self.check()

    def make(self, folder: str) -> None:
        """Make a folder in this one, or this one itself, with those above it that are missing."""
        above = os.path.dirname(folder)
        if above == self.path:
            self.prepare()
        elif not os.path.isdir(above):
            self.make(above)
        disk.make_folder(folder, 0o777 if self.path.startswith(f"{folder}/") else 0o700)
        self.sync(above)

    @contextmanager
    def locked(self, *keys: str) -> Iterator[dict[str, Lock]]:
        """Hold the sub-folders of these keys, or sub-folders of these names.

        Raises:
            Busy: another writer has one of them.
        """
        if not self.is_ready:
            self.prepare()
        locks: dict[str, Lock] = {}
        try:
            for name in {key[:2] for key in keys}:
                locks[name] = self._lock(f"{self.path}/{name}")
            yield locks
        finally:
            for lock in locks.values():
                lock.release()

    def _lock(self, folder: str) -> Lock:
        try:
            return Lock(folder, self.owner)
        except FileNotFoundError:
            self.make(folder)
            return Lock(folder, self.owner)

    def path_of(self, key: str) -> str:
        return f"{self.path}/{key[:2]}/{key}"

    def has(self, key: str) -> bool:
        """Whether anything stands in the place of this key's record."""
        return os.path.lexists(self.path_of(key))

    def read(self, key: str) -> Record | None:
        """The record of a key, expired or not."""
        path = self.path_of(key)
        try:
            return Record.from_bytes(disk.read(path))
        except FileNotFoundError:
            self.check()
            return None
        except CorruptRecord as error:
            logger.warning("Ignored %s: %s", path, error)
            return None

    def write(self, key: str, record: Record, locks: dict[str, Lock]) -> None:
        """Put a record in its place, while all that it takes is locked."""
        folder = f"{self.path}/{key[:2]}"
        content, expires = record.to_bytes(), record.expires
        path = disk.temporary(folder)
        try:
            disk.write_new(path, content, owner=self.owner, expires=expires, fsync=self._fsync)
            for lock in locks.values():
                lock.confirm(expires)
            os.replace(path, f"{folder}/{key}")
        except BaseException:
            disk.unlink(path)
            raise
        self.sync(folder)

    def remove(self, key: str) -> None:
        disk.unlink(self.path_of(key))
        self.sync(f"{self.path}/{key[:2]}")

    def keys(self, name: str) -> list[str]:
        """The keys in one sub-folder."""
        try:
            return list(filter(is_key, os.listdir(f"{self.path}/{name}")))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def probe(self) -> None:
        """Find out whether a record could be written now."""
        folder = f"{self.path}/{NAMES[0]}"
        self.prepare()
        if not os.path.isdir(folder):
            self.make(folder)
        path = disk.temporary(folder)
        try:
            disk.write_new(path, b"a full disk takes no byte", owner=self.owner)
        finally:
            disk.unlink(path)

    def sync(self, folder: str) -> None:
        if self._fsync:
            disk.sync(folder)


def at_leisure(items: Iterable[T]) -> Iterator[T]:
    """The same, with breaks: an event loop may wait for the interpreter's lock."""
    started = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() > started + _STINT:
            time.sleep(_BREAK)
            started = time.perf_counter()


def _name(user: int) -> str:
    """The name of a user, or its number."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
