"""Load on a server: requests over kept-alive connections, each followed at once by the next.

By wrk where it is installed, else by a small client of our own, which does the same.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import statistics
import time
from dataclasses import dataclass

WRK = shutil.which("wrk")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Load:
    """What a server withstood: requests a second, and the slowest hundredth's least seconds."""

    rate: float
    p99: float


async def load(port: int, path: str, cookie: str, *, connections: int, seconds: float) -> Load:
    """Ask a server on this machine for ``path`` as often as it answers. wrk takes whole seconds.

    Raises:
        RuntimeError: an answer was not the expected one.
    """
    if WRK is None:
        return await _load(port, path, cookie, connections, seconds)
    process = await asyncio.create_subprocess_exec(
        *(WRK, "--latency", "-t", "1", "-c", str(connections), "-d", str(max(1, round(seconds)))),
        *(["-H", f"Cookie: {cookie}"] if cookie else []),
        f"http://127.0.0.1:{port}{path}",
        stdout=asyncio.subprocess.PIPE,
    )
    printed = (await process.communicate())[0].decode()
    rate = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", printed)
    if rate is None or p99 is None or "Non-2xx" in printed:
        raise RuntimeError(printed)
    return Load(float(rate[1]), float(p99[1]) * _UNITS[p99[2]])


async def _load(port: int, path: str, cookie: str, connections: int, seconds: float) -> Load:
    headers = f"Host: localhost\r\nCookie: {cookie}\r\n" if cookie else "Host: localhost\r\n"
    request = f"GET {path} HTTP/1.1\r\n{headers}\r\n".encode()
    loop = asyncio.get_running_loop()
    until = time.perf_counter() + seconds
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: _Connection(request, until), "127.0.0.1", port
        )
        clients.append(client)
    await asyncio.gather(*[client.done for client in clients])
    times = [taken for client in clients for taken in client.times]
    return Load(len(times) / seconds, statistics.quantiles(times, n=100)[98])


class _Connection(asyncio.Protocol):
    def __init__(self, request: bytes, until: float) -> None:
        self.times: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._until = until
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(b"\r\n\r\nok"):
            return
        now = time.perf_counter()
        self.times.append(now - self._asked)
        if not self._received.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self._received.decode()))
        elif now > self._until:
            self.done.set_result(None)
            self._transport.close()
        else:
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server hung up"))

    def _ask(self) -> None:
        self._received = b""
        self._asked = time.perf_counter()
        self._transport.write(self._request)
