"""``request.session``: the dict that handlers see."""

from __future__ import annotations

import functools
from collections.abc import Callable
from copy import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from starlette.middleware.sessions import Session as StarletteSession
from starlette.requests import HTTPConnection

from .owners import OwnedSession, hash_owner
from .store import Record, SessionError

if TYPE_CHECKING:
    from .manager import SessionManager

MAX_OWNER = 255  # characters


class SessionClosed(SessionError):
    """The session was changed when it could no longer be saved."""

    @classmethod
    def by(cls, what: str) -> Self:
        return cls(f"session: {what} was changed after the response had started, too late to keep")


class Session(StarletteSession):
    """A dict of JSON values that is kept on the server from one request to the next.

    Changes, ``rotate_id``, ``flush`` and ``owner`` are intents: they take effect together when the
    response starts, unless it is a server error. Nested changes count too.
    """

    # What every request sets: a slot is set several times faster than an attribute.
    __slots__ = ("_id", "_key", "_record", "_started", "accessed")
    _id: str | None
    _key: str | None  # under which the store keeps it
    _record: Record | None
    _started: str | None  # by which message the response did: no other cookie can follow
    _manager: SessionManager  # on a class of each manager's own: see there
    # Defaults on the class, since most requests change none of them.
    _owner: str | None = None
    _owner_hash: str | None = None  # what the store sees of it
    _signed_in: float | None = None  # since when it has this owner
    _user_agent: str | None = None  # that came with the sign-in
    _rotate = False
    _ended: str | None = None  # the key that flush() left behind, until it is deleted
    _cookie: Literal["set", "remove"] | None = None  # what the browser has to do to it
    # Keys that were set or removed, or whose dict or list was handed out and may change unnoticed.
    # Once they are saved, only the latter stay here.
    _touched: set[str] | None = None
    _lost = False  # nothing is saved any more: it was ended elsewhere, or for nothing
    _failure: str | None = None  # why the store could not save it when the response started

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._id = self._key = self._record = self._started = None
        self.accessed = False

    @classmethod
    def of(cls, connection: HTTPConnection) -> Self:
        """``request.session``, with its type."""
        session = connection.session
        assert isinstance(session, cls), "SessionMiddleware must be installed"
        return session

    def rotate_id(self) -> None:
        """Go on under a new id; the old one dies when the new one is saved.

        Call it whenever privileges change, at sign-in above all (ASVS 5, 7.2.4): an id that someone
        planted before is then worthless.
        """
        self._require_open("rotate_id()")
        self._rotate = True

    def flush(self) -> None:
        """End this session and forget its data and owner (ASVS 5, 7.4.1).

        What is written afterwards begins another session, with another id.
        """
        self._require_open("flush()")
        dict.clear(self)
        self._touched = None
        self._ended = self._ended or self._key
        self._id = self._key = self._record = None
        self._owner = self._owner_hash = self._signed_in = self._user_agent = None
        self._rotate = self._lost = False

    def clear(self) -> None:
        """As ``flush``, for code that knows only Starlette's sessions."""
        self.flush()

    def update(self, /, *args: Any, **kwargs: Any) -> None:
        changes = dict(*args, **kwargs)
        for key in changes:
            self._change(key)
        dict.update(self, changes)

    def _update_in_place(self, changes: Any, /) -> Self:
        self.update(changes)
        return self

    # Not by that name at once: dict's has an overload for other keys, which nothing in place keeps.
    __ior__: Any = _update_in_place

    async def save(self) -> None:
        """Save now what was changed: for a WebSocket, after it was accepted.

        Raises:
            SessionClosed: this needs a new cookie, which can't be sent any more.
            SessionDataError: the data can't be carried by JSON, or is too large.
            StoreUnavailable: the store can't save it.
        """
        await self._manager.save(self)

    async def list_owned(self, *, after: str = "", limit: int = 100) -> list[OwnedSession]:
        """The sessions of this one's owner, this one among them: ``limit`` past the key ``after``.

        Those that no request has saved yet are not among them, and nobody's has none.

        Raises:
            StoreUnavailable: the store can't tell.
        """
        self.mark_accessed()
        return await self._manager.list_owned(self, after=after, limit=limit)

    async def delete_owned(self, *keys: str) -> int:
        """Sign out others of this one's owner, by their keys, at once (ASVS 5, 7.5.2); how many.

        Keys of sessions that belong to someone else do nothing. To end this one, ``flush()``.

        Raises:
            StoreUnavailable: the store can't do it now.
        """
        self.mark_accessed()
        return await self._manager.delete_owned(self, *keys)

    async def delete_others(self) -> int:
        """Sign out this one's owner everywhere else, at once (ASVS 5, 7.4.3); of how many.

        Raises:
            StoreUnavailable: the store can't do it now.
        """
        self.mark_accessed()
        return await self._manager.delete_others(self)

    def __getitem__(self, key: str) -> Any:
        self.mark_accessed()
        value = dict.__getitem__(self, key)
        if isinstance(value, (dict, list)):
            self._touch(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._change(key)
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        self._change(key)
        dict.__delitem__(self, key)

    def get(self, key: str, default: Any = None) -> Any:
        self.mark_accessed()
        value = dict.get(self, key, default)
        if isinstance(value, (dict, list)):
            self._touch(key)
        return value

    def pop(self, key: str, *default: Any) -> Any:
        if key in self:
            self._change(key)
        return dict.pop(self, key, *default)

    def popitem(self) -> tuple[str, Any]:
        for key in list(self)[-1:]:
            self._change(key)
        return dict.popitem(self)

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def __reduce_ex__(self, protocol: object) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """Copies are plain dicts: there is one session."""
        return dict, (dict(self),)

    @property
    def owner(self) -> str | None:
        """The user to whom the session belongs, if any; set it at sign-in."""
        self.mark_accessed()
        return self._owner

    @owner.setter
    def owner(self, user_id: str | int | None) -> None:
        if isinstance(user_id, bool) or not isinstance(user_id, (str, int, type(None))):
            raise TypeError(f"session.owner is a str, an int or None, not {user_id!r}")
        owner = None if user_id is None else str(user_id)
        if owner is not None and (len(owner) > MAX_OWNER or not _is_unicode(owner)):
            raise ValueError(f"session.owner has up to {MAX_OWNER} characters of Unicode")
        self._require_open("owner")
        self._owner = owner
        self._owner_hash = None if owner is None else hash_owner(owner)

    @property
    def _is_closed(self) -> bool:
        """Whether no change is accepted any more."""
        return self._started not in (None, "websocket.accept")

    @property
    def _has_new_owner(self) -> bool:
        return self._owner_hash != (self._record and self._record.owner)

    @property
    def is_new(self) -> bool:
        """Whether the store holds nothing of this session yet."""
        self.mark_accessed()
        return self._record is None

    @property
    def created_at(self) -> datetime | None:
        """When it began (UTC); None if it is new."""
        self.mark_accessed()
        return None if self._record is None else datetime.fromtimestamp(self._record.created, UTC)

    @property
    def expires_at(self) -> datetime | None:
        """When it ends unless it is used before (UTC); None if it is new."""
        self.mark_accessed()
        return None if self._record is None else datetime.fromtimestamp(self._record.expires, UTC)

    def mark_accessed(self) -> None:
        """Note that the response depends on the session."""
        self.accessed = True

    def _change(self, key: str) -> None:
        """Note that a key is about to change."""
        if self._started is not None:
            self._require_open(repr(key))
        self.accessed = self.modified = True
        self._touch(key)

    def _touch(self, key: str) -> None:
        """Note that a key may change: its dict or list is handed out, say."""
        if self._touched is None:
            self._touched = {key}
        else:
            self._touched.add(key)

    def _require_open(self, what: str) -> None:
        """Note that ``what`` is about to change."""
        self.mark_accessed()
        if self._is_closed:
            raise SessionClosed.by(what)
        self.modified = True


class UnusableSession(Session):
    """A session that raises ``error`` as soon as anyone touches it."""

    def __init__(self, error: SessionError) -> None:
        super().__init__()
        self._error = error

    def mark_accessed(self) -> None:
        raise copy(self._error)  # its traceback would hold on to the request

    def _change(self, key: str) -> None:
        self.mark_accessed()

    async def save(self) -> None:
        self.mark_accessed()


def _is_unicode(text: str) -> bool:
    """Whether it has no half of a surrogate pair alone."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _reader(name: str, *, shares: bool) -> Callable[..., Any]:
    method = getattr(dict, name)

    @functools.wraps(method)
    def read(self: Session, *args: Any) -> Any:
        self.mark_accessed()
        if shares:
            self._touched = set(self._touched or ()).union(dict.keys(self))
        return method(self, *args)

    return read


# Every way to read a dict that is not a method above.
for _name in ("__contains__", "__iter__", "__len__", "__reversed__", "__eq__", "__ne__", "keys"):
    setattr(Session, _name, _reader(_name, shares=False))
for _name in ("__or__", "__ror__", "values", "items", "copy"):
    setattr(Session, _name, _reader(_name, shares=True))
