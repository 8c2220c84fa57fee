"""Real servers that may be killed, paused and cut off, and started again on their data."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from serversessions.testing.servers import PostgreSQLData, valkey_program

from .network import Host
from .waiting import wait_until

# Valkey, so that what was acknowledged survives any crash of the server, and of the machine.
DURABLE = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")


class Server(ABC):
    """One process on a host of its own, with its children."""

    end = signal.SIGTERM

    def __init__(self, host: Host, port: int, command: list[object], **options: Any) -> None:
        self.host = host
        self.port = port
        self._command = command
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self.host.address}:{self.port}"

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Until the block ends."""
        try:
            self.start()
            yield
        finally:
            self.stop()

    def start(self) -> None:
        self.launch()
        wait_until(self.is_up, f"a start of {self._command[0]}")

    def launch(self) -> None:
        """Start it, and don't wait."""
        self._process = self.host.popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._options,
        )

    def is_up(self) -> bool:
        """Whether it answers now; it starts again if its predecessor was in its way."""
        if self._process is None or self._process.poll() is not None:
            self.launch()
        return self.is_ready()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self._process.send_signal(self.end)
            self._process.wait(timeout=30)

    def kill(self) -> None:
        """End all its processes at once."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=30)

    def pause(self) -> None:
        """The kernel takes connections and data for it, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def cut(self) -> None:
        """Cut it off from all others; where that can't be, pause it."""
        if self.host.can_be_cut:
            self.host.cut()
        else:
            self.pause()

    def mend(self) -> None:
        """Undo that."""
        if self.host.can_be_cut:
            self.host.mend()
        else:
            self.resume()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(each, number)


class Valkey(Server):
    """A node of any kind: alone, replicated, in a cluster, or a Sentinel."""

    def __init__(
        self, host: Host, folder: Path, *options: object, config: str | None = None
    ) -> None:
        port = host.free_port()
        folder.mkdir()
        command: list[object] = [valkey_program()]
        if config is not None:  # which the server rewrites when its part changes
            (folder / "node.conf").write_text(config)
            command.append(folder / "node.conf")
        command += ["--bind", host.address, "--port", port, "--dir", folder, *options]
        super().__init__(host, port, [*command, "--protected-mode", "no"])
        self._client = Redis(
            host.address, port, socket_timeout=2, socket_connect_timeout=2, decode_responses=True
        )

    def is_ready(self) -> bool:
        with suppress(RedisError):
            return bool(self.ask("PING"))
        return False

    def ask(self, *command: object) -> Any:
        """What it answers.

        Raises:
            RedisError: an error, or nothing.
        """
        client: Any = self._client
        return client.execute_command(*command)


class PostgreSQL(Server):
    """Its one database, with fsync on."""

    end = signal.SIGINT

    def __init__(self, host: Host, new: PostgreSQLData) -> None:
        self._programs = new.programs
        with (new.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\n")
        port = host.free_port()
        listen = ["-k", new.options["cwd"], "-c", f"listen_addresses={host.address}"]
        command = [new.programs / "postgres", "-D", new.data, "-p", port, *listen]
        super().__init__(host, port, command, **new.options)

    def abort(self) -> None:
        """What PostgreSQL calls an immediate shutdown: without a checkpoint."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(timeout=30)

    def is_ready(self) -> bool:
        where = ["-h", self.host.address, "-p", str(self.port)]
        ask = [str(self._programs / "pg_isready"), "-q", *where]
        return subprocess.run(ask, check=False).returncode == 0
