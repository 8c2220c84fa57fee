"""What happens to sessions, for the log: each event with its fields, and never an id or data.

The logger is ``<package>.sessions.events``. A record's text is the event's name and fields; JSON
formatters find the same as its attributes, ``event`` among them (ASVS 5, 16.2).
"""

from __future__ import annotations

import logging
from typing import Literal

logger = logging.getLogger(__name__)

Event = Literal[
    "session.created",
    "session.rotated",
    "session.revoked",  # by its own flush(), or by its owner
    "session.expired",  # and swept
    "session.refused",  # an id that the store does not know, or no longer
    "session.store_unavailable",
]


def log_event(event: Event, /, *, level: int = logging.INFO, **fields: str | int) -> None:
    """Log that something happened to sessions."""
    if logger.isEnabledFor(level):
        text = " ".join([event, *(f"{name}={value}" for name, value in fields.items())])
        logger.log(level, "%s", text, extra={"event": event, **fields})
