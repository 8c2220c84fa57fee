"""What every message about the configuration is made of."""

from __future__ import annotations

import json
import re
from datetime import date, datetime, time


class ConfigError(Exception):
    """Something is wrong with the configuration. Each line of the message is one such thing."""


def redact(text: str) -> str:
    """Hide the passwords of all URLs in a text."""
    text = re.sub(r"(://[^/?#\s:@]*):[^/?#\s]*@", r"\1:***@", text)
    return re.sub(r"([?&][^=&\s]*(?:password|secret|token)[^=&\s]*)=[^&\s\"']*", r"\1=***", text)


def show(value: object) -> str:
    """A value as in TOML, without passwords."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return redact(json.dumps(value, ensure_ascii=False, default=str))
