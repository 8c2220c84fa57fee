"""The end: where every id leads that was ever handed out, as the site and then others have it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from .client import FAILURES, Client
from .ledger import COUNTER, Finding, Ledger
from .site import Site

AT_ONCE = 8
TRIES = 30  # a second apart, for a store that is not all well yet

Data = Mapping[str, Any]


def check(ledgers: list[Ledger], site: Site) -> list[Finding]:
    """Hold what the site answers against the ledgers, which note what is wrong.

    Then hold it against what others find: a process that counts the sessions beside the site, the
    same after every process of the site was killed, and the site when it has started again. Returns
    where they differ.

    Raises:
        RuntimeError: a session can't be read, or all can't be counted.
    """
    ids = {
        session_id: (ledger, owed)
        for ledger in ledgers
        for owed in ledger.sessions.values()
        for session_id in owed.ids
    }
    answered = asyncio.run(_read_all(ids, site.port))
    for session_id, (ledger, owed) in ids.items():
        ledger.judge(owed.name, session_id, dict(answered[session_id]), time.monotonic())
    beside = site.count()
    site.kill()
    alone = site.count()
    site.start()
    site.wait_until_ready()
    found = asyncio.run(_read_all(ids, site.port))
    return [*compare(answered, found), *compare_counts(answered, beside, alone)]


def compare(answered: Mapping[str, Data], found: Mapping[str, Data]) -> list[Finding]:
    """Where the data that an id led to are not the same after the site was killed."""
    findings = []
    for session_id, data in answered.items():
        again = found[session_id]
        keys = [key for key in data.keys() | again.keys() if data.get(key) != again.get(key)]
        if keys:
            text = f"an id led to {_size(data)}, and after kill -9 to {_size(again)}"
            findings.append(Finding("differs", "", text, time.monotonic(), len(keys)))
    return findings


def compare_counts(answered: Mapping[str, Data], beside: int, alone: int) -> list[Finding]:
    """Where other processes count fewer sessions than the site answers, or another number.

    More than that is right: sessions whose id no answer told.
    """
    live = sum(bool(data) for data in answered.values())
    counted = f"another process counted {beside} beside it, and {alone} after kill -9"
    missing = max(live - min(beside, alone), abs(beside - alone), 0)
    if not missing:
        return []
    text = f"the site answered {live} sessions; {counted}"
    return [Finding("differs", "", text, time.monotonic(), missing)]


def _size(data: Data) -> str:
    return f"{len(data)} keys and {data.get(COUNTER, 0)} visits" if data else "nothing"


async def _read_all(ids: Iterable[str], port: int) -> dict[str, Data]:
    """The data that each id leads to."""
    turn = asyncio.Semaphore(AT_ONCE)
    found: dict[str, Data] = {}

    async def read(session_id: str) -> None:
        async with turn:
            found[session_id] = await _read(client, session_id)

    with closing(Client(port)) as client:
        async with asyncio.TaskGroup() as tasks:
            for session_id in ids:
                tasks.create_task(read(session_id))
    return found


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
