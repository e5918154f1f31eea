"""What hooks are told of agent runs, and what a log of events never shows."""

from __future__ import annotations

from typing import Any

import pytest

from aiollm import Finish, Request, StreamInterrupted, TurnEnded, Usage, tool
from aiollm.events import CallEnded, CallStarted, RunEnded, ToolCallEnded
from aiollm.testing import NEVER, FakeProvider, tool_call

SECRET = "the secret recipe"


@tool
async def look(place: str) -> str:
    """Look."""
    if place == "nowhere":
        raise LookupError(place)
    return SECRET


def listen(registry: Any) -> list[Any]:
    told: list[Any] = []
    registry.on_event(told.append)
    return told


def names(told: list[Any]) -> list[str]:
    return [type(event).__name__ for event in told]


async def test_a_run_tells_of_its_turns_and_tools_in_order(over):
    fake = FakeProvider(
        [
            tool_call("look", {"place": "here"}),
            Finish("tool_calls", "", Usage(1, 1, 0, 0, "exact")),
        ],
        ["Found", Finish("stop", "", Usage(2, 2, 0, 0, "exact"))],
    )
    registry = over(fake)
    told = listen(registry)
    await registry.run("fake/m", "hi", tools=[look]).collect()
    call = ["CallStarted", "AttemptStarted", "FirstOutput", "AttemptEnded", "CallEnded"]
    assert names(told) == [
        "RunStarted", "TurnStarted", *call, "ToolCallStarted", "ToolCallEnded",
        "TurnStarted", *call, "RunEnded",
    ]  # fmt: skip
    ended = told[-1]
    assert isinstance(ended, RunEnded)
    assert (ended.run, ended.outcome, ended.turns, ended.error) == (1, "success", 2, None)
    assert ended.usage == Usage(3, 3, 0, 0, "exact")
    assert ended.seconds >= 0


async def test_runs_are_numbered(over):
    registry = over(FakeProvider(default="Hello"))
    told = listen(registry)
    for _ in range(2):
        await registry.run("fake/m", "hi", tools=[]).collect()
    assert [event.run for event in told if isinstance(event, RunEnded)] == [1, 2]


@pytest.mark.parametrize(
    ("place", "outcome", "error"), [("here", "success", None), ("nowhere", "failed", LookupError)]
)
async def test_the_end_of_a_tool_has_its_outcome(over, place, outcome, error):
    registry = over(FakeProvider([tool_call("look", {"place": place})], "ok"))
    told = listen(registry)
    await registry.run("fake/m", "hi", tools=[look]).collect()
    (ended,) = [event for event in told if isinstance(event, ToolCallEnded)]
    assert ended.outcome == outcome
    assert error is None or isinstance(ended.error, error)
    assert ended.result is not None


async def test_a_run_that_fails_or_is_left_says_so_once(over):
    registry = over(FakeProvider(["x", StreamInterrupted("cut")], ["x", NEVER]))
    told = listen(registry)
    with pytest.raises(StreamInterrupted) as caught:
        await registry.run("fake/m", "hi", tools=[]).collect()
    run = registry.run("fake/m", "hi", tools=[])
    await anext(run)
    await run.aclose()
    await run.aclose()
    failed, left = [event for event in told if isinstance(event, RunEnded)]
    assert (failed.outcome, failed.error) == ("failed", caught.value)
    assert (left.outcome, left.error) == ("abandoned", None)


async def test_a_run_left_after_its_last_answer_is_a_success(over):
    registry = over(FakeProvider("Hello"))
    told = listen(registry)
    async with registry.run("fake/m", "hi", tools=[]) as run:
        async for event in run:
            if isinstance(event, TurnEnded):
                break
    assert told[-1].outcome == "success"
    assert run.response.text == "Hello"


async def test_a_run_that_never_began_tells_nothing(over):
    registry = over(FakeProvider())
    told = listen(registry)
    async with registry.run("fake/m", "hi", tools=[]):
        pass
    assert told == []


async def test_events_hold_what_was_said_but_do_not_show_it(over):
    registry = over(FakeProvider([tool_call("look", {"place": SECRET})], SECRET))
    told = listen(registry)
    request = Request(SECRET, system=SECRET)
    await registry.run("fake/m", request, tools=[look]).collect()
    first = next(event for event in told if isinstance(event, CallStarted))
    last = [event for event in told if isinstance(event, CallEnded)][-1]
    assert first.request.system == SECRET
    assert last.response.text == SECRET
    assert SECRET not in repr(told)
    assert repr(first) == "CallStarted(call=1, spec='fake/m', operation='chat')"
