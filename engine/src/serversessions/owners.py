"""Whom a session belongs to: hashed for stores, sealed for everyone but the visitor."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from msgspec import Struct

from .events import log_event
from .ids import hash_id
from .store import CorruptRecord, SessionStore

UserId = str | int | UUID

MAX_OWNER = 255  # characters
_TYPES: dict[str, type[UserId]] = {"s": str, "i": int, "u": UUID}  # by what stands before an id


class SignIn(Struct, frozen=True):
    """Who is signed in, since when (Unix time in seconds), and with which browser."""

    owner: UserId
    at: float
    user_agent: str | None = None


class OwnedSession(NamedTuple):
    """One of a user's sessions, as that user may see it. Times are in UTC."""

    key: str
    """names the session, and opens nothing"""
    is_current: bool
    """whether it is the session of this request"""
    signed_in_at: datetime
    last_seen_at: datetime
    """at the earliest: the sign-in, or a renewal since, but not every use is one"""
    user_agent: str | None
    """of the browser at sign-in, as it was sent: escape it"""


@lru_cache(maxsize=1024, typed=True)  # every load and save of an owned session asks
def hash_owner(user_id: UserId) -> str:
    """What stores see of a user's id: its SHA-256, as 64 hexadecimal digits.

    The same for 7 and "7". A dump does not tell who is signed in, unless someone tries all the
    ids that there may be.
    """
    return hashlib.sha256(_text_of(user_id).encode()).hexdigest()


async def delete_owned(
    store: SessionStore, user_id: UserId, *, except_id: str | None = None
) -> int:
    """Sign a user out everywhere, at once: after a new password, say (ASVS 5, 7.4.2 and 7.4.3).

    ``store`` is that of the app, ``sessions.store``. With ``except_id``, the id of a session, that
    session stays.

    Returns:
        The number of sessions that were ended.

    Raises:
        StoreUnavailable: the store can't do it now.
    """
    except_key = None if except_id is None else hash_id(except_id)
    count = await store.delete_owned(hash_owner(user_id), except_key=except_key)
    if count:
        log_event("session.revoked", count=count)
    return count


def check_owner(user_id: object) -> UserId:
    """The id of a user, of one of the types that come back.

    Raises:
        TypeError: it is neither a str, nor an int, nor a UUID.
        ValueError: it is too long, or not Unicode.
    """
    if isinstance(user_id, bool) or not isinstance(user_id, (str, int, UUID)):
        raise TypeError(f"session.owner is a str, an int, a UUID or None, not {user_id!r}")
    text = _text_of(user_id)
    try:
        text.encode()
        is_unicode = True
    except UnicodeEncodeError:  # half of a surrogate pair stands alone
        is_unicode = False
    if len(text) > MAX_OWNER or not is_unicode:
        raise ValueError(f"session.owner has up to {MAX_OWNER} characters of Unicode")
    if isinstance(user_id, UUID):
        return user_id
    return text if isinstance(user_id, str) else int(user_id)


def seal_owner(user_id: UserId, session_id: str) -> str:
    """A user's id, so that only the session's own id, which no store has, opens it again."""
    tag = "s" if isinstance(user_id, str) else "i" if isinstance(user_id, int) else "u"
    return _mask(f"{tag}{user_id}".encode(), session_id, hash_owner(user_id)).hex()


def open_owner(sealed: str, session_id: str, owner: str | None) -> UserId:
    """The user's id, given what ``seal_owner`` returned and what ``hash_owner`` did.

    Raises:
        CorruptRecord: these three don't belong together.
    """
    try:
        text = _mask(bytes.fromhex(sealed), session_id, str(owner)).decode()
        user_id = _TYPES[text[:1]](text[1:])
    except (ValueError, KeyError):
        raise CorruptRecord("its owner can't be read") from None
    if hash_owner(user_id) != owner:
        raise CorruptRecord("its owner is not the one of its data")
    return user_id


def _text_of(user_id: UserId) -> str:
    return str.__str__(user_id) if isinstance(user_id, str) else str(user_id)


def _mask(text: bytes, session_id: str, owner: str) -> bytes:
    """Exclusive or with a stream (SHAKE-256, FIPS 202) that no other session or owner shares."""
    stream = hashlib.shake_256(f"{session_id}{owner}".encode()).digest(len(text))
    masked = int.from_bytes(text) ^ int.from_bytes(stream)
    return masked.to_bytes(len(text))
