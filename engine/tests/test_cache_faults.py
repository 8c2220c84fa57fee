"""Faults of a cache alone: it is full, or has forgotten its scripts."""

from __future__ import annotations

from serversessions import Session

from .faults import Valkey, assert_unavailable, site_at
from .test_sessions import puts


async def test_a_full_cache_answers_reads_and_refuses_writes_with_503(
    valkey_server: Valkey,
) -> None:
    async with site_at(valkey_server.url) as site, site.visitor() as visitor:
        await visitor.does(puts(a=1))
        await valkey_server.tell("CONFIG SET maxmemory-policy noeviction")
        await valkey_server.tell("CONFIG SET maxmemory 1")
        for act in (puts(a=2), Session.rotate_id):
            assert_unavailable(await visitor.does(act))
            assert await visitor.sees() == {"a": 1}
        async with site.visitor() as stranger:
            assert_unavailable(await stranger.does(puts(a=1)))
        await valkey_server.tell("CONFIG SET maxmemory 0")
        await visitor.does(puts(b=2))
        assert await visitor.sees() == {"a": 1, "b": 2}


async def test_who_logs_out_of_a_full_cache_is_logged_out(valkey_server: Valkey) -> None:
    async with site_at(valkey_server.url) as site, site.visitor() as visitor:
        await visitor.does(puts(a=1))
        old = visitor.id
        await valkey_server.tell("CONFIG SET maxmemory 1")
        assert (await visitor.does(Session.flush)).status_code == 200
        async with site.visitor(old) as attacker:
            assert await attacker.sees() == {}


async def test_a_cache_that_forgot_its_scripts_is_given_them_again(valkey_server: Valkey) -> None:
    async with site_at(valkey_server.url) as site, site.visitor() as visitor:
        await visitor.does(puts(a=1))
        for value, act in enumerate([puts(a=0), Session.rotate_id, Session.flush]):
            await valkey_server.tell("SCRIPT FLUSH")
            assert (await visitor.does(act)).status_code == 200, value
        assert visitor.id is None
