"""One table: a user's types as parameter, result and answer, over every wire, from real servers."""

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from pydantic import BaseModel, Field

from aiollm import (
    ConfigError,
    OutputError,
    Registry,
    Response,
    ToolEnded,
    assistant,
    tool,
)
from aiollm._agent.tools import as_result, bind
from aiollm._agent.typed_output import shape_of
from aiollm._wire.schema import json_schema
from aiollm.testing import FaultServer, chat, ndjson, sse
from aiollm.types import ToolCallPart


class City(BaseModel):
    name: str
    people: int = 0
    founded: dt.date | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Folder(BaseModel):
    name: str
    folders: list["Folder"] = []


class Strict(BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    day: dt.date


class Aliased(BaseModel):
    given: int = Field(alias="givenValue")


@pydantic.dataclasses.dataclass
class Checked:
    age: Annotated[int, Field(ge=18)]


@dataclass
class Trip:
    to: City
    via: list[City] = field(default_factory=list)


class Row(TypedDict):
    id: int
    at: dt.datetime


class Point(NamedTuple):
    x: int
    y: float = 0.5


class Unit(Enum):
    C = "celsius"


class Money(msgspec.Struct):
    amount: Decimal
    owner: UUID
    unit: Unit = Unit.C


class Circle(msgspec.Struct, tag=True):
    radius: int


class Square(msgspec.Struct, tag=True):
    side: int


class Node(msgspec.Struct):
    label: str
    child: Optional["Node"] = None


class Left(msgspec.Struct):
    right: Optional["Right"] = None


class Right(msgspec.Struct):
    lefts: list[Left] = []


@dataclass
class Tree:
    leaves: list["Tree"]


def local_types() -> tuple[Any, Any]:
    @dataclass
    class Inner:
        n: int

    class Outer(msgspec.Struct):
        inner: Inner

    return Outer, Outer(Inner(3))


LOCAL, LOCAL_VALUE = local_types()
OSLO = '{"name":"Oslo","people":0,"founded":null}'
OWNER = UUID("12345678-1234-5678-1234-567812345678")

TYPES: list[tuple[str, Any, Any, str]] = [
    ("pydantic", City, City(name="Oslo", people=7), '{"name":"Oslo","people":7,"founded":null}'),
    ("pydantic in a list", list[City], [City(name="Oslo")], f"[{OSLO}]"),
    ("pydantic or none", City | None, City(name="Oslo"), OSLO),
    ("pydantic in a dict", dict[str, City], {"a": City(name="Oslo")}, f'{{"a":{OSLO}}}'),
    ("pydantic union", Cat | Dog, Dog(kind="dog", name="Rex"), '{"kind":"dog","name":"Rex"}'),
    (
        "pydantic tagged union",
        list[Annotated[Cat | Dog, Field(discriminator="kind")]],
        [Cat(kind="cat", lives=9)],
        '[{"kind":"cat","lives":9}]',
    ),
    (
        "recursive pydantic",
        Folder,
        Folder(name="a", folders=[Folder(name="b")]),
        '{"name":"a","folders":[{"name":"b","folders":[]}]}',
    ),
    ("strict pydantic", Strict, Strict(day=dt.date(2026, 1, 2)), '{"day":"2026-01-02"}'),
    ("pydantic by alias", Aliased, Aliased(givenValue=4), '{"givenValue":4}'),
    ("pydantic dataclass", Checked, Checked(age=20), '{"age":20}'),
    ("pydantic in a dataclass", Trip, Trip(City(name="Oslo")), f'{{"to":{OSLO},"via":[]}}'),
    (
        "typed dict",
        Row,
        {"id": 1, "at": dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)},
        '{"id":1,"at":"2026-01-02T03:04:00Z"}',
    ),
    ("named tuple", Point, Point(1, 2.5), "[1,2.5]"),
    (
        "struct",
        Money,
        Money(Decimal("1.50"), OWNER),
        f'{{"amount":"1.50","owner":"{OWNER}","unit":"celsius"}}',
    ),
    ("tagged structs", Circle | Square, Square(2), '{"type":"Square","side":2}'),
    (
        "recursive struct",
        Node,
        Node("a", Node("b")),
        '{"label":"a","child":{"label":"b","child":null}}',
    ),
    ("mutually recursive", Left, Left(Right([Left()])), '{"right":{"lefts":[{"right":null}]}}'),
    ("recursive dataclass", Tree, Tree([Tree([])]), '{"leaves":[{"leaves":[]}]}'),
    ("local", LOCAL, LOCAL_VALUE, '{"inner":{"n":3}}'),
    ("number", int, 5, "5"),
    ("set", set[Literal["a"]], {"a"}, '["a"]'),
]


