"""``sessions``, as typed: what it counts, lists and ends, and what is left when it is stopped."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from serversessions import Record, SessionStore, StoreNotReady, StoreUnavailable
from serversessions.cli import batches
from serversessions.contents import pack
from serversessions.ids import hash_id, new_id
from serversessions.location import Location
from serversessions.owners import SignIn, hash_owner
from serversessions.stores import open_store, register_cache_backend

from .project import COMMAND, invoke, project
from .project import write as write_environment
from .sample.cli import main
from .sample.config import AppConfig

__all__ = ["project"]  # pytest finds the fixture by its name

HOUR, DAY = 3600, 86400
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0"
SECRET = "what-nobody-may-see"

KINDS = ["file", "sqlite", "postgresql", "cache", "cluster"]  # no command reaches a memory
on_each_store = pytest.mark.parametrize("place", KINDS, indirect=True)
on_files = pytest.mark.parametrize("place", ["file"], indirect=True)


class Sessions:
    """Those of the environment ``dev``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.ids: list[str] = []
        self.location: Location = AppConfig.load("dev").location

    def add(
        self,
        user: str | None = None,
        *,
        age: float = 60,
        lives: float = HOUR,
        user_agent: str | None = FIREFOX,
        expiry: str | None = None,
        count: int = 1,
    ) -> str:
        """Keep some as the engine does; the key of the last one."""
        now = time.time()
        owner = None if user is None else hash_owner(user)
        records: dict[str, Record] = {}
        for _ in range(count):
            session_id = new_id()
            self.ids.append(session_id)
            sign_in = None if user is None else SignIn(user, now - age, user_agent)
            data = msgspec.json.encode(pack({"note": SECRET}, sign_in, expiry, session_id))
            records[hash_id(session_id)] = Record(data, now - age, now + lives, 1, owner)

        async def create(store: SessionStore) -> None:
            for key, record in records.items():
                assert await store.create(key, record)

        self.ask(create)
        return hash_id(session_id)

    @contextmanager
    def mark(self) -> Iterator[None]:
        """For as long as this lasts, there is what a rotated id leaves for a minute."""
        key, mark = hash_id(new_id()), Record(b"", time.time(), time.time() + 60, 0)
        assert self.ask(lambda store: store.create(key, mark))
        yield
        self.ask(lambda store: store.delete(key))

    def left(self) -> set[str]:
        """Of all that are there, expired ones too."""
        found: set[str] = self.ask(_all_keys)
        return found

    def ask(self, work: Callable[[SessionStore], Awaitable[Any]]) -> Any:
        async def open_and_ask() -> Any:
            store = open_store(self.location)
            try:
                return await work(store)
            finally:
                await store.aclose()

        return asyncio.run(open_and_ask())

    @contextmanager
    def disturbed(
        self, method: str, disturb: Callable[[], object], *, after: int = 1
    ) -> Iterator[None]:
        """After so many calls of a method of the store, something happens in each one."""

        def open_disturbed(uri: str) -> SessionStore:
            return cast(SessionStore, Disturbed(open_store(self.location), method, disturb, after))

        register_cache_backend("disturbed", open_disturbed)
        before = Path("config/dev.toml").read_text()
        write('middlewares.session.store = { type = "cache", uri = "disturbed://x" }')
        yield
        write(before)

    def failing(self, method: str, error: Exception, *, after: int = 1) -> Any:
        """After so many calls of a method the store fails."""

        def fail() -> None:
            raise error

        return self.disturbed(method, fail, after=after)


