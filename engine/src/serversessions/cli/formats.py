"""Sessions and figures about them as text: rows for people, JSON for programs."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from ..contents import Packed, peek
from ..expiry import Expiry, format_duration, with_own
from ..store import CorruptRecord, Record

HEADINGS = ("KEY", "BEGAN", "SIGNED IN", "LAST SEEN", "EXPIRES", "BROWSER")
BAR = 40  # characters


def session_as_json(expiry: Expiry, key: str, record: Record, now: float) -> str:
    """One session, without its data, as an object of JSON."""
    packed = _peek(record)
    return dump(
        {
            "key": key,
            "has_owner": record.owner is not None,
            "created_at": _utc(record.created),
            "signed_in_at": _utc(packed.signed_in),
            "last_seen_at": _utc(_last_seen(expiry, record, packed)),
            "expires_at": _utc(record.expires),
            "user_agent": packed.user_agent,
        }
    )


def session_as_row(expiry: Expiry, key: str, record: Record, now: float) -> str:
    """One session, without its data, as a row below ``HEADINGS``."""
    packed = _peek(record)
    times = (record.created, packed.signed_in, _last_seen(expiry, record, packed))
    ago = ("-" if at is None else f"{_span(now - at)} ago" for at in times)
    expires = f"in {_span(record.expires - now)}"
    return row((key[:8], *ago, expires, _escape(packed.user_agent or "-")))


def row(cells: Iterable[str]) -> str:
    """Cells in columns; in a terminal no longer than a line of it."""
    text = "".join(f"{cell:12}" for cell in cells).rstrip()
    return text[: shutil.get_terminal_size().columns] if sys.stdout.isatty() else text


def dump(value: object) -> str:
    """A line of JSON without control characters."""
    return json.dumps(value).replace("\x7f", r"\u007f")


def print_counts(counts: dict[str, Any]) -> None:
    """What ``stats`` counted; in a terminal, the ages as bars."""
    figures = {
        "live": f"{counts['live']:,}",
        "expired": f"{counts['expired']:,}",
        "with an owner": f"{counts['with_owner']:,}",
        "without": f"{counts['without_owner']:,}",
        "data": _bytes(counts["bytes"]),
    }
    ages = {
        name if name == "older" else f"< {name}": number
        for name, number in counts["by_age"].items()
    }
    width = max(len(text) for text in (*figures.values(), *(f"{each:,}" for each in ages.values())))
    for name, text in figures.items():
        click.echo(f"{name:13}  {text:>{width}}")
    click.echo()
    most = max(ages.values()) or 1
    bar = "█" if sys.stdout.isatty() and "utf" in (sys.stdout.encoding or "").lower() else ""
    for name, number in ages.items():
        plot = bar * max(round(BAR * number / most), number > 0)
        click.echo(f"{name:13}  {number:>{width},}  {plot}".rstrip())


def _peek(record: Record) -> Packed:
    try:
        return peek(record)
    except CorruptRecord:  # the app refuses it
        return Packed({})


def _last_seen(expiry: Expiry, record: Record, packed: Packed) -> float:
    began = record.created if packed.signed_in is None else packed.signed_in
    with suppress(ValueError):  # damaged, too
        expiry = expiry if packed.expiry is None else with_own(expiry, packed.expiry)
    return max(began, expiry.last_use(began, record.expires))


def _escape(text: str) -> str:
    """A text in which nothing commands a terminal."""
    return "".join(
        character if " " <= character <= "~" else ascii(character)[1:-1] for character in text
    )


def _utc(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _span(seconds: float) -> str:
    """A time roughly: its two largest units."""
    text = format_duration(timedelta(seconds=max(seconds, 0)))
    return "".join(re.findall(r"\d+\D", text)[:2]) or "0s"


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
