"""What all parts of the benchmark report: the rows of tables."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from .measure import Spread


@dataclass(frozen=True)
class Target:
    """A limit that is to be stayed below or above, or reached by whoever is best.

    ``limit`` None: only the peers count. ``leads``: no peer may do better.
    """

    limit: float | None
    kind: Literal["at most", "at least"] = "at most"
    leads: bool = False

    def is_reached(self, value: float, peers: Collection[float] = ()) -> bool:
        """Whether a figure is within the limit, when both are rounded as they are printed."""
        limits = [] if self.limit is None else [self.limit]
        limits += peers if self.leads else ()
        if self.kind == "at most":
            return all(_rounded(value) <= _rounded(limit) for limit in limits)
        return all(_rounded(value) >= _rounded(limit) for limit in limits)

    def __str__(self) -> str:
        sign = "≤" if self.kind == "at most" else "≥"
        limit = [] if self.limit is None else [f"{sign} {self.limit:,g}"]
        return ", ".join(limit + ["best"] * self.leads)


@dataclass
class Row:
    """One thing that was measured, for ours and for others.

    ``cells`` has for each subject what was measured, or in words why there is nothing. ``peers``
    are the subjects that a target may name. ``base_ms`` is the bare app's time of a request.
    """

    name: str
    unit: str = "x"
    target: Target | None = None
    cells: dict[str, Spread | str] = field(default_factory=dict)
    peers: tuple[str, ...] = ()
    base_ms: float | None = None

    @property
    def is_reached(self) -> bool | None:
        """None: there is no target, or nothing was measured."""
        found = self.median("ours")
        if self.target is None or found is None:
            return None
        peers = [median for name in self.peers if (median := self.median(name)) is not None]
        if self.target.limit is None and not peers:
            return None
        return self.target.is_reached(found, peers)

    def median(self, subject: str) -> float | None:
        """What was measured for a subject, if anything was."""
        cell = self.cells.get(subject)
        return cell.median if isinstance(cell, Spread) else None

    def milliseconds(self, subject: str) -> float | None:
        """The time of a request, where ``cells`` are times the bare app's."""
        median = self.median(subject)
        return None if median is None or self.base_ms is None else median * self.base_ms


@dataclass
class Table:
    """Rows that belong together, and have the same columns."""

    title: str
    note: str = ""
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)  # subject: why

    @property
    def columns(self) -> list[str]:
        """Whoever has a cell in any row, in the order of their first one."""
        return list(dict.fromkeys(name for row in self.rows for name in row.cells))


def digits(value: float) -> str:
    """Three significant digits, more before the point, and at most three after it."""
    places = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{places}f}"


def _rounded(value: float) -> float:
    return float(digits(value).replace(",", ""))
