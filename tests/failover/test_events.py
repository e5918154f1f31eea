"""Hooks: one typed event per thing that happens, in order, and never a harm to the call."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from aiollm import FailoverError, Finish, Limits, Registry, ServerError, StreamInterrupted
from aiollm.dsn import DsnOptions
from aiollm.events import (
    AttemptEnded,
    AttemptStarted,
    CallEnded,
    CallQueued,
    CallReleased,
    CallStarted,
    FirstOutput,
    ImageElided,
    TargetClosed,
    TargetOpened,
)
from aiollm.testing import NEVER, Cut, FakeProvider, chat
from aiollm.types import Notice

OK = chat("Hel", "lo", usage=(3, 2))


def kinds(events):
    return [type(event) for event in events]


async def test_the_events_of_a_chain(serve, registry):
    bad, good = await serve(Cut()), await serve(OK)
    reg = registry({"a": bad, "b": good})
    events = []
    reg.on_event(events.append)
    await reg.stream("a/m,b/m", "hi").collect()
    assert kinds(events) == [
        CallStarted,
        AttemptStarted,
        AttemptEnded,
        TargetOpened,
        AttemptStarted,
        FirstOutput,
        AttemptEnded,
        CallEnded,
    ]
    started, ended = events[0], events[-1]
    assert started.spec == "a/m,b/m"
    assert {event.call for event in events} == {started.call}
    assert (ended.outcome, str(ended.target), ended.finish_reason) == ("success", "b/m", "stop")
    assert (ended.usage.input_tokens, ended.usage.output_tokens) == (3, 2)


async def test_a_call_that_has_nothing_left_to_wait_for_is_not_queued(serve, registry):
    reg = registry({"a": await serve(Cut())})
    events = []
    reg.on_event(events.append)
    with pytest.raises(FailoverError):
        await reg.generate("a/m", "hi", retries=0)
    assert kinds(events) == [CallStarted, AttemptStarted, AttemptEnded, TargetOpened, CallEnded]


async def test_the_outcome_is_booked_before_the_caller_sees_the_finish(serve, registry):
    reg = registry({"a": await serve(OK)})
    events = []
    reg.on_event(events.append)
    async for chunk in reg.stream("a/m", "hi"):
        if isinstance(chunk, Finish):
            assert AttemptEnded in kinds(events)
            assert reg.health()[0].succeeded == 1


async def test_an_early_leave_ends_the_call_as_abandoned(serve, registry):
    reg = registry({"a": await serve(OK)})
    events = []
    reg.on_event(events.append)
    async with reg.stream("a/m", "hi") as stream:
        await anext(stream)
    assert [event.outcome for event in events[-2:]] == ["abandoned", "abandoned"]
    assert kinds(events).count(CallEnded) == 1


async def test_a_failed_call_ends_with_its_error(serve, registry):
    reg = registry({"a": await serve(Cut()), "b": await serve(chat("x", finish=None, done=False))})
    events = []
    reg.on_event(events.append)
    with pytest.raises(FailoverError):
        await reg.stream("a/m", "hi").collect()
    assert isinstance(events[-1].error, FailoverError)
    with pytest.raises(StreamInterrupted):
        await reg.stream("b/m", "hi").collect()
    assert isinstance(events[-1].error, StreamInterrupted)
    assert events[-1].outcome == "failed"


async def test_recovery_is_told(serve, registry):
    reg = registry({"a": await serve(Cut(), OK)}, retries=1, cooldown=0.01)
    events = []
    reg.on_event(events.append)
    await reg.stream("a/m", "hi").collect()
    assert [kind for kind in kinds(events) if kind in (TargetOpened, TargetClosed)] == [
        TargetOpened,
        TargetClosed,
    ]


async def test_a_failing_hook_is_logged_and_changes_nothing(serve, registry, caplog):
    reg = registry({"a": await serve(OK)})

    def broken(event):
        raise ZeroDivisionError

    remove = reg.on_event(broken)
    assert (await reg.stream("a/m", "hi").collect()).text == "Hello"
    assert "event hook failed" in caplog.text
    caplog.clear()
    remove()
    remove()
    await reg.stream("a/m", "hi").collect()
    assert caplog.text == ""


@pytest.mark.parametrize("spec", ["full/m", "full/m,full/n", "slow/m|late/m", "bad/m"])
async def test_a_call_cancelled_while_it_waits_or_races_ends_as_abandoned(spec):
    """In line for a slot, in a race, and while its only target recovers."""
    fake = FakeProvider(default=[NEVER])
    bad = FakeProvider(default=ServerError("x", status=500))
    async with Registry(env={}, stagger=0.0) as reg:
        for name in ("full", "slow", "late"):
            reg.register(name, fake.provider(name=name, base_url=f"fake://{name}"))
        reg.limit("full", Limits(max_concurrency=1))
        reg.register("bad", bad.provider())
        holder = asyncio.create_task(reg.generate("full/m", "hi"))
        await fake.wait_calls()
        events = []
        reg.on_event(events.append)
        task = asyncio.create_task(reg.generate(spec, "hi"))
        while not any(isinstance(each, CallQueued) for each in events) and len(fake.calls) < 3:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (ended,) = (each for each in events if isinstance(each, CallEnded))
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)
    assert (ended.outcome, ended.error) == ("abandoned", None)


@pytest.mark.parametrize("waits", [{"patience": 0}, {"patience": 0.5, "max_wait": 1}])
async def test_a_call_that_cannot_wait_reports_no_wait(waits):
    """For a slot without patience, or for a target that is set aside for longer than that."""
    fake = FakeProvider([NEVER], default=ServerError("x", status=503, retry_after=60.0))
    async with Registry(env={}) as reg:
        reg.register("a", fake.provider())
        reg.limit("a", Limits(max_concurrency=1))
        holder = asyncio.create_task(reg.generate("a/m", "hi"))
        await fake.wait_calls()
        if waits["patience"]:
            holder.cancel()
            await asyncio.gather(holder, return_exceptions=True)
        events = []
        reg.on_event(events.append)
        with pytest.raises(FailoverError):
            await reg.generate("a/m", "hi", **waits)
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)
    assert not {CallQueued, CallReleased} & set(kinds(events))


def waiting(reg):
    return {str(each.target) for each in reg.limits() if each.waiting}


async def test_a_call_that_waits_at_two_steps_reports_one_wait():
    fakes = {name: FakeProvider([NEVER], default=["ok"]) for name in "ab"}
    events = []
    async with Registry(env={}) as reg:
        for name, fake in fakes.items():
            provider = fake.provider(name=name, base_url=f"fake://{name}")
            reg.register(name, replace(provider, options=DsnOptions(wait=0.02)))
            reg.limit(name, Limits(max_concurrency=1))
        holders = [asyncio.create_task(reg.generate(f"{name}/m", "hi")) for name in fakes]
        for fake in fakes.values():
            await fake.wait_calls()
        reg.on_event(events.append)
        task = asyncio.create_task(reg.generate("a/m,b/m", "hi"))
        while "b/m" not in waiting(reg):  # at the second step
            await asyncio.sleep(0)
        holders[1].cancel()
        await task
        holders[0].cancel()
        await asyncio.gather(*holders, return_exceptions=True)
    waits = [kind for kind in kinds(events) if kind in (CallQueued, CallReleased)]
    assert waits == [CallQueued, CallReleased]


async def test_a_notice_of_something_else_is_not_an_image_left_out():
    fake = FakeProvider([Notice("a setting was ignored"), "ok"])
    async with Registry(env={}) as reg:
        reg.register("a", fake.provider())
        events = []
        reg.on_event(events.append)
        response = await reg.generate("a/m", "hi")
    assert response.warnings == ("a setting was ignored",)
    assert not any(isinstance(each, ImageElided) for each in events)
