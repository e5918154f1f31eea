"""A registry that is closed while a call waits to go on after output."""

from __future__ import annotations

import asyncio

import pytest

from aiollm import BusyError, FailoverError, Registry, StreamInterrupted
from aiollm.events import AttemptStarted, CallEnded, CallQueued
from aiollm.testing import Answer, FaultServer, Gate, chat

CUT = Answer(body=chat("Hel").body[:2], headers=chat("Hel").headers)


async def cut_by_closing(spec, kind, *scripts):
    """Close a registry at the first event of a kind after output; return the call's end."""
    events, closing = [], []

    async with FaultServer(*scripts) as server:
        env = {f"LLM_{name}": server.dsn("openai") for name in "AB"}
        reg = Registry(env=env, cooldown=20.0, max_wait=60.0, stagger=20.0)

        def note(event):
            events.append(event)
            if isinstance(event, kind) and stream.partial.text:
                closing.append(asyncio.ensure_future(reg.aclose()))

        reg.on_event(note)
        stream = reg.stream(spec, "hi", on_interrupt="restart")
        with pytest.raises(StreamInterrupted, match="registry was closed") as caught:
            await stream.collect()
        assert closing
        await asyncio.gather(*closing)
    ends = [each for each in events if isinstance(each, CallEnded)]
    assert [each.error for each in ends] == [caught.value]
    return caught.value


@pytest.mark.parametrize("spec", ["a/m", "a/m|a/n"])
async def test_what_had_arrived_is_kept_while_the_call_waits_for_its_target(spec):
    error = await cut_by_closing(spec, CallQueued, CUT, Answer(500))
    assert error.partial.text == "Hel"
    assert str(error.target) == "a/m"


async def test_what_had_arrived_is_kept_while_the_next_target_is_asked():
    error = await cut_by_closing("a/m,b/m", AttemptStarted, CUT, chat("Hello"))
    assert error.partial.text == "Hel"
    assert str(error.target) == "a/m"


async def test_the_group_has_what_had_arrived_where_its_last_error_has_no_room_for_it():
    """The call has output, and finds no room at the target that is left."""
    gate = Gate()
    held = Answer(body=[*CUT.body, gate, *CUT.body], headers=CUT.headers)
    async with FaultServer(CUT) as a, FaultServer(held) as b:
        env = {"LLM_A": a.dsn("openai"), "LLM_B": f"{b.dsn('openai')}?max_concurrency=1"}
        async with Registry(env=env, patience=0.0, retries=0) as reg:
            async with reg.stream("b/m", "hi") as holder:
                await anext(holder)
                with pytest.raises(FailoverError) as caught:
                    await reg.generate("a/m,b/m", "hi", on_interrupt="restart")
    assert isinstance(caught.value.last, BusyError)
    assert caught.value.partial.text == "Hel"
