"""The benchmark itself: that it measures all it promises, and hides nobody. No time is judged."""

from __future__ import annotations

import asyncio
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from lab.benchmarks import growth, in_process, picture, served, start, targets
from lab.benchmarks.__main__ import FULL, Form, is_wanted, run
from lab.benchmarks.backends import STORES
from lab.benchmarks.disk import Disk, open_disk
from lab.benchmarks.measure import Effort, Spread
from lab.benchmarks.report import markdown
from lab.benchmarks.rows import Row, Table, Target

SIZES = growth.Sizes((100, 200), (100, 200), (100, 200), 100)
TINY = Form(Effort(1, 0.0001), Effort(1, 0.05), SIZES, 1)
PEERS = {"starsessions": "starsessions", "litestar": "Litestar", "django": "Django"}
PICKED = picture.STORES["cache"][1]


def names(form: Form) -> set[str]:
    """Those of all rows."""
    requests = {case.name for store in STORES for case in in_process.cases(store)}
    loads = {f"{case.name}, {what}" for case in served.CASES for what in served.FIGURES}
    grown = {case.name for case in growth.cases(form.sizes)}
    return requests | loads | grown | {start.BAKE, *start.FIRST_ANSWERS}


def test_a_run_has_every_row_and_names_whoever_is_missing(tmp_path: Path) -> None:
    tables = asyncio.run(run(TINY, tmp_path, ["memory"]))
    rows = {row.name: row for table in tables for row in table.rows}
    assert rows.keys() == {name for name in names(TINY) if is_wanted(name, ["memory"])}
    for row in rows.values():
        assert isinstance(row.cells["ours"], Spread), row
    report = markdown(tables, Disk(tmp_path, "a disk"))
    assert "Stores' files lie on a disk." in report
    for package, peer in PEERS.items():
        is_missing = find_spec(package) is None
        assert (rows["memory read"].cells[peer] == "missing") is is_missing
        assert (f"{peer} is missing: No module named '{package}" in report) is is_missing


def test_each_target_is_of_a_row() -> None:
    for limits in (targets.IN_PROCESS, targets.RATES, targets.P99, targets.GROWTH, targets.START):
        assert limits.keys() <= names(FULL)


def test_the_report_says_what_is_reached_and_what_is_not(tmp_path: Path) -> None:
    ours: dict[str, Spread | str] = {"ours": Spread(2.0, 1.9, 2.1), "a peer": "failed: OSError"}
    near, far = Row("x near", target=Target(2.0)), Row("x far", target=Target(2.5, "at least"))
    near.cells, far.cells = ours, ours
    report = markdown([Table("x", rows=[near, far])], Disk(tmp_path, "a disk"))
    assert "1 of 2 targets reached. Missed: x far" in report
    assert "| near | ≤ 2 | 2.00 (1.90-2.10) | reached | failed: OSError |" in report
    assert "| far | ≥ 2.5 | 2.00 (1.90-2.10) | **missed** | failed: OSError |" in report


@pytest.mark.parametrize(("peer", "is_reached"), [(1.9, False), (2.001, True), (3.0, True)])
def test_a_target_may_be_to_lead(peer: float, is_reached: bool) -> None:
    row = Row("memory login", target=Target(None, leads=True), peers=("a peer",))
    row.cells = {"ours": Spread.of([2.0]), "a peer": Spread.of([peer]), "floor": Spread.of([1.0])}
    assert row.is_reached is is_reached


def rows_in_milliseconds() -> list[Row]:
    """A read and a write of one store: a bare request takes 0.5 ms."""
    rows = [Row(f"cache {name}", base_ms=0.5, peers=PICKED) for name in picture.WORKLOADS]
    for row, (ours, *others) in zip(rows, [(4, 6, 8), (10, 8, 12)], strict=True):
        row.cells = {"ours": Spread.of([ours])}
        row.cells |= {name: Spread.of([x]) for name, x in zip(PICKED, others, strict=True)}
    return rows


def test_the_report_begins_with_milliseconds_beside_the_best_peer(tmp_path: Path) -> None:
    report = markdown([Table("cache", rows=rows_in_milliseconds())], Disk(tmp_path, "a disk"))
    row = "| cache | 2.00 | 3.00, starsessions | 1.50 | 5.00 | 4.00, starsessions | 0.80 |"
    assert row in report


def test_the_picture_shows_each_time_once_and_the_longest_bar_fills_the_room() -> None:
    svg = picture.draw([Table("cache", rows=rows_in_milliseconds())], "a machine & its core")
    texts = re.findall("<text[^>]*>(.*)</text>", svg)
    assert [text for text in texts if text[0].isdigit()] == [
        *("2.00", "5.00"),  # ours
        *("3.00", "4.00"),
        *("4.00", "6.00"),
    ]
    widths = [
        int(width) for width in re.findall(r'<rect class="\w+" .*width="(\d+)" height="13"', svg)
    ]
    assert max(widths) == picture.LONGEST
    assert widths[0] == round(picture.LONGEST * 2 / 6)
    assert "a machine &amp; its core" in svg
    assert "Without a session: 0.50 ms." in svg


def test_rows_are_picked_by_any_of_their_words() -> None:
    assert is_wanted("cache read, 64 at once", ["memory", "64 cache"])
    assert not is_wanted("cache read, 64 at once", ["cache write"])


def test_the_disk_is_named_and_leaves_nothing_mounted(tmp_path: Path) -> None:
    with open_disk(tmp_path) as disk:
        (disk.folder / "file").write_text("kept")
        assert disk.folder.is_relative_to(tmp_path)
        assert ": ext4 (rw" in disk.kind or "this machine's own disk: " in disk.kind
    assert not disk.folder.is_mount()
