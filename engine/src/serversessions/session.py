"""``request.session``: the dict that handlers see."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Self

from starlette.requests import HTTPConnection

from .expiry import DURATION_RULE, EXPIRY_RULE, format_expiry, parse_duration, parse_expiry
from .owners import OwnedSession, SignIn, UserId, check_owner, hash_owner
from .state import ROTATED, Keeper, SessionClosed, SessionState

_MAX_USER_AGENT = 400  # characters: what follows tells no more


class Session(SessionState):
    """A dict of JSON values that is kept on the server from one request to the next.

    Changes, ``owner``, ``rotate_id``, ``set_expiry`` and ``flush`` are intents: they take effect
    together when the response starts, unless it is a server error (5xx). Nested changes count too.

    In a test of a handler, ``Session(a=1)`` serves as a session that nobody keeps.
    """

    __slots__ = ()

    @classmethod
    def of(cls, connection: HTTPConnection) -> Self:
        """``request.session``, with its type."""
        session = connection.session
        assert isinstance(session, cls), "SessionMiddleware must be installed"
        return session

    @property
    def owner(self) -> UserId | None:
        """The user to whom the session belongs, if any, of the type that was set.

        To set it is the sign-in: ``session.owner = user.id``. The id changes, so that one which
        somebody planted or saw before is worthless (ASVS 5, 7.2.4), and ``signed_in_at`` is now.
        The data stays, unless it was another user's, which is forgotten. The same owner again is a
        fresh sign-in, as after a password was asked for once more. None signs out, as ``flush()``.

        Raises:
            TypeError: it is neither a str, nor an int, nor a UUID, nor None.
            ValueError: it has more than 255 characters, or is not Unicode.
            SessionClosed: the response, or the WebSocket, has started, and took no new id along.
        """
        self.mark_accessed()
        return None if self._sign_in is None else self._sign_in.owner

    @owner.setter
    def owner(self, user_id: UserId | None) -> None:
        if user_id is None:
            if self._sign_in is not None:
                self.flush()
            return
        owner = check_owner(user_id)
        self._require_unstarted("owner")
        if self._sign_in is not None and hash_owner(self._sign_in.owner) != hash_owner(owner):
            self.flush()
        self._sign_in = SignIn(owner, self._now(), self._read_user_agent())
        self._rotates = True

    @property
    def signed_in_at(self) -> datetime | None:
        """When the owner signed in (UTC); None without an owner."""
        self.mark_accessed()
        return None if self._sign_in is None else datetime.fromtimestamp(self._sign_in.at, UTC)

    def signed_in_within(self, time: timedelta | str) -> bool:
        """Whether the owner signed in no longer ago than ``time``, such as "10m".

        For pages that want the password again before something that matters (ASVS 5, 7.5.1).

        Raises:
            ValueError: ``time`` is no duration.
        """
        self.mark_accessed()
        try:
            seconds = parse_duration(time).total_seconds()
        except ValueError:
            raise ValueError(f"found {time!r}; allowed: {DURATION_RULE}") from None
        return self._sign_in is not None and self._now() - self._sign_in.at <= seconds

    def set_expiry(self, expiry: timedelta | datetime | str | None) -> None:
        """Give this session an expiry of its own: "remember me".

        "session" (until the browser closes), a time of inactivity ("30d", or a timedelta) or a
        date with an offset; None for that of the configuration. ``max_lifetime`` stays the limit.

        Raises:
            ValueError: it is none of these, or a date in the past.
        """
        text = None
        if expiry is not None:
            try:
                after = parse_expiry(expiry)
            except ValueError:
                raise ValueError(f"found {expiry!r}; allowed: {EXPIRY_RULE}, or None") from None
            if isinstance(after, datetime) and after.timestamp() <= self._now():
                raise ValueError(f"found {expiry!r}, which is over; allowed: a time to come")
            text = format_expiry(after)
        self._require_open("set_expiry()")
        self._expiry = text

    def rotate_id(self) -> None:
        """Go on under a new id; the old one dies when the new one is saved, and not before.

        Call it when privileges change (OWASP session management cheat sheet). A sign-in does it by
        itself: see ``owner``.

        Raises:
            SessionClosed: the response, or the WebSocket, has started, and took no new id along.
        """
        self._require_unstarted("rotate_id()")
        self._rotates = True

    def flush(self) -> None:
        """End this session and forget its data and owner (ASVS 5, 7.4.1).

        What is written afterwards begins another session, with another id.

        Raises:
            SessionClosed: the response has started.
        """
        self._require_open("flush()")
        dict.clear(self)
        if self._stored is not None:
            self._ended = self._ended or self._stored.key
        self._touched = self._stored = self._sign_in = self._expiry = None
        self._rotates = False
        if self._lost is not ROTATED:  # else the browser has a better cookie than we would send
            self._lost = None

    def clear(self) -> None:
        """As ``flush``, for code that knows only Starlette's sessions."""
        self.flush()

    async def save(self) -> None:
        """Save now what was changed: for a WebSocket, after it was accepted.

        Raises:
            SessionClosed: the session was ended meanwhile, and is empty now; or it is new, and the
                cookie with its id can't be sent any more.
            SessionDataError: the data can't be carried by JSON, or is too large.
            StoreUnavailable: the store can't save it.
        """
        await self._require_keeper().save(self)
        if self._lost is not None:
            dict.clear(self)
            self._touched = self._sign_in = self._expiry = None
            self.modified = False
            raise SessionClosed(f"session: nothing was saved, since {self._lost}")

    async def list_owned(self, *, after: str = "", limit: int = 100) -> list[OwnedSession]:
        """The sessions of this one's owner, by key: the first ``limit`` past the key ``after``.

        This one is among them if it has been saved. Without an owner the list is empty.

        Raises:
            StoreUnavailable: the store can't tell.
        """
        self.mark_accessed()
        return await self._require_keeper().list_owned(self, after=after, limit=limit)

    async def delete_owned(self, *keys: str) -> int:
        """Sign out other sessions of this one's owner at once, by their keys (ASVS 5, 7.4.4).

        Keys of sessions that belong to someone else do nothing. To end this one, ``flush()``.

        Returns:
            The number of sessions that were ended.

        Raises:
            StoreUnavailable: the store can't do it now.
        """
        self.mark_accessed()
        return await self._require_keeper().delete_owned(self, *keys)

    async def delete_others(self) -> int:
        """Sign out this one's owner everywhere else, at once (ASVS 5, 7.4.3).

        Returns:
            The number of sessions that were ended.

        Raises:
            StoreUnavailable: the store can't do it now.
        """
        self.mark_accessed()
        return await self._require_keeper().delete_others(self)

    @property
    def is_new(self) -> bool:
        """Whether the store holds nothing of this session yet."""
        self.mark_accessed()
        return self._stored is None

    @property
    def created_at(self) -> datetime | None:
        """When it began (UTC); None if it is new."""
        self.mark_accessed()
        stored = self._stored
        return None if stored is None else datetime.fromtimestamp(stored.record.created, UTC)

    @property
    def expires_at(self) -> datetime | None:
        """When it ends unless it is used before (UTC); None if it is new."""
        self.mark_accessed()
        stored = self._stored
        return None if stored is None else datetime.fromtimestamp(stored.record.expires, UTC)

    def _require_keeper(self) -> Keeper:
        assert self._keeper is not None, "this session was not made by SessionMiddleware"
        return self._keeper

    def _now(self) -> float:
        return time.time() if self._keeper is None else self._keeper.now()

    def _read_user_agent(self) -> str | None:
        """What the browser calls itself."""
        for name, value in self._headers:
            if name == b"user-agent":
                return value.decode("latin-1")[:_MAX_USER_AGENT]
        return None
