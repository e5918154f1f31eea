"""Calls in a fleet that are cancelled before any callback give back what it granted."""

from __future__ import annotations

import pytest

from aiollm import Limits
from aiollm.testing import FaultServer, chat
from tests.broken_off import cancelled_everywhere, held

OK = chat("Hel", "lo")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("spec", ["a/m", "a/m|b/m", "a/m&b/m"])
async def test_a_call_with_the_only_slot_of_a_fleet(redis, members, spec, times):
    async with FaultServer(OK) as a, FaultServer(OK) as b:
        reg = members(redis.url, {"a": a, "b": b}, stagger=0.0, cooldown=0.0)
        for name in "ab":
            reg.register(name, reg.provider(name), limits=Limits(rpm=1_000_000, max_concurrency=1))

        async def call():
            assert (await reg.generate(spec, "hi")).text == "Hello"

        async def slots_taken():
            # The same connection answers this after all that was said before: the question of a
            # call that was cancelled, first, and then what it returned of the answer.
            link = reg._resources._member._link
            names = [each.name for each in reg._resources._member.limits.scopes]
            return [await link.send("HGET", name + "n", "#") for name in names]

        async def check():
            found = await held(reg)
            await slots_taken()
            return found + [each for each in await slots_taken() if int(each or 0)]

        await call()
        await cancelled_everywhere(call, check, times=times, least=5)
        await call()
