"""Chromium, for the tests and the pictures. ``python -m tests.browser`` installs it if need be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
# Of Debian; the library is one that Playwright itself needs.
PACKAGES = ("chromium", "libatomic1")
ADVICE = f"make test installs it where it can; by hand: apt-get install {' '.join(PACKAGES)}"


class NoChromiumError(Exception):
    """There is none that starts. The message has one line."""


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """A running Chromium: the machine's own, else a build of Playwright's.

    Raises:
        NoChromiumError: what is missing, and how to get it.
    """
    with ExitStack() as stack:
        try:
            playwright = stack.enter_context(sync_playwright())
            browser = playwright.chromium.launch(
                executable_path=next(filter(None, map(shutil.which, NAMES)), None),
                # Pages are kept for the Back button, as people have it.
                ignore_default_args=["--disable-back-forward-cache"],
            )
        except Exception as error:  # of Playwright's, whatever kept it from starting
            reason = str(error).partition("\n")[0]
            raise NoChromiumError(f"Chromium does not start: {ADVICE} ({reason})") from error
        yield stack.enter_context(browser)


def install() -> None:
    """Install Chromium, unless there is one: Debian's as root, else a build of Playwright's.

    Where neither can be had, the tests say what is missing.
    """
    if os.geteuid() == 0 and shutil.which("apt-get") and not _starts():
        _run("apt-get", "update")
        _run("apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES)
    if not _starts():
        _run(sys.executable, "-m", "playwright", "install", "chromium")


def _starts() -> bool:
    try:
        with open_chromium():
            return True
    except NoChromiumError:
        return False


def _run(*command: str) -> None:
    print("No Chromium yet:", *command, flush=True)
    subprocess.run(
        command,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=False,
    )


if __name__ == "__main__":
    install()
