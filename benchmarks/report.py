"""The results as text: a line on the terminal, a Markdown table."""

from __future__ import annotations

from .measure import Spread
from .rows import Row


def row_line(row: Row) -> str:
    """A row for the terminal."""
    verdict = {True: "reached", False: "MISSED", None: ""}[row.is_reached]
    target = f"[{row.target} {verdict}] " if row.target else ""
    cells = ", ".join(f"{name} {cell_text(cell)}" for name, cell in row.cells.items() if cell)
    return f"{row.name}: {target}{cells}"


def cell_text(cell: Spread | str) -> str:
    if isinstance(cell, str):
        return cell
    return f"{digits(cell.median)} ({digits(cell.low)}-{digits(cell.high)})"


def digits(value: float) -> str:
    """Three significant digits, as far as they are after the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
