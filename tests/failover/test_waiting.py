"""Waits beside a hung attempt, before a race, and for a target that is sick and paced."""

from __future__ import annotations

import asyncio

import pytest

from aiollm import (
    FailoverError,
    OverloadedError,
    RateLimitError,
    Registry,
    ServerError,
)
from aiollm.testing import NEVER, FakeProvider, Pause
from aiollm.types import TextDelta
from tests.failover.test_virtual_crowd import VirtualLoop, in_virtual_time


def registry(loop: VirtualLoop, **options: object) -> Registry:
    reg = Registry(env={}, **options)
    reg._health.clock = reg._gate.now = loop.time
    return reg


def test_a_probe_does_not_wait_for_an_attempt_that_hangs() -> None:
    """The target came back, and let one call through; that hangs while the probe's answer breaks.

    Else nobody would find out that the target is well again before that call's deadline.
    """

    async def scenario(loop: VirtualLoop) -> None:
        fake = FakeProvider(
            OverloadedError("down", status=503),
            [TextDelta("probe"), Pause(1.0), ServerError("broken", status=500)],
            [NEVER],
            default="well",
        )
        async with registry(loop) as reg:
            reg.register("a", fake.provider())
            with pytest.raises(FailoverError):
                await reg.generate("a/m", "hi", retries=0)
            began = loop.now
            calls = [asyncio.create_task(reg.generate("a/m", "hi")) for _ in range(3)]
            await asyncio.wait(calls[:1])
            assert isinstance(calls[0].exception(), ServerError)
            assert (await calls[2]).text == "well"
            assert loop.now - began <= 5.0
            calls[1].cancel()
            await asyncio.wait(calls)

    in_virtual_time(scenario)


def test_a_wait_for_a_target_that_is_sick_and_told_us_to_slow_down_may_be_too_long() -> None:
    """It is paced for longer than the call may wait: nobody waits for the next probe in vain."""

    async def scenario(loop: VirtualLoop) -> None:
        fake = FakeProvider(
            [Pause(0.1), RateLimitError("slow down", status=429, retry_after=30.0)],
            [Pause(0.2), ServerError("down", status=500)],
        )
        async with registry(loop, retries=0) as reg:
            reg.register("a", fake.provider())
            calls = (reg.generate("a/m", "hi") for _ in range(2))
            await asyncio.gather(*calls, return_exceptions=True)
            began = loop.now
            with pytest.raises(FailoverError) as caught:
                await reg.generate("a/m", "hi", patience=5.0)
            assert isinstance(caught.value.last, ServerError)
            assert loop.now == began

    in_virtual_time(scenario)
