"""Which sessions belong to whom: the index by which a user is signed out everywhere.

A mark is made before the record that it leads to, and its times are those of the record, whenever
it is written: so no cleaner of old or of empty files takes the mark alone. A backup that is taken
while users sign in may miss marks nevertheless; so once the folder is found to be a copy, all are
made anew from the records. How that is found: ``owners/whole`` names the inode and the change time
(ctime) of another file, which no copy can have.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from ...store import CorruptRecord
from . import disk
from .folder import NAMES, Folder, at_leisure, is_key

_MARK = b"1"  # a cleaner may remove what is empty


class Owners:
    """The marks in a store's folder. Its methods block, and raise ``OSError``."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._path = f"{folder.path}/owners"
        self._whole = f"{self._path}/whole"

    def mark(self, key: str, owner: str | None, expires: float) -> bool:
        """Mark a session; whether it was not yet. Do so before its record is written."""
        if owner is None:
            return False
        folder = self._folder_of(owner)
        with suppress(FileNotFoundError):
            os.utime(f"{folder}/{key}", (expires, time.time()))
            return False
        while True:
            try:
                self._write(f"{folder}/{key}", _MARK, expires)
                break
            except FileNotFoundError:  # new, or taken away by whoever ended the last session
                self._folder.make(folder)
        self._folder.sync(folder)
        return True

    def unmark(self, key: str, owner: str | None) -> None:
        if owner is not None:
            folder = self._folder_of(owner)
            disk.unlink(f"{folder}/{key}")
            with suppress(OSError):  # there are others
                os.rmdir(folder)

    def keys_of(self, owner: str) -> list[str]:
        """What is marked: more than there is, after a crash or a change of owner."""
        try:
            return list(filter(is_key, os.listdir(self._folder_of(owner))))
        except (FileNotFoundError, NotADirectoryError):
            self._folder.check()
            return []

    def is_whole(self) -> bool:
        """Whether the marks were complete once, and have never been copied since."""
        try:
            return disk.read(self._whole) == self._identity()
        except (FileNotFoundError, NotADirectoryError, CorruptRecord):
            return False

    def repair(self) -> int:
        """Mark every session that has an owner; the number of marks that were missing.

        Raises:
            OSError: a record could not be read. All others are marked.
        """
        if not self._folder.check():
            return 0
        identity, count = self._identity(), 0
        failure: OSError | None = None
        for name in NAMES:
            try:
                for key in at_leisure(self._folder.keys(name)):
                    record = self._folder.read(key)
                    if record is not None:
                        count += self.mark(key, record.owner, record.expires)
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        self._folder.make(self._path)
        disk.unlink(self._whole)
        self._write(self._whole, identity, time.time())
        return count

    def _write(self, path: str, content: bytes, expires: float) -> None:
        with suppress(FileExistsError):  # another process does the same
            disk.write_new(path, content, owner=self._folder.owner, expires=expires)

    def _folder_of(self, owner: str) -> str:
        if not owner.isalnum():
            raise ValueError(f"owner: found {owner!r}; allowed: what hash_owner() returns")
        return f"{self._path}/{owner[:2]}/{owner}"

    def _identity(self) -> bytes:
        found = os.stat(self._folder.about)
        return f"{found.st_ino} {found.st_ctime_ns}\n".encode()
