"""``make bench``: runs all parts, prints each row as it is measured, and writes docs/benchmarks."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import warnings
from pathlib import Path

from .in_process import cases, measure_store
from .measure import Effort
from .place import STORES, open_place
from .project import bake
from .report import row_line
from .rows import Table

TEMPLATE = Path(__file__).parent.parent
FULL = Effort(rounds=31, seconds=0.004)
QUICK = Effort(rounds=7, seconds=0.003)


def main(arguments: list[str]) -> int:
    """Run what was asked for; the exit status."""
    options = parse(arguments)
    logging.disable()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        project = bake(options.template.resolve(), Path(folder))
        asyncio.run(run(options, project, Path(folder)))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about 2 minutes, and less exact")
    parser.add_argument(
        "--only",
        metavar="WORDS",
        action="append",
        default=[],
        help='only rows whose name has all of these words: "memory read"; may be repeated',
    )
    parser.add_argument(
        "--template", type=Path, default=TEMPLATE, help="another checkout of the template"
    )
    return parser.parse_args(arguments)


def is_wanted(name: str, only: list[str]) -> bool:
    """Whether a row is among those that --only names."""
    words = set(name.replace(",", "").split())
    return not only or any(words.issuperset(words_.split()) for words_ in only)


async def run(options: argparse.Namespace, project: Path, folder: Path) -> None:
    effort = QUICK if options.quick else FULL
    for store in STORES:
        wanted = [case for case in cases(store) if is_wanted(case.name, options.only)]
        if not wanted:
            continue
        table = Table(store)
        with open_place(store, project, folder / store) as place:
            async for row in measure_store(place, wanted, effort, table.missing):
                table.rows.append(row)
                print(row_line(row), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
