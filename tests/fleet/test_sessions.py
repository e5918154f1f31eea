"""Sessions in a fleet: all processes know where a cache is warm; the fleet's limits come first."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from aiollm import Limits
from aiollm.testing import FaultServer, chat
from tests.fleet.conftest import until


async def test_a_warm_target_is_asked_first_if_the_fleet_has_room_for_it(redis, members):
    async with FaultServer(chat("a")) as a, FaultServer(chat("b")) as b:
        url = redis.url
        one, two = (members(url, {"a": a, "b": b}) for _ in range(2))
        for reg in (one, two):
            reg.limit("b", Limits(max_concurrency=1))
            await reg._resources._member.open()
        await one.generate("b/m", "hi", session="s")
        kept = await one.generate("a/m,b/m", "hi", session="s")
        assert (str(kept.target), kept.attempts[0].preferred) == ("b/m", True)
        elsewhere = await two.generate("a/m,b/m", "hi", session="s")
        assert (str(elsewhere.target), elsewhere.attempts[0].preferred) == ("b/m", True)
        async with two.stream("b/m", "hold the only slot") as held:
            await anext(held)
            full = await one.generate("a/m,b/m", "hi", session="s")
            assert (str(full.target), full.attempts[0].preferred) == ("a/m", False)


async def test_a_session_follows_the_last_turn_of_any_process(redis, members):
    async with FaultServer(chat("a")) as a, FaultServer(chat("b")) as b:
        url = redis.url
        one, two = (members(url, {"a": a, "b": b}) for _ in range(2))
        await one.generate("a/m", "hi", session="s")
        await two.generate("b/m", "hi", session="s")
        third = await one.generate("a/m,b/m", "hi", session="s")
        assert (str(third.target), third.attempts[0].preferred) == ("b/m", True)
        other = await one.generate("a/m,b/m", "hi", session="other")
        assert (str(other.target), other.attempts[0].preferred) == ("a/m", False)
        own = await two.generate("a/m,b/m", "hi")
        assert (str(own.target), own.attempts[0].preferred) == ("a/m", False)


async def test_the_same_server_under_other_names_is_the_same_place(redis, members):
    async with FaultServer(chat("a")) as a, FaultServer(chat("b")) as b:
        url = redis.url
        one, two = members(url, {"a": a, "b": b}), members(url, {"x": a, "y": b})
        await one.generate("b/m", "hi", session="s")
        found = await two.generate("x/m&y/m", "hi", session="s")
        assert (str(found.target), found.attempts[0].preferred) == ("y/m", True)


async def test_four_places_are_remembered_and_no_name_of_a_session_or_provider(redis, members):
    servers = {name: FaultServer(chat(name)) for name in "abcdef"}
    async with AsyncExitStack() as stack:
        for server in servers.values():
            await stack.enter_async_context(server)
        reg = members(redis.url, servers)
        await redis.ask("FLUSHALL")
        for name in servers:
            await reg.generate(f"{name}/model-9", "hi", session="Mrs Miller")
        (key,) = await redis.ask("KEYS", "*}s")
        stored = await redis.ask("HGETALL", key)
        assert len(stored) == 4
        assert "Miller" not in str((key, stored))
        assert "secret-key" not in str(stored)
        assert 0 < await redis.ask("PTTL", key) <= 300_000


async def test_while_redis_is_away_a_process_goes_by_its_own_memory(own_redis, members):
    async with FaultServer(chat("a")) as a, FaultServer(chat("b")) as b:
        server = own_redis()
        reg = members(server.url, {"a": a, "b": b})
        await reg.generate("b/m", "hi", session="s")
        server.kill()
        await until(lambda: reg.fleet.state == "away")
        kept = await reg.generate("a/m,b/m", "hi", session="s")
        assert (str(kept.target), kept.attempts[0].preferred) == ("b/m", True)


@pytest.mark.parametrize("value", ["x", "nan:1", "-5:2", "9" * 30 + ":1"])
async def test_foreign_values_in_a_session_are_passed_over(redis, members, value):
    async with FaultServer(chat("a")) as a, FaultServer(chat("b")) as b:
        reg = members(redis.url, {"a": a, "b": b})
        await redis.ask("FLUSHALL")
        await reg.generate("b/m", "hi", session="s")
        (key,) = await redis.ask("KEYS", "*}s")
        (place,) = await redis.ask("HKEYS", key)
        await redis.ask("HSET", key, place, value, "else", value)
        answer = await reg.generate("b/m,a/m", "hi", session="s")
        assert str(answer.target) == "b/m"
