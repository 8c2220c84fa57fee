"""What every message about the configuration is made of."""

from __future__ import annotations

import json
import re
from datetime import date, datetime, time


class ConfigError(Exception):
    """Something is wrong with the configuration. Each line of the message is one such thing."""


_SECRET_OPTION = re.compile(r"(?i)([?&][^=&\s]*(?:passw|pwd|secret|token)[^=&\s]*)=[^&\n]*")
# What stands where a port would, and is none: the "@" after it was forgotten, or encoded.
_NO_PORT = re.compile(r"(://[^:@/\[\s\"]*):(?!\*\*\*|PORT\b|\d+(?:[/?#,\"\s]|$))[^/\s\"]*")


def redact(text: str) -> str:
    """Hide the passwords of all URLs in a text: raw ones, too, which may hold any character."""
    text = re.sub(r"(://[^:\n]*):(.*)@([^&\n]*)", _hide_password, text)
    return _NO_PORT.sub(r"\1:***", _SECRET_OPTION.sub(r"\1=***", text))


def _hide_password(url: re.Match[str]) -> str:
    """The user may hold an "@" as well, and so may the password in an option."""
    user, password, place = url.groups()
    return f"{user}:***@{'***' if _SECRET_OPTION.search(password) else place}"


def show(value: object) -> str:
    """A value as in TOML, without passwords."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    text = json.dumps(value, ensure_ascii=False, default=str)
    if "://" not in text:  # it may be a URL whose scheme was forgotten
        text = re.sub(r'^("?).*@', r"\1***@", text)
    return f'"{redact(text[1:-1])}"' if isinstance(value, str) else redact(text)
