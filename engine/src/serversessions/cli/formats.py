"""Sessions and figures about them as text: rows for people, JSON for programs."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import msgspec

from ..config.values import format_duration
from ..expiry import Expiry
from ..owners import OwnedData
from ..store import Record

HEADINGS = ("KEY", "BEGAN", "SIGNED IN", "LAST SEEN", "EXPIRES", "BROWSER")
BAR = 40  # characters

_read_owned = msgspec.json.Decoder(OwnedData).decode


def session_as_json(expiry: Expiry, key: str, record: Record, now: float) -> str:
    """One session, without its data, as an object of JSON."""
    signed_in, user_agent = _read_sign_in(record)
    return dump(
        {
            "key": key,
            "has_owner": record.owner is not None,
            "created_at": _utc(record.created),
            "signed_in_at": _utc(signed_in),
            "last_seen_at": _utc(_last_seen(expiry, record, signed_in)),
            "expires_at": _utc(record.expires),
            "user_agent": user_agent,
        }
    )


def session_as_row(expiry: Expiry, key: str, record: Record, now: float) -> str:
    """One session, without its data, as a row below ``HEADINGS``."""
    signed_in, user_agent = _read_sign_in(record)
    times = (record.created, signed_in, _last_seen(expiry, record, signed_in))
    ago = ("-" if at is None else f"{_span(now - at)} ago" for at in times)
    expires = f"in {_span(record.expires - now)}"
    return row((key[:8], *ago, expires, _escape(user_agent or "-")))


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


def _last_seen(expiry: Expiry, record: Record, signed_in: float | None) -> float:
    return max(signed_in or 0, expiry.last_use(record.created, record.expires))


def _read_sign_in(record: Record) -> tuple[float | None, str | None]:
    """When and with which browser a session's user signed in, if it has one."""
    try:
        content = _read_owned(record.data) if record.owner is not None else None
    except (ValueError, RecursionError):  # damaged: the app refuses it
        content = None
    return (content.signed_in, content.user_agent) if content is not None else (None, None)


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
