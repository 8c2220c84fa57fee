"""When a session ends: after inactivity, at a date, and however active it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from math import inf
from typing import Literal

# How long the server keeps a session whose cookie lasts until the browser closes.
BROWSER_SESSION = timedelta(weeks=2)


@dataclass(frozen=True)
class Expiry:
    """The rules of ASVS 5, 7.3: an inactivity timeout and an absolute maximum lifetime.

    ``after`` is "session" (until the browser closes), a time of inactivity, or a date with an
    offset. ``max_lifetime`` counts from the session's beginning. It is renewed when that moves it
    by 1/20 at least, or, with ``always``, by anything. All times taken and returned are Unix times
    in seconds.
    """

    after: Literal["session"] | timedelta | datetime = "session"
    max_lifetime: timedelta | None = None
    always: bool = False

    def limit(self, created: float, now: float) -> float:
        """When a session ends that began at ``created`` and is used now."""
        idle, lifetime, end = self._limits
        return min(now + idle, created + lifetime, end)

    def is_over(self, created: float, now: float) -> bool:
        """Whether a session that began at ``created`` has ended, however active it was."""
        _, lifetime, end = self._limits
        return now >= created + lifetime or now >= end

    def renewed(self, created: float, expires: float, now: float) -> float:
        """The same, but ``expires`` as it is while it is not to be renewed yet."""
        idle, lifetime, end = self._limits
        limit = now + idle
        if limit > created + lifetime or limit > end:
            limit = min(created + lifetime, end)
        step = 0 if self.always else (limit - now) / 20
        return limit if limit < expires or limit - expires >= step else expires

    def last_use(self, created: float, expires: float) -> float:
        """When a session was last renewed, as far as its expiry tells: not before this time."""
        idle, lifetime, end = self._limits
        return expires - idle if expires < min(created + lifetime, end) else created

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
