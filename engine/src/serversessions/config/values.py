"""The kinds of values that a configuration holds, and how each is written in TOML."""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
)

from ..expiry import format_duration, parse_duration, parse_expiry

SECRETS = (Secret, SecretBytes, SecretStr)


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


def _parse_recheck(value: object) -> object:
    try:
        return value if value == "never" else parse_duration(value)
    except ValueError as rule:
        raise ValueError(f'"never", or {rule}') from None


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration)]
Expiry = Annotated[
    Literal["session"] | timedelta | datetime,
    BeforeValidator(parse_expiry),
    PlainSerializer(lambda v: format_duration(v) if isinstance(v, timedelta) else v),
]
Recheck = Annotated[
    Literal["never"] | timedelta,
    BeforeValidator(_parse_recheck),
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
