"""Calling ASGI apps in process, and timing them side by side: A B A B, ratios pair by pair."""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Self

from starlette.types import ASGIApp, Message

Headers = list[tuple[bytes, bytes]]
# Serves some requests, that many.
Work = Callable[[int], Awaitable[None]]


@contextmanager
def on_one_core() -> Iterator[None]:
    """Keep this thread, and the threads and servers that it starts, on one core, where that works.

    On two, most of a round trip is the time in which an idle core wakes up.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


# A process that lets every other one go first, and does not outlive its parent.
_SPIN = """
import os, sys
parent, core = map(int, sys.argv[1:])
os.sched_setaffinity(0, {core})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def on_other_cores() -> Iterator[None]:
    """Keep this thread, and what it starts, on all cores but the first, which never fall asleep.

    A server whose answers go to a core asleep pays for waking it up. That happens the more often,
    the slower it is, since a load that is always behind does not sleep.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "SCHED_IDLE") else set()
    others = cores - {min(cores, default=0)}
    if not others:
        yield
        return
    command = [sys.executable, "-c", _SPIN, str(os.getpid())]
    spinning = [subprocess.Popen([*command, str(core)]) for core in others]
    os.sched_setaffinity(0, others)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        for process in spinning:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Spread:
    """What was measured several times: the median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The spread of these."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass
class Client:
    """A visitor of an app, called in process: no server, no network."""

    app: ASGIApp
    headers: Headers = field(
        default_factory=lambda: [
            (b"host", b"localhost"),
            (b"user-agent", b"benchmarks"),
            (b"accept", b"*/*"),
        ]
    )

    async def get(self, path: str, query: str = "") -> bytes:
        """The body of the answer.

        Raises:
            RuntimeError: its status is not 200.
        """
        messages: list[Message] = []

        async def send(message: Message) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": self.headers,
            "client": ("127.0.0.1", 50000),
            "server": ("localhost", 80),
            "state": {},
        }
        await self.app(scope, _receive, send)
        start, body = messages[0], messages[1]
        if start["status"] != 200:
            raise RuntimeError(f"{path} was answered with {start['status']}")
        for name, value in start["headers"]:
            if name == b"set-cookie":
                self._keep(value)
        content: bytes = body["body"]
        return content

    def _keep(self, set_cookie: bytes) -> None:
        cookie = set_cookie.partition(b";")[0]
        if self.headers[-1][0] == b"cookie":
            self.headers = self.headers[:-1]
        self.headers = [*self.headers, (b"cookie", cookie)]


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Start an app, and stop it in the end, by ASGI's lifespan protocol."""
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}

    async def serve() -> None:
        await app(scope, to_app.get, from_app.put)

    task = asyncio.create_task(serve())

    async def tell(step: str) -> None:
        await to_app.put({"type": f"lifespan.{step}"})
        answer = asyncio.create_task(from_app.get())
        await asyncio.wait({answer, task}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() or answer.result()["type"] != f"lifespan.{step}.complete":
            raise RuntimeError(f"an app failed at its {step}: {answer}")

    await tell("startup")
    try:
        yield
    finally:
        await tell("shutdown")
        await task


def in_turn(clients: Sequence[Client], path: str) -> Work:
    """One request after another, each of the next client."""

    async def work(count: int) -> None:
        for number in range(count):
            await clients[number % len(clients)].get(path)

    return work


def at_once(clients: Sequence[Client], path: str) -> Work:
    """All clients at the same time, again and again."""

    async def work(count: int) -> None:
        for _ in range(max(1, count // len(clients))):
            await asyncio.gather(*[client.get(path) for client in clients])

    return work


@dataclass(frozen=True)
class Effort:
    """How often a thing is measured, for about how many seconds each time, and by which clock.

    The CPU's clock leaves out what other programs take away, but also waiting: it is for what
    never waits.
    """

    rounds: int
    seconds: float
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class Comparison:
    """How many times longer than a request of the base one of each other took, and in seconds."""

    ratios: dict[str, Spread | str]
    base_seconds: float


async def compare(
    base: Work, others: Mapping[str, Work], effort: Effort, least: int = 1
) -> Comparison:
    """Time requests of each beside those of ``base``.

    In each round, each one is measured right after ``base``, and their ratio taken. One that fails
    has its error instead. ``least`` is how many requests one piece of work is at least.
    """
    gc.collect()
    gc.freeze()  # what is there before is not gone through again and again
    try:
        base_meter = await _Meter.of(base, effort, least)
        meters: dict[str, _Meter] = {}
        ratios: dict[str, list[float]] = {name: [] for name in others}
        failed: dict[str, str] = {}
        bases: list[float] = []
        for _ in range(effort.rounds):
            for name in (name for name in others if name not in failed):
                try:
                    if name not in meters:
                        meters[name] = await _Meter.of(others[name], effort, least)
                    if meters[name].is_spent and len(ratios[name]) >= 5:
                        continue
                    bases.append(await base_meter.seconds_each())
                    ratios[name].append(await meters[name].seconds_each() / bases[-1])
                except Exception as error:  # it is a result, and the others go on
                    failed[name] = f"failed: {type(error).__name__}"
        found = {name: failed.get(name) or Spread.of(ratios[name]) for name in others}
        return Comparison(found, statistics.median(bases))
    finally:
        gc.unfreeze()


@dataclass
class _Meter:
    """Times one work, again and again, with as many requests as fill the time."""

    work: Work
    effort: Effort
    count: int
    spent: float = 0.0

    @classmethod
    async def of(cls, work: Work, effort: Effort, least: int) -> Self:
        """Find out how many requests that are. This warms up, too."""
        meter = cls(work, effort, least)
        while (taken := min([await meter._once() for _ in range(2)])) < effort.seconds / 2:
            meter.count *= 2
        meter.count = max(1, round(meter.count * effort.seconds / taken / least)) * least
        meter.spent = 0.0
        return meter

    @property
    def is_spent(self) -> bool:
        """Whether it is so slow that it has had more than its share of the time."""
        return self.spent > 10 * self.effort.rounds * self.effort.seconds

    async def seconds_each(self) -> float:
        """For one request: the least disturbed of three tries, or of one that was long enough."""
        taken = await self._once()
        if taken < 3 * self.effort.seconds:
            taken = min(taken, await self._once(), await self._once())
        return taken / self.count

    async def _once(self) -> float:
        gc.collect()  # what others left behind
        start = self.effort.clock()
        await self.work(self.count)
        taken = self.effort.clock() - start
        self.spent += taken
        return taken
