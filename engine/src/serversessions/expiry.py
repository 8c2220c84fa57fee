"""When a session ends: after inactivity, at a date, and however active it is."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from math import inf
from typing import Literal

After = Literal["session"] | timedelta | datetime

# How long the server keeps a session whose cookie lasts until the browser closes.
BROWSER_SESSION = timedelta(weeks=2)

DURATION_RULE = 'a duration such as "30m", "2h", "7d" or "1h30m"'
EXPIRY_RULE = f'"session", {DURATION_RULE}, or a time with an offset: "2030-01-01T00:00:00Z"'

_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(\d+){unit})?" for unit in _UNITS))
_SHORTEST, _LONGEST = timedelta(seconds=1), timedelta(weeks=52 * 100)


@dataclass(frozen=True)
class Expiry:
    """The rules of ASVS 5, 7.3: an inactivity timeout and an absolute maximum lifetime.

    ``after`` is "session" (until the browser closes), a time of inactivity, or a date with an
    offset. ``max_lifetime`` counts from when the session began. An expiry is renewed when that
    moves it by at least 1/20 of the time, or, with ``always``, by anything. All times taken and
    returned are Unix times in seconds.
    """

    after: After = "session"
    max_lifetime: timedelta | None = None
    always: bool = False

    def limit(self, began: float, now: float) -> float:
        """When a session ends that began at ``began`` and is used now."""
        idle, lifetime, end = self._limits
        return min(now + idle, began + lifetime, end)

    def is_over(self, began: float, now: float) -> bool:
        """Whether a session that began at ``began`` has ended, however active it was."""
        _, lifetime, end = self._limits
        return now >= began + lifetime or now >= end

    def renewed(self, began: float, expires: float, now: float) -> float:
        """The same as ``limit``, but ``expires`` itself while it is too early to renew it."""
        idle, lifetime, end = self._limits
        limit = now + idle
        if limit > began + lifetime or limit > end:
            limit = min(began + lifetime, end)
        step = 0 if self.always else (limit - now) / 20
        return limit if limit < expires or limit - expires >= step else expires

    def last_use(self, began: float, expires: float) -> float:
        """When a session was last renewed, as far as its expiry tells: not before this time."""
        idle, lifetime, end = self._limits
        return expires - idle if expires < min(began + lifetime, end) else began

    def max_age(self, expires: float, now: float) -> int | None:
        """The cookie's Max-Age in seconds (RFC 6265bis 5.6.2). None: until the browser closes."""
        return None if self.after == "session" else max(0, round(expires - now))

    @cached_property
    def _limits(self) -> tuple[float, float, float]:
        """Seconds of inactivity, seconds altogether, and the date."""
        lifetime = inf if self.max_lifetime is None else self.max_lifetime.total_seconds()
        if isinstance(self.after, datetime):
            return inf, lifetime, self.after.timestamp()
        idle = BROWSER_SESSION if self.after == "session" else self.after
        return idle.total_seconds(), lifetime, inf


@lru_cache(maxsize=256)
def with_own(rules: Expiry, text: str) -> Expiry:
    """The rules for a session that has an ``after`` of its own, as ``format_expiry`` wrote it."""
    return replace(rules, after=parse_expiry(text))


def parse_duration(value: object) -> timedelta:
    """The time that a text such as "1h30m" means: of w, d, h, m and s, in this order.

    Raises:
        ValueError: it is none, or not between one second and a hundred years.
    """
    if isinstance(value, str) and len(value) <= 32 and (match := _DURATION.fullmatch(value)):
        amounts = zip(match.groups(default="0"), _UNITS.values(), strict=True)
        seconds = sum(int(amount) * unit for amount, unit in amounts)
        value = timedelta(seconds=min(seconds, 10**12))
    if not isinstance(value, timedelta) or value.microseconds or not _SHORTEST <= value <= _LONGEST:
        raise ValueError(DURATION_RULE)
    return value


def format_duration(value: timedelta) -> str:
    """The text that ``parse_duration`` reads back."""
    rest, text = int(value.total_seconds()), ""
    for unit, length in _UNITS.items():
        amount, rest = divmod(rest, length)
        text += f"{amount}{unit}" if amount else ""
    return text


def parse_expiry(value: object) -> After:
    """What ``[middlewares.session] expiry`` and ``Session.set_expiry`` take.

    Raises:
        ValueError: it is neither "session", nor a duration, nor a time with an offset.
    """
    if value == "session":
        return "session"
    try:
        if isinstance(value, str) and "T" in value.upper() and "-" in value:
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo else parse_duration(None)
        return parse_duration(value)
    except (ValueError, OverflowError):
        raise ValueError(EXPIRY_RULE) from None


def format_expiry(after: After) -> str:
    """The text that ``parse_expiry`` reads back."""
    if isinstance(after, datetime):
        return after.isoformat()
    return format_duration(after) if isinstance(after, timedelta) else after
