"""The kinds of values that a configuration holds, and how each is written in TOML."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
)

SECRETS = (Secret, SecretBytes, SecretStr)

_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(\d+){unit})?" for unit in _UNITS))
_SHORTEST, _LONGEST = timedelta(seconds=1), timedelta(weeks=52 * 100)
_DURATION_RULE = 'a duration such as "30m", "2h", "7d" or "1h30m"'
_EXPIRY_RULE = f'"session", {_DURATION_RULE}, or a time with an offset: "2030-01-01T00:00:00Z"'


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
        raise ValueError(_DURATION_RULE)
    return value


def format_duration(value: timedelta) -> str:
    """The text that ``parse_duration`` reads back."""
    rest, text = int(value.total_seconds()), ""
    for unit, length in _UNITS.items():
        amount, rest = divmod(rest, length)
        text += f"{amount}{unit}" if amount else ""
    return text


def to_plain(value: Any) -> Any:
    """A value in the types that TOML has, secrets included."""
    if isinstance(value, SECRETS):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {key: to_plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(one) for one in value]
    if isinstance(value, timedelta):
        return format_duration(value)
    return str(value) if isinstance(value, os.PathLike) else value


def _parse_expiry(value: object) -> object:
    if value == "session":
        return value
    try:
        if isinstance(value, str) and "T" in value.upper() and "-" in value:
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo else parse_duration(None)
        return parse_duration(value)
    except (ValueError, OverflowError):
        raise ValueError(_EXPIRY_RULE) from None


def _matching(pattern: str, rule: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(rule)
        return value

    return AfterValidator(check)


def _each_matching(pattern: str, rule: str) -> BeforeValidator:
    def check(value: object) -> object:
        if not isinstance(value, (list, tuple)) or not all(
            isinstance(one, str) and re.fullmatch(pattern, one) for one in value
        ):
            raise ValueError(rule)
        return tuple(value)

    return BeforeValidator(check)


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration)]
Expiry = Annotated[
    Literal["session"] | timedelta | datetime,
    BeforeValidator(_parse_expiry),
    PlainSerializer(lambda v: format_duration(v) if isinstance(v, timedelta) else v),
]
Text = Annotated[
    str, _matching(r"[^\x00-\x1f\x7f\ud800-\udfff]+", "text without control characters")
]
Url = Annotated[
    str,
    _matching(
        # What follows a user and a colon is a password: libraries disagree on where a raw one ends.
        r"[A-Za-z][A-Za-z0-9+.-]*://(?![^/?#@]*:.*[/?#].*@)[^\s\x00-\x1f\x7f\ud800-\udfff]+",
        "a URL: scheme://host:port/name; in a password, /, ?, # and @ are %2F, %3F, %23 and %40",
    ),
]
CookieName = Annotated[
    str, _matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "letters, digits and !#$%&'*+-.^_`|~ (RFC 6265)")
]
CookiePath = Annotated[
    str, _matching(r"/[\x21-\x3a\x3c-\x7e]*", 'a path that begins with "/", in ASCII, without ";"')
]
CookieDomain = Annotated[str, _matching(r"[A-Za-z0-9.-]+", "a domain name: example.org")]
PathPrefixes = Annotated[
    tuple[str, ...],
    _each_matching(r"(?s)/.*", 'path prefixes, each beginning with "/": ["/static"]'),
]
Hosts = Annotated[
    tuple[str, ...],
    _each_matching(
        r"\*|(?:\*\.)?[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]",
        'host names without scheme and port: ["example.org", "*.example.org"], or ["*"] for all',
    ),
]
