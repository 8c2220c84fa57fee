"""What JSON can carry comes back exactly from every store; what it can't is refused by its key."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serversessions import Record, Session, SessionDataError, SessionStore
from serversessions.testing import Clock

from .test_sessions import HOUR, Site, Visitor, puts

TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # all of Unicode but surrogates
NUMBERS = (
    st.integers()
    | st.integers(-(10**4000), 10**4000)
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXT, values, max_size=4),
    max_leaves=10,
)


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def circular() -> Any:
    value: list[Any] = []
    value.append({"again": value})
    return value


REFUSED = {
    "bytes": b"bytes",
    "set": {1, 2},
    "object": object(),
    "a date": datetime(2026, 1, 1, tzinfo=UTC),
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf, nested": [{"deep": -float("inf")}],
    "a lone surrogate": "\ud800",
    "a lone surrogate, nested": [["\udfff"]],
    "a lone surrogate as a key": {"\ud800": 1},
    "an int as a key": {1: "a"},
    "an int as a key, nested": [{"deep": ({2: "a"},)}],
    "an int beside the text that it would become": {1: "a", "1": "b"},
    "a float as a key": {1.5: "a"},
    "a bool as a key": {True: "a"},
    "None as a key": {None: "a"},
    "a tuple as a key": {(1, 2): "a"},
    "a circle": circular(),
    "more digits than are read back": 10**5000,
    "nesting that is too deep": nested(100_000),
}


@pytest.fixture
def site(store: SessionStore, clock: Clock) -> Site:
    return Site(store, clock)


async def stored(store: SessionStore, visitor: Visitor) -> Record | None:
    assert visitor.id is not None
    return await store.load(hashlib.sha256(visitor.id.encode()).hexdigest())


# One store serves all examples: each begins a session of its own.
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.dictionaries(TEXT, VALUES, min_size=1, max_size=4))
async def test_what_json_can_carry_comes_back_exactly(site: Site, data: dict[str, Any]) -> None:
    seen: list[str] = []
    async with site.visitor() as visitor:
        await visitor.does(lambda session: session.update(data))
        await visitor.does(lambda session: seen.append(repr(dict(session))))
    assert seen == [repr(data)]  # repr tells 1 from 1.0 and True, 0.0 from -0.0, and the order


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, ("a", ())), [1, ["a", []]]),
        ({"at": (1, 2)}, {"at": [1, 2]}),
        (Colour.RED, "red"),
        ({Colour.RED: Size.LARGE}, {"red": 3}),
    ],
)
async def test_tuples_and_subclasses_come_back_as_what_json_has(
    site: Site, value: Any, plain: Any
) -> None:
    seen: list[str] = []
    async with site.visitor() as visitor:
        await visitor.does(puts(value=value))
        await visitor.does(lambda session: seen.append(repr(session["value"])))
    assert seen == [repr(plain)]


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
async def test_a_value_that_json_cannot_carry_is_refused_by_its_key(
    site: Site, store: SessionStore, value: Any
) -> None:
    async with site.visitor() as visitor:
        await visitor.does(puts(a=1))
        before = await stored(store, visitor)
        with pytest.raises(SessionDataError, match=r"session\['wrong'\]"):
            await visitor.does(puts(a=2, wrong=value))
        assert await stored(store, visitor) == before


@pytest.mark.parametrize("key", [1, 1.5, True, None, (1, 2), b"key", "\ud800"], ids=ascii)
async def test_a_key_that_is_no_text_is_refused_by_name(
    site: Site, store: SessionStore, key: Any
) -> None:
    def put(session: Session) -> None:
        session[key] = "value"

    async with site.visitor() as visitor:
        await visitor.does(puts(a=1))
        before = await stored(store, visitor)
        with pytest.raises(SessionDataError) as refusal:
            await visitor.does(put)
        assert f"session[{key!r}]" in str(refusal.value)
        assert await stored(store, visitor) == before


async def test_a_refused_first_write_begins_no_session(site: Site) -> None:
    async with site.visitor() as visitor:
        with pytest.raises(SessionDataError, match="'wrong'"):
            await visitor.does(puts(wrong=object()))
        assert visitor.id is None
        assert "create" not in site.calls


@pytest.mark.parametrize(
    "owner", ["\ud800", "x" * 65_535, "ü" * 40_000], ids=["surrogate", "x", "ü"]
)
async def test_an_owner_that_can_not_be_kept_is_refused_at_once(site: Site, owner: str) -> None:
    def own(session: Session) -> None:
        with pytest.raises(ValueError, match="owner"):
            session.owner = owner

    async with site.visitor() as visitor:
        await visitor.does(puts(a=1))
        assert (await visitor.does(own)).status_code == 200
        assert await visitor.sees() == {"a": 1}


async def test_a_refused_save_that_was_mended_still_ends_the_session_it_flushed(
    site: Site, store: SessionStore
) -> None:
    async def flush_and_fail_at_first(session: Session) -> None:
        session.flush()
        session["wrong"] = object()
        with pytest.raises(SessionDataError):
            await session.save()
        del session["wrong"]

    async with site.visitor() as visitor, site.visitor() as attacker:
        await visitor.does(puts(a=1))
        assert visitor.id is not None
        attacker.brings(visitor.id)
        await visitor.does(flush_and_fail_at_first)
        assert await attacker.sees() == {}
        assert visitor.id is None


@pytest.mark.parametrize("depth", [50, 400, 900])
async def test_nesting_that_was_not_refused_is_read_back_from_a_deeper_stack_too(
    site: Site, depth: int
) -> None:
    async def deeper(frames: int, visitor: Visitor) -> httpx2.Response:
        if frames:
            return await deeper(frames - 1, visitor)
        return await visitor.does(len)

    async with site.visitor() as visitor:
        await visitor.does(puts(a=1))
        with suppress(SessionDataError):
            await visitor.does(puts(b=nested(depth)))
        response = await deeper(150, visitor)  # as many more middlewares, say, since it was saved
        assert response.status_code == 200
        assert response.json() in (1, 2)


async def test_a_record_too_deep_to_be_read_is_no_session(
    site: Site, store: SessionStore, clock: Clock
) -> None:
    deep = json.dumps({"a": 1}).encode().replace(b"1", b"[" * 100_000 + b"]" * 100_000)
    session_id = "A" * 43
    key = hashlib.sha256(session_id.encode()).hexdigest()
    await store.create(key, Record(deep, clock(), clock() + HOUR))
    async with site.visitor(session_id) as visitor:
        assert await visitor.sees() == {}
