"""Waits beside a hung attempt, before a race, and for a target that is sick and paced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from aiollm import (
    FailoverError,
    Limits,
    OverloadedError,
    RateLimitError,
    Registry,
    ServerError,
    StreamInterrupted,
    Timeouts,
)
from aiollm.codecs import DsnOptions
from aiollm.provider import Operation
from aiollm.testing import NEVER, FakeProvider, Pause
from aiollm.types import Finish, Item, TextDelta
from tests.virtual_time import VirtualLoop, in_virtual_time


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


def test_an_attempt_of_a_race_says_how_long_its_call_has_waited() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        full, soon = FakeProvider([NEVER]), FakeProvider([Pause(0.5), "first"], [NEVER])
        third = FakeProvider([Pause(0.5), "first"], "second")
        async with registry(loop) as reg:
            for name, fake, wait in (("a", full, 2.0), ("b", soon, None), ("c", third, None)):
                options = DsnOptions(max_concurrency=1, wait=wait)
                reg.register(name, fake.provider(base_url=f"fake://{name}", options=options))
            holders = [asyncio.create_task(reg.generate(f"{name}/m", "hi")) for name in "abc"]
            await asyncio.sleep(0.1)
            response = await reg.generate("a/m|b/m|c/m", "hi")
            assert [(str(each.target), each.queued) for each in response.attempts] == [
                ("b/m", pytest.approx(2.0)),
                ("c/m", 0.0),
            ]
            holders[0].cancel()
            await asyncio.wait(holders)

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


def test_an_answer_of_an_adapter_that_ends_without_an_end_was_sent() -> None:
    """It uses up the limits, and may cost something."""

    async def cut(*_: object) -> AsyncIterator[list[TextDelta | Finish]]:
        await asyncio.sleep(0.1)
        return
        yield []

    async def scenario(loop: VirtualLoop) -> None:
        async with registry(loop, retries=0) as reg:
            row = FakeProvider().provider(operations={"chat": Operation(adapter=cut)})
            reg.register("a", row, limits=Limits(rpm=60))
            with pytest.raises(FailoverError) as caught:
                await reg.generate("a/m", "hi", timeouts=Timeouts(first_output=5.0))
            assert isinstance(caught.value.last, StreamInterrupted)
            (limits,) = reg.limits()
            assert limits.used["requests"] > 0
            (attempt,) = caught.value.attempts
            assert attempt.usd is None

    in_virtual_time(scenario)


def test_the_next_target_starts_as_soon_as_any_earlier_one_fails() -> None:
    """Not only the one that started last."""

    async def scenario(loop: VirtualLoop) -> None:
        scripts = ([Pause(1.2), ServerError("down", status=500)], [NEVER], ["third"])
        async with registry(loop) as reg:
            for name, script in zip("abc", scripts, strict=True):
                reg.register(name, FakeProvider(script).provider(base_url=f"fake://{name}"))
            response = await reg.generate("a/m|b/m|c/m", "hi", stagger=1.0)
            assert response.text == "third"
            started = [each.started for each in response.attempts]
            assert started == pytest.approx([0.0, 1.0, 1.2])

    in_virtual_time(scenario)


def test_a_call_that_was_sent_to_a_target_that_is_well_waits_anew_when_it_fails_again() -> None:
    """What it had waited before another call found the target well is not part of its wait."""

    async def scenario(loop: VirtualLoop) -> None:
        began, answers = loop.now, 0

        async def stream(*_: object) -> AsyncIterator[list[Item]]:
            nonlocal answers
            is_down = loop.now < began + 10.0 or (answers and loop.now < began + 24.0)
            await asyncio.sleep(0.05)
            if is_down:
                raise ServerError("down", status=503)
            answers += 1
            yield [TextDelta("ok"), Finish("stop")]

        async with registry(loop) as reg:
            row = FakeProvider().provider(operations={"chat": Operation(adapter=stream)})
            reg.register("a", row, limits=Limits(max_concurrency=1))
            with pytest.raises(FailoverError):
                await reg.generate("a/m", "hi", retries=0)
            calls = (reg.generate("a/m", "hi", retries=9) for _ in range(2))
            assert [each.text for each in await asyncio.gather(*calls)] == ["ok", "ok"]
            assert loop.now > began + 24.0

    in_virtual_time(scenario)


def test_failed_probes_of_its_own_give_a_call_no_more_time() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        fake = FakeProvider(default=ServerError("down", status=500))
        async with registry(loop, max_wait=10.0) as reg:
            reg.register("a", fake.provider())
            began = loop.now
            with pytest.raises(FailoverError):
                await reg.generate("a/m", "hi", retries=99)
            assert len(fake.calls) > 3
            assert loop.now - began <= 10.0

    in_virtual_time(scenario)


def test_a_failure_does_not_start_all_targets_of_a_race() -> None:
    """The one after it starts at once, the next one a stagger later."""

    async def scenario(loop: VirtualLoop) -> None:
        scripts = ([Pause(0.2), ServerError("down", status=500)], [NEVER], ["third"])
        async with registry(loop) as reg:
            for name, script in zip("abc", scripts, strict=True):
                reg.register(name, FakeProvider(script).provider(base_url=f"fake://{name}"))
            response = await reg.generate("a/m|b/m|c/m", "hi", stagger=1.0)
            started = [each.started for each in response.attempts]
            assert started == pytest.approx([0.0, 0.2, 1.2])

    in_virtual_time(scenario)
