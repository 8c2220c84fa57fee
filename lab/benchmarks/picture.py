"""The speed of each store as a picture: milliseconds of a request, beside what else one might pick.

Plain SVG of a few KB, in the reader's light or dark. Each store has a scale of its own, since a
read in memory would not be seen beside one from a database.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from .rows import Table, digits

# The stores by their names for people, and what one would pick instead.
STORES = {
    "memory": ("Memory", ("Starlette's cookie", "starsessions")),
    "file": ("Files", ("Django",)),
    "sqlite": ("SQLite", ("Django",)),
    "postgresql": ("PostgreSQL", ("Django",)),
    "cache": ("Redis, Valkey", ("starsessions", "Django")),
}
WORKLOADS = {"read": "Read a value", "write": "Change a value"}
OURS = "serversessions"

WIDTH, MARGIN = 900, 28  # pixels, as all below
NAMES = 150  # where the names of the packages begin,
BARS = (275, 600)  # and the bars of each workload
LONGEST = 210
TOP, LINE, BAR, GAP = 92, 20, 13, 14
STYLE = """
svg { --page: #f6f7f5; --ink: #1b2320; --soft: #55615c; --ours: #0a6656; --other: #aab4af }
@media (prefers-color-scheme: dark) {
  svg { --page: #111514; --ink: #e7ecea; --soft: #a3afaa; --ours: #62d0b6; --other: #4a5651 }
}
text { font: 13px system-ui, sans-serif; fill: var(--soft) }
.title { font-size: 17px; font-weight: bold; fill: var(--ink) }
.strong { font-weight: bold; fill: var(--ink) }
.page { fill: var(--page) }
.other { fill: var(--other) }
.ours { fill: var(--ours) }
"""


@dataclass(frozen=True)
class Group:
    """What is drawn of a store: a line for each package, with its times in milliseconds."""

    title: str
    lines: dict[str, list[float | None]]

    @property
    def longest(self) -> float:
        """The time whose bar fills the room."""
        return max(time for times in self.lines.values() for time in times if time is not None)


def draw(tables: list[Table], machine: str) -> str:
    """The picture as SVG, of what was measured."""
    rows = {row.name: row for table in tables for row in table.rows}
    parts: list[str] = []
    y = TOP
    for store, (title, peers) in STORES.items():
        found = [rows.get(f"{store} {workload}") for workload in WORKLOADS]
        times = {
            name: [None if row is None else row.milliseconds(name) for row in found]
            for name in ("ours", *peers)
        }
        group = Group(title, {name: each for name, each in times.items() if any(each)})
        if group.lines:
            parts += _draw_group(group, y)
            y += len(group.lines) * LINE + GAP
    bare = next((row.base_ms for row in rows.values() if row.base_ms is not None), None)
    note = f"In process, on one core of {machine}. Each store has its own scale."
    if bare is not None:
        note += f" Without a session: {digits(bare)} ms."
    height = y + 30
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="12"/>',
            _text(MARGIN, 38, "Milliseconds of a request: shorter is better", "title"),
            *(
                _text(x, 72, words, "strong")
                for x, words in zip(BARS, WORKLOADS.values(), strict=True)
            ),
            *parts,
            _text(MARGIN, height - 18, note),
            "</svg>\n",
        ]
    )


def _draw_group(group: Group, top: int) -> Iterator[str]:
    yield _text(MARGIN, top + BAR - 2, group.title, "strong")
    for number, (name, times) in enumerate(group.lines.items()):
        y = top + number * LINE
        is_ours = name == "ours"
        yield _text(NAMES, y + BAR - 2, OURS if is_ours else name, "strong" if is_ours else "")
        for x, time in zip(BARS, times, strict=True):
            if time is not None:
                width = max(1, round(LONGEST * time / group.longest))
                kind = "ours" if is_ours else "other"
                size = f'x="{x}" y="{y}" width="{width}" height="{BAR}"'
                yield f'<rect class="{kind}" {size} rx="2"/>'
                label = digits(time)
                yield _text(x + width + 7, y + BAR - 2, label, "strong" if is_ours else "")


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x}" y="{y}">{escape(words)}</text>'
