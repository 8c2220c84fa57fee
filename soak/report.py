"""What came of it, as a table and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from .faults import Event
from .ledger import Answered, Asked, Finding, Ledger

SHOWN = 5  # findings
SLOW = 0.5  # seconds: an answer that takes longer is none to a visitor
# Stores that acknowledge a write before their replicas have it: what bounds the loss of a failover.
ASYNCHRONOUS = {
    "sentinel": (
        "A primary that is cut off goes on until a Sentinel reaches it again. On the servers,"
        " min-replicas-to-write 1 with min-replicas-max-lag N makes it refuse writes after N + 1"
        " seconds."
    ),
    "cluster": (
        "A primary that is cut off refuses writes after cluster-node-timeout (2 s here). On the"
        " servers, min-replicas-to-write 1 with min-replicas-max-lag N makes it refuse them after"
        " N + 1 seconds."
    ),
}
CLOSED = (
    "What is under way to a replica when its primary dies stays at risk: only WAIT after each write"
    " or synchronous replication closes that. What may not be lost belongs in PostgreSQL."
)


@dataclass(frozen=True)
class Outcome:
    """One run on one store, between two times of the monotonic clock."""

    store: str
    began: float
    ended: float
    ledgers: list[Ledger]
    events: list[Event]

    @property
    def is_broken(self) -> bool:
        """Whether a promise was."""
        faults = {finding.fault for finding in self.findings}
        return "torn" in faults if self.store in ASYNCHRONOUS else bool(faults)

    @cached_property
    def findings(self) -> list[Finding]:
        found = [finding for ledger in self.ledgers for finding in ledger.findings]
        return sorted(found, key=lambda finding: finding.at)

    @cached_property
    def requests(self) -> list[tuple[Asked, Answered | None]]:
        """Each with its answer; None: the client was killed first."""
        return [
            (asked, ledger.answered.get(number))
            for ledger in self.ledgers
            for number, asked in ledger.asked.items()
        ]

    @property
    def failures(self) -> Counter[str]:
        """Requests that were not answered as they should be, by how."""
        return Counter(
            "client killed" if answered is None else answered.failure
            for _, answered in self.requests
            if answered is None or answered.failure
        )

    @property
    def acknowledged(self) -> int:
        """Writes that were."""
        return sum(
            asked.act != "read" and asked.is_promise and answered is not None
            for asked, answered in self.requests
            if answered is None or not answered.failure
        )

    def count(self, fault: str) -> int:
        """Broken promises of one kind, in writes."""
        return sum(finding.writes for finding in self.findings if finding.fault == fault)

    @cached_property
    def outages(self) -> list[list[float]]:
        """For each visitor, seconds from a request that failed or was slow to the next answer."""
        answered = [(asked, answer) for asked, answer in self.requests if answer is not None]
        answered.sort(key=lambda each: (each[0].visitor, each[1].at))
        return [
            list(_outages(requests))
            for _, requests in groupby(answered, lambda each: each[0].visitor)
        ]


def _outages(requests: Iterable[tuple[Asked, Answered]]) -> Iterable[float]:
    since = None
    for asked, answered in requests:
        if answered.failure or answered.at - asked.at > SLOW:
            since = asked.at if since is None else min(since, asked.at)
        if since is not None and not answered.failure:
            yield answered.at - since
            since = None


def table(outcomes: Iterable[Outcome]) -> str:
    """A row for each store, in Markdown."""
    rows = [
        "| store | seconds | requests | faults | unavailable seconds | acknowledged writes "
        "| lost | resurrected | torn |",
        f"|---|{'--:|' * 2}---|{'--:|' * 5}",
    ]
    for outcome in outcomes:
        kinds = Counter(event.kind for event in outcome.events)
        faults = ", ".join(f"{kind} {count}x" for kind, count in kinds.items())
        unavailable = sum(map(sum, outcome.outages)) / max(1, len(outcome.outages))
        found = " | ".join(str(outcome.count(kind)) for kind in ("lost", "resurrected", "torn"))
        rows.append(
            f"| {outcome.store} | {outcome.ended - outcome.began:.0f} | {len(outcome.requests)} "
            f"| {faults} | {unavailable:.1f} | {outcome.acknowledged} | {found} |"
        )
    return "\n".join(rows)


def details(outcome: Outcome) -> str:
    """What stands behind its row."""
    longest = max((seconds for each in outcome.outages for seconds in each), default=0)
    failures = ", ".join(f"{count} {kind}" for kind, count in outcome.failures.most_common())
    lines = [
        f"Unavailable: of an average visitor's seconds; at most {longest:.1f} at once."
        f" Requests without an answer: {failures or 'none'}.",
    ]
    for finding in outcome.findings[:SHOWN]:
        lines.append(
            f"{finding.fault}: session {finding.session}, {finding.what}, at"
            f" {finding.at - outcome.began:.2f} s {_place(finding, outcome)}"
        )
    if len(outcome.findings) > SHOWN:
        lines.append(f"and {len(outcome.findings) - SHOWN} more")
    if outcome.store in ASYNCHRONOUS:
        lines.append(f"{_window(outcome)} {ASYNCHRONOUS[outcome.store]} {CLOSED}")
    return "\n".join(lines) + "\n"


def _place(finding: Finding, outcome: Outcome) -> str:
    """Where among the faults it is."""
    event = _nearest(finding, outcome)
    return f"({finding.at - event.began:+.2f} s to: {event.kind})" if event else ""


def _window(outcome: Outcome) -> str:
    """When what was lost had been acknowledged, in seconds from the fault."""
    offsets = [
        finding.at - event.began
        for finding in outcome.findings
        if finding.fault == "lost" and (event := _nearest(finding, outcome))
    ]
    if not offsets:
        return "Nothing was lost this time."
    return (
        f"What was lost had been acknowledged from {min(offsets):+.2f} to {max(offsets):+.2f} s"
        " of a fault's beginning."
    )


def _nearest(finding: Finding, outcome: Outcome) -> Event | None:
    return min(outcome.events, key=lambda event: abs(finding.at - event.began), default=None)
