"""The generated project, with the soak's pages, served by its own command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from benchmarks.project import PACKAGE, bake

from .network import Host
from .waiting import wait_until

PAGES = Path(__file__).parent / "pages.py"
REPOSITORY = PAGES.parent.parent


class Site:
    """An app on a store, behind several workers."""

    def __init__(self, folder: Path, toml: str, workers: int) -> None:
        self.port = Host("127.0.0.1").free_port()
        self._number = workers
        self._log = folder / "site.log"
        self._output = self._log.open("ab")
        self._project = bake(REPOSITORY, folder)
        package = self._project / "src" / PACKAGE
        shutil.copy(PAGES, package / "soak.py")
        with (package / "pages.py").open("a") as pages:
            pages.write("\nfrom . import soak\n\nroutes += soak.routes\n")
        (self._project / "config" / "soak.toml").write_text(toml)
        if "[database]" in toml:
            subprocess.run(self._command("migrate"), check=True, **self._options())
        self._process = self._start()

    def start_again(self) -> None:
        """Kill every process of it at once, and start others: they know what the store has kept."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = self._start()

    def type(self, *command: str) -> tuple[int, str]:
        """The exit status and the output of one of the project's own commands."""
        options = {**self._options(), "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(self._command(*command), text=True, check=False, **options)
        return done.returncode, done.stdout

    def wait_until_ready(self) -> None:
        """Until every worker runs and the store answers.

        Raises:
            RuntimeError: that takes too long.
        """
        try:
            wait_until(lambda: self.is_complete() and self._is_healthy(), "the app")
        except TimeoutError as error:
            last = self._log.read_text().splitlines()[-20:]
            raise RuntimeError("\n".join([f"{error}. The last lines of its log:", *last])) from None

    def is_complete(self) -> bool:
        """Whether every worker runs."""
        return len(self.workers()) == self._number

    def workers(self) -> list[int]:
        """The processes that answer."""
        pid, pids = self._process.pid, []
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    pids.append(int(child))
        return pids

    def stop(self) -> None:
        """As an operator would; if that does not help, as hard as can be."""
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._output.close()

    def _start(self) -> subprocess.Popen[bytes]:
        options = ("--port", str(self.port), "--workers", str(self._number))
        return subprocess.Popen(self._command("run", *options), **self._options())

    def _is_healthy(self) -> bool:
        with (
            suppress(OSError),
            closing(HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection,
        ):
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        return False

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", PACKAGE, *arguments]

    def _options(self) -> dict[str, Any]:
        chosen = {f"{PACKAGE.upper()}_ENV": "soak"}
        environment = os.environ | chosen | {"PYTHONPATH": str(self._project / "src")}
        output = {"stdout": self._output, "stderr": self._output}
        return {"cwd": self._project, "env": environment, "start_new_session": True, **output}
