"""What is done with single files: read, write, remove, whatever else stands in their place."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
import time
from contextlib import suppress

from ...store import CorruptRecord

_SMALL = 32768  # bytes: what is larger is not read in the event loop
# A link or a pipe in place of a file is not followed, and not waited for.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK

Owner = tuple[int, int]  # the ids of a user and a group


def read(path: str) -> bytes:
    """The content of a regular file.

    Raises:
        CorruptRecord: something else stands there.
    """
    try:
        file = os.open(path, _READ)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):  # a link, or a socket
            raise CorruptRecord("not a file") from None
        raise
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise CorruptRecord("not a file")
        return os.read(file, found.st_size)
    finally:
        os.close(file)


def read_from_memory(path: str) -> bytes:
    """As much as the kernel has in memory, and no more than is soon copied.

    Raises:
        BlockingIOError: it has nothing.
        OSError: it can't tell, on this file system or this platform; or this is not a file.
    """
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
    buffer = bytearray(_SMALL)
    file = os.open(path, _READ)
    try:
        size = os.preadv(file, [buffer], 0, os.RWF_NOWAIT)
    finally:
        os.close(file)
    return bytes(memoryview(buffer)[:size])


def is_read_from_memory(path: str) -> bool:
    try:
        read_from_memory(path)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def write_new(
    path: str,
    content: bytes,
    *,
    owner: Owner | None,
    expires: float | None = None,
    fsync: bool = False,
) -> None:
    """Write a private file that is not there yet, with ``expires`` as its access time."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if owner is not None:
            os.fchown(file, *owner)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
        if expires is not None:
            os.utime(file, (expires, time.time()))
        if fsync:
            os.fsync(file)
    finally:
        os.close(file)


def make_folder(folder: str, mode: int = 0o700) -> None:
    """Make a folder, unless it is there, in one that is."""
    with suppress(FileExistsError):
        os.mkdir(folder, mode)
        if owner := owner_of_new_files(os.path.dirname(folder)):
            os.chown(folder, *owner, follow_symlinks=False)


def owner_of_new_files(folder: str) -> Owner | None:
    """Whom to give what is made in a folder, if that is not who makes it.

    What root's commands make is to be used by the site, which runs as the folder's owner.
    """
    if os.geteuid() != 0:
        return None
    found = os.stat(folder)
    return (found.st_uid, found.st_gid) if found.st_uid != 0 else None


def sync(folder: str) -> None:
    """Let the names in a folder survive a power cut."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def temporary(folder: str) -> str:
    """A name that nobody else uses. What a crash leaves under it is swept later."""
    return f"{folder}/{secrets.token_hex(8)}.tmp"


def unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
