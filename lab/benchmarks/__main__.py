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

from . import growth, in_process, served, start
from .disk import open_disk
from .measure import Effort, on_one_core
from .place import STORES, open_place
from .project import bake
from .report import row_line, summary, write_report
from .rows import Row, Table

REPOSITORY = Path(__file__).parent.parent
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
    is_whole = form is FULL and not options.only and options.template == REPOSITORY
    output = options.output or (REPOSITORY / "docs" if is_whole else None)
    logging.disable()
    warnings.simplefilter("ignore")
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="benchmarks-") as name,
        open_disk(Path(name)) as disk,
    ):
        tables = asyncio.run(run(form, options.template.resolve(), disk.folder, options.only))
    print(f"\n{summary(tables)}\nTook {(time.monotonic() - started) / 60:.1f} minutes.")
    if output is not None:
        for path in write_report(tables, output, disk):
            print(f"Written: {path}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='make bench ARGS="..."', description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="less effort: 2 to 3 minutes")
    add(
        "--only",
        metavar="WORDS",
        action="append",
        default=[],
        help="only rows whose name has all of these words, as 'memory read'; may be repeated",
    )
    add("--template", type=Path, default=REPOSITORY, help="another checkout of the template")
    add("--output", type=Path, help="where to write the report  [docs, of a full run]")
    return parser.parse_args(arguments)


async def run(form: Form, template: Path, folder: Path, only: list[str]) -> list[Table]:
    """Measure all rows that are wanted, in ``folder``, and print each."""
    tables = []
    project = bake(template, folder)
    for store in STORES:
        table = Table(store, "Time of a request, times the bare app's.")
        await _collect(table, _in_process(form, store, project, folder, only, table.missing))
        tables.append(table)
    table = Table("uvicorn", SERVED_NOTE)
    await _collect(table, _served(form, project, folder, only, table.missing))
    tables.append(table)
    table = Table("growth", "With so many sessions in the store.")
    await _collect(table, _growth(form, project, folder, only, table.missing))
    tables.append(table)
    table = Table("start", "Baking a project; starting its app, times a bare one's start.")
    await _collect(table, _start(form, template, project, folder, only))
    tables.append(table)
    return [table for table in tables if table.rows]


async def _collect(table: Table, rows: AsyncIterator[Row]) -> None:
    async for row in rows:
        table.rows.append(row)
        print(row_line(row), flush=True)


async def _in_process(
    form: Form,
    store: str,
    project: Path,
    folder: Path,
    only: list[str],
    missing: dict[str, str],
) -> AsyncIterator[Row]:
    wanted = [case for case in in_process.cases(store) if is_wanted(case.name, only)]
    if wanted:
        with on_one_core(), open_place(store, project, folder / store) as place:
            async for row in in_process.measure_store(place, wanted, form.in_process, missing):
                yield row


async def _served(
    form: Form, project: Path, folder: Path, only: list[str], missing: dict[str, str]
) -> AsyncIterator[Row]:
    wanted = [case for case in served.CASES if is_wanted(case.name, only)]
    async for row in served.measure_served(
        project, folder / "served", wanted, form.served, missing
    ):
        yield row


async def _growth(
    form: Form, project: Path, folder: Path, only: list[str], missing: dict[str, str]
) -> AsyncIterator[Row]:
    for number, case in enumerate(growth.cases(form.sizes)):
        if is_wanted(case.name, only):
            with open_place(case.store, project, folder / f"growth-{number}") as place:
                yield await growth.measure_growth(case, place, form.in_process, missing)


async def _start(
    form: Form, template: Path, project: Path, folder: Path, only: list[str]
) -> AsyncIterator[Row]:
    if is_wanted(start.BAKE, only):
        yield start.measure_bake(template, folder, 2 * form.starts)
    if is_wanted(start.FIRST_ANSWER, only):
        yield start.measure_first_answer(project, folder, form.starts)


def is_wanted(name: str, only: list[str]) -> bool:
    """Whether a row is among those that were asked for."""
    words = set(name.replace(",", "").split())
    return not only or any(words.issuperset(asked.replace(",", "").split()) for asked in only)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
