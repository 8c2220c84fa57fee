"""``make bench``: runs all parts, prints each row when it is measured, and writes the report."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from .. import REPOSITORY
from . import growth, in_process, served, start
from .backends import STORES, open_backend
from .disk import open_disk
from .measure import Effort, on_one_core
from .report import row_line, summary, write_report
from .rows import Row, Table

SERVED_NOTE = "Share of the bare app's requests a second; p99: times the bare app's."


@dataclass(frozen=True)
class Form:
    """How thoroughly to measure."""

    in_process: Effort
    served: Effort
    sizes: growth.Sizes
    starts: int


FULL = Form(Effort(rounds=21, seconds=0.004), Effort(13, 1), growth.Sizes(), 7)
QUICK = Form(Effort(rounds=7, seconds=0.003), Effort(2, 1), growth.QUICK, 3)


def main(arguments: list[str]) -> int:
    """Run what was asked for; the exit status."""
    options = parse(arguments)
    form = QUICK if options.quick else FULL
    is_whole = form is FULL and not options.only
    output = options.output or (REPOSITORY / "docs" if is_whole else None)
    logging.disable()
    warnings.simplefilter("ignore")
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="benchmarks-") as name,
        open_disk(Path(name)) as disk,
    ):
        tables = asyncio.run(run(form, disk.folder, options.only))
    print(f"\n{summary(tables)}\nTook {(time.monotonic() - started) / 60:.1f} minutes.")
    if output is not None:
        for path in write_report(tables, output, disk):
            print(f"Written: {path}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='make bench ARGS="..."', description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="less effort: 3 minutes")
    add(
        "--only",
        metavar="WORDS",
        action="append",
        default=[],
        help="only rows whose name has all of these words, as 'memory read'; may be repeated",
    )
    add("--output", type=Path, help="where to write the report  [docs, of a full run]")
    return parser.parse_args(arguments)


async def run(form: Form, folder: Path, only: list[str]) -> list[Table]:
    """Measure all rows that are wanted, in ``folder``, and print each."""
    tables = []
    for store in STORES:
        table = Table(store, "Time of a request, times the bare app's.")
        await _collect(table, _in_process(form, store, folder, only, table.missing))
        tables.append(table)
    table = Table("uvicorn", SERVED_NOTE)
    await _collect(table, _served(form, folder, only, table.missing))
    tables.append(table)
    table = Table("growth", "With so many sessions in the store.")
    await _collect(table, _growth(form, folder, only, table.missing))
    tables.append(table)
    table = Table("start", "Generating a project; starting its app, times a bare one's start.")
    await _collect(table, _start(form, folder, only))
    tables.append(table)
    return [table for table in tables if table.rows]


async def _collect(table: Table, rows: AsyncIterator[Row]) -> None:
    async for row in rows:
        table.rows.append(row)
        print(row_line(row), flush=True)


async def _in_process(
    form: Form, store: str, folder: Path, only: list[str], missing: dict[str, str]
) -> AsyncIterator[Row]:
    wanted = [case for case in in_process.cases(store) if is_wanted(case.name, only)]
    if wanted:
        with on_one_core(), open_backend(store, folder / store) as backend:
            async for row in in_process.measure_store(backend, wanted, form.in_process, missing):
                yield row


async def _served(
    form: Form, folder: Path, only: list[str], missing: dict[str, str]
) -> AsyncIterator[Row]:
    wanted = [case for case in served.CASES if is_wanted(case.name, only)]
    async for row in served.measure_served(folder / "served", wanted, form.served, missing):
        yield row


async def _growth(
    form: Form, folder: Path, only: list[str], missing: dict[str, str]
) -> AsyncIterator[Row]:
    for number, case in enumerate(growth.cases(form.sizes)):
        if is_wanted(case.name, only):
            with open_backend(case.store, folder / f"growth-{number}") as backend:
                yield await growth.measure_growth(case, backend, form.in_process, missing)


async def _start(form: Form, folder: Path, only: list[str]) -> AsyncIterator[Row]:
    if is_wanted(start.BAKE, only):
        yield start.measure_bake(folder, 2 * form.starts)
    if any(is_wanted(name, only) for name in start.FIRST_ANSWERS):
        for row in start.measure_first_answers(folder, form.starts):
            yield row


def is_wanted(name: str, only: list[str]) -> bool:
    """Whether a row is among those that were asked for."""
    words = set(name.replace(",", "").split())
    return not only or any(words.issuperset(asked.replace(",", "").split()) for asked in only)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