NOT_ANTHROPIC = {
    "pydantic in a dict",
    "recursive pydantic",
    "recursive struct",
    "mutually recursive",
    "recursive dataclass",
}
"""What its structured output refuses, so that the prompt asks for it: free keys, and types that
contain themselves."""


class Wire(msgspec.Struct, frozen=True):
    """How a server of one kind says a text and a call, and where a request has its schemas."""

    scheme: str
    path: str
    options: dict[str, str]
    text: Callable[[str], Any]
    call: Callable[[str, str], Any]
    answers: tuple[str | int, ...]
    parameters: tuple[str | int, ...]
    result: Callable[[Any], Any]


def _openai_call(name: str, arguments: str) -> Any:
    function = {"name": name, "arguments": arguments}
    delta = {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]}
    return chat(delta, finish="tool_calls")


def _response(item: dict[str, Any]) -> Any:
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    whole = {"status": "completed", "output": [item]}
    return sse(done, {"type": "response.completed", "response": whole})


def _said(text: str) -> Any:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return _response({"id": "m", "type": "message", "role": "assistant", "content": content})


def _anthropic(block: dict[str, Any], delta: dict[str, Any], reason: str) -> Any:
    usage = {"input_tokens": 1, "output_tokens": 1}
    return sse(
        {"type": "message_start", "message": {"usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage},
        {"type": "message_stop"},
    )


def _google(part: dict[str, Any]) -> Any:
    content = {"role": "model", "parts": [part]}
    return sse({"candidates": [{"content": content, "finishReason": "STOP", "index": 0}]})


def _ollama(**message: Any) -> Any:
    said = {"role": "assistant", "content": ""} | message
    return ndjson({"message": said, "done": False}, {"done": True, "done_reason": "stop"})


WIRES = {
    "chat": Wire(
        "openai",
        "/v1",
        {},
        chat,
        _openai_call,
        ("response_format", "json_schema", "schema"),
        ("tools", 0, "function", "parameters"),
        lambda body: json.loads(body["messages"][-1]["content"]),
    ),
    "responses": Wire(
        "openai",
        "/v1",
        {"api": "responses"},
        _said,
        lambda name, arguments: _response(
            {
                "id": "f",
                "type": "function_call",
                "call_id": "c1",
                "name": name,
                "arguments": arguments,
            }
        ),
        ("text", "format", "schema"),
        ("tools", 0, "parameters"),
        lambda body: json.loads(body["input"][-1]["output"]),
    ),
    "anthropic": Wire(
        "anthropic",
        "",
        {},
        lambda text: _anthropic(
            {"type": "text", "text": ""}, {"type": "text_delta", "text": text}, "end_turn"
        ),
        lambda name, arguments: _anthropic(
            {"type": "tool_use", "id": "c1", "name": name, "input": {}},
            {"type": "input_json_delta", "partial_json": arguments},
            "tool_use",
        ),
        ("output_config", "format", "schema"),
        ("tools", 0, "input_schema"),
        lambda body: json.loads(_text(body["messages"][-1]["content"][0]["content"])),
    ),
    "google": Wire(
        "google",
        "",
        {},
        lambda text: _google({"text": text}),
        lambda name, arguments: _google(
            {"functionCall": {"name": name, "args": json.loads(arguments)}}
        ),
        ("generationConfig", "responseJsonSchema"),
        ("tools", 0, "functionDeclarations", 0, "parametersJsonSchema"),
        lambda body: _unwrapped(body["contents"][-1]["parts"][0]["functionResponse"]["response"]),
    ),
    "ollama": Wire(
        "ollama",
        "",
        {},
        lambda text: _ollama(content=text),
        lambda name, arguments: _ollama(
            tool_calls=[{"function": {"name": name, "arguments": json.loads(arguments)}}]
        ),
        ("format",),
        ("tools", 0, "function", "parameters"),
        lambda body: json.loads(body["messages"][-1]["content"]),
    ),
}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else content[0]["text"]


def _unwrapped(result: dict[str, Any]) -> Any:
    """Return a result of Gemini's, where what is no object is the text `output` of one."""
    return json.loads(result["output"]) if result.keys() == {"output"} else result


def at(body: Any, way: tuple[str | int, ...]) -> Any:
    for step in way:
        body = body[step]
    return body


def echo(kind: Any, seen: list[Any]) -> Any:
    def keep(thing):
        seen.append(thing)
        return thing

    keep.__annotations__["thing"] = kind
    return tool(keep)


def kinds(value: Any) -> Any:
    return [type(item) for item in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
@pytest.mark.parametrize(("name", "kind", "value", "wired"), TYPES, ids=[row[0] for row in TYPES])
async def test_a_type_is_parameter_result_and_answer(wire, name, kind, value, wired):
    seen: list[Any] = []
    answer = f'{{"value":{wired}}}' if shape_of(kind).wrapped else wired
    script = wire.call("keep", f'{{"thing":{wired}}}'), wire.text("done"), wire.text(answer)
    async with FaultServer(*script) as server:
        dsn = server.dsn(wire.scheme, path=wire.path, **wire.options)
        async with Registry(env={"LLM_A": dsn}, retries=0) as registry:
            run = registry.run("a/gemini-3.8-flash", "go", tools=[echo(kind, seen)])
            ends = [event.error async for event in run if isinstance(event, ToolEnded)]
            assert (ends, seen, kinds(seen[0])) == ([None], [value], kinds(value))
            asked, told = (request.json() for request in server.requests)
            assert "thing" in at(asked, wire.parameters)["properties"]
            assert wire.result(told) == json.loads(wired)
            assert await registry.generate("a/m", "?", output=kind, repairs=0) == value
            if wire.scheme == "anthropic" and name in NOT_ANTHROPIC:
                assert "it must fit this JSON schema" in server.requests[-1].json()["system"]
                return
            assert at(server.requests[-1].json(), wire.answers)["type"] == "object"


class Picky(BaseModel):
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def _check(cls, name: str) -> str:
        raise KeyError("a validator's own error")


@dataclass
class Exploding:
    n: int

    def __post_init__(self):
        raise LookupError("no such n")


class Plan(msgspec.Struct):
    trips: list[Trip]


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        (City, '{"people":1}', "Field required - at `$.name`"),
        (City, '{"name":"x","people":"many"}', "Expected `int`, got `str` - at `$.people`"),
        (City, "[]", "Input should be an object"),
        (list[City], '{"value":[{}]}', "Field required - at `$.value[0].name`"),
        (Plan, '{"trips":[{"to":{"name":1}}]}', "valid string - at `$.trips[0].to.name`"),
        (Folder, '{"name":"a","folders":[{}]}', "Field required - at `$.folders[0].name`"),
        (Checked, '{"age":17}', "greater than or equal to 18 - at `$.age`"),
        (Picky, '{"name":"x"}', 'KeyError: "a validator\'s own error"'),
        (Exploding, '{"n":1}', "LookupError: no such n"),
        (
            list[Cat | Dog],
            '{"value":[{"kind":"cat"}]}',
            "Field required - at `$.value[0].Cat.lives`",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_its_path_in_our_own_error(kind, text, reason):
    """It is what the model reads, so it has no library's error, address or advice in it."""
    for read in (shape_of(kind).read, lambda response: response.parse(kind)):
        if read is not shape_of(kind).read and shape_of(kind).wrapped:
            continue
        with pytest.raises(OutputError) as caught:
            read(Response(assistant(text), "stop"))
        assert reason in str(caught.value)
        assert caught.value.__context__ is None
        assert "pydantic" not in str(caught.value)


class Odd:
    """A class that nobody can read."""


class Pets(msgspec.Struct):
    pet: Cat | Dog


class Odder(BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    odd: Odd


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Odd, "Odd is not supported: it is not a type that JSON can hold"),
        (list[Odd], "Odd is not supported"),
        (Odder, "pydantic cannot describe Odder: "),
        (Pets, r"Cat \| .*Dog is not supported here: make it a field of a pydantic model"),
        (City | Money, "pydantic cannot read .*City .*Money"),
    ],
)
def test_a_type_that_nobody_can_describe_says_so_without_a_librarys_settings(kind, reason):
    for make in (shape_of, lambda kind: echo(kind, [])):
        with pytest.raises(ConfigError, match=reason) as caught:
            make(kind)
        assert "hook" not in str(caught.value)
        assert "model_config" not in str(caught.value)


def test_pydantics_fields_describe_check_and_default_a_parameter():
    @tool
    def book(
        nights: Annotated[int, Field(ge=1, description="how many")],
        city: City = City(name="Oslo"),  # noqa: B008 - what is tested
        beds: int = Field(default=2, le=4),
        guest: str = Field(min_length=2),
    ) -> Any:
        return nights, city, beds, guest

    shown = book.parameters["properties"]
    assert shown["nights"] == {"type": "integer", "minimum": 1, "description": "how many"}
    assert (shown["beds"]["maximum"], shown["guest"]["minLength"]) == (4, 2)
    assert book.parameters["required"] == ["nights", "guest"]

    def call(**arguments: Any) -> Any:
        return bind(book, ToolCallPart("i", "book", json.dumps(arguments)))()

    assert call(nights="3", guest="Bo") == (3, City(name="Oslo"), 2, "Bo")
    with pytest.raises(OutputError, match=r"or equal to 1 - at `\$.nights`"):
        call(nights=0, guest="Bo")
    with pytest.raises(OutputError, match=r"or equal to 4 - at `\$.beds`"):
        call(nights=1, guest="Bo", beds=5)


def test_sloppy_json_inside_a_model_is_read_as_elsewhere():
    keep = echo(Trip, [])
    trip = '{"to": "{\\"name\\": \\"Oslo\\", \\"people\\": \\"7\\"}", "via": "[]"}'
    made = bind(keep, ToolCallPart("i", "keep", f'{{"thing": {trip}}}'))()
    assert made == Trip(City(name="Oslo", people=7))


def test_a_model_that_cannot_become_json_is_an_unusable_result():
    class Broken(BaseModel):
        n: int

        @pydantic.field_serializer("n")
        def _fail(self, n: int) -> int:
            raise LookupError("gone")

    with pytest.raises(OutputError, match=r"the tool returned Broken, which is not JSON: .*gone"):
        as_result(ToolCallPart("i", "f", "{}"), Broken(n=1))


def test_definitions_of_the_same_name_in_two_models_stay_apart():
    first = pydantic.create_model("A", item=(pydantic.create_model("Item", x=(int, ...)), ...))
    second = pydantic.create_model("B", item=(pydantic.create_model("Item", y=(int, ...)), ...))

    class Both(msgspec.Struct):
        a: first
        b: second

    shown = json_schema(Both)["properties"]
    assert list(shown["a"]["properties"]["item"]["properties"]) == ["x"]
    assert list(shown["b"]["properties"]["item"]["properties"]) == ["y"]
