"""Tool calls that need a yes: who is asked, what an answer does, and what a run without one is."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import Counter
from typing import Any

import pytest

from aiollm import (
    Approval,
    ApprovalNeeded,
    ClosedError,
    ConfigError,
    LLMError,
    Message,
    Request,
    Tool,
    ToolCallPart,
    ToolEnded,
    ToolStarted,
    tool,
    user,
)
from aiollm._agent.approval import A_TURN
from aiollm._validation import check
from aiollm.events import ApprovalAsked, ApprovalDecided, RunEnded
from aiollm.testing import FakeProvider, Gate, tool_call
from tests.turns import turns


class Desk:
    """Two tools, of which one needs approval, and what they did."""

    def __init__(self) -> None:
        self.done: list[str] = []

        @tool
        async def look(place: str) -> str:
            """Look."""
            self.done.append(f"look {place}")
            return f"seen {place}"

        @tool(approve=True)
        async def pay(amount: int, to: str = "Ann") -> str:
            """Pay."""
            self.done.append(f"pay {amount} {to}")
            return f"paid {amount}"

        self.tools = [look, pay]


@pytest.fixture
def desk() -> Desk:
    return Desk()


PAY = tool_call("pay", {"amount": 5}, id="p")
LOOK = tool_call("look", {"place": "here"}, id="l")


async def gather(run: Any) -> list[Any]:
    return [event async for event in run]


def texts(messages: tuple[Message, ...]) -> list[str]:
    return [part.text for part in messages[2].parts]  # type: ignore[union-attr]


async def test_a_call_that_needs_approval_ends_the_run_once_the_others_have_run(over, desk):
    fake = FakeProvider([PAY, LOOK])
    run = over(fake).run("fake/m", "hi", tools=desk.tools)
    events = await gather(run)
    needed = events[-1]
    assert isinstance(needed, ApprovalNeeded)
    assert [call.id for call in needed.calls] == [call.id for call in run.waiting] == ["p"]
    assert (needed.text, desk.done) == ("", ["look here"])
    assert texts(run.messages) == ["not run: it waits for approval", "seen here"]
    check(Request(run.messages))
    with pytest.raises(ClosedError, match=r"waits for the approval of pay: .* approvals="):
        _ = run.response
    assert await gather(run) == []


@pytest.mark.parametrize(
    ("answer", "done", "result"),
    [
        (True, ["pay 5 Ann"], "paid 5"),
        (False, [], "not run: it was not approved"),
        ("too much", [], "not run: it was not approved: too much"),
        (
            {"amount": 3, "to": "Bo"},
            ["pay 3 Bo"],
            'Run with other arguments than yours: {"amount":3,"to":"Bo"}\npaid 3',
        ),
        (
            {"amount": "x"},
            [],
            "the arguments do not fit: Expected `int`, got `str` - at `$.amount`",
        ),
    ],
    ids=["yes", "no", "no with a reason", "other arguments", "arguments that do not fit"],
)
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_hook_decides_and_the_model_learns_what(over, desk, answer, done, result, kind):
    asked: list[ToolCallPart] = []

    def plain(call: ToolCallPart) -> Approval:
        asked.append(call)
        return answer

    async def hook(call: ToolCallPart) -> Approval:
        return plain(call)

    fake = FakeProvider([PAY], "ok")
    chosen = hook if kind == "async" else plain
    run = over(fake).run("fake/m", "hi", tools=desk.tools, approve=chosen)
    assert (await run.collect()).text == "ok"
    assert [call.arguments for call in asked] == ['{"amount":5}']
    assert (desk.done, texts(run.messages)) == (done, [result])
    assert run.messages[1].parts == (ToolCallPart("p", "pay", '{"amount":5}'),)
    assert not run.waiting


async def test_a_plain_hook_runs_in_a_thread_so_that_it_may_wait_for_a_person(over, desk):
    threads: list[str] = []

    def hook(call: ToolCallPart) -> bool:
        threads.append(threading.current_thread().name)
        return True

    run = over(FakeProvider([PAY], "ok")).run("fake/m", "hi", tools=desk.tools, approve=hook)
    await run.collect()
    assert threads == ["aiollm tool approve hook"]


async def test_a_hook_of_a_run_is_asked_about_every_tool_that_does_not_say_never(over, desk):
    harmless = Tool("clock", function=lambda: "noon", approve=False)
    asked: list[str] = []

    async def hook(call: ToolCallPart) -> bool:
        asked.append(call.name)
        return True

    fake = FakeProvider([tool_call("clock"), LOOK, PAY, tool_call("nothing")], "ok")
    run = over(fake).run("fake/m", "hi", tools=[*desk.tools, harmless], approve=hook)
    await run.collect()
    assert asked == ["look", "pay"]


async def test_calls_that_cannot_be_run_ask_nobody(over, desk):
    async def hook(call: ToolCallPart) -> bool:
        raise AssertionError(call)

    fake = FakeProvider([tool_call("pay", {"amount": "x"}), tool_call("gone")], "ok")
    run = over(fake).run("fake/m", "hi", tools=desk.tools, approve=hook)
    assert (await run.collect()).text == "ok"


async def test_a_person_is_asked_about_one_call_at_a_time_while_others_run(over, desk):
    gate, at_once = Gate(), []
    waiting = 0

    async def hook(call: ToolCallPart) -> bool:
        nonlocal waiting
        waiting += 1
        at_once.append(waiting)
        await gate.passes()
        waiting -= 1
        return True

    calls = [tool_call("pay", {"amount": n}) for n in range(3)]
    look = Tool("look", function=desk.done.append, approve=False)
    fake = FakeProvider([LOOK, *calls], "ok")
    run = over(fake).run("fake/m", "hi", tools=[desk.tools[1], look], approve=hook)
    async for event in run:
        if isinstance(event, ToolEnded) and event.call.name == "look":
            assert at_once == [1]
            gate.open()
    assert at_once == [1, 1, 1]
    assert sorted(desk.done[-3:]) == ["pay 0 Ann", "pay 1 Ann", "pay 2 Ann"]


async def test_a_hook_that_says_later_leaves_the_call_for_another_run(over, desk):
    run = over(FakeProvider([PAY, LOOK])).run(
        "fake/m", "hi", tools=desk.tools, approve=lambda call: None if call.name == "pay" else True
    )
    events = await gather(run)
    assert [call.name for call in events[-1].calls] == ["pay"]
    assert desk.done == ["look here"]


@pytest.mark.parametrize(
    ("error", "kind"), [(LookupError("no desk"), LookupError), (asyncio.CancelledError(), LLMError)]
)
async def test_a_hook_that_fails_ends_the_run_before_the_tool_and_keeps_the_history(
    over, desk, error, kind
):
    async def hook(call: ToolCallPart) -> bool:
        raise error

    run = over(FakeProvider([PAY])).run("fake/m", "hi", tools=desk.tools, approve=hook)
    with pytest.raises(kind):
        await run.collect()
    assert not desk.done
    check(Request(run.messages))
    assert [call.state for call in run.saved.calls] == ["waiting"]


async def test_an_answer_that_is_none_is_an_error_and_no_yes(over, desk):
    run = over(FakeProvider([PAY])).run("fake/m", "hi", tools=desk.tools, approve=lambda call: 1)
    with pytest.raises(ConfigError, match="the approve hook to 'pay' is 1: expected True"):
        await run.collect()
    assert not desk.done


async def test_leaving_a_run_ends_the_hook_that_waits(over, desk):
    gate = Gate()
    run = over(FakeProvider([PAY])).run(
        "fake/m", "hi", tools=desk.tools, approve=lambda call: gate.passes()
    )
    async with run, asyncio.TaskGroup() as group:
        reading = group.create_task(gather(run))
        await gate.reached()
        await run.aclose()
        assert not any(isinstance(event, ToolStarted) for event in await reading)
    assert not desk.done


@pytest.mark.parametrize("approve", ["yes", 1, 0])
def test_a_tool_takes_a_bool_or_nothing(approve):
    with pytest.raises(ConfigError, match=r"approve is .*expected a bool or None"):
        tool(name="f", approve=approve)(lambda: None)


async def test_anything_odd_in_a_tool_made_by_hand_is_taken_for_a_yes(over):
    odd: Any = "no"
    run = over(FakeProvider([tool_call("f")])).run(
        "fake/m", "hi", tools=[Tool("f", function=lambda: "ran", approve=odd)]
    )
    assert isinstance((await gather(run))[-1], ApprovalNeeded)


@pytest.mark.parametrize("name", ["approve", "compact", "save"])
async def test_a_hook_that_is_no_function_is_refused_at_once(over, name):
    options: Any = {name: "later"}
    with pytest.raises(ConfigError, match=f"{name} is 'later': expected a function"):
        over(FakeProvider()).run("fake/m", "hi", tools=[], **options)


async def test_hooks_of_the_registry_learn_of_approvals_but_no_log_shows_arguments(over, desk):
    registry = over(FakeProvider([PAY, LOOK]))
    told: list[Any] = []
    registry.on_event(told.append)
    run = registry.run(
        "fake/m", "hi", tools=desk.tools, approve=lambda call: call.name == "look" or None
    )
    await gather(run)
    asked = [event for event in told if isinstance(event, ApprovalAsked)]
    decided = [event for event in told if isinstance(event, ApprovalDecided)]
    assert [(event.run, event.name) for event in asked] == [(1, "pay"), (1, "look")]
    assert [event.decision for event in decided] == ["later", "approved"]
    assert all(event.seconds >= 0 for event in decided)
    assert all("amount" not in repr(event) for event in told)
    assert isinstance(told[-1], RunEnded)
    assert (told[-1].outcome, told[-1].waiting) == ("success", 1)


async def test_a_run_that_waits_is_no_circle_and_goes_with_its_last_reference(over, desk):
    async def save(saved: object) -> None:
        pass

    run = over(FakeProvider([PAY])).run("fake/m", [user("hi")], tools=desk.tools, save=save)
    await gather(run)
    seen = weakref.ref(run._agent)
    gc.collect()
    gc.disable()
    try:
        del run
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("approve", [None, True])
async def test_others_run_while_hundreds_of_calls_are_started(over, approve):
    asked: list[str] = []
    ran: list[int] = []

    @tool(approve=approve)
    async def work(number: int) -> str:
        """Work."""
        ran.append(len(seen))
        return str(number)

    def hook(call: ToolCallPart) -> bool:
        asked.append(call.id)
        return True

    ids = [f"c{number}" for number in range(500)]
    calls = [tool_call("work", {"number": at}, id=each) for at, each in enumerate(ids)]
    reg = over(FakeProvider([calls], "done"))
    options: dict[str, Any] = {} if approve is None else {"approve": hook}
    async with turns() as seen:
        run = reg.run("fake/m", "hi", tools=[work], max_parallel=500, **options)
        assert (await run.collect()).text == "done"
    results = run.messages[2].parts
    assert [part.content[0].text for part in results] == [str(at) for at in range(500)]
    assert asked == ([] if approve is None else ids)
    assert max(Counter(ran).values()) <= 2 * A_TURN
