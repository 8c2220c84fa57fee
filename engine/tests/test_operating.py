"""``sessions revoke`` and ``sessions purge`` on a real server that is killed while they run."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from pathlib import Path

import pytest

from serversessions import Record, SessionStore
from serversessions.location import Location
from serversessions.stores import open_store
from serversessions.testing.contract import new_key

from .faults import Server
from .project import COMMAND, invoke, project, write

__all__ = ["project"]  # pytest finds the fixture by its name

TOTAL = 2000

# The command in small batches with a breath between them, so that the server dies amid them. The
# fifth one says so.
SLOW = """
import asyncio, itertools, sys
from serversessions.cli import batches
from tests.sample.cli import main

batches.BATCH = 10
finish = batches.Progress.finish
numbers = itertools.count(1)

async def finish_slowly(self, batch):
    await asyncio.sleep(0.01)
    if next(numbers) == 5:
        print("under way", flush=True)
    return await finish(self, batch)

batches.Progress.finish = finish_slowly
main(["sessions", *sys.argv[1:]], prog_name="app")
"""


@pytest.fixture
def location(server: Server, project: Path) -> Location:
    """Where the sessions of the environment ``dev`` are: on the server."""
    if server.url.startswith("redis"):
        write("dev", f'middlewares.session.store = {{ type = "cache", uri = "{server.url}" }}')
    else:
        write("dev", f'database.url = "{server.url}"\nmiddlewares.session.store.type = "database"')
    return Location(server.url, "my_app")


async def fill(store: SessionStore, *, lives: float) -> None:
    now = time.time()
    record = Record(b"{}", now - 7200, now + lives)
    for _ in range(TOTAL // 100):
        await asyncio.gather(*(store.create(new_key(), record) for _ in range(100)))


async def count(store: SessionStore) -> int:
    page, cursor = await store.scan()
    number = len(page)
    while cursor:
        page, cursor = await store.scan(cursor)
        number += len(page)
    return number


async def run(*command: object) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*map(str, command), stdout=pipe, stderr=pipe)


async def assert_goes_on_after_a_crash(
    server: Server, location: Location, arguments: list[str], verb: str, lives: float
) -> None:
    if not location.url.startswith("redis"):
        await asyncio.to_thread(invoke, "migrate")
    store = open_store(location)
    try:
        await fill(store, lives=lives)
    finally:
        await store.aclose()
    process = await run(sys.executable, "-c", SLOW, *arguments)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"under way\n"
    os.kill(server._pid, server.crash)
    server.stop()
    printed, told = await process.communicate()
    assert (process.returncode, printed) == (1, b""), told
    (message,) = told.decode().splitlines()
    so_far = re.search(rf"(\S+) sessions {verb} so far: run the same command again", message)
    assert so_far, message
    await server.start()
    store = open_store(location)
    try:
        left = await count(store)
        # The answer to the last batch may have been lost.
        done = int(so_far[1].replace(",", ""))
        assert TOTAL - done - 10 <= left <= TOTAL - done
        assert left > 0
        again = await run(*COMMAND, "sessions", *arguments)
        printed, told = await again.communicate()
        assert printed.decode() == f"{left:,} sessions {verb}.\n", told
        assert await count(store) == 0
    finally:
        await store.aclose()


async def test_what_a_killed_server_leaves_is_revoked_by_the_next_run(
    server: Server, location: Location
) -> None:
    arguments = ["revoke", "--all", "--yes"]
    await assert_goes_on_after_a_crash(server, location, arguments, "revoked", 3600)


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)  # a cache purges by itself
async def test_what_a_killed_server_leaves_is_purged_by_the_next_run(
    server: Server, location: Location
) -> None:
    await assert_goes_on_after_a_crash(server, location, ["purge"], "purged", -3600)
