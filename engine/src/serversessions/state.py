"""What a request knows of its session's place in the store, and what its keeper does to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, Self

from msgspec import Struct

from .contents import Stored
from .owners import OwnedSession, SignIn
from .store import SessionError
from .tracking import TrackedDict

# Why nothing of a session is saved any more.
ENDED = "it was ended, or its id was rotated, by another request"
ROTATED = "its id was rotated by another request, which has the new one"
FAILED = "the response is a server error"


class SessionClosed(SessionError):
    """The session can't be changed or saved any more: the message says why."""

    @classmethod
    def by(cls, what: str) -> Self:
        """Something was changed after the response had started."""
        return cls(f"session: {what} was changed after the response had started, too late to keep")

    @classmethod
    def without_cookie(cls) -> Self:
        """A new id is needed, and the headers that would carry it are gone."""
        return cls(
            "session: a new id can't reach the browser once the response has started. "
            "Sign in, rotate or begin the session before."
        )


class Intents(Struct, frozen=True):
    """What one save is to do, beside writing what changed."""

    is_modified: bool
    rotates: bool
    ended: str | None
    """the key of the session that was flushed"""


class Keeper(Protocol):
    """What a session asks of the one who keeps it: the middleware's ``SessionManager``."""

    def now(self) -> float: ...

    async def save(self, session: SessionState) -> None: ...

    async def list_owned(
        self, session: SessionState, *, after: str, limit: int
    ) -> list[OwnedSession]: ...

    async def delete_owned(self, session: SessionState, *keys: str) -> int: ...

    async def delete_others(self, session: SessionState) -> int: ...


class SessionState(TrackedDict):
    """The data of a session, what the store holds of it, and what the request wants done to it.

    ``SessionManager`` and ``SessionMiddleware`` work on this; handlers see a ``Session``.
    """

    # What every request sets: a slot is set several times faster than an attribute.
    __slots__ = ("_headers", "_keeper", "_started", "_stored")
    # The rest has its default here, since most requests change none of it.
    _sign_in: SignIn | None = None
    _expiry: str | None = None
    _rotates = False
    _ended: str | None = None  # the key that flush() left behind, until it is deleted
    _cookie: Literal["set", "remove"] | None = None  # what the browser has to do to it
    _lost: str | None = None  # why nothing is saved any more
    _failure: str | None = None  # why the store could not save it when the response started

    def __init__(
        self,
        data: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        keeper: Keeper | None = None,
        stored: Stored | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        /,
        **values: Any,
    ) -> None:
        if data or values:
            dict.__init__(self, data, **values)
        self._keeper = keeper
        self._stored = stored
        self._headers = headers  # not the scope, which holds the session: they would be a cycle
        self._started: str | None = None  # by which message the response did: no cookie can follow
        self.accessed = False
        if stored is not None and (stored.sign_in is not None or stored.expiry is not None):
            self._sign_in, self._expiry = stored.sign_in, stored.expiry

    @property
    def _is_closed(self) -> bool:
        """Whether no change is accepted any more."""
        return self._started not in (None, "websocket.accept")

    @property
    def _has_new_sign_in(self) -> bool:
        return self._sign_in is not (None if self._stored is None else self._stored.sign_in)

    @property
    def _has_new_expiry(self) -> bool:
        return self._expiry != (None if self._stored is None else self._stored.expiry)

    def _start(self, message_type: str) -> None:
        """The response has started: what is sent of the session is final."""
        self._started = message_type

    def _lose(self, why: str) -> None:
        """Nothing is saved any more."""
        self._lost = why
        if why is not FAILED:
            self._stored = None

    def _fail(self, why: str) -> None:
        """The store could not save it when the response started."""
        self._failure = why

    def _take_intents(self) -> Intents:
        """What is to be saved now; what another task asks for meanwhile is saved the next time."""
        intents = Intents(self.modified, self._rotates, self._ended)
        self.modified = False
        if intents.rotates or intents.ended is not None:
            self._rotates, self._ended = False, None
        return intents

    def _put_back(self, intents: Intents) -> None:
        """The intents could not be carried out."""
        self.modified = self.modified or intents.is_modified
        self._rotates = self._rotates or intents.rotates
        self._ended = self._ended or intents.ended

    def _settle(self, intents: Intents) -> None:
        """The intents have come true."""
        if intents.ended is not None and self._stored is None:
            self._cookie = "remove"
        if self._touched and not self.modified:
            # Only dicts and lists can still change without its hearing of it.
            self._touched = {
                key for key in self._touched if isinstance(dict.get(self, key), (dict, list))
            }

    def _keep(self, stored: Stored) -> None:
        """The store holds this now."""
        self._stored = stored

    def _send_cookie(self) -> None:
        """The browser must learn the id, or its new lifetime."""
        self._cookie = "set"

    def _rebase(self, stored: Stored, data: Mapping[str, Any]) -> None:
        """Go on from what another request has saved, and keep one's own sign-in and expiry."""
        if not self._has_new_sign_in:
            self._sign_in = stored.sign_in
        if not self._has_new_expiry:
            self._expiry = stored.expiry
        self._stored = stored
        dict.clear(self)
        dict.update(self, data)

    def _change(self, key: str) -> None:
        if self._started is not None:
            self._require_open(repr(key))
        super()._change(key)

    def _require_open(self, what: str) -> None:
        """Note that ``what`` is about to change."""
        self.mark_accessed()
        if self._is_closed:
            raise SessionClosed.by(what)
        self.modified = True

    def _require_unstarted(self, what: str) -> None:
        """The same for what needs a new id, which a WebSocket can't send once it is accepted."""
        self.mark_accessed()
        if self._started is not None and not self._is_closed:
            raise SessionClosed.without_cookie()
        self._require_open(what)
