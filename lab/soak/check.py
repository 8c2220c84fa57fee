"""The end: where every id leads that was ever handed out, held against the ledgers."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from typing import Any

from .client import FAILURES, Client
from .ledger import Ledger, Owed

AT_ONCE = 8
TRIES = 30  # a second apart, for a store that is not all well yet


async def check(ledgers: list[Ledger], port: int) -> None:
    """Read every session, by each id that it ever had; the ledgers note what is wrong.

    Raises:
        RuntimeError: one can't be read.
    """
    turn = asyncio.Semaphore(AT_ONCE)

    async def judge(ledger: Ledger, owed: Owed, session_id: str) -> None:
        async with turn:
            data = await _read(client, session_id)
        ledger.judge(owed.name, session_id, data, time.monotonic())

    with closing(Client(port)) as client:
        async with asyncio.TaskGroup() as tasks:
            for ledger in ledgers:
                for owed in ledger.sessions.values():
                    for session_id in filter(None, [*owed.dead, owed.id]):
                        tasks.create_task(judge(ledger, owed, session_id))


async def _read(client: Client, session_id: str) -> dict[str, Any]:
    failure = ""
    for _ in range(TRIES):
        try:
            answer = await client.post("/soak/read", session_id)
        except FAILURES as error:
            failure = repr(error)
        else:
            if answer.status == 200:
                return answer.data
            failure = str(answer.status)
        await asyncio.sleep(1)
    raise RuntimeError(f"a session can't be read at the end: {failure}")