class Disturbed:
    """A store, all of whose calls go to another one."""

    def __init__(
        self, store: SessionStore, method: str, disturb: Callable[[], object], after: int
    ) -> None:
        self._store = store
        self._method = method
        self._disturb = disturb
        self._left = after

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name != self._method:
            return call

        async def disturbed(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                self._disturb()
            return await call(*args, **kwargs)

        return disturbed


@pytest.fixture(autouse=True)
def terminal(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def sessions(place: tuple[str, str], project: Path) -> Iterator[Sessions]:
    """An empty store of each kind, which the environment ``dev`` names."""
    kind, url = place
    match kind:
        case "file":
            path = url.removeprefix("file:")
            write(f'middlewares.session.store = {{ type = "file", path = "{path}" }}')
        case "cache" | "cluster":
            kind = "cache"
            write(f'middlewares.session.store = {{ type = "cache", uri = "{url}" }}')
        case _:
            write(f'database.url = "{url}"\nmiddlewares.session.store.type = "database"')
            invoke("migrate")
    yield Sessions(kind)
    said("revoke", "--all", "--yes")
    said("purge")


def write(text: str) -> None:
    write_environment("dev", text)


async def _all_keys(store: SessionStore) -> set[str]:
    found: set[str] = set()
    page, cursor = await store.scan()
    found.update(dict(page))
    while cursor:
        page, cursor = await store.scan(cursor)
        found.update(dict(page))
    return found


def said(*arguments: str, status: int = 0) -> tuple[str, str]:
    """What the command prints, and what it says beside."""
    done = invoke("sessions", *arguments, status=status)
    return done.stdout, done.stderr


def read(*arguments: str) -> list[Any]:
    """What it prints as JSON, line by line."""
    return [json.loads(line) for line in said(*arguments, "--json")[0].splitlines()]


def in_terminal(*arguments: str, answer: str = "") -> tuple[int, str]:
    """The exit status, and what is seen in a terminal."""
    here, there = pty.openpty()
    os.write(here, answer.encode())
    with ThreadPoolExecutor() as pool, pytest.MonkeyPatch.context() as patch:
        seen = pool.submit(_read_all, here)
        with open(there, "rb") as keys, open(there, "wb", closefd=False) as screen:
            patch.setattr(sys, "stdin", io.TextIOWrapper(keys, "utf-8"))
            patch.setattr(sys, "stdout", io.TextIOWrapper(screen, "utf-8"))
            patch.setattr(sys, "stderr", sys.stdout)
            with pytest.raises(SystemExit) as ended:
                main(["sessions", *arguments], prog_name="app")
            sys.stdout.flush()
    return int(ended.value.code or 0), seen.result().decode()


def _read_all(terminal: int) -> bytes:
    seen = b""
    with suppress(OSError):  # so Linux tells that nobody writes any more
        while part := os.read(terminal, 65536):
            seen += part
    os.close(terminal)
    return seen


def interrupted(sessions: Sessions, method: str, *arguments: str) -> tuple[str, str]:
    """What the command prints, and says beside, on Ctrl+C in the first call of a method."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    interrupt = sessions.disturbed(method, lambda: signal.raise_signal(signal.SIGINT), after=0)
    try:
        with interrupt, pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches, "BATCH", 10)
            return said(*arguments, status=130)
    finally:
        signal.signal(signal.SIGINT, before)


@on_each_store
def test_live_sessions_are_counted_by_owner_and_age(sessions: Sessions) -> None:
    sessions.add()
    sessions.add(age=2 * HOUR)
    sessions.add("ada", age=2 * DAY)
    sessions.add("ada", age=8 * DAY)
    sessions.add("bob", age=31 * DAY)
    (counts,) = read("stats")
    size = counts.pop("bytes")
    assert counts == {
        "environment": "dev",
        "live": 5,
        "expired": 0,
        "with_owner": 3,
        "without_owner": 2,
        "by_age": {"1h": 1, "1d": 1, "7d": 1, "30d": 1, "older": 1},
    }
    assert size > 5 * len(SECRET)


@on_each_store
def test_what_has_expired_is_counted_until_it_is_purged(sessions: Sessions) -> None:
    live = sessions.add()
    sessions.add(lives=-2 * HOUR)
    sessions.add("ada", lives=-2 * HOUR)
    expired = 0 if sessions.kind == "cache" else 2  # which forgets them by itself
    assert read("stats")[0]["expired"] == expired
    assert read("purge") == [{"environment": "dev", "purged": expired}]
    assert read("stats")[0]["expired"] == 0
    assert sessions.left() == {live}


@on_each_store
def test_an_empty_store_has_nothing_to_count_list_or_end(sessions: Sessions) -> None:
    assert read("stats")[0]["live"] == 0
    assert said("stats")[0]
    assert read("list") == read("list", "--owner", "ada") == []
    assert read("revoke", "--all", "--yes") == [{"environment": "dev", "revoked": 0}]
    assert said("purge")[0] == "0 sessions purged.\n"


@on_each_store
def test_the_sessions_of_a_user_are_listed(sessions: Sessions) -> None:
    here, there = sessions.add("ada", user_agent=None), sessions.add("ada")
    sessions.add("bob")
    sessions.add()
    sessions.add("ada", lives=-2 * HOUR)
    listed = {each["key"]: each for each in read("list", "--owner", "ada")}
    assert set(listed) == {here, there}
    assert listed[here]["user_agent"] is None
    assert listed[there]["user_agent"] == FIREFOX
    assert listed[there]["has_owner"]
    assert listed[there]["signed_in_at"] == listed[there]["created_at"]
    times = [listed[there][name] for name in ("created_at", "last_seen_at", "expires_at")]
    assert times[0] == times[1] < times[2]
    assert read("list", "--owner", "") == []


@on_files
def test_a_session_with_an_expiry_of_its_own_was_last_seen_that_long_before_it_ends(
    sessions: Sessions,
) -> None:
    sessions.add("ada", age=2 * DAY, lives=HOUR, expiry="90m")
    (listed,) = read("list")
    end, seen = (datetime.fromisoformat(listed[key]) for key in ("expires_at", "last_seen_at"))
    assert end - seen == timedelta(minutes=90)


@on_each_store
def test_the_mark_of_a_rotated_id_is_no_session(sessions: Sessions) -> None:
    live = sessions.add()
    with sessions.mark():
        assert read("stats")[0]["live"] == 1
        assert [each["key"] for each in read("list")] == [live]
        assert read("revoke", "--all", "--yes") == [{"environment": "dev", "revoked": 1}]


@on_each_store
def test_all_live_sessions_are_listed_page_by_page(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH", 3)
    sessions.add(count=10)
    sessions.add("ada", count=4)
    live = sessions.left()
    sessions.add(lives=-2 * HOUR)
    assert {each["key"] for each in read("list")} == live
    assert len(read("list", "--limit", "5")) == 5
    assert len(read("list", "--owner", "ada")) == 4
    assert len(read("list", "--owner", "ada", "--limit", "2")) == 2


@on_files
def test_a_list_is_a_table_for_people(sessions: Sessions) -> None:
    key = sessions.add("ada", age=26 * HOUR, lives=1.52 * HOUR)
    heading, row = said("list")[0].splitlines()
    assert heading.split("  ")[0] == "KEY"
    assert row.startswith(f"{key[:8]}    1d2h ago    1d2h ago    ")
    assert row.endswith(f"in 1h31m    {FIREFOX}")
    assert said("list", "--owner", "bob")[0] == ""


@on_each_store
def test_a_hostile_user_agent_says_nothing_to_the_terminal(sessions: Sessions) -> None:
    hostile = "\x1b]0;mine\x07\x1b[2J\x9b31m\r\nKEY\t\x7f\u202e\u2028\x00\xe9"
    sessions.add("ada", user_agent=hostile)
    people, _ = said("list")
    assert len(people.splitlines()) == 2
    assert r"\x1b]0;mine\x07\x1b[2J\x9b31m\r\nKEY\t\x7f\u202e\u2028\x00\xe9" in people
    machines, _ = said("list", "--json")
    for printed in people, machines:
        assert printed.replace("\n", "").isprintable()
        assert printed.isascii()
    assert json.loads(machines)["user_agent"] == hostile


@on_each_store
def test_nothing_shows_data_ids_or_users(sessions: Sessions) -> None:
    for user in (None, "ada-lovelace"):
        sessions.add(user)
        sessions.add(user, lives=-2 * HOUR)
    everything = ""
    for form in ([], ["--json"]):
        for command in (
            ["stats"],
            ["list"],
            ["list", "--owner", "ada-lovelace"],
            ["revoke", "--owner", "ada-lovelace", "--yes"],
            ["revoke", "--all", "--yes"],
            ["purge"],
        ):
            everything += "".join(said(*command, *form))
    for hidden in (SECRET, "ada-lovelace", hash_owner("ada-lovelace"), *sessions.ids):
        assert hidden not in everything


@on_each_store
def test_the_sessions_of_a_user_are_ended(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH", 2)
    sessions.add("ada", count=5)
    others = {sessions.add("bob"), sessions.add()}
    assert read("revoke", "--owner", "ada", "--yes") == [{"environment": "dev", "revoked": 5}]
    assert sessions.left() == others


@on_files
def test_revoke_finds_a_users_sessions_that_the_index_has_lost(sessions: Sessions) -> None:
    sessions.add("ada", count=3)
    said("revoke", "--owner", "bob", "--yes")  # so that the index was whole once
    marks = list(Path(sessions.location.url.removeprefix("file:"), "owners").glob("*/*/*"))
    assert len(marks) == 3
    for mark in marks:
        mark.unlink()
    assert read("revoke", "--owner", "ada", "--yes") == [{"environment": "dev", "revoked": 3}]


@on_each_store
def test_sessions_that_began_long_ago_are_ended(sessions: Sessions) -> None:
    young = {sessions.add(), sessions.add("ada", age=30 * DAY - HOUR)}
    sessions.add(age=30 * DAY + HOUR)
    sessions.add("ada", age=90 * DAY)
    assert said("revoke", "--older-than", "30d", "--yes")[0] == "2 sessions revoked.\n"
    assert sessions.left() == young


@on_each_store
def test_all_sessions_are_ended(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH", 3)
    sessions.add(count=7)
    sessions.add("ada", age=-60, count=4)  # so another machine's clock may have it
    assert said("revoke", "--all", "--yes")[0] == "11 sessions revoked.\n"
    assert sessions.left() == set()


@on_files
@pytest.mark.parametrize(
    "filters", [[], ["--all", "--owner", "ada"], ["--all", "--older-than", "1d"]]
)
def test_one_filter_says_which_sessions_to_end(sessions: Sessions, filters: list[str]) -> None:
    kept = {sessions.add("ada", age=2 * DAY)}
    printed, error = said("revoke", "--yes", *filters, status=2)
    assert printed == ""
    assert "exactly one of --owner USER, --all and --older-than DURATION" in error
    assert sessions.left() == kept


@on_files
def test_a_wrong_value_is_refused(sessions: Sessions) -> None:
    said_of_age = said("revoke", "--older-than", "30", "--yes", status=2)[1]
    assert """found '30'; allowed: a duration such as "30m",""" in said_of_age
    assert "allowed: text in UTF-8" in said("list", "--owner", "\udcff", status=2)[1]
    assert "x>=1" in said("list", "--limit", "0", status=2)[1]


@on_files
def test_without_a_terminal_nothing_is_ended_unless_told(sessions: Sessions) -> None:
    kept = {sessions.add("ada")}
    for which in (["--all"], ["--owner", "ada"], ["--older-than", "1s"]):
        assert "no terminal to ask on: give --yes" in said("revoke", *which, status=2)[1]
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "sessions", "revoke", "--all"]
    done = subprocess.run(closed, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert sessions.left() == kept


@on_files
def test_a_person_is_asked_before_sessions_are_ended(sessions: Sessions) -> None:
    kept = {sessions.add("ada")}
    status, seen = in_terminal("revoke", "--all", answer="n\n")
    assert "End all sessions? This can't be undone [y/N]" in seen
    assert status == 1
    status, seen = in_terminal("revoke", "--owner", "ada", answer="\n")
    assert "End 1 session of this user?" in seen
    assert status == 1
    assert sessions.left() == kept
    status, seen = in_terminal("revoke", "--all", answer="y\n")
    assert "1 session revoked." in seen
    assert status == 0
    assert sessions.left() == set()


@on_files
def test_a_terminal_shows_a_plot_and_a_bar(sessions: Sessions) -> None:
    sessions.add()
    status, seen = in_terminal("stats")
    assert status == 0
    assert "█" * 40 in seen
    assert "1 counted" in seen
    assert "█" not in said("stats")[0]


@on_files
def test_what_is_logged_does_not_get_into_what_is_printed(
    sessions: Sessions, place: tuple[str, str]
) -> None:
    sessions.add()
    folder = Path(place[1].removeprefix("file:"), "00")
    folder.mkdir(exist_ok=True)
    (folder / ("0" * 64)).write_text("no record")
    command = [*COMMAND, "sessions", "stats", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout)["live"] == 1
    assert "no record" not in done.stderr
    assert "shorter than a record's header" in done.stderr


@on_each_store
def test_what_ctrl_c_leaves_the_next_run_ends(sessions: Sessions) -> None:
    sessions.add("ada", count=40)
    printed, told = interrupted(sessions, "delete", "revoke", "--all", "--yes")
    left = len(sessions.left())
    assert 0 < left < 40
    assert printed == ""
    assert told == (
        f"Error: interrupted. {40 - left} sessions revoked so far: run the same command again to"
        " go on\n"
    )
    assert said("revoke", "--all", "--yes")[0] == f"{left} sessions revoked.\n"
    assert sessions.left() == set()


@on_files
def test_a_purge_that_ctrl_c_stopped_goes_on(sessions: Sessions) -> None:
    kept = {sessions.add()}
    sessions.add("ada", lives=-2 * HOUR, count=40)
    _, told = interrupted(sessions, "delete_expired", "purge")
    assert "Error: interrupted. 10 sessions purged so far: run the same" in told
    assert said("purge")[0] == "30 sessions purged.\n"
    assert sessions.left() == kept


@on_each_store
def test_what_a_failing_store_leaves_the_next_run_ends(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH", 10)
    sessions.add(count=40)
    error = StoreUnavailable("no answer from redis://:s3cret@host.")
    with sessions.failing("delete", error):
        printed, told = said("revoke", "--all", "--yes", "--json", status=1)
    left = len(sessions.left())
    assert 0 < left < 40
    assert printed == ""
    assert told == (
        f"Error: no answer from redis://:***@host. {40 - left} sessions revoked so far: run the"
        " same command again to go on\n"
    )
    assert said("revoke", "--all", "--yes")[0] == f"{left} sessions revoked.\n"
    assert sessions.left() == set()


@on_files
def test_a_purge_that_a_failing_store_stopped_goes_on(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH", 10)
    sessions.add(lives=-2 * HOUR, count=25)
    with sessions.failing("delete_expired", StoreUnavailable("gone")):
        assert "Error: gone. 10 sessions purged so far: run" in said("purge", status=1)[1]
    assert said("purge")[0] == "15 sessions purged.\n"


@on_files
@pytest.mark.parametrize("command", ["stats", "list", "purge", "revoke"])
def test_a_store_that_is_away_or_not_ready_is_one_message(sessions: Sessions, command: str) -> None:
    arguments = [command, "--all", "--yes"] if command == "revoke" else [command]
    method = "delete_expired" if command == "purge" else "scan"
    for error, told in (
        (StoreUnavailable("cache: connection refused"), "cache: connection refused"),
        (StoreNotReady("no table"), "no table. Run: app migrate --env dev"),
    ):
        with sessions.failing(method, error, after=0):
            assert said(*arguments, status=1) == ("", f"Error: {told}\n")


@pytest.mark.parametrize("command", ["stats", "list", "purge", "revoke"])
def test_sessions_in_memory_are_out_of_reach(command: str) -> None:
    write("")
    arguments = [command, "--all"] if command == "revoke" else [command]
    printed, told = said(*arguments, status=2)
    assert printed == ""
    assert "config/dev.toml: the store is memory: its sessions are inside the running app" in told
    assert "app config set-store dev" in told


def test_a_wrong_configuration_is_one_message() -> None:
    assert "Environments here: none" in said("stats", status=2)[1]
    write("[middlewares.session.store]\ntype = 'cache'\nuri = 'nosql://:s3cret@h'")
    told = said("stats", status=2)[1]
    assert "middlewares.session.store.uri: found" in told
    assert "s3cret" not in told
