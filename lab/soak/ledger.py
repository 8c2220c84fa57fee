"""What the clients asked and what was answered, a line each, and what the site owes since then.

An answer that arrived is a promise. A request without one may have come true, or not, or may yet:
the ledger keeps both possible. So each key of a session is written once, and whoever doubts whether
an id was given up does not go on with that session.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

Act = Literal["begin", "put", "count", "read", "rotate", "sign-out"]
Kind = Literal["lost", "resurrected", "torn", "differs"]
COUNTER = "count"
GONE = "gone"  # an answer that only somebody without a session gets


class Asked(Struct, tag=True):
    """A request, noted before it is sent. ``at`` is the monotonic clock's, in seconds.

    What is asked while the session is given up in another tab is no promise, whatever is answered.
    """

    number: int
    at: float
    visitor: int
    session: str
    act: Act
    key: str = ""
    is_promise: bool = True


class Answered(Struct, tag=True):
    """How it ended: by an answer that arrived whole, or by a ``failure``."""

    number: int
    at: float
    failure: str = ""
    id: str = ""
    count: int = 0


class Saw(Struct, tag=True):
    """The data that an id led to, where they were not what the site owed."""

    session: str
    id: str
    at: float
    data: dict[str, Any]


Line = Asked | Answered | Saw
_decoder = msgspec.json.Decoder(Line)


class Finding(Struct):
    """A broken promise: ``writes`` of them, acknowledged (where lost) or seen ``at`` that time.

    ``differs``: a fresh process finds something else than what the site answered.
    """

    kind: Kind
    session: str
    what: str
    at: float
    writes: int = 1


@dataclass
class Owed:
    """One session, as far as its visitor was told."""

    name: str
    id: str = ""  # the one that lives, if any,
    given_at: float = 0  # and when it was acknowledged
    dead: set[str] = field(default_factory=set)  # ids that were given up, and acknowledged so
    kept: dict[str, float] = field(default_factory=dict)  # keys, and when they were acknowledged
    tried: set[str] = field(default_factory=set)
    least: int = 0  # what the counter stands at, as it was acknowledged,
    most: int = 0  # and if all that was asked came true
    counted_at: float = 0
    in_doubt: bool = False  # a rotation or a sign-out may have happened

    @property
    def ids(self) -> list[str]:
        """All that it ever had, as far as its visitor was told."""
        return [*self.dead, *filter(None, [self.id])]

    def value(self, key: str) -> str:
        """What a key holds: its own name, so that no data of two sessions are mixed unseen."""
        return f"{self.name}/{key}"

    def judge(self, session_id: str, data: dict[str, Any], at: float) -> list[Finding]:
        """What is wrong with the data that an id leads to, {} for none; all is found once."""
        findings = [self._finding("torn", what, at) for what in self._torn(data)] if data else []
        if session_id in self.dead:
            if data:
                self.dead.remove(session_id)
                findings.append(self._finding("resurrected", "an id that was given up", at))
        elif session_id == self.id and (data or not self.in_doubt):
            findings += self._losses(data)
        return findings

    def judge_count(self, count: int, at: float) -> list[Finding]:
        """What is wrong with the answer to one more visit, which holds from now on."""
        findings = []
        if count > self.most:
            findings.append(self._finding("torn", f"counter at {count}, not {self.most}", at))
        if count <= self.least:
            missing = self.least + 1 - count
            findings.append(self._finding("lost", "visits", self.counted_at, missing))
        self.least = count
        self.counted_at = at
        return findings

    def _losses(self, data: dict[str, Any]) -> list[Finding]:
        if not data:  # it is the id that is lost, and what was kept before with it
            self.kept = {key: max(at, self.given_at) for key, at in self.kept.items()}
        findings = [
            self._finding("lost", key, at) for key, at in self.kept.items() if key not in data
        ]
        self.kept = {key: at for key, at in self.kept.items() if key in data}
        count = data.get(COUNTER, 0)
        if isinstance(count, int) and count < self.least:
            findings.append(self._finding("lost", "visits", self.counted_at, self.least - count))
            self.least = count
        if not data:
            self.id = ""
        return findings

    def _torn(self, data: dict[str, Any]) -> Iterable[str]:
        for key, value in data.items():
            if key == COUNTER:
                if not isinstance(value, int) or value > self.most:
                    yield f"counter at {value!r}, not {self.most}"
            elif key not in self.tried or value != self.value(key):
                yield f"{key} holds {value!r}"

    def _finding(self, kind: Kind, what: str, at: float, writes: int = 1) -> Finding:
        return Finding(kind, self.name, what, at, writes)


class Ledger:
    """The lines of one client, and the sessions that they tell of.

    With a ``path`` every line is with the operating system before ``write`` returns: a client that
    is killed loses none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.sessions: dict[str, Owed] = {}
        self.asked: dict[int, Asked] = {}
        self.answered: dict[int, Answered] = {}
        self.findings: list[Finding] = []
        self._file = -1
        if path is not None:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """The ledger that a client has left."""
        ledger = cls()
        for line in path.read_bytes().splitlines():
            ledger._apply(_decoder.decode(line))
        return ledger

    def write(self, line: Line) -> None:
        """Note what happens, before anything follows from it."""
        os.write(self._file, msgspec.json.encode(line) + b"\n")
        self._apply(line)

    def judge(self, session: str, session_id: str, data: dict[str, Any], at: float) -> bool:
        """Whether this is what the site owes; what is not, is found."""
        findings = self.sessions[session].judge(session_id, data, at)
        self.findings += findings
        return not findings

    def _apply(self, line: Line) -> None:
        match line:
            case Asked():
                self.asked[line.number] = line
                self._expect(line, self.sessions.setdefault(line.session, Owed(line.session)))
            case Answered():
                self.answered[line.number] = line
                asked = self.asked[line.number]
                owed = self.sessions[asked.session]
                if line.failure == GONE:
                    owed.in_doubt = False
                elif asked.is_promise and not line.failure:
                    self._promise(asked, line, owed)
            case Saw():
                self.judge(line.session, line.id, line.data, line.at)

    def _expect(self, asked: Asked, owed: Owed) -> None:
        """From now on it may be so."""
        match asked.act:
            case "begin" | "put":
                owed.tried.add(asked.key)
            case "count":
                owed.most += 1
            case "rotate" | "sign-out":
                owed.in_doubt = True

    def _promise(self, asked: Asked, answered: Answered, owed: Owed) -> None:
        """From now on it is so."""
        match asked.act:
            case "begin":
                owed.id, owed.given_at = answered.id, answered.at
                owed.kept[asked.key] = answered.at
            case "put":
                owed.kept[asked.key] = answered.at
            case "count":
                self.findings += owed.judge_count(answered.count, answered.at)
            case "rotate" | "sign-out":
                owed.dead.add(owed.id)
                owed.id, owed.given_at = answered.id, answered.at
                owed.in_doubt = False
