"""What every message about the configuration is made of."""

from __future__ import annotations

import json
import re
from datetime import date, datetime, time


class ConfigError(Exception):
    """Something is wrong with the configuration. Each line of the message is one such thing."""


def redact(text: str) -> str:
    """Hide the passwords of all URLs in a text."""
    text = re.sub(r"(://[^:@\n]*):.*@", r"\1:***@", text)  # raw ones may hold any character
    return re.sub(r"(?i)([?&][^=&\s]*(?:password|secret|token)[^=&\s]*)=[^&\n]*", r"\1=***", text)


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
