"""The comparison: that its scenarios tell who keeps a promise from who does not."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from redis import RedisError
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lab import REPOSITORY
from lab.benchmarks.backends import Backend
from lab.benchmarks.candidates import OURS, STARLETTE, Candidate, Setup, starlette_routes
from lab.benchmarks.comparison import COT, COT_SOURCES, markdown
from lab.benchmarks.promises import PROMISES, Finding, examine
from lab.benchmarks.watch import ValkeyWatch

OURS_BREAKS = {"untouched": "partly"}  # the load begins before the handler is known
# Of Starlette's own the session is the cookie.
STARLETTE_BREAKS = {
    "rotation": "partly",
    "logout": "no",
    "resurrection": "no",
    "concurrency": "no",
    "nested": "no",
    "confidential": "no",
    "revocation": "no",
    "elsewhere": "no",
    "failing": "partly",
    "unserialisable": "partly",
    "size": "no",
    "cookie": "partly",
    "idle": "partly",
    "absolute": "no",
}
CARELESS_BREAKS = {
    **dict.fromkeys(("fixation", "rotation", "logout", "resurrection", "concurrency"), "no"),
    **dict.fromkeys(("stranger", "reading", "untouched", "at_rest", "elsewhere"), "no"),
    **dict.fromkeys(("failing", "unserialisable", "idle", "absolute", "store_down"), "no"),
    "cookie": "partly",
}


@asynccontextmanager
async def open_careless(backend: Backend, setup: Setup) -> AsyncIterator[ASGIApp]:
    """Sessions as they are written in an afternoon."""
    client = Redis.from_url(backend.url)

    async def nothing(request: Request) -> None:
        pass

    routes = Starlette(routes=starlette_routes(setup, nothing, nothing))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session_id = HTTPConnection(scope).cookies.get("id") or secrets.token_hex()
        try:
            scope["session"] = json.loads(await client.get(session_id) or "{}")
        except RedisError:
            scope["session"] = {}

        async def send_with_session(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("set-cookie", f"id={session_id}")
                with suppress(RedisError):
                    await client.set(session_id, json.dumps(scope["session"], default=str))
            await send(message)

        await routes(scope, receive, send_with_session)

    yield app
    await client.aclose()


CARELESS = Candidate("careless", (), "cache", open_careless, ValkeyWatch, "")


def test_the_scenarios_find_what_is_kept_and_what_is_not(tmp_path: Path) -> None:
    expected = {OURS: OURS_BREAKS, STARLETTE: STARLETTE_BREAKS, CARELESS: CARELESS_BREAKS}

    async def examine_all() -> list[dict[str, Finding]]:
        return await asyncio.gather(
            *(examine(candidate, tmp_path, PROMISES) for candidate in expected)
        )

    for found, breaks in zip(asyncio.run(examine_all()), expected.values(), strict=True):
        verdicts = {each.scenario.__name__: found[each.text].verdict for each in PROMISES}
        assert {name: it for name, it in verdicts.items() if it != "yes"} == breaks, found


def test_every_scenario_can_fail() -> None:
    broken = OURS_BREAKS | STARLETTE_BREAKS | CARELESS_BREAKS
    assert broken.keys() == {promise.scenario.__name__ for promise in PROMISES}


def test_the_table_has_a_cell_for_everyone_and_a_note_on_each_promise() -> None:
    findings = {promise.text: Finding("no", "why") for promise in PROMISES}
    lines = markdown({OURS.name: findings}).splitlines()
    for number, promise in enumerate(PROMISES, 1):
        assert any(
            line.startswith(f"| {number}. {promise.text} | **no**: why | ") for line in lines
        )
        assert any(line.startswith(f"{number}. ") and line[-1] in ".?" for line in lines)


def test_what_is_said_of_cot_names_its_sources() -> None:
    assert COT.keys() == {promise.scenario.__name__ for promise in PROMISES}
    for _, sources in COT.values():
        assert sources
        assert set(sources.split()) <= COT_SOURCES.keys()


def test_the_committed_table_is_of_these_promises() -> None:
    table = (REPOSITORY / "docs" / "comparison.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]
    assert rows[1:] == [f"| {number}. {each.text}" for number, each in enumerate(PROMISES, 1)]
