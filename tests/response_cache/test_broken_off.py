"""Calls with the response cache that are cancelled before any callback leave nothing."""

from __future__ import annotations

import itertools

import pytest

from aiollm.testing import FakeProvider
from tests.broken_off import cancelled_everywhere, held


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_call_whose_answer_is_kept_or_not(keeping, is_kept, times):
    numbers = itertools.count()
    fake = FakeProvider(default="hi", name="a")
    reg = await keeping(fake)

    async def call():
        asked = "again" if is_kept else str(next(numbers))
        await reg.generate("a/m", asked, response_cache="use")

    async def check():
        found = await held(reg)
        if fake.running:
            found.append("a call still runs")
        await call()
        return found

    await call()
    await cancelled_everywhere(call, check, times=times)
