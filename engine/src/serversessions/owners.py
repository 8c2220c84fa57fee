"""Whom a session belongs to: hashed for stores, sealed for everyone but the visitor."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec import Struct

from .events import log_event
from .ids import hash_id
from .store import CorruptRecord, SessionStore


class OwnedData(Struct, array_like=True, frozen=True):
    """The data of a session that has an owner, and what is known of its sign-in."""

    data: dict[str, Any]
    sealed_owner: str
    signed_in: float  # Unix time in seconds
    user_agent: str | None


class OwnedSession(NamedTuple):
    """One of a user's sessions, as that user may see it. Times are in UTC."""

    key: str
    """names the session, and opens nothing"""
    is_current: bool
    """whether this very request came with it"""
    signed_in_at: datetime
    last_seen_at: datetime
    """at the earliest: the sign-in, or a renewal since, but not every use is one"""
    user_agent: str | None
    """of the browser at sign-in, as it was sent: escape it"""


@lru_cache(maxsize=1024, typed=True)  # every load and save of an owned session asks
def hash_owner(user_id: str | int) -> str:
    """What stores see of a user's id, as 64 hexadecimal digits.

    A dump does not tell who is signed in, unless someone tries all the ids that there may be.
    """
    return hashlib.sha256(str(user_id).encode()).hexdigest()


async def delete_owned(
    store: SessionStore, user_id: str | int, *, except_id: str | None = None
) -> int:
    """Sign a user out everywhere, or everywhere but in the session with an id; of how many.

    Raises:
        StoreUnavailable: the store can't do it now.
    """
    except_key = None if except_id is None else hash_id(except_id)
    count = await store.delete_owned(hash_owner(user_id), except_key=except_key)
    if count:
        log_event("session.revoked", count=count)
    return count


def seal_owner(user_id: str, session_id: str) -> str:
    """A user's id, so that only the session's own id, which no store has, opens it again."""
    return _mask(user_id.encode(), session_id, hash_owner(user_id)).hex()


def open_owner(sealed: str, session_id: str, owner: str) -> str:
    """The user's id, given what ``seal_owner`` returned and what ``hash_owner`` did.

    Raises:
        CorruptRecord: these three don't belong together.
    """
    try:
        user_id = _mask(bytes.fromhex(sealed), session_id, owner).decode()
    except ValueError:
        user_id = ""
    if hash_owner(user_id) != owner:
        raise CorruptRecord("its owner is not the one of its data")
    return user_id


def _mask(text: bytes, session_id: str, owner: str) -> bytes:
    """Exclusive or with a stream (SHAKE-256, FIPS 202) that no other session or owner shares."""
    stream = hashlib.shake_256(f"{session_id}{owner}".encode()).digest(len(text))
    masked = int.from_bytes(text) ^ int.from_bytes(stream)
    return masked.to_bytes(len(text))
