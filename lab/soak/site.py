"""The generated project, with the soak's pages, served and operated by its own command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from ..projects import PACKAGE, bake
from .client import COOKIE
from .network import Host
from .waiting import wait_until

PAGES = Path(__file__).parent / "pages.py"
LONGEST = 60  # seconds of a command


class Site:
    """An app on a store, behind several workers."""

    def __init__(self, folder: Path, toml: str, workers: int) -> None:
        self.port = Host("127.0.0.1").free_port()
        self.has_database = "[database]" in toml
        self._workers = workers
        self._log = folder / "site.log"
        self._output = self._log.open("ab")
        self._project = bake(folder)
        package = self._project / "src" / PACKAGE
        shutil.copy(PAGES, package / "soak.py")
        with (package / "pages.py").open("a") as pages:
            pages.write("\nfrom . import soak\n\nroutes += soak.routes\n")
        cookie = f'[middlewares.session]\nname = "{COOKIE}"\n'
        (self._project / "config" / "soak.toml").write_text(cookie + toml)
        if self.has_database:
            self._require(self.run("migrate"))
        self.start()

    def start(self) -> None:
        options = ("--port", str(self.port), "--workers", str(self._workers))
        output: dict[str, Any] = {"stdout": self._output, "stderr": self._output}
        self._process = subprocess.Popen(
            self._command("run", *options), start_new_session=True, **self._options(), **output
        )

    def wait_until_ready(self) -> None:
        """Until every worker runs and the store answers.

        Raises:
            RuntimeError: that takes too long, or the app has ended.
        """
        try:
            wait_until(self._has_ended_or_is_ready, "the app", seconds=60)
            if self._process.poll() is not None:
                raise TimeoutError("the app has ended")
        except TimeoutError as error:
            last = self._log.read_text().splitlines()[-20:]
            raise RuntimeError("\n".join([f"{error}. The last lines of its log:", *last])) from None

    def is_complete(self) -> bool:
        """Whether every worker runs."""
        return len(self.workers()) == self._workers

    def workers(self) -> list[int]:
        """The processes that answer."""
        pid, pids = self._process.pid, []
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    pids.append(int(child))
        return pids

    def kill(self) -> None:
        """End all its processes at once, so that none can tidy up."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)

    def stop(self) -> None:
        """As an operator would; if that does not help, as hard as can be."""
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        finally:
            self.kill()
            self._output.close()

    def run(self, *command: str) -> tuple[int, str]:
        """Type a command of the project's; its exit status, and what it printed."""
        try:
            done = subprocess.run(
                self._command(*command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LONGEST,
                check=False,
                **self._options(),
            )
        except subprocess.TimeoutExpired:
            return -1, f"not over after {LONGEST} s"
        return done.returncode, done.stdout

    def count(self) -> int:
        """The live sessions that a process of its own finds.

        Raises:
            RuntimeError: it can't count them.
        """
        printed = self._require(self.run("sessions", "stats", "--json"))
        live: int = json.loads(printed)["live"]
        return live

    def _require(self, done: tuple[int, str]) -> str:
        status, output = done
        if status != 0:
            raise RuntimeError(output)
        return output

    def _has_ended_or_is_ready(self) -> bool:
        if self._process.poll() is not None:
            return True
        return self.is_complete() and self._is_ready()

    def _is_ready(self) -> bool:
        with (
            suppress(OSError),
            closing(HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection,
        ):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        return False

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", PACKAGE, *arguments]

    def _options(self) -> dict[str, Any]:
        variables = {"PYTHONPATH": str(self._project / "src"), f"{PACKAGE.upper()}_ENV": "soak"}
        return {"cwd": self._project, "env": os.environ | variables}
