"""`generate(output=...)`: any type over any wire, and one more try when the reply misfits."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import gc
import weakref
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pytest

from aiollm import (
    ConfigError,
    Finish,
    OutputError,
    Request,
    Response,
    assistant,
    system,
    tool,
    user,
)
from aiollm._agent.typed_output import shape_of
from aiollm._wire.schema import json_schema
from aiollm.testing import FakeProvider, chat, tool_call
from aiollm.types import Message, RefusalDelta, TextPart


class City(msgspec.Struct):
    name: str
    people: int = 0


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


class Row(TypedDict):
    x: int


class Pair(msgspec.Struct, array_like=True):
    a: int
    b: int


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


class Model(pydantic.BaseModel):
    n: int


OSLO = City("Oslo", 700_000)
WIRE = '{"name":"Oslo","people":700000}'


async def test_a_reply_that_fits_is_decoded(over):
    fake = FakeProvider(WIRE)
    assert await over(fake).generate("fake/m", "Where?", output=City) == OSLO
    assert fake.requests[0].output is City


async def test_without_an_output_the_whole_response_comes_back(over):
    response = await over(FakeProvider("Hello")).generate("fake/m", "hi")
    assert isinstance(response, Response)
    assert response.text == "Hello"


@pytest.mark.parametrize(
    ("kind", "value", "wire"),
    [
        (list[City], [OSLO], f'{{"value":[{WIRE}]}}'),
        (int, 5, '{"value":5}'),
        (str, "x", '{"value":"x"}'),
        (bool, True, '{"value":true}'),
        (City | None, None, '{"value":null}'),
        (Cat | Dog, Cat(9), '{"value":{"type":"Cat","lives":9}}'),
        (Literal["a", "b"], "b", '{"value":"b"}'),
        (tuple[int, int], (1, 2), '{"value":[1,2]}'),
        (Pair, Pair(1, 2), '{"value":[1,2]}'),
        (Any, [1], '{"value":[1]}'),
        (dict[str, int], {"a": 1}, '{"a":1}'),
        (dict[str, City], {"a": OSLO}, f'{{"a":{WIRE}}}'),
        (City | None, OSLO, f'{{"value":{WIRE}}}'),
        (int | str | None, "x", '{"value":"x"}'),
        (Colour, Colour.RED, '{"value":"red"}'),
        (list[Colour], [Colour.RED], '{"value":["red"]}'),
        (float, 1.5, '{"value":1.5}'),
        (dt.date, dt.date(2026, 5, 17), '{"value":"2026-05-17"}'),
        (Annotated[int, msgspec.Meta(ge=1)], 5, '{"value":5}'),
        (Point, Point(1), '{"x":1}'),
        (list[Point], [Point(1)], '{"value":[{"x":1}]}'),
        (Model, Model(n=2), '{"n":2}'),
        (list[Model], [Model(n=2)], '{"value":[{"n":2}]}'),
        (Model | None, None, '{"value":null}'),
        (Row, {"x": 1}, '{"x":1}'),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, {"a": 1}, '{"a":1}'),
        ({"properties": {"a": {"type": "integer"}}}, {"a": 1}, '{"a":1}'),
        ({"type": "array", "items": {"type": "integer"}}, [1], '{"value":[1]}'),
    ],
)
async def test_types_that_are_no_object_travel_in_one(over, kind, value, wire):
    fake = FakeProvider(wire)
    assert await over(fake).generate("fake/m", "?", output=kind) == value
    assert json_schema(fake.requests[0].output)["type"] == "object"
    assert len(fake.calls) == 1


async def test_references_in_a_schema_survive_the_wrapping(over):
    schema = {
        "type": "array",
        "items": {"$ref": "#/$defs/n"},
        "$defs": {"n": {"type": "integer"}},
    }
    fake = FakeProvider('{"value":[1]}')
    assert await over(fake).generate("fake/m", "?", output=schema) == [1]
    sent = json_schema(fake.requests[0].output)
    assert sent["properties"]["value"] == {"type": "array", "items": {"type": "integer"}}


async def test_a_bare_value_is_taken_where_the_model_left_the_wrapping_out(over):
    fake = FakeProvider(f"[{WIRE}]")
    assert await over(fake).generate("fake/m", "?", output=list[City]) == [OSLO]


@pytest.mark.parametrize(
    "fence", ["```json\n{}\n```", "```\n{}```", "  ```JSON\n {} \n```\n", "```json {}```"]
)
async def test_a_markdown_fence_is_taken_off(over, fence):
    fake = FakeProvider(fence.replace("{}", WIRE))
    assert await over(fake).generate("fake/m", "?", output=City) == OSLO


async def test_a_whole_number_with_a_point_is_an_integer_as_json_schema_has_it(over):
    fake = FakeProvider('{"name": "Oslo", "people": 7e5}', '{"value": [1.0, 2]}', "[3.0]")
    reg = over(fake)
    assert await reg.generate("fake/m", "?", output=City) == OSLO
    assert await reg.generate("fake/m", "?", output=list[int]) == [1, 2]
    assert await reg.generate("fake/m", "?", output=list[int]) == [3]


async def test_half_a_number_is_no_integer(over):
    fake = FakeProvider('{"name": "Oslo", "people": 0.5}')
    with pytest.raises(OutputError, match="Expected `int`, got `float`"):
        await over(fake).generate("fake/m", "?", output=City, repairs=0)


@pytest.mark.parametrize(
    "text",
    [
        f"Here:\n```\n{WIRE}\n```\nAnything else?",
        f"Sure! {WIRE} Hope this helps.",
        f"<think>perhaps {{}}</think>\n\n{WIRE}",
        f"of course</think>{WIRE}",
        '{"name":"Oslo","people":"700000"}',
        '{"name":"Oslo", // the capital\n"people":700000,}',
        f"[{WIRE}]",
        msgspec.json.encode(WIRE).decode(),
        f"{WIRE}\n{WIRE}",
    ],
)
async def test_an_answer_is_read_as_models_write_it_before_anything_is_asked_again(over, text):
    fake = FakeProvider(text)
    assert await over(fake).generate("fake/m", "?", output=City, repairs=0) == OSLO


@pytest.mark.parametrize(
    "text",
    [
        f'{WIRE} or {{"name":"Bergen"}}',
        f"<think>perhaps {WIRE}",
        f'[{WIRE},{{"name":"Bergen"}}]',
        f'{{"city": {WIRE}, oops}}',
        '{"name":"Oslo","people":"many"}',
    ],
)
async def test_an_answer_that_may_mean_several_things_is_asked_for_again(over, text):
    fake = FakeProvider(text, WIRE)
    assert await over(fake).generate("fake/m", "?", output=City) == OSLO
    assert len(fake.calls) == 2


@pytest.mark.parametrize("reason", ["length", "content_filter", "error"])
@pytest.mark.parametrize(("kind", "cut", "whole"), [(int, "12", "12\n"), (float, "1.5", "1.5 ")])
async def test_a_number_that_was_cut_never_passes_for_a_shorter_one(over, reason, kind, cut, whole):
    fake = FakeProvider([cut, Finish(reason)], [whole, Finish(reason)])
    reg = over(fake)
    with pytest.raises(OutputError, match="may lack digits"):
        await reg.generate("fake/m", "?", output=kind, repairs=0)
    assert await reg.generate("fake/m", "?", output=kind, repairs=0) == kind(whole)


async def test_a_part_of_a_cut_answer_never_passes_for_all_of_it(over):
    fake = FakeProvider([f"Here: {WIRE}, and ", Finish("length")])
    with pytest.raises(OutputError, match="max_output_tokens"):
        await over(fake).generate("fake/m", "?", output=City)


@pytest.mark.parametrize(
    "around", ["{}", "```json\n{}\n```", "Here: {} Fine?", "<think>{{}}</think>{}"]
)
@pytest.mark.parametrize(
    ("kind", "value", "wire"),
    [
        (list[City], [OSLO], f"[{WIRE}]"),
        (list[City], [OSLO], f'{{"value": [{WIRE}]}}'),
        (int, 5, '{"value": 5}'),
        (City | None, OSLO, WIRE),
        (dict[str, int], {"a": 1}, '{"a": 1}'),
        (tuple[int, str], (1, "x"), '[1, "x"]'),
        (Literal["a", "b"], "b", '{"value": "b"}'),
    ],
)
async def test_every_kind_of_value_is_read_as_models_write_it(over, kind, value, wire, around):
    fake = FakeProvider(around.format(wire))
    assert await over(fake).generate("fake/m", "?", output=kind, repairs=0) == value


async def test_values_that_are_no_objects_are_read_so_too(over):
    fake = FakeProvider('{"value": "3"}', '"4"', 'They are: ["1", 2]', '{"value": "7"}')
    reg = over(fake)
    assert await reg.generate("fake/m", "?", output=int, repairs=0) == 3
    assert await reg.generate("fake/m", "?", output=int, repairs=0) == 4
    assert await reg.generate("fake/m", "?", output=list[int], repairs=0) == [1, 2]
    assert await reg.generate("fake/m", "?", output=str, repairs=0) == "7"


async def test_a_reply_that_does_not_fit_goes_back_once_with_what_is_wrong(over):
    fake = FakeProvider('{"name": 5}', WIRE)
    request = Request("Where?", system="Be exact.", temperature=0.0)
    assert await over(fake).generate("fake/m", request, output=City) == OSLO
    first, second = fake.requests
    assert (second.system, second.temperature, second.output) == ("Be exact.", 0.0, City)
    question, reply, wrong = second.messages
    assert question is first.messages[0]
    assert reply == assistant('{"name": 5}')
    assert wrong.role == "user"
    assert "the reply does not fit City: Expected `str`, got `int` - at `$.name`" in wrong.text
    assert "JSON and nothing else" in wrong.text
    assert request.messages == (user("Where?"),)


async def test_a_second_misfit_raises_with_the_last_reply(over):
    fake = FakeProvider("nonsense", '{"name": 5}', "never asked")
    with pytest.raises(OutputError, match="does not fit City") as caught:
        await over(fake).generate("fake/m", "Where?", output=City)
    assert caught.value.response.text == '{"name": 5}'
    assert str(caught.value.target) == "fake/m"
    assert caught.value.__context__ is None
    assert len(fake.calls) == 2


@pytest.mark.parametrize(("repairs", "calls"), [(0, 1), (2, 3)])
async def test_the_number_of_repairs_can_be_set(over, repairs, calls):
    fake = FakeProvider(default="nonsense")
    with pytest.raises(OutputError):
        await over(fake).generate("fake/m", "Where?", output=City, repairs=repairs)
    assert len(fake.calls) == calls


async def test_an_empty_reply_is_not_quoted_back(over):
    fake = FakeProvider([Finish("stop", "stop")], WIRE)
    assert await over(fake).generate("fake/m", "Where?", output=City) == OSLO
    assert [message.role for message in fake.requests[1].messages] == ["user", "user"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (['{"name": "Os', Finish("length", "length")], "raise max_output_tokens"),
        ([Finish("content_filter", "safety")], "filter"),
        ([tool_call("look")], r"use run\(\)"),
        ([RefusalDelta("I will not."), Finish("stop", "stop")], "declined: I will not."),
    ],
)
async def test_no_repair_is_tried_where_it_would_bring_the_same(over, script, reason):
    fake = FakeProvider(script, WIRE)
    with pytest.raises(OutputError, match=reason) as caught:
        await over(fake).generate("fake/m", "Where?", output=City)
    assert len(fake.calls) == 1
    assert caught.value.response is not None


async def test_a_type_without_a_schema_fails_before_anything_is_sent(over):
    fake = FakeProvider()
    with pytest.raises(ConfigError):
        await over(fake).generate("fake/m", "Where?", output=complex)
    assert fake.calls == []


async def test_every_form_of_a_request_can_have_an_output(over):
    fake = FakeProvider(default=WIRE)
    registry = over(fake)
    forms = ["Where?", user("Where?"), [system("Exact."), user("Where?")], Request("Where?")]
    for form in forms:
        assert await registry.generate("fake/m", form, output=City) == OSLO


async def test_a_wrapped_type_over_the_wire_and_its_repair(serve):
    server, registry = await serve(chat("nonsense"), chat(f'{{"value":[{WIRE}]}}'))
    assert await registry.generate("a/m", "Which?", output=list[City]) == [OSLO]
    first, second = (msgspec.json.decode(seen.body) for seen in server.requests)
    schema = first["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["properties"]["value"]["type"] == "array"
    assert first["response_format"] == second["response_format"]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{WIRE}\n```",
        f"<think>Oslo?</think>{WIRE}",
        f"Here it is: {WIRE}",
        "{'name': 'Oslo', 'people': '700000'}",
        msgspec.json.encode(WIRE).decode(),
    ],
)
def test_parse_reads_what_models_write(text):
    assert Response(assistant(text), finish_reason="stop").parse(City) == OSLO
    with pytest.raises(OutputError, match="does not fit City"):
        Response(assistant(text.replace("name", "town")), finish_reason="stop").parse(City)


def test_parse_takes_no_part_of_a_cut_answer():
    with pytest.raises(OutputError, match="does not fit City"):
        Response(assistant(f"So {WIRE}, or"), finish_reason="length").parse(City)


async def test_a_run_may_end_with_a_typed_answer(over):
    @tool
    def look() -> str:
        """Look."""
        return "Oslo"

    fake = FakeProvider([tool_call("look")], WIRE)
    request = Request("Where?", output=City)
    response = await over(fake).run("fake/m", request, tools=[look]).collect()
    assert response.parse(City) == OSLO


async def test_an_error_that_was_handled_needs_no_garbage_collector(over):
    errors: list[weakref.ref[OutputError]] = []
    gc.disable()
    try:
        try:
            await over(FakeProvider("no")).generate("fake/m", "?", output=City, repairs=0)
        except OutputError as error:
            errors.append(weakref.ref(error))
        assert [error() for error in errors] == [None]
    finally:
        gc.enable()


def test_the_shape_of_a_reply_that_cannot_be_decoded_is_an_error():
    reply = Response(Message("assistant", (TextPart("[" * 100_000),)))
    with pytest.raises(OutputError, match="does not fit"):
        shape_of(list[int]).read(reply)


@pytest.mark.parametrize("text", ["```json\n{}x", "```json\n{}```x", "```{}", "{}```"])
def test_white_space_up_to_a_models_limit_is_read_at_once(text):
    """As models send it that must write JSON; trying each place in it would take minutes."""
    answer = Response(assistant(text.format(" " * 300_000 + "\n")), "length")
    with pytest.raises(OutputError):
        shape_of(City).read(answer)
