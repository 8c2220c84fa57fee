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
from serversessions.testing.contract import new_key

from .faults import Server, opened, until

TOTAL = 2000

# The command in small batches with a breath between them, so that the server dies amid them.
SLOW = """
import asyncio, importlib, sys
from serversessions.cli import main

command = importlib.import_module("my_app.cli.sessions")
command.BATCH = 10
finish = command._Progress.finish

async def finish_slowly(self, batch):
    await asyncio.sleep(0.01)
    return await finish(self, batch)

command._Progress.finish = finish_slowly
main(["sessions", *sys.argv[1:]], prog_name="app")
"""


@pytest.fixture
def project(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose environment names the server."""
    (tmp_path / "config").mkdir()
    url, is_cache = server.url, server.url.startswith("redis")
    text = f'type = "cache"\nuri = "{url}"' if is_cache else 'type = "database"'
    text = f"[middlewares.session.store]\n{text}"
    (tmp_path / "config" / "dev.toml").write_text(
        text if is_cache else f'database.url = "{url}"\n{text}'
    )
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent / "src"))
    monkeypatch.chdir(tmp_path)


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


async def run(*arguments: object) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, *map(str, arguments), stdout=pipe, stderr=pipe
    )


async def assert_goes_on_after_a_crash(
    server: Server,
    arguments: list[str],
    verb: str,
    lives: float,
) -> None:
    async with opened(server.url) as store:
        await fill(store, lives=lives)

        async def is_under_way() -> bool:
            return await count(store) <= TOTAL - 50

        process = await run("-c", SLOW, *arguments)
        await until(is_under_way)
    os.kill(server._pid, server.crash)
    server.stop()
    printed, told = await process.communicate()
    assert (process.returncode, printed) == (1, b"")
    (message,) = told.decode().splitlines()
    so_far = re.search(rf"(\S+) sessions {verb} so far: run the same command again", message)
    assert so_far, message
    await server.start()
    async with opened(server.url) as store:
        left = await count(store)
        # The answer to the last batch may have been lost.
        done = int(so_far[1].replace(",", ""))
        assert TOTAL - done - 10 <= left <= TOTAL - done
        assert left > 0
        again = await run("-m", "my_app", "sessions", *arguments)
        printed, told = await again.communicate()
        assert printed.decode() == f"{left:,} sessions {verb}.\n", told
        assert await count(store) == 0


@pytest.mark.usefixtures("project")
async def test_what_a_killed_server_leaves_is_revoked_by_the_next_run(
    server: Server,
) -> None:
    await assert_goes_on_after_a_crash(server, ["revoke", "--all", "--yes"], "revoked", 3600)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("server", ["postgresql"], indirect=True)  # a cache purges by itself
async def test_what_a_killed_server_leaves_is_purged_by_the_next_run(
    server: Server,
) -> None:
    await assert_goes_on_after_a_crash(server, ["purge"], "purged", -3600)
