"""Turns to write in a sub-folder, for threads and processes: flock on the file ``lock`` in it.

A lock belongs to the work that it was taken for, and to nothing else:

- Not to a process. flock locks an open file description, so that threads exclude each other, too,
  and closing another descriptor of the file drops nothing. (On NFS, Linux turns flock into a lock
  of the process on all bytes of the file, which other machines see, threads of one process do not,
  and any close drops.)
- Not to a child. One that is forked meanwhile shares the description: so the lock is given back by
  name and not only by closing, and the child closes what it got.
- Not to a file that has been removed: whoever holds the lock of one looks whether it is still there
  before each change, and begins anew if not.

The access time of a lock is when something in its folder may have expired: see ``sweep``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress

from .disk import Owner

TIMEOUT = 5.0  # seconds to wait for another writer of the same sub-folder


class Busy(OSError):
    """Another writer has the turn. Nothing was changed."""

    def __init__(self, folder: str) -> None:
        super().__init__(errno.EAGAIN, "another writer has the turn", folder)
        self.folder = folder

    def as_timeout(self) -> TimeoutError:
        """What to raise when it has lasted too long: its holder may have been stopped."""
        return TimeoutError(errno.ETIMEDOUT, f"no turn to write within {TIMEOUT} s", self.folder)


_open: set[int] = set()


def _close_inherited() -> None:
    while _open:
        with suppress(OSError):
            os.close(_open.pop())


os.register_at_fork(after_in_child=_close_inherited)


class Lock:
    """The turn to write in one folder, from its creation to ``release``.

    Raises:
        Busy: another writer has it.
        FileNotFoundError: the folder is missing.
    """

    def __init__(self, folder: str, owner: Owner | None) -> None:
        self._folder = folder
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        self._file = os.open(f"{folder}/lock", flags, 0o600)
        _open.add(self._file)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if owner is not None:
                os.fchown(self._file, *owner)
        except BaseException as error:
            self.release()
            if isinstance(error, BlockingIOError):
                raise Busy(folder) from None
            raise

    def confirm(self, expires: float) -> None:
        """Say just before a change that this turn is the only one, and when the record expires.

        Raises:
            Busy: the lock's file was removed, so that somebody else may have a turn, too.
        """
        found = os.fstat(self._file)
        if found.st_nlink == 0:
            raise Busy(self._folder)
        if expires < found.st_atime:
            self.set_due(expires)

    def set_due(self, when: float) -> None:
        """Note when the folder is to be swept next."""
        os.utime(self._file, (when, time.time()))

    def release(self) -> None:
        """Let the next writer have its turn."""
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_UN)
        _open.discard(self._file)
        os.close(self._file)
