"""What the first call of a registry makes is made once, and serves each loop that comes later."""

from __future__ import annotations

import asyncio

from aiollm import Registry
from aiollm.testing import FakeProvider


class Owned:
    """Counts how often it was closed."""

    closed = 0

    async def aclose(self):
        self.closed += 1

    def kill(self):
        """End it at once."""


class Interrupted(Registry):
    """Is asked to own something just while its first call makes what owns things.

    A thread may ask at that place, too, but where `cached_property` locks it would wait there.
    """

    owned = None

    def __getattribute__(self, name):
        if name == "_hooks" and not Interrupted.owned:
            Interrupted.owned = Owned()
            self.own(Interrupted.owned)
        return super().__getattribute__(name)


async def test_what_is_owned_while_a_first_call_begins_is_closed_with_the_registry():
    async with Interrupted(env={}) as reg:
        reg.register("a", FakeProvider("Hello").provider())
        assert (await reg.generate("a/m", "hi")).text == "Hello"
        assert Interrupted.owned.closed == 0
    assert Interrupted.owned.closed == 1


def test_a_registry_made_before_any_loop_serves_one_loop_after_the_other():
    reg = Registry(env={})
    reg.register("a", FakeProvider(*["Hello"] * 3).provider())

    async def call():
        return (await reg.generate("a/m", "hi")).text

    assert [asyncio.run(call()) for _ in range(3)] == ["Hello"] * 3
    asyncio.run(reg.aclose())
