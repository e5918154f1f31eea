"""Typed ends: the response beside a value, and runs that end in one."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import msgspec
import pytest

from aiollm import (
    AgentRun,
    ClosedError,
    ConfigError,
    FailoverError,
    Finish,
    OutputError,
    Request,
    RunResult,
    SavedRun,
    ServerError,
    Steered,
    TrimTo,
    TurnEnded,
    TurnLimitError,
    Typed,
    TypedRun,
    Usage,
    from_json,
    to_json,
    tool,
)
from aiollm.events import RunEnded
from aiollm.testing import FakeProvider, chat, tool_call
from aiollm.types import TextDelta


class City(msgspec.Struct):
    name: str
    people: int = 0


OSLO = City("Oslo", 700_000)
WIRE = '{"name":"Oslo","people":700000}'


@tool
def look_up(name: str) -> int:
    """Count the people of a city."""
    return 700_000


def used(text: str) -> list[Any]:
    return [TextDelta(text), Finish("stop", usage=Usage(3, 2, certainty="exact"))]


async def test_the_response_comes_beside_the_value(over):
    fake = FakeProvider(used(WIRE))
    typed = await over(fake).generate("fake/m", "?", output=City, with_response=True)
    assert isinstance(typed, Typed)
    assert typed.value == OSLO
    assert (typed.response.text, str(typed.response.target)) == (WIRE, "fake/m")
    assert (typed.rejected, typed.usage) == ((), Usage(3, 2, certainty="exact"))


async def test_usage_and_cost_count_the_answers_that_did_not_fit(over):
    fake = FakeProvider(used("no"), used(WIRE))
    typed = await over(fake).generate("fake/m", "?", output=City, with_response=True)
    assert typed.value == OSLO
    assert [each.text for each in typed.rejected] == ["no"]
    assert typed.usage.output_tokens == 4
    assert typed.cost == typed.rejected[0].cost + typed.response.cost


async def test_a_response_beside_nothing_is_a_config_error(over):
    fake = FakeProvider()
    with pytest.raises(ConfigError, match="give an output"):
        await over(fake).generate("fake/m", "?", with_response=True)
    assert not fake.calls


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (City, OSLO, WIRE),
        (list[City], [OSLO], f'{{"value":[{WIRE}]}}'),
        (int, 5, '{"value": 5}'),
        (int, 5, "5"),
        (City | None, None, '{"value": null}'),
        (dict[str, int], {"a": 1}, "```json\n{'a': 1}\n```"),
        ({"type": "array"}, [1], '{"value": [1]}'),
    ],
)
async def test_a_run_ends_in_a_value(over, kind, value, text):
    fake = FakeProvider([tool_call("look_up", '{"name": "Oslo"}')], text)
    run = over(fake).run("fake/m", "?", tools=[look_up], output=kind)
    with pytest.raises(ClosedError, match="not ended"):
        _ = run.value
    *_, result = [event async for event in run]
    assert isinstance(result, RunResult)
    assert result.value == run.value == value
    assert run.response.text == text
    assert [type(request.output) for request in fake.requests] == [
        type(fake.requests[0].output)
    ] * 2
    assert fake.requests[1].output is not None


async def test_collect_returns_the_response_of_a_typed_run(over):
    run = over(FakeProvider(WIRE)).run("fake/m", "?", tools=[], output=City)
    assert isinstance(run, TypedRun)
    assert (await run.collect()).text == WIRE
    assert run.value == OSLO


async def test_without_an_output_a_run_has_no_value(over):
    run = over(FakeProvider(WIRE, WIRE)).run("fake/m", "?", tools=[])
    assert type(run) is AgentRun
    *_, result = [event async for event in run]
    assert result.value is None
    request = Request("?", output=City)
    run = over(FakeProvider(WIRE)).run("fake/m", request, tools=[])
    assert (await run.collect()).parse(City) == OSLO


async def test_an_answer_that_does_not_fit_is_put_right_in_a_further_turn(over):
    fake = FakeProvider([tool_call("look_up", '{"name": "Oslo"}')], "It is Oslo.", WIRE)
    run = over(fake).run("fake/m", "?", tools=[look_up], output=City)
    events = [event async for event in run]
    assert run.value == OSLO
    assert run.turns == 3
    assert sum(isinstance(event, TurnEnded) for event in events) == 3
    *_, said, wrong, _ = run.messages
    assert (said.text, wrong.role) == ("It is Oslo.", "user")
    assert "does not fit City: it is not JSON: JSON is malformed" in wrong.text
    assert run.messages[:-1] == fake.requests[-1].messages
    assert fake.requests[-1].tools
    assert [request.tool_choice for request in fake.requests] == [None, None, "none"]


async def test_a_server_that_cannot_enforce_a_schema_beside_tools_does_so_for_a_correction(serve):
    call = {"index": 0, "id": "c", "type": "function"}
    called = {"tool_calls": [call | {"function": {"name": "look_up", "arguments": '{"name":"x"}'}}]}
    server, reg = await serve(chat(called, finish="tool_calls"), chat("It is Oslo."), chat(WIRE))
    run = reg.run("a/m", "?", tools=[look_up], output=City)
    await run.collect()
    assert run.value == OSLO
    asked = [request.json() for request in server.requests]
    assert ["response_format" in body for body in asked] == [False, False, True]
    assert ["schema" in body["messages"][0]["content"] for body in asked] == [True, True, False]


async def test_a_tool_that_is_called_all_the_same_is_run(over):
    call = [tool_call("look_up", '{"name": "Oslo"}')]
    run = over(FakeProvider("no", call, WIRE)).run("fake/m", "?", tools=[look_up], output=City)
    await run.collect()
    assert run.value == OSLO


@pytest.mark.parametrize(("repairs", "calls"), [(0, 1), (1, 2), (3, 4)])
async def test_corrections_are_bounded_and_the_history_is_kept(over, repairs, calls):
    fake = FakeProvider(default="no")
    seen: list[Any] = []
    reg = over(fake)
    reg.on_event(seen.append)
    run = reg.run("fake/m", "?", tools=[], output=City, repairs=repairs)
    with pytest.raises(OutputError, match="does not fit City") as caught:
        await run.collect()
    assert len(fake.calls) == calls
    assert caught.value.response.text == run.response.text == "no"
    assert [message.role for message in run.messages] == ["user", "assistant"] * calls
    with pytest.raises(OutputError, match="does not fit City"):
        _ = run.value
    assert [event async for event in run] == []
    (ended,) = [event for event in seen if isinstance(event, RunEnded)]
    assert (ended.outcome, type(ended.error)) == ("failed", OutputError)


async def test_a_correction_takes_no_more_turns_than_there_are(over):
    call = [tool_call("look_up", '{"name": "Oslo"}')]
    run = over(FakeProvider(call, "no")).run(
        "fake/m", "?", tools=[look_up], output=City, max_turns=2
    )
    with pytest.raises(OutputError):
        await run.collect()
    run = over(FakeProvider("no", call)).run(
        "fake/m", "?", tools=[look_up], output=City, max_turns=2
    )
    with pytest.raises(TurnLimitError):
        await run.collect()


@pytest.mark.parametrize(
    ("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "filter")]
)
async def test_no_correction_is_asked_for_where_it_would_not_help(over, reason, told):
    fake = FakeProvider([tool_call("look_up"), '{"name', Finish(reason)], default=WIRE)
    if reason == "length":
        fake = FakeProvider(['{"name', Finish(reason)])
    run = over(fake).run("fake/m", "?", tools=[look_up], output=City)
    with pytest.raises(OutputError, match=told):
        await run.collect()
    assert len(fake.calls) == 1


async def test_an_answer_that_stops_with_an_error_in_its_calls_says_so(over):
    run = over(FakeProvider([tool_call("look_up"), Finish("error")])).run(
        "fake/m", "?", tools=[look_up], output=City
    )
    with pytest.raises(OutputError, match="it was stopped while the model called tools"):
        await run.collect()


@pytest.mark.parametrize(("first", "second"), [(WIRE, "no"), ("no", WIRE)])
async def test_a_message_after_the_last_answer_leaves_nothing_of_its_value(over, first, second):
    run = over(FakeProvider(first, second)).run("fake/m", "?", tools=[], output=City, repairs=0)
    async for event in run:
        if isinstance(event, TurnEnded):
            run.steer("And now?")
            break
    async for event in run:
        if isinstance(event, Steered):
            with pytest.raises(ClosedError, match="use `messages`"):
                _ = run.value
            break
    if second == WIRE:
        await run.collect()
        assert run.value == OSLO
    else:
        with pytest.raises(OutputError):
            await run.collect()


async def test_a_message_during_a_correction_may_take_calls(over):
    fake = FakeProvider("no", [tool_call("look_up", '{"name": "Oslo"}')], WIRE)
    run = over(fake).run("fake/m", "?", tools=[look_up], output=City)
    async for event in run:
        if isinstance(event, TurnEnded):
            run.steer("Look it up.")
            break
    await run.collect()
    assert run.value == OSLO
    assert [request.tool_choice for request in fake.requests] == [None, None, None]


async def test_after_a_correction_a_conversation_may_take_calls_again(over):
    fake = FakeProvider("no", WIRE, [tool_call("look_up", '{"name": "Oslo"}')], WIRE)
    run = over(fake).run("fake/m", "?", tools=[look_up], output=City)
    async for event in run:
        if isinstance(event, TurnEnded) and event.response.text == WIRE and run.turns == 2:
            run.steer("Look it up.")
    assert [request.tool_choice for request in fake.requests] == [None, "none", None, None]


async def test_a_shorter_history_has_the_answer_that_is_to_be_corrected(over):
    fake = FakeProvider([tool_call("look_up", '{"name": "Oslo"}')], "no", WIRE)
    run = over(fake).run("fake/m", "?", tools=[look_up], output=City, compact=TrimTo(1))
    await run.collect()
    assert run.value == OSLO
    assert [message.role for message in fake.requests[-1].messages] == ["user", "assistant", "user"]
    assert fake.requests[-1].messages[1].text == "no"


@pytest.mark.parametrize("repairs", [0, 1, 2])
async def test_corrections_before_a_save_count_and_are_gone_on_with(over, repairs):
    kept: list[SavedRun] = []
    fake = FakeProvider("no", default=ServerError("down"))
    run = over(fake).run("fake/m", "?", tools=[look_up], output=City, save=kept.append)
    with pytest.raises(FailoverError):
        await run.collect()
    saved = from_json(to_json(kept[-1]), SavedRun)
    other = FakeProvider(default="no")
    again = over(other).run("fake/m", saved, tools=[look_up], output=City, repairs=repairs)
    with pytest.raises(OutputError):
        await again.collect()
    assert len(other.calls) == max(1, repairs)
    assert {request.tool_choice for request in other.requests} == {"none"}
    assert again.saved.repairs == max(1, repairs)


async def test_a_run_that_waits_for_approval_says_so_where_its_value_would_be(over):
    @tool(approve=True)
    def pay() -> None:
        """Pay."""

    run = over(FakeProvider([tool_call("pay")])).run("fake/m", "?", tools=[pay], output=City)
    async for _ in run:
        pass
    with pytest.raises(ClosedError, match="waits for the approval of pay"):
        _ = run.value


@pytest.mark.parametrize("wrong", [{"repairs": -1}, {"repairs": True}, {"output": object()}])
async def test_wrong_settings_of_a_typed_run_fail_at_once(over, wrong):
    fake = FakeProvider()
    with pytest.raises(ConfigError):
        over(fake).run("fake/m", "?", **({"tools": [], "output": City} | wrong))
    assert not fake.calls


async def test_a_failed_end_needs_no_garbage_collector(over):
    run = over(FakeProvider(default="no")).run("fake/m", "?", tools=[], output=City)
    gc.collect()
    gc.disable()
    try:
        try:
            await run.collect()
        except OutputError as error:
            gone = weakref.ref(error)
        assert gone() is None
        last = weakref.ref(run)
        del run
        assert last() is None
    finally:
        gc.enable()
