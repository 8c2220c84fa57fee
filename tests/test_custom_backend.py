"""docs/custom-store.md, followed to the letter: a store from outside, before a real Memcached."""

from __future__ import annotations

import re
import shutil
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import httpx2
import pytest
from serversessions.testing import servers

from .conftest import (
    PYTHON,
    TEMPLATE,
    Bake,
    asked_alone,
    check_types,
    need,
    run,
    run_tests,
    serving,
    started,
)

EXAMPLE = TEMPLATE / "docs" / "examples" / "memcached.py"
BLOCKS: list[tuple[str, str]] = re.findall(
    r"^```(\w+)\n(.*?)^```$", (TEMPLATE / "docs" / "custom-store.md").read_text(), re.M | re.S
)
PORT = "11211"  # the one on the page
CONFIG = (PYTHON, "-m", "my_app", "config")


def find_block(part: str) -> str:
    """What the page tells to copy."""
    (block,) = (text for _, text in BLOCKS if part in text)
    return block


@pytest.fixture
def port() -> int:
    return servers.free_port()


@pytest.fixture
def project(bake: Bake, port: int) -> Path:
    """A project after the four steps."""
    project = bake()
    package = project / "src" / "my_app"
    shutil.copy(EXAMPLE, package)
    with (package / "__init__.py").open("a") as file:
        file.write("\n" + find_block("register_cache_backend("))
    config = project / "config" / "dev.toml"
    table = find_block("[middlewares.session.store]").replace(PORT, str(port))
    config.write_text(config.read_text().partition("[middlewares.session.store]")[0] + table)
    test = find_block("StoreContract").replace(PORT, str(port))
    (project / "tests" / "test_store.py").write_text(test)
    return project


def memcached(port: int) -> AbstractContextManager[Popen[bytes]]:
    """A real server, until it is killed."""
    need("memcached")
    command = ["memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", port, "-M"]
    return servers.running(command, port, signal.SIGKILL)


def is_signed_in(client: httpx2.Client) -> bool:
    page = client.get("/")
    assert page.status_code == 200
    return "Signed in as" in page.text


def test_the_page_shows_the_code_that_is_tested() -> None:
    copied = ("register_cache_backend(", "StoreContract")
    shown = [text for language, text in BLOCKS if language == "python"]
    excerpts = [text for text in shown if not any(part in text for part in copied)]
    assert len(excerpts) == len(shown) - len(copied)
    for excerpt in excerpts:
        assert excerpt in EXAMPLE.read_text()


def test_the_store_is_as_clean_as_the_project(project: Path) -> None:
    run(project, PYTHON, "-m", "ruff", "check", "--no-cache")
    run(project, PYTHON, "-m", "ruff", "format", "--check", "--no-cache")
    check_types(project)


def test_the_projects_tests_pass_and_the_contract_with_them(project: Path, port: int) -> None:
    with memcached(port):
        printed = run_tests(project, "-v")
    contract = project / "src" / "serversessions" / "testing" / "contract.py"
    promises = contract.read_text().count("async def test_")
    assert printed.count("::TestMemcached::") >= promises


def test_a_memcached_that_went_away_means_503_until_it_is_back(project: Path, port: int) -> None:
    with serving(project) as client:
        assert client.post("/sign-in", data={"name": "ada"}).status_code == 503
        with memcached(port):
            assert client.get("/readyz").status_code == 200
            client.post("/sign-in", data={"name": "ada"})
            assert is_signed_in(client)
        down = client.get("/")
        assert (down.status_code, down.headers["retry-after"]) == (503, "5")
        assert "set-cookie" not in down.headers
        assert client.get("/readyz").status_code == 503
        with memcached(port):
            assert not is_signed_in(client)  # it keeps nothing on disk
            client.post("/sign-in", data={"name": "ada"})
            assert is_signed_in(client)


def test_a_memcached_that_hangs_means_503_and_signs_nobody_out(project: Path, port: int) -> None:
    with memcached(port) as server, serving(project) as client:
        client.post("/sign-in", data={"name": "ada"})
        server.send_signal(signal.SIGSTOP)
        assert client.get("/").status_code == 503
        server.send_signal(signal.SIGCONT)
        assert is_signed_in(client)


def test_its_sessions_are_shared_by_workers(project: Path, port: int) -> None:
    with memcached(port), started(project, "--workers", "2") as (client, app):
        client.post("/sign-in", data={"name": "ada"})
        for same in asked_alone(client, app):
            assert is_signed_in(same)


def test_the_command_knows_the_scheme(project: Path, port: int) -> None:
    down = run(project, *CONFIG, "check", status=1)
    assert "middlewares.session.store.uri: memcached: [Errno 111] Connect call failed" in down
    with memcached(port):
        checked = run(project, *CONFIG, "check")
    assert "1 checked: no errors" in checked
    assert "a restart of it ends all sessions" in checked


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("memcached://127.0.0.1:99999", "Port out of range"),
        ("memcached://127.0.0.1/0", "write memcached://HOST or memcached://HOST:PORT"),
        ("memcached://ada:secret@127.0.0.1", 'found "memcached://ada:***@127.0.0.1"; write'),
        ("memcache://127.0.0.1", "allowed schemes: memcached, redis"),
    ],
)
def test_a_wrong_uri_is_refused_by_name(project: Path, uri: str, found: str) -> None:
    printed = run(project, *CONFIG, "check", status=1, MY_APP__MIDDLEWARES__SESSION__STORE__URI=uri)
    assert found in printed
    assert "secret" not in printed
