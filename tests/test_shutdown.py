"""What holds when a running app is told to stop, or loses a worker: nothing answered is lost."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx2
import pytest
from serversessions.testing import servers

from .conftest import PYTHON, SHARED, Bake, serving

Ledger = dict[str, str]  # the names that were answered for, by the cookie of their session


class App:
    """A project's app, run by its own command in a process group of its own, as from a shell."""

    def __init__(self, project: Path, *options: str) -> None:
        self.port: int = servers.free_port()
        self._log = project / "app.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "my_app", "run", "--port", str(self.port), *options],
                cwd=project,
                env={"PYTHONPATH": str(project / "src"), "PATH": ""},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def workers(self) -> list[int]:
        """The processes that have served, in the order in which they began."""
        return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", self.log)]

    def wait_for(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.log.count(text) >= times, f"{text!r} in:\n{self.log}")

    def ends_well(self, within: float = 10) -> bool:
        """Whether it stops in time, says that all is well, and leaves no process behind."""
        assert self.process.wait(within) == 0, self.log
        assert not any(is_alive(pid) for pid in self.workers), self.log
        return True


@contextmanager
def started(project: Path, *options: str, workers: int = 1) -> Iterator[App]:
    app = App(project, *options, *(["--workers", str(workers)] if workers > 1 else []))
    try:
        app.wait_for("Application startup complete", times=workers)
        wait_until(lambda: listens(app.port), f"anyone who listens on port {app.port}")
        yield app
    finally:
        if app.process.poll() is None:
            os.killpg(app.process.pid, signal.SIGKILL)
            app.process.wait()


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"there never was {what}"
        time.sleep(0.01)


def listens(port: int) -> bool:
    """Whether anyone does: uvicorn begins to just after it says that the app is ready."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def name_form(name: str, *headers: str) -> tuple[bytes, bytes]:
    """The request that gives a visitor a name: its head, and its body."""
    body = f"name={name}".encode()
    lines = [
        "POST /name HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode(), body


def read_all(connection: socket.socket) -> bytes:
    """What comes until the connection is closed or broken."""
    answer = b""
    try:
        while part := connection.recv(65536):
            answer += part
    except ConnectionError:
        pass
    return answer


def note(answer: bytes, name: str, ledger: Ledger) -> None:
    """Take an answer into the ledger: a whole one, for half of one is a broken promise."""
    head, end, body = answer.partition(b"\r\n\r\n")
    assert end, answer
    assert head.startswith(b"HTTP/1.1 303 "), answer
    assert b"content-length: 0" in head, answer
    assert not body, answer
    cookie = re.search(rb"set-cookie: my_app=([\w-]+);", head)
    assert cookie is not None, answer
    ledger[cookie[1].decode()] = name


def write_until_refused(port: int, visitor: str, ledger: Ledger) -> None:
    """New visitors, one after another, until one is not answered."""
    for number in count():
        name = f"{visitor}-{number}"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(b"".join(name_form(name)))
                answer = read_all(connection)
        except ConnectionError:
            return
        if not answer:
            return
        note(answer, name, ledger)


def assert_kept(project: Path, ledger: Ledger) -> None:
    """Every write that was answered is there in an app that is started anew."""
    with serving(project) as client:
        for cookie, name in ledger.items():
            assert name in client.get("/", headers={"Cookie": f"my_app={cookie}"}).text


def stop_while_it_works(app: App, stop: Callable[[], None]) -> Ledger:
    """Have it stopped with visitors coming and one request half sent; what was answered for."""
    ledger: Ledger = {}
    head, body = name_form("slow", "Expect: 100-continue")
    with (
        socket.create_connection(("127.0.0.1", app.port), timeout=20) as slow,
        ThreadPoolExecutor() as pool,
    ):
        slow.sendall(head)
        assert slow.recv(100).startswith(b"HTTP/1.1 100 ")  # the app has it, and waits for the rest
        visitors = [pool.submit(write_until_refused, app.port, f"v{n}", ledger) for n in range(3)]
        wait_until(lambda: len(ledger) >= 20, "20 answers")
        stop()
        app.wait_for("Waiting for connections to close")
        slow.sendall(body)
        note(read_all(slow), "slow", ledger)
        for visitor in visitors:
            visitor.result()
    return ledger


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("project", SHARED, indirect=True)
def test_requests_under_way_are_finished_and_no_answered_write_is_lost(
    project: Path, workers: int
) -> None:
    with started(project, workers=workers) as app:
        ledger = stop_while_it_works(app, app.process.terminate)
        assert app.ends_well()
    assert "Traceback" not in app.log
    assert_kept(project, ledger)


def test_memory_finishes_what_it_has_begun_too(bake: Bake) -> None:
    with started(bake()) as app:
        stop_while_it_works(app, app.process.terminate)
        assert app.ends_well()
    assert "Traceback" not in app.log


@pytest.mark.parametrize(
    ("stop", "options", "workers"),
    [
        (signal.SIGINT, [], 1),
        (signal.SIGINT, [], 3),
        (signal.SIGTERM, [], 3),
        (signal.SIGINT, ["--reload"], 1),
    ],
)
def test_ctrl_c_and_a_signal_to_all_processes_are_no_different(
    bake: Bake, stop: signal.Signals, options: list[str], workers: int
) -> None:
    """A terminal, and systemd, signal the workers along with their parent."""
    project = bake(session_store="file")
    with started(project, *options, workers=workers) as app:
        ledger = stop_while_it_works(app, lambda: os.killpg(app.process.pid, stop))
        assert app.ends_well()
    assert "Traceback" not in app.log
    assert_kept(project, ledger)


def test_a_request_that_does_not_end_is_cut_off_before_docker_kills_all(bake: Bake) -> None:
    with started(bake(session_store="file"), workers=2) as app:
        with socket.create_connection(("127.0.0.1", app.port), timeout=20) as endless:
            head, _ = name_form("endless", "Expect: 100-continue")
            endless.sendall(head)
            assert endless.recv(100).startswith(b"HTTP/1.1 100 ")
            app.process.terminate()
            told = time.monotonic()
            assert b" 500 Internal Server Error" in read_all(endless)
        assert app.ends_well(within=told + 10 - time.monotonic())


def test_it_can_be_stopped_at_any_moment_of_its_start(bake: Bake) -> None:
    project = bake(session_store="file")
    for text in ("Environment: dev", "Started parent process", "Started server process"):
        app = App(project, "--workers", "2")
        app.wait_for(text)
        app.process.terminate()
        assert app.ends_well()
        assert "Traceback" not in app.log


def test_a_worker_that_is_killed_is_replaced_and_its_sessions_are_kept(bake: Bake) -> None:
    project = bake(session_store="file")
    with started(project, workers=3) as app:
        with httpx2.Client(base_url=f"http://127.0.0.1:{app.port}") as client:
            client.post("/name", data={"name": "Ada"})
        os.kill(app.workers[0], signal.SIGKILL)
        app.wait_for("Application startup complete", times=4)
        assert len(app.workers) == 4
        for _ in range(20):
            with httpx2.Client(base_url=client.base_url, cookies=client.cookies) as another:
                assert "Ada" in another.get("/").text
        app.process.terminate()
        assert app.ends_well()
