"""What is wrong with a configuration: data for programs, lines for people, and no secrets."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date, datetime, time

_LONGEST = 200  # characters of a value that are shown


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    ``key`` is the dotted key of the configuration ("database.url"), or "" where none is to blame.
    ``found`` and ``allowed`` are texts for people, without secrets; a missing key has no ``found``.
    ``text`` is the message, if it is more than those two. It repeats neither the key nor the
    ``source``, which is the file or the environment variable that set the key.
    """

    key: str = ""
    found: str | None = None
    allowed: str | None = None
    text: str = ""
    source: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether a required key was not found."""
        return self.found is None and self.allowed is not None

    def __str__(self) -> str:
        text = self.text
        if not text:
            found = "missing" if self.found is None else f"found {self.found}"
            text = f"{found}; allowed: {self.allowed}"
        return ": ".join(part for part in (self.source, self.key, text) if part)


class ConfigError(Exception):
    """The configuration is wrong. ``problems`` holds all that is; the message has a line for each.

    A text stands for a problem that no key is to blame for.
    """

    def __init__(self, *problems: Problem | str) -> None:
        super().__init__(*problems)
        self.problems: tuple[Problem, ...] = tuple(
            Problem(text=problem) if isinstance(problem, str) else problem for problem in problems
        )

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


# What follows a user and a colon, up to the last "@", is a password: a raw one may hold anything.
_PASSWORD = re.compile(r"(://[^:\n]*):(.*)@([^&\n]*)")
# A user without a password is a token, but not before a database.
_TOKEN = re.compile(r"(?<![\w+.-])(?!postgres)([\w+.-]*)://[^:\s\"']*@")
_SECRET_OPTION = re.compile(r"(?i)([?&][^=&\s]*(?:passw|pwd|secret|token)[^=&\s]*)=[^&\n]*")
# What stands in place of a port, but is none: the "@" after a password was forgotten, or encoded.
_NO_PORT = re.compile(r"(://[^:@/\[\s\"]*):(?!\*\*\*|PORT\b|\d+(?:[/?#,\"\s]|$))[^/\s\"]*")


def redact(text: str) -> str:
    """Hide the passwords and tokens of all URLs in a text. Rather too much than too little."""
    text = _TOKEN.sub(r"\1://***@", _PASSWORD.sub(_hide_password, text))
    return _NO_PORT.sub(r"\1:***", _SECRET_OPTION.sub(r"\1=***", text))


def _hide_password(url: re.Match[str]) -> str:
    """The user may hold an "@" as well, and so may the password in an option."""
    user, password, host = url.groups()
    if not password:  # then the user is a token
        user = "://***"
    return f"{user}:***@{'***' if _SECRET_OPTION.search(password) else host}"


def show(value: object) -> str:
    """A value as TOML would write it, without passwords."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number with thousands of digits"
    if "://" not in text:  # it may be a URL whose scheme was forgotten
        text = re.sub(r'^("?).*@', r"\1***@", text)
    if isinstance(value, str):
        return f'"{_shorten(redact(text[1:-1]))}"'
    return _shorten(redact(text))


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
