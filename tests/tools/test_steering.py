"""Messages that are put into a run between its turns."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiollm import (
    BusyError,
    ClosedError,
    ConfigError,
    ImagePart,
    Request,
    RunResult,
    Steered,
    ToolResultPart,
    ToolStarted,
    TurnEnded,
    TurnLimitError,
    assistant,
    tool,
    user,
)
from aiollm._agent.steering import MAX_STEERED
from aiollm._validation import check
from aiollm.events import RunSteered
from aiollm.testing import FakeProvider, Gate, tool_call

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


@tool
async def look() -> str:
    """Look."""
    return "seen"


async def gather(run: Any) -> list[Any]:
    return [event async for event in run]


async def test_a_message_from_another_task_goes_to_the_model_after_the_results(over):
    gate = Gate()

    @tool
    async def wait() -> str:
        """Wait."""
        await gate.passes()
        return "done"

    fake = FakeProvider([tool_call("wait")], "ok")
    registry = over(fake)
    told: list[Any] = []
    registry.on_event(told.append)
    run = registry.run("fake/m", "hi", tools=[wait])
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(gather(run))
        await gate.reached()
        run.steer("in Polish, ", ImagePart(PNG))
        run.steer("please")
        gate.open()
    events = reading.result()
    put_in = [event.message for event in events if isinstance(event, Steered)]
    assert put_in == [user("in Polish, ", ImagePart(PNG)), user("please")]
    assert fake.requests[1].messages[-2:] == tuple(put_in)
    assert fake.requests[1].messages[-3].role == "tool"
    check(fake.requests[1])
    assert [(event.run, event.turn) for event in told if isinstance(event, RunSteered)] == [
        (1, 2),
        (1, 2),
    ]
    assert all(event.text == "" for event in events if isinstance(event, Steered))


async def test_a_run_that_has_just_given_its_last_answer_goes_on(over):
    fake = FakeProvider("first", "second")
    run = over(fake).run("fake/m", "hi", tools=[look])
    events = []
    async for event in run:
        events.append(event)
        if isinstance(event, TurnEnded) and event.response.text == "first":
            run.steer("and then?")
    assert [type(event) for event in events].count(RunResult) == 1
    assert run.response.text == "second"
    assert run.messages == (
        user("hi"), assistant("first"), user("and then?"), assistant("second"),
    )  # fmt: skip


async def test_a_message_before_the_first_turn_is_part_of_it(over):
    fake = FakeProvider("ok")
    run = over(fake).run("fake/m", Request("hi", tool_choice="look"), tools=[look])
    run.steer("quickly")
    await run.collect()
    (request,) = fake.requests
    assert request.messages == (user("hi"), user("quickly"))
    assert request.tool_choice == "look"


async def test_after_the_end_it_is_too_late(over):
    run = over(FakeProvider("ok")).run("fake/m", "hi", tools=[look])
    await run.collect()
    with pytest.raises(ClosedError, match=r"the run has ended: .* `messages`"):
        run.steer("wait")
    async for event in (last := over(FakeProvider("ok")).run("fake/m", "hi", tools=[look])):
        if isinstance(event, RunResult):
            with pytest.raises(ClosedError):
                last.steer("wait")
    left = over(FakeProvider("ok")).run("fake/m", "hi", tools=[look])
    await left.aclose()
    with pytest.raises(ClosedError):
        left.steer("wait")


async def test_so_many_messages_may_wait_and_no_more(over):
    fake = FakeProvider("ok")
    run = over(fake).run("fake/m", "hi", tools=[look])
    for number in range(MAX_STEERED):
        run.steer(str(number))
    with pytest.raises(BusyError, match="64 messages wait"):
        run.steer("one more")
    await run.collect()
    assert len(fake.requests[0].messages) == 1 + MAX_STEERED


@pytest.mark.parametrize("parts", [(), (ToolResultPart("a", "b"),), (7,)])
async def test_what_no_provider_accepts_is_refused_where_it_is_put_in(over, parts):
    run = over(FakeProvider("ok")).run("fake/m", "hi", tools=[look])
    with pytest.raises(ConfigError):
        run.steer(*parts)
    assert (await run.collect()).text == "ok"


async def test_a_message_after_the_last_turn_ends_the_run_with_the_history(over):
    run = over(FakeProvider("first")).run("fake/m", "hi", tools=[look], max_turns=1)
    with pytest.raises(TurnLimitError, match="a message was put in after 1 turn") as caught:
        async for event in run:
            if isinstance(event, TurnEnded):
                run.steer("and then?")
    assert caught.value.messages[-1] == user("and then?")


async def test_a_tool_may_steer_its_own_run(over):
    runs: list[Any] = []

    @tool
    async def remind() -> str:
        """Remind."""
        runs[0].steer("remember the milk")
        return "ok"

    fake = FakeProvider([tool_call("remind")], "ok")
    runs.append(over(fake).run("fake/m", "hi", tools=[remind]))
    events = await gather(runs[0])
    order = [type(event) for event in events if isinstance(event, ToolStarted | Steered)]
    assert order == [ToolStarted, Steered]
    assert fake.requests[1].messages[-1] == user("remember the milk")
