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
    Finish,
    OutputError,
    Request,
    RunResult,
    TurnEnded,
    TurnLimitError,
    Typed,
    TypedRun,
    Usage,
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
    assert (typed.misfits, typed.usage) == ((), Usage(3, 2, certainty="exact"))


async def test_usage_and_cost_count_the_answers_that_did_not_fit(over):
    fake = FakeProvider(used("no"), used(WIRE))
    typed = await over(fake).generate("fake/m", "?", output=City, with_response=True)
    assert typed.value == OSLO
    assert [each.text for each in typed.misfits] == ["no"]
    assert typed.usage.output_tokens == 4
    assert typed.cost == typed.misfits[0].cost + typed.response.cost


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
    assert "JSON is malformed" in wrong.text
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
