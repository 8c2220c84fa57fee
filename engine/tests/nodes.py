"""Valkey servers that a test can pause, kill and begin again, and look at from outside."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from serversessions.testing import servers


class Node:
    """A Valkey server in a folder of its own."""

    def __init__(self, folder: Path, *options: object) -> None:
        folder.mkdir(exist_ok=True)
        self.port = servers.free_port()
        self.socket = folder / "socket"
        self.url = f"redis://127.0.0.1:{self.port}"
        own = ("--port", self.port, "--bind", "127.0.0.1", "--unixsocket", self.socket)
        program = servers.valkey_program()
        self._command = [program, *options, *own, "--dir", folder, "--save", ""]
        self._running = ExitStack()
        self.start()

    def start(self) -> None:
        running = servers.running(self._command, self.port, signal.SIGTERM)
        self._process = self._running.enter_context(running)
        while self._is_loading():
            time.sleep(0.01)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._running.close()

    def kill(self) -> None:
        self._process.kill()
        self._running.close()

    def pause(self) -> None:
        """From now on it takes connections and data, and does not answer."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def tell(self, *command: object) -> Any:
        """The answer; None if there is none."""
        try:
            with Redis(port=self.port, socket_timeout=1) as client:
                teller: Any = client
                return teller.execute_command(*command)
        except (RedisError, OSError):
            return None

    def _is_loading(self) -> bool:
        """Whether it still reads what it had written."""
        with Redis(port=self.port) as client, suppress(ResponseError, AuthenticationError):
            try:
                client.ping()
            except BusyLoadingError:
                return True
        return False

    def clients(self) -> int:
        """How many others are connected."""
        return len(self.tell("CLIENT", "LIST", "TYPE", "normal")) - 1

    def reads(self) -> int:
        """How often it has read from a connection, this one included: once for a batch."""
        return int(self.tell("INFO", "stats")["total_reads_processed"])


async def until(condition: Callable[[], object]) -> None:
    """Look again and again, in a thread: clients have the event loop to themselves."""
    async with asyncio.timeout(20):
        while True:
            if await asyncio.to_thread(condition):
                return
            await asyncio.sleep(0.02)
