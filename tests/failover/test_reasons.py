"""What a FailoverError says of targets that the call did not ask, and how events show an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiollm import (
    AuthenticationError,
    ConnectError,
    FailoverError,
    InvalidRequestError,
    Limits,
    RateLimitError,
    Registry,
    ServerError,
)
from aiollm.events import AttemptEnded, TargetClosed, TargetOpened
from aiollm.testing import NEVER, FakeProvider, Pause
from tests.virtual_time import VirtualLoop, in_virtual_time


def registry(loop: VirtualLoop, **providers: tuple[FakeProvider, Limits | None]) -> Registry:
    reg = Registry(env={})
    reg._health.clock = reg._gate.now = loop.time
    for name, (fake, limits) in providers.items():
        reg.register(name, fake.provider(name=name, base_url=f"fake://{name}"), limits=limits)
    return reg


async def reasons(reg: Registry, spec: str, **options: Any) -> list[tuple[str, str]]:
    with pytest.raises(FailoverError) as caught:
        await reg.generate(spec, "hi", **options)
    return [(type(each).__name__, str(each.target)) for each in caught.value.exceptions]


async def leave(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait((task,))


def test_a_target_that_had_no_room_to_join_a_race_is_told_of() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        bad, full = FakeProvider(default=InvalidRequestError("no")), FakeProvider([NEVER])
        one = Limits(max_concurrency=1)
        async with registry(loop, a=(bad, None), b=(full, one)) as reg:
            holder = asyncio.create_task(reg.generate("b/m", "hi"))
            await asyncio.sleep(0.1)
            expected = [("InvalidRequestError", "a/m"), ("BusyError", "b/m")]
            assert await reasons(reg, "a/m|b/m", patience=1.0) == expected
            await leave(holder)

    in_virtual_time(scenario)


def test_a_target_that_had_no_room_to_join_a_race_is_asked_before_the_next_step() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        bad = FakeProvider([Pause(3.0), InvalidRequestError("no")])
        full, later = FakeProvider([Pause(2.0), "first"], "b"), FakeProvider(default="c")
        one = Limits(max_concurrency=1)
        async with registry(loop, a=(bad, None), b=(full, one), c=(later, None)) as reg:
            holder = asyncio.create_task(reg.generate("b/m", "hi"))
            await asyncio.sleep(0.1)
            response = await reg.generate("a/m|b/m,c/m", "hi")
            assert [str(each.target) for each in response.attempts] == ["a/m", "b/m"]
            await holder

    in_virtual_time(scenario)


def test_a_misconfigured_target_is_told_of_where_another_one_was_waited_for() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        wrong = FakeProvider(default=AuthenticationError("wrong key", status=401))
        full = FakeProvider([NEVER])
        one = Limits(max_concurrency=1)
        async with registry(loop, a=(wrong, None), b=(full, one)) as reg:
            holder = asyncio.create_task(reg.generate("b/m", "hi"))
            await asyncio.sleep(0.1)
            expected = [("AuthenticationError", "a/m"), ("BusyError", "b/m")]
            assert await reasons(reg, "a/m,b/m", patience=1.0) == expected
            assert await reasons(reg, "a/m,b/m", patience=1.0) == expected
            assert await reasons(reg, "b/m,a/m", patience=1.0) == expected
            assert len(wrong.calls) == 1
            await leave(holder)

    in_virtual_time(scenario)


def test_the_failure_of_a_host_names_the_target_that_it_kept_from_being_asked() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        down = FakeProvider(default=ConnectError("refused"))
        async with registry(loop, a=(down, None)) as reg:
            options = {"max_wait": 0.0, "retries": 0}
            assert await reasons(reg, "a/m", **options) == [("ConnectError", "a/m")]
            assert await reasons(reg, "a/n", **options) == [("ConnectError", "a/n")]
            assert len(down.calls) == 1

    in_virtual_time(scenario)


@pytest.mark.parametrize(
    "refusal", [RateLimitError("slow down", status=429), InvalidRequestError("no", status=400)]
)
def test_a_refusal_ends_what_set_a_target_aside_and_an_event_says_so(refusal: Exception) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        fake = FakeProvider(ServerError("down", status=500), refusal)
        async with registry(loop, a=(fake, None)) as reg:
            seen = []
            reg.on_event(seen.append)
            with pytest.raises(FailoverError):
                await reg.generate("a/m", "hi", retries=1, patience=2.0)
            kinds = (AttemptEnded, TargetOpened, TargetClosed)
            assert [type(each) for each in seen if isinstance(each, kinds)] == [
                AttemptEnded,
                TargetOpened,
                AttemptEnded,
                TargetClosed,
            ]
            assert reg.health()[0].state == "healthy"

    in_virtual_time(scenario)


@pytest.mark.parametrize("how", ["reset", "asked by another call"])
def test_a_misconfigured_target_that_is_well_again_is_asked_by_calls_that_wait_elsewhere(
    how: str,
) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        wrong = FakeProvider(AuthenticationError("wrong key", status=401), default="mended")
        full = FakeProvider([NEVER])
        one = Limits(max_concurrency=1)
        async with registry(loop, a=(wrong, None), b=(full, one)) as reg:
            holder = asyncio.create_task(reg.generate("b/m", "hi"))
            assert await reasons(reg, "a/m", retries=0) == [("AuthenticationError", "a/m")]
            began = loop.now
            call = asyncio.create_task(reg.generate("a/m,b/m", "hi"))
            await asyncio.sleep(0.1)
            if how == "reset":
                reg.reset_health("a/m")
            else:
                await reg.generate("a/m", "hi")
            assert (await call).text == "mended"
            assert loop.now - began <= 5.2
            assert [each.waiting for each in reg.limits()] == [0, 0]
            await leave(holder)

    in_virtual_time(scenario)


def test_nobody_waits_for_a_misconfigured_target_that_no_other_call_asks() -> None:
    """What is known to take longer than the call's patience is not waited for."""

    async def scenario(loop: VirtualLoop) -> None:
        wrong = FakeProvider(default=AuthenticationError("wrong key", status=401))
        slow = FakeProvider(default="Hi")
        async with registry(loop, a=(wrong, None), b=(slow, Limits(rpm=1))) as reg:
            await reg.generate("a/m,b/m", "hi")
            began = loop.now
            expected = [("AuthenticationError", "a/m"), ("BusyError", "b/m")]
            assert await reasons(reg, "a/m,b/m", patience=30.0) == expected
            assert loop.now == began
            assert len(wrong.calls) == 1

    in_virtual_time(scenario)


def test_nobody_waits_where_all_other_targets_are_used_up() -> None:
    """None of its calls finds out whether a misconfigured target is well, or the other one."""

    async def scenario(loop: VirtualLoop) -> None:
        wrong = FakeProvider(default=AuthenticationError("wrong key", status=401))
        down = FakeProvider(default=ServerError("down", status=500))
        async with registry(loop, a=(wrong, None), b=(down, None)) as reg:
            assert await reasons(reg, "a/m", retries=0) == [("AuthenticationError", "a/m")]
            began = loop.now
            await reasons(reg, "a/m,b/m", retries=1)
            assert len(down.calls) == 2
            assert loop.now - began <= 1.2

    in_virtual_time(scenario)


def test_a_refusal_of_a_target_that_is_well_closes_nothing() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        fake = FakeProvider(InvalidRequestError("no", status=400))
        async with registry(loop, a=(fake, None)) as reg:
            seen = []
            reg.on_event(seen.append)
            await reasons(reg, "a/m")
            assert not [each for each in seen if isinstance(each, TargetClosed)]

    in_virtual_time(scenario)
