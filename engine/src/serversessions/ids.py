"""Session ids, and the keys that stores see in their place."""

from __future__ import annotations

import hashlib
import re
import secrets


def new_id() -> str:
    """256 random bits, URL-safe: 43 characters (OWASP asks for 64 bits, ASVS 5 7.2.3 for 128)."""
    return secrets.token_urlsafe(32)


def hash_id(session_id: str) -> str:
    """The key under which stores keep the session of an id: a stolen dump opens none."""
    return hashlib.sha256(session_id.encode()).hexdigest()


def is_key(text: str) -> bool:
    """Whether ``hash_id`` may have returned it. Nothing else that a form sends goes to a store."""
    return re.fullmatch("[0-9a-f]{64}", text) is not None
