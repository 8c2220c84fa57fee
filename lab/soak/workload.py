"""The clients: processes full of visitors who do what visitors do, and note it in their ledgers."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from .. import REPOSITORY
from .client import FAILURES, Answer, Client
from .ledger import GONE, Act, Answered, Asked, Ledger, Owed, Saw
from .waiting import wait_until

VISITORS = 8  # in each client
BUSY = 10_000  # bytes of a ledger: some hundred lines
MAX_KEYS = 60  # in one session
PAUSE = 0.01  # seconds, between two steps of a visitor
PATIENCE = 0.1  # seconds, before the next one after a failure
# What a visitor does next, and how often.
STEPS = {"write": 40, "read": 25, "rotate": 9, "sign-out": 6, "leave": 5, "idle": 15}


class Visitor:
    """One browser: it does one step after the other, some of which are several requests at once."""

    def __init__(
        self, number: int, client: Client, ledger: Ledger, numbers: itertools.count[int]
    ) -> None:
        self._number = number
        self._client = client
        self._ledger = ledger
        self._numbers = numbers

    async def visit(self, over: asyncio.Event) -> None:
        """Until it is over."""
        for session in itertools.count():
            name = f"{self._number}-{session}"
            await self._ask("begin", name, key="begin")
            owed = self._ledger.sessions[name]
            # A session of which nobody knows whether it was given up is left for the end.
            while owed.id and not owed.in_doubt and len(owed.tried) < MAX_KEYS:
                if over.is_set():
                    return
                await asyncio.sleep(PAUSE)
                if not await self._step(owed):
                    break
            if over.is_set():
                return
            await asyncio.sleep(PAUSE)

    async def _step(self, owed: Owed) -> bool:
        """Do something; whether to go on with this session."""
        (step,) = random.choices(list(STEPS), list(STEPS.values()))
        match step:
            case "write":
                puts = [self._put(owed) for _ in range(random.randint(1, 3))]
                await asyncio.gather(self._ask("count", owed.name), *puts)
            case "read":
                await self._read(owed, owed.id)
            case "rotate" | "sign-out":
                old_id = owed.id
                puts = [self._put(owed, is_promise=False) for _ in range(random.randint(0, 2))]
                act: Act = "rotate" if step == "rotate" else "sign-out"
                await asyncio.gather(self._ask(act, owed.name), *puts)
                if old_id in owed.dead:
                    await self._read(owed, old_id)
            case "idle":
                await asyncio.sleep(random.uniform(0.1, 0.5))
        return step != "leave"

    async def _put(self, owed: Owed, *, is_promise: bool = True) -> None:
        await self._ask("put", owed.name, key=f"key{len(owed.tried)}", is_promise=is_promise)

    async def _read(self, owed: Owed, session_id: str) -> None:
        answer = await self._ask("read", owed.name, session_id=session_id)
        if answer is not None:
            self._judge(owed, session_id, answer.data)

    def _judge(self, owed: Owed, session_id: str, data: dict[str, object]) -> None:
        at = time.monotonic()
        if not self._ledger.judge(owed.name, session_id, data, at):
            self._ledger.write(Saw(owed.name, session_id, at, data))

    async def _ask(
        self,
        act: Act,
        session: str,
        *,
        key: str = "",
        session_id: str = "",
        is_promise: bool = True,
    ) -> Answer | None:
        """Ask, and note it; the answer, unless it failed."""
        number = next(self._numbers)
        asked = Asked(number, time.monotonic(), self._number, session, act, key, is_promise)
        self._ledger.write(asked)
        owed = self._ledger.sessions[session]
        session_id = session_id or owed.id
        path = f"/soak/{act}?key={key}&value={owed.value(key)}&user={session}"
        answer, failure = None, ""
        try:
            answer = await self._client.post(path, session_id)
        except TimeoutError:
            failure = "timeout"
            owed.in_doubt = True  # the app may be at it still
        except FAILURES:
            failure = "broken"
        else:
            if answer.status != 200:
                failure = str(answer.status)
            elif is_promise and bool(answer.id) is not (act in ("begin", "rotate")):
                failure = GONE  # the id led nowhere, so there is another, or none where one is due
        answered = Answered(number, time.monotonic(), failure)
        if answer is not None and not failure:
            answered.id, answered.count = answer.id, answer.data.get("count", 0)
        self._ledger.write(answered)
        if failure == GONE:
            self._judge(owed, session_id, {})
        elif failure:
            await asyncio.sleep(PATIENCE)
        return None if failure else answer


async def _serve(port: int, path: Path, name: int) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    ledger, numbers = Ledger(path), itertools.count()
    with closing(Client(port)) as client:
        async with asyncio.TaskGroup() as tasks:
            for number in range(name * VISITORS, (name + 1) * VISITORS):
                tasks.create_task(Visitor(number, client, ledger, numbers).visit(over))


class Clients:
    """All of them; a killed one has a successor with a ledger of its own."""

    def __init__(self, folder: Path, port: int, number: int, seed: int) -> None:
        self._folder = folder
        folder.mkdir()
        self._port = port
        self._seed = seed
        self._names = itertools.count()
        self._running = [self._start() for _ in range(number)]

    def wait_until_busy(self) -> None:
        """Until there is something to lose."""
        paths = list(map(self._ledger, range(len(self._running))))
        wait_until(lambda: all(_size(path) > BUSY for path in paths), "the clients' start")

    def kill_one(self, chance: random.Random) -> None:
        """End one as hard as can be, and start another."""
        client = self._running.pop(chance.randrange(len(self._running)))
        client.kill()
        client.wait()
        self._running.append(self._start())

    def stop(self) -> None:
        """Let all end what they are at.

        Raises:
            RuntimeError: one of them has failed by itself.
        """
        for client in self._running:
            client.terminate()
        statuses = [client.wait(timeout=60) for client in self._running]
        if any(statuses):
            raise RuntimeError("a client failed: see above")

    def kill(self) -> None:
        """End all that still run."""
        for client in self._running:
            client.kill()

    def ledgers(self) -> list[Ledger]:
        """What all have noted, the killed ones too."""
        return [Ledger.read(path) for path in sorted(self._folder.glob("*.jsonl"))]

    def _start(self) -> subprocess.Popen[bytes]:
        name = next(self._names)
        told = (str(self._port), str(self._ledger(name)), str(name), str(self._seed))
        return subprocess.Popen(
            [sys.executable, "-m", __name__, *told], cwd=REPOSITORY, start_new_session=True
        )

    def _ledger(self, name: int) -> Path:
        return self._folder / f"{name}.jsonl"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


if __name__ == "__main__":
    port, path, name, seed = sys.argv[1:]
    random.seed(f"{seed} {name}")
    asyncio.run(_serve(int(port), Path(path), int(name)))
