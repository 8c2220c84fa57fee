"""The command, as typed: what it says when something is wrong, and that it serves."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from serversessions import Record
from serversessions.config.variables import list_variables
from serversessions.stores.file import FileStore
from serversessions.testing.servers import free_port, running

from .project import COMMAND, PREFIX, VARIABLE, invoke, project, write
from .sample.config import AppConfig

__all__ = ["project"]  # pytest finds the fixture by its name


@pytest.fixture(autouse=True)
def development(project: Path) -> None:
    """An environment ``dev``, in which the command runs."""
    write("dev", "debug = true\n[middlewares.session]\nsecure = false")


def refused(status: int, *arguments: str) -> str:
    """What the command says on refusing, which it must do in one message."""
    done = invoke(*arguments, status=status)
    assert done.stdout == ""
    return done.stderr


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        body: bytes = answer.read()
        return body


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class TestRefusals:
    def test_a_mistake_in_toml(self) -> None:
        write("dev", "debug = true\ncolour = 1")
        assert "config/dev.toml: colour: unknown key" in refused(2, "run")

    def test_an_environment_without_a_file(self) -> None:
        assert "Environments here: dev" in refused(2, "run", "--env", "prod")
        assert "not a plain name" in refused(2, "run", "--env", "../dev")

    def test_a_port_in_use(self, taken_port: int) -> None:
        said = refused(1, "run", "--port", str(taken_port))
        assert f"port {taken_port}: address already in use; stop what listens there" in said

    def test_an_address_of_another_machine(self) -> None:
        write("prod", 'middlewares.session.store = { type = "file", path = "s" }')
        for host in ("192.0.2.1", "nowhere.invalid"):
            said = refused(1, "run", "--env", "prod", "--host", host)
            assert "choose another address with --host or HOST" in said
        assert "choose another address with" in refused(1, "run", "--host", "nowhere.invalid")

    @pytest.mark.parametrize("by", ["option", "variable"])
    def test_several_workers_that_share_memory(
        self, monkeypatch: pytest.MonkeyPatch, taken_port: int, by: str
    ) -> None:
        monkeypatch.setenv("WEB_CONCURRENCY", "2" if by == "variable" else "")
        options = ["--workers", "2"] if by == "option" else []
        said = refused(2, "run", "--port", str(taken_port), *options)
        assert "2 workers can't share the memory store" in said
        assert "app config set-store dev" in said

    def test_reload_with_several_processes(self) -> None:
        assert "--reload" in refused(2, "run", "--workers", "2", "--reload")

    @pytest.mark.parametrize("host", ["0.0.0.0", "::"])
    def test_debug_pages_beyond_this_machine_unless_asked_for_twice(
        self, taken_port: int, host: str
    ) -> None:
        said = refused(2, "run", "--host", host, "--port", str(taken_port))
        assert "config/dev.toml has debug = true" in said
        assert "add --expose-debug" in said

    def test_a_root_path_without_a_slash(self) -> None:
        said = refused(2, "run", "--root-path", "shop")
        assert """found 'shop'; allowed: a path that begins with "/\"""" in said

    def test_a_port_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORT", "http")
        assert "'--port' (env var: 'PORT'): 'http' is not a valid integer" in refused(2, "run")

    def test_a_migration_without_a_database(self) -> None:
        assert "config/dev.toml has no [database] url" in refused(2, "migrate")

    @pytest.mark.parametrize("command", ["migrate", "run"])
    def test_a_database_that_can_not_be(self, command: str) -> None:
        write("dev", 'debug = true\n[database]\nurl = "mysql://u:s3cret@h/x"')
        said = refused(2, command)
        assert 'config/dev.toml: database.url: found "mysql://u:***@h/x"; ' in said

    @pytest.mark.parametrize(
        ("store", "says"),
        [
            ('type = "cache"\nuri = "nosql://:s3cret@h"', "allowed schemes: "),
            ('type = "cache"\nuri = "redis://:s3cret@h:port"', "port of h: allowed: a number"),
            ('type = "cache"\nuri = "redis://u:s3cret"', "port of u: allowed: a number"),
            ('type = "cache"\nuri = "redis://:s3cret%40h:6379/0"', "host: missing"),
        ],
    )
    def test_a_wrong_uri_without_its_password(self, store: str, says: str) -> None:
        write("dev", f"[middlewares.session.store]\n{store}")
        said = refused(2, "run")
        assert said.startswith("Error: config/dev.toml: middlewares.session.store.uri: found ")
        assert says in said
        assert "s3cret" not in said

    def test_a_wrong_uri_while_another_app_has_the_port(self, taken_port: int) -> None:
        write("dev", '[middlewares.session.store]\ntype = "cache"\nuri = "nosql://h"')
        assert "middlewares.session.store" in refused(2, "run", "--port", str(taken_port))

    def test_a_wrong_uri_in_a_variable_by_the_variables_name(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        variable = f"{PREFIX}MIDDLEWARES__SESSION__STORE__"
        monkeypatch.setenv(f"{variable}TYPE", "cache")
        monkeypatch.setenv(f"{variable}URI", "nosql://h")
        told = f"{variable}URI (environment variable): middlewares.session.store.uri: found"
        assert told in refused(2, "run")

    def test_a_missing_extra_by_its_name(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (project / "redis.py").write_text("raise ModuleNotFoundError(name='redis')")
        monkeypatch.setenv("PYTHONPATH", f"{project}:{os.environ['PYTHONPATH']}")
        write("dev", '[middlewares.session.store]\ntype = "cache"\nuri = "redis://localhost"')
        done = subprocess.run([*COMMAND, "run"], capture_output=True, text=True, timeout=30)
        assert done.returncode == 2
        assert "the cache store needs a package that is not installed. Run: " in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("arguments", [["config", "show"], ["--help"], ["sessions", "list"]])
    def test_an_output_that_is_full(
        self, monkeypatch: pytest.MonkeyPatch, arguments: list[str], unbuffered: str
    ) -> None:
        monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
        write("dev", '[middlewares.session.store]\ntype = "file"\npath = "s"')
        store = FileStore("s")
        record = Record(b"{}", time.time(), time.time() + 60)
        assert asyncio.run(store.create("0" * 64, record))
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30
            )
        message = "Error: can't write the output: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, message)


class TestDotenv:
    def test_its_variables_win_over_toml(self) -> None:
        Path(".env").write_text(f'{PREFIX}MAIL__HOST="from .env"\n')
        assert invoke("greet", "Ada").output == "Hello Ada from from .env\n"

    def test_variables_that_are_set_win_over_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text(f"{PREFIX}MAIL__HOST=a\n{PREFIX}MAIL__PORT=x\n")
        monkeypatch.setenv(f"{PREFIX}MAIL__HOST", "b")
        monkeypatch.setenv(f"{PREFIX}MAIL__PORT", "25")
        assert invoke("greet", "Ada").output == "Hello Ada from b\n"

    def test_an_empty_variable_is_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text(f"{PREFIX}MAIL__HOST=a\n{PREFIX}MAIL__PORT=\n")
        monkeypatch.setenv(f"{PREFIX}MAIL__HOST", "")
        assert invoke("greet", "Ada").output == "Hello Ada from a\n"

    def test_it_may_name_the_environment(self) -> None:
        write("prod", 'mail.host = "prod"')
        Path(".env").write_text(f"{VARIABLE}=prod\n")
        assert invoke("greet", "Ada").output == "Hello Ada from prod\n"

    def test_one_that_can_not_be_read_is_told(self) -> None:
        Path(".env").write_bytes(b"\xff=1")
        said = refused(2, "greet", "Ada")
        assert said == "Error: .env: can't be read: it is not UTF-8 text\n"

    def test_a_folder_of_that_name_is_left_alone(self) -> None:
        Path(".env").mkdir()
        assert invoke("greet", "Ada").output == "Hello Ada from localhost\n"


class TestRun:
    @staticmethod
    def _command(*arguments: object) -> list[str]:
        return [*COMMAND, "run", *map(str, arguments)]

    def test_the_app_is_served_until_it_is_told_to_stop(self) -> None:
        port = free_port()
        with running(self._command("--port", port), port, signal.SIGTERM) as process:
            assert get(f"http://127.0.0.1:{port}/healthz") == b'{"status":"ok"}'
        assert process.returncode == 0

    def test_a_host_may_come_from_a_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOST", "nowhere.invalid")
        assert "can't listen on nowhere.invalid port 8000" in refused(1, "run")

    def test_a_port_may_come_from_a_variable(self) -> None:
        port = free_port()
        Path(".env").write_text(f"PORT={port}\nHOST=\n")
        with running(self._command(), port, signal.SIGTERM):
            assert get(f"http://127.0.0.1:{port}/healthz") == b'{"status":"ok"}'

    def test_debug_pages_are_exposed_if_asked_for_twice(self) -> None:
        port = free_port()
        exposed = ["--host", "0.0.0.0", "--expose-debug"]
        with running(self._command("--port", port, *exposed), port, signal.SIGTERM):
            assert get(f"http://127.0.0.1:{port}/healthz") == b'{"status":"ok"}'

    def test_a_root_path_is_the_apps(self) -> None:
        port = free_port()
        command = self._command("--port", port, "--root-path", "/shop/")
        with running(command, port, signal.SIGTERM):
            scope = json.loads(get(f"http://127.0.0.1:{port}/scope"))
        assert scope == {"root_path": "/shop", "path": "/shop/scope"}

    @pytest.mark.parametrize(("level", "is_seen"), [("info", True), ("warning", False)])
    def test_session_events_are_logged_with_time_and_level(self, level: str, is_seen: bool) -> None:
        port = free_port()
        command = self._command("--port", port, "--log-level", level)
        with open("log", "w+") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                _until_served(port)
                get(f"http://127.0.0.1:{port}/sign-in")
            finally:
                process.terminate()
                process.wait(30)
        event = re.search(
            r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO serversessions\.events: session\.created",
            Path("log").read_text(),
            re.MULTILINE,
        )
        assert (event is not None) == is_seen

    def test_it_starts_again_when_toml_or_a_template_changes(self, project: Path) -> None:
        package = project / "watched"
        package.mkdir()
        (package / "__init__.py").write_text("from tests.sample.app import create_app\n")
        (package / "cli.py").write_text(
            "from serversessions.cli import create_command\n"
            "from tests.sample.config import AppConfig\n"
            "if __name__ == '__main__':\n"
            "    create_command(AppConfig, app='watched:create_app')()\n"
        )
        port = free_port()
        write("dev", 'debug = true\nmail.host = "a"')
        command = [sys.executable, "-m", "watched.cli", "run", "--reload", "--port", f"{port}"]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            _until_served(port)
            write("dev", 'debug = true\nmail.host = "b"')
            _until_served(port, "/mail-host", b'"b"')
            before = _until_served(port, "/started")
            (package / "page.html").write_text("<p>new</p>")
            _until_served(port, "/started", unlike=before)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def _until_served(
    port: int, path: str = "/healthz", body: bytes | None = None, unlike: bytes | None = None
) -> bytes:
    """What the app answers, as soon as it is there and answers that."""
    end = time.monotonic() + 30
    while True:
        try:
            answer = get(f"http://127.0.0.1:{port}{path}")
            if answer != unlike and body in (None, answer):
                return answer
        except OSError:
            pass
        assert time.monotonic() < end
        time.sleep(0.05)


class TestOwnCommands:
    def test_one_gets_the_configuration_of_the_environment_it_is_told(self) -> None:
        write("prod", 'mail.host = "prod"')
        assert invoke("greet", "Ada").output == "Hello Ada from localhost\n"
        assert invoke("greet", "Ada", "--env", "prod").output == "Hello Ada from prod\n"

    def test_one_gets_the_store_which_is_closed_after_it(self) -> None:
        write("dev", '[middlewares.session.store]\ntype = "file"\npath = "var/s"')
        assert invoke("is-ready").output == "ready\n"

    def test_one_gets_both_with_options_of_its_own(self) -> None:
        write("dev", 'middlewares.session.store = { type = "file", path = "s" }')
        assert invoke("report", "--twice").output == "To localhost: 0\n"
        said = invoke("report", "--help").output
        assert said.count("--env NAME") == 1
        assert "[default: $MY_APP_ENV, else dev]" in " ".join(said.split())

    @pytest.mark.parametrize("command", [["greet", "Ada"], ["is-ready"], ["report"]])
    def test_a_wrong_configuration_is_one_message(self, command: list[str]) -> None:
        write("dev", "colour = 1")
        assert refused(2, *command).startswith("Error: config/dev.toml: colour: unknown key; ")
        write("dev", "[middlewares.session.store]\ntype = 'cache'\nuri = 'nosql://:s3cret@h'")
        if command[0] != "greet":
            assert "middlewares.session.store.uri: found " in refused(2, *command)

    def test_a_store_out_of_reach_is_one_message(self) -> None:
        assert "config/dev.toml: the store is memory: " in refused(2, "is-ready")
        write(
            "dev",
            "[middlewares.session.store]\ntype = 'cache'\nuri = 'redis://:s3cret@127.0.0.1:1'",
        )
        said = refused(1, "is-ready")
        assert said.startswith("Error: cache: ")
        assert "s3cret" not in said

    def test_one_that_takes_a_store_is_async(self) -> None:
        from serversessions.cli import pass_store

        with pytest.raises(TypeError, match="pass_store: wrong has to be an `async def`"):

            @pass_store
            def wrong(store: object) -> None: ...


def test_advice_names_the_command_where_it_is(project: Path) -> None:
    script = project / "bin" / "app"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom tests.sample.cli import main\nmain()\n")
    script.chmod(0o755)
    done = subprocess.run(
        ["bin/app", "sessions", "list"], capture_output=True, text=True, timeout=30
    )
    assert "bin/app config set-store dev\n" in done.stderr


def test_every_variable_is_listed() -> None:
    assert invoke("config", "variables").output == list_variables(AppConfig)


def test_the_command_imports_what_it_uses() -> None:
    unused = ["alembic", "asyncpg", "dotenv", "jinja2", "redis", "sqlalchemy", "tomlkit", "uvicorn"]
    code = f"import sys, tests.sample.cli; print([m for m in {unused} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "[]\n", done.stderr
