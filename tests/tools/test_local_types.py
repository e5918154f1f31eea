"""Types inside functions, where annotations are texts: found in frames and closures."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NotRequired, TypedDict

import msgspec
import pytest
from pydantic import BaseModel

from aiollm import ConfigError, Registry, Request, tool
from aiollm._agent.tools import bind
from aiollm._agent.typed_output import shape_of
from aiollm._wire.schema import json_schema
from aiollm.testing import FakeProvider
from aiollm.types import ToolCallPart


def call(made: Any, arguments: str) -> Any:
    return bind(made, ToolCallPart("i", made.name, arguments))()


def test_a_tool_finds_the_types_of_every_function_around_it():
    class Unit(enum.Enum):
        C = "c"

    @dataclass
    class Place:
        unit: Unit
        near: list[Place] = field(default_factory=list)

    def inside():
        class Row(TypedDict):
            place: Place
            next: NotRequired[Row]

        class Pair(NamedTuple):
            row: Row
            n: int = 0

        class Model(BaseModel):
            unit: Unit
            inner: Model | None = None

        @tool
        def keep(place: Place, pair: Pair, model: Model, units: list[Unit] | None = None) -> Any:
            return place, pair, model, units

        return keep, Pair, Model

    keep, pair, model = inside()
    place = '{"unit":"c","near":[{"unit":"c"}]}'
    given = f'{{"place":{place},"pair":[{{"place":{place}}}],"model":{{"unit":"c"}}}}'
    made = Place(Unit.C, [Place(Unit.C)])
    assert call(keep, given) == (made, pair({"place": made}), model(unit=Unit.C), None)


def test_a_tool_finds_the_types_in_its_closure_when_their_function_has_ended():
    def factory():
        class Local(msgspec.Struct):
            n: int

        def keep(thing: Local) -> Any:
            return Local, thing

        return keep

    keep = tool(factory())
    local, thing = call(keep, '{"thing":{"n":1}}')
    assert thing == local(1)


def test_types_whose_function_has_ended_still_know_themselves_and_are_an_error_otherwise():
    def factory():
        class Tree(msgspec.Struct):
            kids: list[Tree]

        class Other(msgspec.Struct):
            tree: Tree

        def keep(thing: Other) -> None: ...

        return Tree, Other, keep

    tree, other, keep = factory()
    assert "Tree" in json_schema(tree)["$defs"]
    with pytest.raises(ConfigError, match="'Tree' is not defined"):
        shape_of(other)
    with pytest.raises(
        ConfigError, match="'Other' is not defined; define the types at the module's"
    ):
        tool(keep)


def test_a_name_of_another_functions_frame_is_not_taken():
    class Local(msgspec.Struct):
        n: int

    with pytest.raises(ConfigError, match="'Local' is not defined"):
        tool(elsewhere)


def elsewhere(thing: Local) -> None: ...  # noqa: F821 - it is in another function


async def test_answers_and_runs_take_local_types_too():
    class City(msgspec.Struct):
        name: str

    class Reply(msgspec.Struct):
        cities: list[City]

    async def look(city: City) -> str:
        return city.name

    fake = FakeProvider(default='{"cities":[{"name":"Oslo"}]}')
    async with Registry(env={}) as registry:
        registry.register("fake", fake.provider())
        made = Reply([City("Oslo")])
        assert await registry.generate("fake/m", "?", output=Reply) == made
        await registry.run("fake/m", "?", tools=[look]).collect()
        assert "name" in fake.requests[-1].tools[0].parameters["properties"]["city"]["properties"]


async def test_a_response_is_parsed_as_a_local_type():
    class City(msgspec.Struct):
        name: str

    class Reply(msgspec.Struct):
        city: City

    fake = FakeProvider(default='{"city":{"name":"Oslo"}}')
    async with Registry(env={}) as registry:
        registry.register("fake", fake.provider())
        response = await registry.generate("fake/m", Request("?"))
        assert response.parse(Reply) == Reply(City("Oslo"))
