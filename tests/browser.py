"""Chromium, for the tests and the pictures. ``python -m tests.browser`` installs it if need be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Playwright, sync_playwright

NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
MISSING = "no Chromium: make test installs one if it can; by hand: apt-get install chromium"


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """A running Chromium.

    Raises:
        FileNotFoundError: none is installed.
    """
    with sync_playwright() as playwright:
        path = _find_on_path() or _find_playwrights(playwright)
        if path is None:
            raise FileNotFoundError(MISSING)
        # Playwright turns off that pages are kept for the Back button; people have it on.
        unlike_people = ["--disable-back-forward-cache"]
        with playwright.chromium.launch(
            executable_path=path, ignore_default_args=unlike_people
        ) as browser:
            yield browser


def install() -> None:
    """Install Chromium, unless there is one: Debian's as root, else a build of Playwright's.

    A machine where neither can be had is no error here: the tests say what is missing.
    """
    if _is_installed():
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        _run("apt-get", "--quiet=2", "update")
        _run("apt-get", "--quiet=2", "install", "--yes", "--no-install-recommends", "chromium")
    if not _is_installed():
        _run(sys.executable, "-m", "playwright", "install", "chromium")


def _is_installed() -> bool:
    if _find_on_path():
        return True
    with sync_playwright() as playwright:
        return _find_playwrights(playwright) is not None


def _find_on_path() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def _find_playwrights(playwright: Playwright) -> str | None:
    path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def _run(*command: str) -> None:
    print("No Chromium yet:", *command, flush=True)
    quietly = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(command, env=quietly, stdin=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    install()
