"""What the bytes of a record say: a session's data as JSON, its sign-in, and its own expiry."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from .owners import SignIn, open_owner, seal_owner
from .store import CorruptRecord, Record, SessionError

_MAX_DEPTH = 100  # levels: JSON is read recursively, and the next reader's stack may be deeper
_NO_TEXT = "the keys of a dict are strings"


class SessionDataError(SessionError, ValueError):
    """The session's data can't be saved: JSON can't carry it, or it is too large."""


class Stored(Struct, frozen=True):
    """What the store holds of a session, and the id that opens it."""

    id: str
    key: str
    record: Record
    sign_in: SignIn | None
    expiry: str | None

    @property
    def began(self) -> float:
        """From when its lifetime counts (Unix time in seconds): the sign-in, where there is one."""
        return self.record.created if self.sign_in is None else self.sign_in.at


class Packed(Struct, array_like=True, frozen=True):
    """What a record says where there is more to say than the data: a list in JSON."""

    data: dict[str, Any]
    sealed_owner: str | None = None
    signed_in: float | None = None  # Unix time in seconds
    user_agent: str | None = None
    expiry: str | None = None


def pack(
    data: dict[str, Any], sign_in: SignIn | None, expiry: str | None, session_id: str
) -> dict[str, Any] | Packed:
    """What is written under an id."""
    if sign_in is None:
        return data if expiry is None else Packed(data, expiry=expiry)
    sealed = seal_owner(sign_in.owner, session_id)
    return Packed(data, sealed, sign_in.at, sign_in.user_agent, expiry)


def unpack(record: Record, session_id: str) -> tuple[dict[str, Any], SignIn | None, str | None]:
    """The data, the sign-in and the expiry that were packed.

    Raises:
        CorruptRecord: the record is damaged, or belongs to another id or another owner.
    """
    content = _read(record)
    if isinstance(content, dict):
        if record.owner is not None:
            raise CorruptRecord("it has an owner, and its data has none")
        return content, None, None
    if content.sealed_owner is None or content.signed_in is None:
        return content.data, None, content.expiry
    owner = open_owner(content.sealed_owner, session_id, record.owner)
    sign_in = SignIn(owner, content.signed_in, content.user_agent)
    return content.data, sign_in, content.expiry


def peek(record: Record) -> Packed:
    """What a record says to whoever has no id of it: all but the owner.

    Raises:
        CorruptRecord: it is damaged.
    """
    content = _read(record)
    return content if isinstance(content, Packed) else Packed(content)


def _read(record: Record) -> dict[str, Any] | Packed:
    try:
        content: dict[str, Any] | Packed = _decode(record.data)
    except (ValueError, RecursionError) as error:
        raise CorruptRecord(str(error)) from None
    return content


def dump(value: object) -> bytes:
    """JSON, copied out of the encoder's larger buffer, since a store may keep it."""
    return b"%b" % _encode(value)


def try_dump(value: object) -> bytes | None:
    """The same, or None for what JSON can't carry."""
    try:
        return dump(value)
    except (TypeError, ValueError, RecursionError):
        return None


def encode(packed: dict[str, Any] | Packed, max_size: int) -> bytes:
    """The bytes of a record, at most ``max_size``.

    Raises:
        SessionDataError: JSON can't carry the data, or it is too large. It names the key at fault.
    """
    try:
        data = dump(packed)
    except (TypeError, ValueError, RecursionError):
        for key, value in _items(packed):
            try:
                dump({key: value})
            except (TypeError, ValueError, RecursionError) as error:
                raise SessionDataError(
                    f"session[{key!r}] can't be saved as JSON: {error}"
                ) from error
        raise
    if len(data) > max_size:
        largest = max(_items(packed), key=lambda item: len(dump(item[1])))[0]
        raise SessionDataError(
            f"the session has {len(data)} bytes, more than `max_size` ({max_size}); "
            f"the largest part is session[{largest!r}]"
        )
    return data


def _items(packed: dict[str, Any] | Packed) -> Iterable[tuple[str, Any]]:
    return dict.items(packed.data if isinstance(packed, Packed) else packed)


def require_json(data: dict[str, Any], keys: Iterable[str]) -> None:
    """Refuse what would not come back as it was put: the encoder takes more than JSON has.

    Raises:
        SessionDataError: one of these keys has such a value. It names the key.
    """
    for key in keys:
        fault = find_fault(dict.get(data, key))
        if not isinstance(key, str) and dict.__contains__(data, key):
            fault = _NO_TEXT
        if fault:
            raise SessionDataError(f"session[{key!r}] can't be saved as JSON: {fault}")


def find_fault(value: object, depth: int = 1) -> str:
    """Why JSON can't carry a value as it is; "" if it can."""
    if depth > _MAX_DEPTH:
        return f"it is nested more than {_MAX_DEPTH} levels deep"
    if value is None or isinstance(value, (str, int)):
        return ""
    if isinstance(value, float):
        return "" if isfinite(value) else f"{value} is no number in JSON"
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return _NO_TEXT
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return f"JSON has no {type(value).__name__}"
    return next(filter(None, (find_fault(part, depth + 1) for part in value)), "")


def _as_plain(value: object) -> str | int | float:
    """A value of a subclass, which the encoder does not take, as what it is to JSON."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"JSON has no {type(value).__name__}")


_encode = msgspec.json.Encoder(enc_hook=_as_plain).encode
_decode = msgspec.json.Decoder(dict[str, Any] | Packed).decode
