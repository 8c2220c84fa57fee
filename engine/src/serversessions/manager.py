"""Loading sessions from a store, and saving what a request did to them. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import isfinite
from random import SystemRandom
from typing import Any

import msgspec
from msgspec.structs import replace

from .events import log_event
from .expiry import Expiry
from .ids import hash_id, is_key, new_id
from .owners import OwnedData, OwnedSession, open_owner, seal_owner
from .session import Session, SessionClosed, UnusableSession
from .store import CorruptRecord, Record, SessionError, SessionStore, StoreUnavailable

logger = logging.getLogger(__name__)

_MAX_DEPTH = 100  # levels: JSON is read recursively, wherever the stack is by then
_MAX_TRIES = 1000  # each that fails means that another one succeeded
_PAUSE = 0.005  # seconds at most between them, once two go in step and one always comes second
_MAX_USER_AGENT = 400  # characters: what follows tells no more
_NO_TEXT = "the keys of a dict are strings"


class SessionDataError(SessionError, ValueError):
    """The session's data can't be saved: JSON can't carry it, or it is too large."""


class SessionManager:
    """The rules between sessions and their store, the same for every store.

    ``max_size`` limits one session's data, in bytes of JSON; ``clock`` gives Unix time in seconds.
    """

    def __init__(
        self,
        store: SessionStore,
        *,
        expiry: Expiry,
        max_size: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._expiry = expiry
        self._max_size = max_size
        self._clock = clock
        # A session that knows its manager by its class costs no more than a dict. What its
        # __init__ would set, `_open` and the middleware do.
        members = {"_manager": self, "__init__": dict.__init__}
        self.new_session: type[Session] = type("Session", (Session,), members)

    async def load(self, session_id: str) -> Session | None:
        """The session of an id. One that the store doesn't know is not adopted."""
        key = hash_id(session_id)
        try:
            record = await self._store.load(key)
        except StoreUnavailable as error:
            return UnusableSession(error)
        session = self._open(session_id, key, record)
        if session is None:
            log_event("session.refused")
        return session

    def is_saved(self, session: Session) -> bool:
        """Whether ``save`` has nothing to do, as after most requests."""
        if session.modified or session._touched:
            return False
        record = session._record
        return record is None or self._renewed(record, self._clock()) == record.expires

    async def save(self, session: Session, user_agent: str | None = None) -> None:
        """Make all intents of a request come true, in one commit.

        ``user_agent`` is noted with a new owner.

        Raises:
            SessionClosed: a new id is needed, and the response with its cookie has started.
            SessionDataError: the data can't be saved. The stored record stays as it was.
            StoreUnavailable: the store can't do it.
        """
        if session._lost:
            return
        if session._has_new_owner:
            session._signed_in = self._clock()
            session._user_agent = user_agent and user_agent[:_MAX_USER_AGENT]
        was_modified, session.modified = session.modified, False
        try:
            if session._record is not None:
                await self._update(session, was_modified)
            elif dict.__len__(session) or session._owner is not None:
                await self._create(session)
            elif session._ended is not None:
                session._cookie = "remove"
            if session._ended is not None:  # last: if anything fails, the old session is there
                await self._store.delete(session._ended)
                session._ended = None
                log_event("session.revoked", count=1)
        except BaseException:
            session.modified = session.modified or was_modified
            raise
        session._rotate = False
        if session._touched and not session.modified:  # else another task changed it meanwhile
            # Only dicts and lists can still change without its hearing of it.
            session._touched = {
                key for key in session._touched if isinstance(dict.get(session, key), (dict, list))
            }

    def find_unsaved(self, session: Session) -> str:
        """The names of the changes that were never saved; "" if there are none."""
        if not (session.modified or session._touched) or session._lost:
            return ""
        removed, changed = _changes(session)
        names = [repr(key) for key in (*removed, *changed)]
        names += ["owner"] * session._has_new_owner
        names += ["rotate_id()"] * session._rotate + ["flush()"] * (session._ended is not None)
        return ", ".join(names)

    def max_age(self, session: Session) -> int | None:
        """The cookie's lifetime in seconds; None for as long as the browser runs."""
        assert session._record is not None
        return self._expiry.max_age(session._record.expires, self._clock())

    async def list_owned(
        self, session: Session, *, after: str = "", limit: int = 100
    ) -> list[OwnedSession]:
        """See ``Session.list_owned``."""
        if session._owner_hash is None:
            return []
        found = await self._store.list_owned(session._owner_hash, after=after, limit=limit)
        return [self._describe(session, key, record) for key, record in found]

    async def delete_owned(self, session: Session, *keys: str) -> int:
        """See ``Session.delete_owned``."""
        others = [key for key in keys if is_key(key) and key != session._key]
        if session._owner_hash is None or not others:
            return 0
        return _revoked(await self._store.delete(*others, owner=session._owner_hash))

    async def delete_others(self, session: Session) -> int:
        """See ``Session.delete_others``."""
        if session._owner_hash is None:
            return 0
        deleted = await self._store.delete_owned(session._owner_hash, except_key=session._key)
        return _revoked(deleted)

    def _describe(self, session: Session, key: str, record: Record) -> OwnedSession:
        try:
            content = _decode(record.data)
        except (ValueError, RecursionError):
            content = {}
        known = content if isinstance(content, OwnedData) else None
        signed_in = known.signed_in if known else record.created
        return OwnedSession(
            key=key,
            is_current=key == session._key,
            signed_in_at=_utc(signed_in),
            last_seen_at=_utc(
                max(signed_in, self._expiry.last_use(record.created, record.expires))
            ),
            user_agent=known.user_agent if known else None,
        )

    def _open(self, session_id: str, key: str, record: Record | None) -> Session | None:
        """The session that a record holds, unless it is over or damaged."""
        if record is None or self._expiry.is_over(record.created, self._clock()):
            return None
        try:
            content = _decode(record.data)
            if isinstance(content, OwnedData):
                session = self.new_session(content.data)
                session._owner_hash = record.owner or ""
                session._owner = open_owner(content.sealed_owner, session_id, session._owner_hash)
                session._signed_in = content.signed_in
                session._user_agent = content.user_agent
            elif record.owner is None:
                session = self.new_session(content)
            else:
                raise CorruptRecord("it has an owner, and its data has none")
        except (ValueError, RecursionError, CorruptRecord) as error:
            logger.warning("Ignored a session whose data is damaged: %s", error)
            return None
        session._id, session._key, session._record = session_id, key, record
        return session

    async def _create(self, session: Session) -> None:
        self._require_unsent_cookie(session)
        _require_json(session)
        now = self._clock()
        expires = self._expiry.limit(now, now)
        if expires <= now:
            logger.warning("Saved no session: the date that `expiry` names is over")
            return
        session_id = new_id()
        key = hash_id(session_id)
        data = self._encode(session, session_id)
        record = Record(data, now, expires, 1, session._owner_hash)
        # No id is ever taken, but a store whose answer was lost may have tried twice.
        if await self._store.create(key, record) or await self._store.load(key) == record:
            self._has_saved(session, session_id, key, record)
            log_event("session.created")
            return
        raise SessionError("the store has a record under an id that was never given out")

    async def _update(self, session: Session, was_modified: bool) -> None:
        """Compare and swap. On a conflict, apply the request's own changes to the newer record."""
        if session._rotate:
            self._require_unsent_cookie(session)
        for tried in range(_MAX_TRIES):
            before, old_id, key = session._record, session._id, session._key
            if before is None or old_id is None or key is None:
                return
            session_id = old_id
            now, move_to = self._clock(), None
            if session._rotate:
                session_id = new_id()
                move_to = hash_id(session_id)
            data = before.data
            if session._touched or move_to is not None or session._has_new_owner:
                data = self._encode(session, session_id)
            if data != before.data or was_modified:
                _require_json(session)
            if move_to is None and data == before.data:
                await self._renew(session, session_id, key, before, now)
                return
            expires = self._renewed(before, now)
            version = before.version + 1
            after = Record(data, before.created, expires, version, session._owner_hash)
            is_saved = await self._store.update(key, after, move_to=move_to)
            if not is_saved:
                if tried:
                    await asyncio.sleep(SystemRandom().uniform(0, _PAUSE))
                latest = await self._store.load(move_to or key)
                # One whose answer was lost was tried twice, and came too late after itself.
                is_saved = latest == after
            if is_saved:
                self._has_saved(session, session_id, move_to or key, after)
                if move_to is not None:
                    log_event("session.rotated")
                return
            if move_to is not None:
                latest = await self._store.load(key)
            self._rebase(session, self._open(old_id, key, latest))
        raise StoreUnavailable(f"{_MAX_TRIES} others saved the session first, one after another")

    async def _renew(
        self, session: Session, session_id: str, key: str, record: Record, now: float
    ) -> None:
        """Put off the expiry. A store that can't do that now will be asked again."""
        expires = self._renewed(record, now)
        if expires == record.expires:
            return
        try:
            if await self._store.touch(key, expires):
                self._has_saved(session, session_id, key, replace(record, expires=expires))
        except StoreUnavailable as error:
            logger.warning("Could not renew a session: %s", error)

    def _renewed(self, record: Record, now: float) -> float:
        return self._expiry.renewed(record.created, record.expires, now)

    def _has_saved(self, session: Session, session_id: str, key: str, record: Record) -> None:
        """Note what the store now holds, and whether the browser must hear of it."""
        before, session._record = session._record, record
        if before is None or session_id != session._id:
            session._id, session._key = session_id, key
            session._cookie = "set"
        elif self._expiry.always or (
            before.expires != record.expires and self.max_age(session) is not None
        ):
            session._cookie = "set"

    def _rebase(self, session: Session, latest: Session | None) -> None:
        """Put the top-level changes of this request on top of what another has saved meanwhile."""
        assert session._record is not None
        if latest is None:  # signed out, rotated or expired meanwhile: it stays dead
            session._id = session._key = session._record = None
            session._lost = True
            return
        removed, changed = _changes(session)
        own = dict(session)
        dict.clear(session)
        for key, value in dict.items(latest):
            # The request may hold on to what it took out, and change it yet.
            is_same = key in own and _try_dump(own[key]) == _dump(value)
            dict.__setitem__(session, key, own[key] if is_same else value)
        for key in removed:
            dict.pop(session, key, None)
        dict.update(session, changed)
        if not session._has_new_owner:
            session._owner, session._owner_hash = latest._owner, latest._owner_hash
            session._signed_in, session._user_agent = latest._signed_in, latest._user_agent
        session._record = latest._record

    def _require_unsent_cookie(self, session: Session) -> None:
        if session._started is not None:
            session._rotate = False
            raise SessionClosed(
                "session: a new id can't reach the browser once the response has started. "
                "Begin or rotate the session before."
            )

    def _encode(self, session: Session, session_id: str) -> bytes:
        """The data as JSON, or an error that names the key at fault."""
        try:
            data = _dump(_content(session, session_id))
        except (TypeError, ValueError, RecursionError):
            for key, value in dict.items(session):
                try:
                    _dump({key: value})
                except (TypeError, ValueError, RecursionError) as error:
                    raise SessionDataError(
                        f"session[{key!r}] can't be saved as JSON: {error}"
                    ) from error
            raise
        if len(data) > self._max_size:
            largest = max(dict.items(session), key=lambda item: len(_dump(item[1])))[0]
            raise SessionDataError(
                f"the session has {len(data)} bytes, more than `max_size` ({self._max_size}); "
                f"the largest part is session[{largest!r}]"
            )
        return data


def _content(session: Session, session_id: str) -> dict[str, Any] | OwnedData:
    """What the store keeps under an id."""
    if session._owner is None:
        return session
    assert session._signed_in is not None
    sealed = seal_owner(session._owner, session_id)
    return OwnedData(session, sealed, session._signed_in, session._user_agent)


def _revoked(count: int) -> int:
    if count:
        log_event("session.revoked", count=count)
    return count


def _utc(time: float) -> datetime:
    return datetime.fromtimestamp(time, UTC)


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
_decode = msgspec.json.Decoder(dict[str, Any] | OwnedData).decode


def _dump(value: object) -> bytes:
    """JSON, copied out of the encoder's larger buffer, since a store may keep it."""
    return b"%b" % _encode(value)


def _try_dump(value: object) -> bytes | None:
    try:
        return _dump(value)
    except (TypeError, ValueError, RecursionError):
        return None


def _changes(session: Session) -> tuple[list[str], dict[str, Any]]:
    """The request's own top-level changes: keys removed, and keys set with their values."""
    before: dict[str, Any] = {}
    if session._record is not None and session._id is not None:
        stored = session._record.data
        if stored == _try_dump(_content(session, session._id)):
            return [], {}
        content = _decode(stored)
        before = content.data if isinstance(content, OwnedData) else content
    removed = [
        key
        for key in session._touched or ()
        if key in before and not dict.__contains__(session, key)
    ]
    changed = {
        key: dict.__getitem__(session, key)
        for key in session._touched or ()
        if dict.__contains__(session, key)
    }
    return removed, {
        key: value
        for key, value in changed.items()
        if key not in before or _try_dump(value) != _dump(before[key])
    }


def _require_json(session: Session) -> None:
    """Refuse what would not come back as it was put: the encoder takes more than JSON has."""
    for key in session._touched or ():
        fault = _find_fault(dict.get(session, key))
        if not isinstance(key, str) and dict.__contains__(session, key):
            fault = _NO_TEXT
        if fault:
            raise SessionDataError(f"session[{key!r}] can't be saved as JSON: {fault}")


def _find_fault(value: object, depth: int = 1) -> str:
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
    return next(filter(None, (_find_fault(part, depth + 1) for part in value)), "")
