"""The results as a picture: for each store, ours beside its floor and its peers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .measure import Spread
from .rows import Row, Table, digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOTTED = ("read", "write", "read, 64 at once", "login")
GREY = "#8b949e"  # legible on white and on black
COLOURS = {
    "ours": "#2f81f7",
    "floor": GREY,
    "floor in a thread": GREY,
    "Starlette's cookie": "#d29922",
    "starsessions": "#e5534b",
    "Litestar": "#a371f7",
    "Litestar, SQLAlchemy": "#a371f7",
    "Django": "#3fb950",
}


def write(tables: list[Table], path: Path) -> None:
    """Write an SVG: a row for each store, bars for the time of a request over the bare app's.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    stores = [(table, _rows(table)) for table in tables]
    stores = [(table, rows) for table, rows in stores if rows]
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "benchmarks",
        "font.family": "sans-serif",
        "font.size": 9,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), GREY),
        **dict.fromkeys(("xtick.color", "ytick.color"), GREY),
    }
    with pyplot.rc_context(settings):
        figure, axes = pyplot.subplots(
            max(1, len(stores)),
            len(PLOTTED),
            figsize=(11, 1.9 * max(1, len(stores))),
            squeeze=False,
            layout="constrained",
        )
        for line, (table, rows) in zip(axes, stores, strict=False):
            for axis, workload in zip(line, PLOTTED, strict=True):
                _draw(axis, f"{table.title} {workload}", rows.get(workload))
        figure.suptitle(
            "Time of a request over a bare Starlette app's, from 1, on a logarithmic scale: "
            "shorter is better. Dotted: the target."
        )
        figure.savefig(path, transparent=True, metadata={"Date": None})
        pyplot.close(figure)


def _rows(table: Table) -> dict[str, Row]:
    """The plotted ones, by what follows the store in their names."""
    named = {row.name.removeprefix(f"{table.title} "): row for row in table.rows}
    return {name: row for name, row in named.items() if name in PLOTTED}


def _draw(axis: Axes, title: str, row: Row | None) -> None:
    cells = row.cells if row is not None else {}
    found = {name: cell for name, cell in cells.items() if isinstance(cell, Spread)}
    if row is None or not found:
        axis.set_axis_off()
        return
    names = list(found)[::-1]
    medians = [found[name].median for name in names]
    axis.set_title(title, fontsize=9)
    axis.set_xscale("log")
    axis.set_xlim(1, 8 * max(medians))  # with room for the labels
    axis.set_xticks([])
    axis.minorticks_off()
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    bars = axis.barh(names, medians, color=[COLOURS.get(name, GREY) for name in names])
    axis.bar_label(bars, [f" {digits(median)}" for median in medians], fontsize=8)
    if row.target is not None:
        axis.axvline(row.target.limit, color=GREY, linestyle=":")
