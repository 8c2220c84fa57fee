"""The soak in short: what the stores promise holds, and who breaks a promise is found out."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from soak.ledger import Answered, Asked, Ledger, Saw
from soak.report import Outcome

from .conftest import PYTHON, TEMPLATE

SECONDS = "8"
TABLE = ("store", "seconds", "requests", "commands", "faults", "unavailable", "acknowledged")
FINDINGS = ("lost", "resurrected", "torn")


def soak(store: str, *, status: int) -> dict[str, str]:
    """A run, in a process of its own, since it takes a network of its own; its row of the table."""
    command = (PYTHON, "-m", "soak", "--store", store, "--seconds", SECONDS)
    done = subprocess.run(command, cwd=TEMPLATE, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith(f"| {store} |"))
    return dict(zip((*TABLE, *FINDINGS), row.strip("| ").split(" | "), strict=True))


@pytest.mark.parametrize("store", ["postgresql", "valkey", "sqlite"])
def test_nothing_that_was_acknowledged_is_lost(store: str) -> None:
    row = soak(store, status=0)
    assert int(row["acknowledged"]) > 0
    assert int(row["commands"]) > 0
    assert [row[name] for name in FINDINGS] == ["0", "0", "0"]
    assert ("store killed" in row["faults"]) is (store != "sqlite")


@pytest.mark.parametrize("store", ["sentinel", "cluster"])
def test_a_failover_tears_nothing(store: str) -> None:
    row = soak(store, status=0)
    assert int(row["acknowledged"]) > 0
    assert row["torn"] == "0"
    assert "primary killed" in row["faults"]


def test_a_store_that_loses_writes_is_found_out() -> None:
    row = soak("snapshots", status=1)
    assert "store killed" in row["faults"]
    assert int(row["lost"]) > 0


class Client:
    """Writes a ledger."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ledger = Ledger(path)
        self._number = 0

    def ask(self, act: Any, key: str = "", *, is_promise: bool = True) -> int:
        self._number += 1
        asked = Asked(self._number, self._number, 0, "session", act, key, is_promise)
        self._ledger.write(asked)
        return self._number

    def hear(self, number: int, failure: str = "", session_id: str = "", count: int = 0) -> None:
        self._ledger.write(Answered(number, number, failure, session_id, count))

    def does(self, act: Any, key: str = "", *, session_id: str = "", count: int = 0) -> None:
        self.hear(self.ask(act, key), session_id=session_id, count=count)

    def finds(self, session_id: str, **data: object) -> dict[str, int]:
        """What is wrong with data, to one who has only the ledger."""
        ledger = Ledger.read(self._path)
        ledger.judge("session", session_id, data, 0)
        found: Counter[str] = Counter()
        for finding in ledger.findings:
            found[finding.kind] += finding.writes
        return dict(found)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """With a session of two keys and two visits."""
    client = Client(tmp_path / "ledger")
    client.does("begin", "a", session_id="one")
    client.does("put", "b")
    client.does("count", count=1)
    client.does("count", count=2)
    return client


WHOLE: dict[str, object] = {"a": "session/a", "b": "session/b", "count": 2}


class TestLedger:
    def test_what_was_acknowledged_is_as_it_should_be(self, client: Client) -> None:
        assert client.finds("one", **WHOLE) == {}

    def test_what_was_acknowledged_and_is_not_there_is_lost(self, client: Client) -> None:
        assert client.finds("one", a="session/a", count=1) == {"lost": 2}
        assert client.finds("one") == {"lost": 4}

    @pytest.mark.parametrize("failure", ["503", "broken"])
    def test_what_was_not_acknowledged_may_be_there_or_not(
        self, client: Client, failure: str
    ) -> None:
        client.hear(client.ask("put", "c"), failure)
        client.hear(client.ask("count"), failure)
        client.ask("put", "d")  # and is killed
        assert client.finds("one", **WHOLE) == {}
        assert client.finds("one", **WHOLE | {"c": "session/c", "d": "session/d", "count": 3}) == {}

    @pytest.mark.parametrize(
        "data",
        [{"b": "session/a"}, {"b": "other/b"}, {"b": None}, {"z": "session/z"}, {"count": 3}],
    )
    def test_what_nobody_wrote_is_torn(self, client: Client, data: dict[str, object]) -> None:
        assert client.finds("one", **WHOLE | data) == {"torn": 1}

    def test_a_counter_that_goes_back_is_lost(self, client: Client) -> None:
        client.does("count", count=2)
        assert client.finds("one", **WHOLE) == {"lost": 1}

    @pytest.mark.parametrize("act", ["rotate", "sign-out"])
    def test_an_id_that_was_given_up_is_dead(self, client: Client, act: str) -> None:
        client.does(act, session_id="two" if act == "rotate" else "")
        assert client.finds("one") == {}
        assert client.finds("one", **WHOLE) == {"resurrected": 1}

    def test_what_was_kept_moves_to_the_new_id(self, client: Client) -> None:
        client.does("rotate", session_id="two")
        assert client.finds("two", **WHOLE) == {}
        assert client.finds("two") == {"lost": 4}

    @pytest.mark.parametrize("act", ["rotate", "sign-out"])
    def test_an_id_that_may_have_been_given_up_is_dead_or_whole(
        self, client: Client, act: str
    ) -> None:
        client.hear(client.ask(act), "503")
        assert client.finds("one") == {}
        assert client.finds("one", **WHOLE) == {}
        assert client.finds("one", a="session/a") == {"lost": 3}

    def test_what_another_tab_writes_during_a_sign_in_may_be_there_or_not(
        self, client: Client
    ) -> None:
        rotation = client.ask("rotate")
        put = client.ask("put", "c", is_promise=False)
        client.hear(rotation, session_id="two")
        client.hear(put)
        assert client.finds("two", **WHOLE) == {}
        assert client.finds("two", **WHOLE | {"c": "session/c"}) == {}

    def test_what_was_missing_once_counts_once(self, client: Client) -> None:
        client._ledger.write(Saw("session", "one", 0, {"a": "session/a", "count": 2}))
        assert client.finds("one", **WHOLE) == {"lost": 1}
        assert client.finds("one", a="session/a", count=2) == {"lost": 1}


def test_seconds_without_an_answer_count_once() -> None:
    ledger = Ledger()
    times = [(0, 0.1, ""), (1, 3, "503"), (1, 4, ""), (1, 4.5, ""), (5, 5.1, "")]
    for number, (asked, answered, failure) in enumerate(times):
        ledger.asked[number] = Asked(number, asked, 0, "session", "read")
        ledger.answered[number] = Answered(number, answered, failure)
    outcome = Outcome("file", 1, 0, 6, [ledger], [])
    assert sum(outcome.outages) == 3.5
