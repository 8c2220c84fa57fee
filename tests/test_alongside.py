"""The project's commands, typed beside the running app: what was acknowledged is there, always."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import httpx2
import pytest

from .conftest import PYTHON, SHARED, run, started, workers_of

COMMANDS = (
    "migrate",
    "config check",
    "config show",
    "sessions stats --json",
    "sessions list",
    "sessions purge",
    "sessions revoke --owner nobody --yes",
    "config set-store dev --store memory --yes --dry-run",
)
VISITORS = 10  # at once, so that the app has several connections


async def say_names(base: httpx2.URL, visitors: int) -> int:
    """New visitors give their names; the number of those to whom a session was acknowledged."""
    async with httpx2.AsyncHTTPTransport() as transport:  # which keeps no cookies

        async def say_name(number: int) -> bool:
            timeout = {"timeout": httpx2.Timeout(20).as_dict()}
            url, data = base.join("/name"), {"name": f"Ada {number}"}
            request = httpx2.Request("POST", url, data=data, extensions=timeout)
            try:
                answer = await transport.handle_async_request(request)
                await answer.aread()
            except httpx2.TransportError:
                return False  # a worker was killed meanwhile
            return answer.status_code == 303 and "set-cookie" in answer.headers

        return sum(await asyncio.gather(*map(say_name, range(visitors))))


def count(project: Path) -> int:
    """The live sessions that a process of its own finds."""
    printed = run(project, PYTHON, "-m", "my_app", "sessions", "stats", "--json")
    live: int = json.loads(printed)["live"]
    return live


@pytest.mark.parametrize("project", SHARED, indirect=True)
def test_no_command_costs_the_running_app_a_session(
    project: Path, request: pytest.FixtureRequest
) -> None:
    kind = request.node.callspec.params["project"]
    has_database = kind in ("sqlite", "postgresql")
    with started(project, stop=signal.SIGKILL) as (client, _):
        acknowledged = asyncio.run(say_names(client.base_url, VISITORS))
        assert acknowledged == VISITORS
        for command in COMMANDS:
            status = 2 if command == "migrate" and not has_database else 0
            run(project, PYTHON, "-m", "my_app", *command.split(), status=status)
            acknowledged += asyncio.run(say_names(client.base_url, VISITORS))
            assert count(project) == acknowledged, command
    assert acknowledged == VISITORS * (len(COMMANDS) + 1)
    assert count(project) == acknowledged, "after kill -9"


@pytest.mark.parametrize("project", SHARED, indirect=True)
def test_workers_that_are_replaced_under_load_lose_nothing(project: Path) -> None:
    acknowledged = 0
    with started(project, "--workers", "2", stop=signal.SIGKILL) as (client, app):
        for _ in range(4):
            acknowledged += asyncio.run(say_names(client.base_url, VISITORS))
            before = workers_of(app)
            os.kill(before[0], signal.SIGKILL)
            while len(workers := workers_of(app)) < 2 or before[0] in workers:
                acknowledged += asyncio.run(say_names(client.base_url, VISITORS))
                time.sleep(0.01)
        acknowledged += asyncio.run(say_names(client.base_url, VISITORS))
        found = count(project)
        for worker in workers_of(app):
            os.kill(worker, signal.SIGKILL)
    # More is right, too: a session whose answer a kill cut off.
    assert found >= acknowledged > 5 * VISITORS
    assert count(project) >= acknowledged, "after kill -9"
