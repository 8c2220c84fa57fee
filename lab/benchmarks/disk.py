"""The disk on which stores keep their files: one as most users have it, where that can be had.

A machine made for tests may have another. An ext4 without a journal, mounted with ``discard``,
takes three times as long to put one file in another's place: it gives the old one's block back to
the device at once, and waits for that.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

_SIZE = 16 * 1024**3  # bytes; the image takes no more of them than are written


@dataclass(frozen=True)
class Disk:
    """A folder, and what it lies on, in words."""

    folder: Path
    kind: str


@contextmanager
def open_disk(folder: Path) -> Iterator[Disk]:
    """An ext4 as mkfs.ext4 makes it, or, for who may not mount one, the disk of ``folder``."""
    image, mounted = folder / "disk.img", folder / "disk"
    mounted.mkdir()
    with ExitStack() as stack:
        try:
            with image.open("wb") as file:
                file.truncate(_SIZE)
            # All of it now: otherwise the kernel goes on in the background.
            _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
            # Past the cache of the disk below, which would write it all a second time, later.
            device = _run("losetup", "--find", "--show", "--direct-io=on", str(image)).strip()
            stack.callback(_run, "losetup", "--detach", device)
            _run("mount", device, str(mounted))
            stack.callback(_run, "umount", "--lazy", str(mounted))  # whatever still runs there
            kind = "a disk made by mkfs.ext4, in a file"
        except (OSError, subprocess.CalledProcessError):
            kind = "this machine's own disk"
        yield Disk(mounted, f"{kind}: {_file_system(mounted)}")


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _file_system(folder: Path) -> str:
    """Its type, and how it is mounted, where the kernel tells (proc_pid_mounts(5))."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "of a type unknown"
    found = [line.split()[1:4] for line in mounts.read_text().splitlines()]
    above = [each for each in found if folder.resolve().is_relative_to(each[0])]
    _, kind, options = max(above, key=lambda each: len(each[0]))
    return f"{kind} ({options})"
