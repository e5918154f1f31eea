"""Calls with the response cache that are cancelled before any callback leave nothing."""

from __future__ import annotations

import itertools

import pytest

from aiollm.testing import FakeProvider
from tests.broken_off import cancelled_and_repeated


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_call_whose_answer_is_kept_or_not(keeping, is_kept, times):
    numbers = itertools.count()
    fake = FakeProvider(default="hi", name="a")
    reg = await keeping(fake)

    async def call():
        asked = "again" if is_kept else str(next(numbers))
        await reg.generate("a/m", asked, response_cache="use")

    await cancelled_and_repeated(call, reg, is_busy=lambda: fake.running, times=times)
