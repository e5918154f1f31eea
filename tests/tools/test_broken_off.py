"""Runs that are cancelled before any callback end their tools and leave nothing."""

from __future__ import annotations

import asyncio

import pytest

from aiollm import Limits, Registry, tool
from aiollm.testing import FakeProvider, ToolCallStep
from tests.broken_off import cancelled_and_repeated


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("called", [["slow", "slow", "plain"], ["inner", "inner"]])
async def test_a_run_cancelled_anywhere_ends_its_tools(called, times):
    entered = left = 0

    @tool
    async def slow() -> str:
        """Take two turns."""
        nonlocal entered, left
        entered += 1
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            left += 1
        return "well"

    @tool
    def plain() -> str:
        """Run in a thread."""
        return "well"

    @tool
    async def inner() -> str:
        """Ask the same model."""
        return (await reg.generate("a/m", "inside")).text

    def script(_, request):
        last = request.messages[-1]
        if last.role == "tool" or last.text == "inside":
            return "Hello"
        return [ToolCallStep(name, id=str(at)) for at, name in enumerate(called)]

    async def approve(*_):
        await asyncio.sleep(0)
        return True

    async def save(_):
        await asyncio.sleep(0)

    fake = FakeProvider(name="a", default=script)
    async with Registry(env={}, cooldown=0.0) as reg:
        reg.register("a", fake.provider(), limits=Limits(rpm=1_000_000, max_concurrency=1))

        async def call():
            tools = [slow, plain, inner]
            async with reg.run("a/m", "hi", tools=tools, save=save, approve=approve) as run:
                async for _ in run:
                    pass

        def is_busy():
            return fake.running or entered != left

        await cancelled_and_repeated(call, reg, is_busy=is_busy, times=times, least=10)
