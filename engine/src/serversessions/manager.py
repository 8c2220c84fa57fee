"""Loading sessions from a store, and saving what a request did to them. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import SystemRandom
from typing import Any

from msgspec.structs import replace

from .changes import merge, name_changes
from .contents import Packed, Stored, encode, pack, peek, require_json, unpack
from .events import log_event
from .expiry import Expiry, with_own
from .ids import hash_id, is_key, new_id
from .owners import OwnedSession, SignIn, hash_owner
from .state import ENDED, ROTATED, Intents, SessionClosed, SessionState
from .store import CorruptRecord, Record, SessionError, SessionStore, StoreUnavailable

logger = logging.getLogger(__name__)

_MAX_TRIES = 1000  # each that fails means that another one succeeded
_PAUSE = 0.005  # seconds at most between them, once two go in step and one always comes second
_MAX_CANDIDATES = 4  # ids of one request that are looked up
_MARK = 60.0  # seconds for which a rotated id is known as such


# The data of a session, what the store holds of it, and why nothing of it will be saved.
Loaded = tuple[dict[str, Any], Stored | None, str | None]

NOTHING: Loaded = ({}, None, None)  # where there is no id


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

    def now(self) -> float:
        """Unix time in seconds."""
        return self._clock()

    async def load(self, ids: Sequence[str]) -> Loaded:
        """The session of the first of these ids that opens one. What is unknown is not adopted.

        At most four are tried: no client can make this many loads.

        Raises:
            StoreUnavailable: the store can't tell.
        """
        lost = None
        for session_id in _candidates(ids) if len(ids) > 1 else ids:
            key = hash_id(session_id)
            record = await self._store.load(key)
            if record is not None and record.version == 0:
                lost = ROTATED
            elif record is not None and (found := self._open(session_id, key, record)):
                return found
        if lost is None:
            log_event("session.refused")
        return {}, None, lost

    async def is_live(self, session: SessionState) -> bool:
        """Whether a session that was loaded has not been ended or rotated since, nor expired.

        Raises:
            StoreUnavailable: the store can't tell.
        """
        stored = session._stored
        if stored is None:  # the request has ended it itself
            return True
        record = await self._store.load(stored.key)
        if record is None or record.version == 0:
            return False
        return self._open(stored.id, stored.key, record) is not None

    def is_saved(self, session: SessionState) -> bool:
        """Whether ``save`` has nothing to do, as after most requests."""
        if session.modified or session._touched:
            return False
        stored = session._stored
        return stored is None or self._renewed(stored, self._clock()) == stored.record.expires

    async def save(self, session: SessionState) -> None:
        """Make all intents of a request come true, in one commit.

        What another request has ended stays ended: ``session._lost`` says so then.

        Raises:
            SessionClosed: a new id is needed, and the response with its cookie has started.
            SessionDataError: the data can't be saved. The stored record stays as it was.
            StoreUnavailable: the store can't do it.
        """
        if session._lost is not None:
            self._log_loss(session, session._lost)
            return
        intents = session._take_intents()
        try:
            if session._stored is not None:
                await self._update(session, intents)
            elif dict.__len__(session) or session._sign_in is not None:
                await self._create(session)
            if intents.ended is not None:  # last: if anything fails, the old session is there
                await self._store.delete(intents.ended)
                log_event("session.revoked", count=1)
        except BaseException:
            session._put_back(intents)
            raise
        session._settle(intents)

    def find_unsaved(self, session: SessionState) -> str:
        """The names of the changes that were never saved; "" if there are none."""
        if not (session.modified or session._touched) or session._lost is not None:
            return ""
        return name_changes(session)

    def max_age(self, stored: Stored) -> int | None:
        """The cookie's lifetime in seconds; None for as long as the browser runs."""
        return self._rules(stored.expiry).max_age(stored.record.expires, self._clock())

    async def list_owned(
        self, session: SessionState, *, after: str = "", limit: int = 100
    ) -> list[OwnedSession]:
        """See ``Session.list_owned``."""
        if session._sign_in is None:
            return []
        owner = hash_owner(session._sign_in.owner)
        found = await self._store.list_owned(owner, after=after, limit=limit)
        return [self._describe(session, key, record) for key, record in found]

    async def delete_owned(self, session: SessionState, *keys: str) -> int:
        """See ``Session.delete_owned``."""
        others = [key for key in keys if is_key(key) and key != _key_of(session)]
        if session._sign_in is None or not others:
            return 0
        owner = hash_owner(session._sign_in.owner)
        return _revoked(await self._store.delete(*others, owner=owner))

    async def delete_others(self, session: SessionState) -> int:
        """See ``Session.delete_others``."""
        if session._sign_in is None:
            return 0
        owner = hash_owner(session._sign_in.owner)
        return _revoked(await self._store.delete_owned(owner, except_key=_key_of(session)))

    def _describe(self, session: SessionState, key: str, record: Record) -> OwnedSession:
        try:
            packed = peek(record)
        except CorruptRecord:
            packed = Packed({})
        began = record.created if packed.signed_in is None else packed.signed_in
        last_use = self._rules(packed.expiry).last_use(began, record.expires)
        return OwnedSession(
            key=key,
            is_current=key == _key_of(session),
            signed_in_at=datetime.fromtimestamp(began, UTC),
            last_seen_at=datetime.fromtimestamp(max(began, last_use), UTC),
            user_agent=packed.user_agent,
        )

    def _open(self, session_id: str, key: str, record: Record) -> Loaded | None:
        """The session that a record holds, unless it is over or damaged."""
        try:
            data, sign_in, expiry = unpack(record, session_id)
            rules = self._expiry if expiry is None else with_own(self._expiry, expiry)
        except (CorruptRecord, ValueError) as error:
            logger.warning("Ignored a session whose data is damaged: %s", error)
            return None
        stored = Stored(session_id, key, record, sign_in, expiry)
        return None if rules.is_over(stored.began, self._clock()) else (data, stored, None)

    async def _create(self, session: SessionState) -> None:
        if session._started is not None:
            raise SessionClosed.without_cookie()
        require_json(session, session._touched or ())
        session_id, sign_in, expiry = new_id(), session._sign_in, session._expiry
        now = self._clock()
        expires = self._rules(expiry).limit(now if sign_in is None else sign_in.at, now)
        if expires <= now:
            logger.warning("Saved no session: the date that `expiry` names is over")
            return
        data = encode(pack(session, sign_in, expiry, session_id), self._max_size)
        record = Record(data, now, expires, 1, _hash(sign_in))
        stored = Stored(session_id, hash_id(session_id), record, sign_in, expiry)
        # No id is ever taken, but a store whose answer was lost may have tried twice.
        is_saved = await self._store.create(stored.key, record)
        if is_saved or await self._store.load(stored.key) == record:
            self._has_saved(session, stored)
            log_event("session.created")
            return
        raise SessionError("the store has a record under an id that was never given out")

    async def _update(self, session: SessionState, intents: Intents) -> None:
        """Compare and swap. On a conflict, apply the request's own changes to the newer record."""
        for tried in range(_MAX_TRIES):
            before = session._stored
            if before is None:
                return
            now = self._clock()
            after = self._next(session, before, intents, now)
            if after is None:
                await self._renew(session, before, now)
                return
            if intents.rotates:
                # Its data tells it from the mark of another who tries the same, and opens nothing.
                mark = Record(after.key[:32].encode(), now, now + _MARK, version=0)
                is_saved = await self._store.update(
                    before.key, after.record, move_to=after.key, leave=mark
                )
            else:
                is_saved = await self._store.update(after.key, after.record)
            if not is_saved:
                if tried:
                    await asyncio.sleep(SystemRandom().uniform(0, _PAUSE))
                latest = await self._store.load(after.key)
                # One whose answer was lost was tried twice, and came too late after itself.
                is_saved = latest == after.record
            if is_saved:
                self._has_saved(session, after)
                if intents.rotates:
                    log_event("session.rotated")
                return
            if intents.rotates:
                latest = await self._store.load(before.key)
            self._rebase(session, before, latest)
        raise StoreUnavailable(f"{_MAX_TRIES} others saved the session first, one after another")

    def _next(
        self, session: SessionState, before: Stored, intents: Intents, now: float
    ) -> Stored | None:
        """What is to be stored instead; None if it would be the same."""
        sign_in, expiry, record = session._sign_in, session._expiry, before.record
        session_id, key, data = before.id, before.key, before.record.data
        if intents.rotates:
            session_id = new_id()
            key = hash_id(session_id)
        if session._touched or intents.rotates or expiry != before.expiry:
            data = encode(pack(session, sign_in, expiry, session_id), self._max_size)
        if data != record.data or intents.is_modified:
            require_json(session, session._touched or ())
        if data == record.data and not intents.rotates:
            return None
        if sign_in is before.sign_in and expiry == before.expiry:
            expires = self._renewed(before, now)
        else:
            began = record.created if sign_in is None else sign_in.at
            expires = self._rules(expiry).limit(began, now)
        record = Record(data, record.created, expires, record.version + 1, _hash(sign_in))
        return Stored(session_id, key, record, sign_in, expiry)

    async def _renew(self, session: SessionState, stored: Stored, now: float) -> None:
        """Put off the expiry. A store that can't do that now will be asked again."""
        expires = self._renewed(stored, now)
        if expires == stored.record.expires:
            return
        try:
            if await self._store.touch(stored.key, expires):
                record = replace(stored.record, expires=expires)
                self._has_saved(session, replace(stored, record=record))
        except StoreUnavailable as error:
            logger.warning("Could not renew a session: %s", error)

    def _rules(self, expiry: str | None) -> Expiry:
        """The configuration's, or those of a session that has an expiry of its own."""
        return self._expiry if expiry is None else with_own(self._expiry, expiry)

    def _renewed(self, stored: Stored, now: float) -> float:
        rules = self._expiry if stored.expiry is None else self._rules(stored.expiry)
        return rules.renewed(stored.began, stored.record.expires, now)

    def _has_saved(self, session: SessionState, stored: Stored) -> None:
        """Note what the store now holds, and whether the browser must hear of it."""
        before = session._stored
        session._keep(stored)
        has_new_lifetime = before is not None and (
            stored.expiry != before.expiry
            or (stored.record.expires != before.record.expires and self.max_age(stored) is not None)
        )
        if before is None or stored.id != before.id or has_new_lifetime:
            session._send_cookie()

    def _rebase(self, session: SessionState, before: Stored, latest: Record | None) -> None:
        """Put the top-level changes of this request on top of what another has saved meanwhile."""
        found = stored = None
        if latest is not None and latest.version > 0:
            found = self._open(before.id, before.key, latest)
        if found is not None:
            data, stored, _ = found
        if stored is None:
            self._log_loss(session, ENDED)
            session._lose(ENDED)
            return
        session._rebase(stored, merge(session, data))

    def _log_loss(self, session: SessionState, why: str) -> None:
        """Say which changes are lost though the request succeeds."""
        if names := name_changes(session):
            logger.warning("Lost what a request changed in its session, since %s: %s", why, names)


def _candidates(ids: Sequence[str]) -> Sequence[str]:
    """The first few different ones."""
    return list(dict.fromkeys(ids))[:_MAX_CANDIDATES]


def _hash(sign_in: SignIn | None) -> str | None:
    """What the store sees of the owner."""
    return None if sign_in is None else hash_owner(sign_in.owner)


def _key_of(session: SessionState) -> str | None:
    return None if session._stored is None else session._stored.key


def _revoked(count: int) -> int:
    if count:
        log_event("session.revoked", count=count)
    return count
