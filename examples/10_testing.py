"""Test your own code without network or key: `pytest 10_testing.py`, or run it directly."""

from __future__ import annotations

import asyncio

from aiollm import RateLimitError, Registry
from aiollm.testing import NEVER, FakeProvider


async def title(reg: Registry, text: str) -> str:
    """Stand in for the code under test."""
    response = await reg.generate("m5/qwen3:30b,m1/qwen3:30b", f"A title for: {text}")
    return response.text.strip('" \n')


def test_the_second_box_answers_when_the_first_is_busy() -> None:
    asyncio.run(scenario())


async def scenario() -> None:
    busy = FakeProvider(RateLimitError("slow down"), name="m5")
    well = FakeProvider('"A Paper Boat"\n', ["never ", NEVER], name="m1")
    async with Registry(env={}) as reg:
        for fake in (busy, well):
            reg.register(fake.name, fake.provider())
        assert await title(reg, "It sails.") == "A Paper Boat"
        assert busy.requests[0].messages[0].text == "A title for: It sails."
        async with reg.stream("m1/qwen3:30b", "Go on.") as stream:
            assert (await anext(stream)).text == "never "
    assert [call.outcome for call in well.calls] == ["finished", "closed"]


if __name__ == "__main__":
    asyncio.run(scenario())
    print("passed")
