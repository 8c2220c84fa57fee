"""What all parts of the benchmark report: the rows of tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .measure import Spread


@dataclass(frozen=True)
class Target:
    """A limit, and whether it is to be stayed below or above."""

    limit: float
    kind: Literal["at most", "at least"] = "at most"

    def is_reached(self, value: float) -> bool:
        """Whether a figure of this many digits is within the limit."""
        return value <= self.limit if self.kind == "at most" else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.kind == 'at most' else '≥'} {self.limit:,g}"


@dataclass
class Row:
    """One thing that was measured, for ours and for others.

    ``cells`` has for each subject what was measured, or in words why there is nothing.
    """

    name: str
    unit: str = "x"
    target: Target | None = None
    cells: dict[str, Spread | str] = field(default_factory=dict)

    @property
    def is_reached(self) -> bool | None:
        """None: there is no target, or nothing was measured."""
        found = self.cells.get("ours")
        if self.target is None or not isinstance(found, Spread):
            return None
        return self.target.is_reached(found.median)


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
    """Three significant digits, and all before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
