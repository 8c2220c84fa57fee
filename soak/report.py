"""What came of it, as a table and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import get_args

from .faults import Event
from .ledger import Answered, Asked, Finding, Kind, Ledger

SHOWN = 5  # findings
LAG = 0.25  # seconds: a replica may be so far behind when its primary fails
SLOW = 1.0  # seconds: an answer that takes longer is none to a visitor
# Stores that acknowledge a write before their replicas have it: what bounds the loss of a failover.
ASYNCHRONOUS = {
    "sentinel": (
        "A primary that only its peers can't reach takes writes until some 10 s after a Sentinel"
        " reaches it again."
    ),
    "cluster": (
        "A primary that its peers can't reach takes writes for cluster-node-timeout, 2 s here."
    ),
}
BOUNDED = (
    "On the servers, min-replicas-to-write 1 with min-replicas-max-lag N bounds that to N + 1 s."
    " What is under way to a replica when its primary dies stays at risk: only WAIT after each"
    " write or synchronous replication closes that. What may not be lost belongs in PostgreSQL."
)


@dataclass(frozen=True)
class Outcome:
    """One run on one store, between two times of the monotonic clock."""

    store: str
    visitors: int  # at once
    began: float
    ended: float
    ledgers: list[Ledger]
    events: list[Event]
    commands: int = 0  # typed meanwhile

    @property
    def is_broken(self) -> bool:
        """Whether a promise was."""
        return self.count("torn") > 0 if self.store in ASYNCHRONOUS else bool(self.findings)

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
            answered is not None
            and not answered.failure
            and asked.is_promise
            and asked.act != "read"
            for asked, answered in self.requests
        )

    def count(self, kind: Kind) -> int:
        """Broken promises of one kind, in writes."""
        return sum(finding.writes for finding in self.findings if finding.kind == kind)

    @cached_property
    def outages(self) -> list[float]:
        """Seconds from each visitor's request that failed or was slow to the next answer."""
        answered = [(asked, answer) for asked, answer in self.requests if answer is not None]
        answered.sort(key=lambda each: (each[0].visitor, each[1].at))
        visits = groupby(answered, lambda each: each[0].visitor)
        return [seconds for _, requests in visits for seconds in _outages(requests)]


def _outages(requests: Iterable[tuple[Asked, Answered]]) -> Iterable[float]:
    since, until = None, 0.0
    for asked, answered in requests:
        if answered.failure or answered.at - asked.at > SLOW:
            began = max(asked.at, until)  # of several requests at once, each second counts once
            since = began if since is None else min(since, began)
        if since is not None and not answered.failure:
            until = answered.at
            yield until - since
            since = None


def table(outcomes: Iterable[Outcome]) -> str:
    """A row for each store, in Markdown."""
    rows = [
        "| store | seconds | requests | commands | faults | unavailable seconds"
        " | acknowledged writes | lost | resurrected | torn |",
        f"|---|{'--:|' * 3}---|{'--:|' * 5}",
    ]
    for outcome in outcomes:
        kinds = Counter(event.kind for event in outcome.events)
        faults = ", ".join(f"{kind} {count}x" for kind, count in kinds.items())
        unavailable = sum(outcome.outages) / outcome.visitors
        found = " | ".join(str(outcome.count(kind)) for kind in get_args(Kind))
        rows.append(
            f"| {outcome.store} | {outcome.ended - outcome.began:.0f} | {len(outcome.requests)} "
            f"| {outcome.commands} | {faults} | {unavailable:.1f} | {outcome.acknowledged} "
            f"| {found} |"
        )
    return "\n".join(rows)


def details(outcome: Outcome) -> str:
    """What stands behind its row."""
    longest = max(outcome.outages, default=0)
    failures = ", ".join(f"{kind} {count}x" for kind, count in outcome.failures.most_common())
    lines = [
        f"Unavailable: of an average visitor's seconds; at most {longest:.1f} at once."
        f" Requests without an answer: {failures or 'none'}.",
    ]
    for finding in outcome.findings[:SHOWN]:
        lines.append(
            f"{finding.kind}: session {finding.session}, {finding.what}, at"
            f" {finding.at - outcome.began:.2f} s {_place(finding, outcome)}"
        )
    if len(outcome.findings) > SHOWN:
        lines.append(f"and {len(outcome.findings) - SHOWN} more")
    if outcome.store in ASYNCHRONOUS:
        lines.append(f"{_window(outcome)} {ASYNCHRONOUS[outcome.store]} {BOUNDED}")
    return "\n".join(lines) + "\n"


def _place(finding: Finding, outcome: Outcome) -> str:
    """Where among the faults of the store it is."""
    event = _cause(finding, outcome)
    return f"({finding.at - event.began:+.2f} s to: {event.kind})" if event else ""


def _window(outcome: Outcome) -> str:
    """When what was lost had been acknowledged, in seconds from the fault."""
    offsets = [
        finding.at - event.began
        for finding in outcome.findings
        if finding.kind == "lost" and (event := _cause(finding, outcome))
    ]
    if not offsets:
        return "Nothing was lost this time."
    return (
        f"What was lost had been acknowledged from {min(offsets):+.2f} to {max(offsets):+.2f} s"
        " of a fault's beginning."
    )


def _cause(finding: Finding, outcome: Outcome) -> Event | None:
    """The last fault of the store that had begun by then, or was about to."""
    events = [event for event in outcome.events if event.is_of_store]
    return next((event for event in reversed(events) if event.began < finding.at + LAG), None)
