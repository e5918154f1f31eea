"""Sessions in a fleet: each process remembers its own, and the fleet's limits come first."""

from __future__ import annotations

from aiollm import Limits
from aiollm.testing import FaultServer, chat


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
        assert (str(elsewhere.target), elsewhere.attempts[0].preferred) == ("a/m", False)
        async with two.stream("b/m", "hold the only slot") as held:
            await anext(held)
            full = await one.generate("a/m,b/m", "hi", session="s")
            assert (str(full.target), full.attempts[0].preferred) == ("a/m", False)
