"""Pauses of the caller: they count for no deadline but `total`, and concern no other stream."""

from __future__ import annotations

import asyncio

import pytest

from aiollm import (
    DeadlineError,
    FailoverError,
    Registry,
    Status,
    StreamInterrupted,
    TextDelta,
    Timeouts,
)
from aiollm._failover.deadlines import AttemptDeadlines, Watchdog
from aiollm.testing import NEVER, FakeProvider, Pause
from tests.virtual_time import VirtualLoop, in_virtual_time

NONE = {"connect": None, "first_output": None, "idle": None, "stall": None}


def registry(loop: VirtualLoop, **providers: FakeProvider) -> Registry:
    reg = Registry(env={}, retries=0)
    reg._health.clock = reg._gate.now = loop.time
    for name, fake in providers.items():
        reg.register(name, fake.provider(name=name, base_url=f"fake://{name}"))
    return reg


def test_a_caller_who_comes_back_after_the_total_delays_no_deadline_of_others() -> None:
    """As if the process had stood still, which makes all deadlines wait for up to a second."""

    async def scenario(loop: VirtualLoop) -> None:
        cut, slow = FakeProvider([TextDelta("Hi"), NEVER]), FakeProvider([NEVER])
        began, ends = loop.now, {}

        async def other(reg: Registry) -> None:
            await asyncio.sleep(9.2)
            try:
                await reg.generate("b/m", "hi", timeouts=Timeouts(first_output=1.0))
            except BaseException:
                ends["other"] = loop.now - began
                raise

        async with registry(loop, a=cut, b=slow) as reg:
            task = asyncio.create_task(other(reg))
            stream = reg.stream("a/m", "hi", timeouts=Timeouts(total=5.0))
            await anext(stream)
            await asyncio.sleep(10.0)
            with pytest.raises(DeadlineError) as caught:
                await anext(stream)
            assert (caught.value.which, loop.now - began) == ("total", 10.0)
            await asyncio.wait((task,))
            assert task.exception() is not None
        assert ends == {"other": pytest.approx(10.2)}

    in_virtual_time(scenario)


@pytest.mark.parametrize("limits", [{"first_output": 5.0}, {"stall": 5.0}])
def test_a_pause_before_the_first_output_does_not_count(limits: dict[str, float]) -> None:
    """A caller may take long over the status of a server that loads its model."""

    async def scenario(loop: VirtualLoop) -> None:
        fake = FakeProvider([Status("loading"), Pause(1.0), Status("loading"), Pause(3.0), "Hi"])
        async with registry(loop, a=fake) as reg:
            stream = reg.stream("a/m", "hi", timeouts=Timeouts(**{**NONE, **limits}))
            async for chunk in stream:
                await asyncio.sleep(20.0 if isinstance(chunk, Status) else 0.0)
            assert stream.response.text == "Hi"
            assert reg.health()[0].failed == 0

    in_virtual_time(scenario)


def test_what_was_waited_before_such_a_pause_counts() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        fake = FakeProvider([Pause(2.0), Status("loading"), Pause(2.0), Status("loading"), NEVER])
        async with registry(loop, a=fake) as reg:
            began, paused = loop.now, 0.0
            stream = reg.stream("a/m", "hi", timeouts=Timeouts(**{**NONE, "first_output": 5.0}))
            with pytest.raises(FailoverError) as caught:
                async for _ in stream:
                    paused += 20.0
                    await asyncio.sleep(20.0)
            assert "no output within 5 s" in str(caught.value.last)
            assert loop.now - began - paused == pytest.approx(5.0)

    in_virtual_time(scenario)


def test_bytes_that_were_there_after_a_pause_say_nothing_of_the_time_before() -> None:
    """What came meanwhile is taken without a wait."""

    async def scenario(loop: VirtualLoop) -> None:
        watchdog = Watchdog()
        deadlines = AttemptDeadlines(watchdog, Timeouts(**{**NONE, "stall": 5.0}), None)
        deadlines.output()
        await asyncio.sleep(60.0)
        deadlines.alive()
        task = asyncio.current_task()
        assert task is not None
        deadlines.begin(task)
        assert deadlines.due(loop.now) == (loop.now + 5.0, "stall", 5.0)
        deadlines.end()
        deadlines.stop()
        watchdog.close()

    in_virtual_time(scenario)


@pytest.mark.parametrize("on_interrupt", ["restart", "raise"])
def test_no_target_is_asked_after_the_total(on_interrupt: str) -> None:
    """The caller came back too late to what was cut."""

    async def scenario(loop: VirtualLoop) -> None:
        cut = FakeProvider([TextDelta("Hi"), StreamInterrupted("cut")])
        other = FakeProvider("Hello")
        async with registry(loop, a=cut, b=other) as reg:
            limits = Timeouts(total=5.0)
            stream = reg.stream("a/m,b/m", "hi", timeouts=limits, on_interrupt=on_interrupt)
            await anext(stream)
            await asyncio.sleep(10.0)
            with pytest.raises((DeadlineError, StreamInterrupted)) as caught:
                await anext(stream)
            assert caught.value.partial is not None
            assert caught.value.partial.text == "Hi"
            if on_interrupt == "restart":
                assert isinstance(caught.value, DeadlineError)
                assert caught.value.which == "total"
            assert other.calls == []

    in_virtual_time(scenario)


def test_what_came_during_a_pause_is_read_though_the_total_has_passed() -> None:
    """The total ends only a wait."""

    async def scenario(loop: VirtualLoop) -> None:
        async with registry(loop, a=FakeProvider([TextDelta("Hi"), TextDelta("!")])) as reg:
            stream = reg.stream("a/m", "hi", timeouts=Timeouts(total=5.0))
            await anext(stream)
            await asyncio.sleep(10.0)
            assert (await stream.collect()).text == "Hi!"

    in_virtual_time(scenario)


def test_an_attempt_that_begins_after_the_total_ends_at_once() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        watchdog, began = Watchdog(), loop.now
        deadlines = AttemptDeadlines(watchdog, Timeouts(**{**NONE, "first_output": 60.0}), 900.0)
        task = asyncio.create_task(asyncio.sleep(60.0))
        deadlines.begin(task)
        await asyncio.wait((task,))
        assert (deadlines.fired, loop.now) == (("total", 0.0), began)
        deadlines.stop()
        watchdog.close()

    in_virtual_time(scenario)


def test_a_status_before_the_output_comes_once() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        async with registry(loop, a=FakeProvider([Status("loading"), "Hi"])) as reg:
            chunks = [each async for each in reg.stream("a/m", "hi")]
            assert chunks[:2] == [Status("loading"), TextDelta("Hi")]
            assert len(chunks) == 3

    in_virtual_time(scenario)
