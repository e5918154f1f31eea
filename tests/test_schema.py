"""Schemas: inlining, the root rule, and the two strict dialects."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
import pytest

from aiollm._wire.schema import bounded, json_schema, loosened, schema_name, strict, type_schema
from aiollm.errors import ConfigError, UnsupportedError


class Point(msgspec.Struct):
    x: Annotated[int, msgspec.Meta(ge=0, le=9)]
    y: float = 1.5


class Circle(msgspec.Struct, tag=True):
    center: Point


class Path(msgspec.Struct, tag=True):
    points: list[Point] | None = None


class Drawing(msgspec.Struct):
    """What is drawn."""

    shape: Circle | Path
    pair: tuple[int, str]
    kind: Literal["a", "b", 3]
    label: Annotated[str, msgspec.Meta(min_length=2, pattern="^a", description="a label")]
    layer: int | msgspec.UnsetType = msgspec.UNSET
    note: str | None = None


class Node(msgspec.Struct):
    children: list[Node]


class Table(msgspec.Struct):
    cells: dict[str, int]


def _subschemas(schema: Any) -> list[dict[str, Any]]:
    found = [schema]
    for item in (*schema.get("properties", {}).values(), *schema.get("anyOf", ())):
        found += _subschemas(item)
    return found + (_subschemas(schema["items"]) if "items" in schema else [])


def test_a_type_is_inlined_so_that_no_reference_remains() -> None:
    assert b"$ref" not in msgspec.json.encode(json_schema(Drawing))
    assert b"$defs" not in msgspec.json.encode(json_schema(Drawing))


def test_a_given_schema_is_inlined_and_not_changed() -> None:
    given = {
        "type": "object",
        "properties": {
            "a": {"$ref": "#/$defs/A~1B", "description": "here"},
            "$ref": {"type": "string"},
        },
        "$defs": {"A/B": {"type": "integer", "description": "there"}},
    }
    before = msgspec.json.encode(given)
    assert json_schema(given) == {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "description": "here"},
            "$ref": {"type": "string"},
        },
    }
    assert msgspec.json.encode(given) == before


def test_properties_alone_make_an_object() -> None:
    assert json_schema({"properties": {}}) == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (list[Point], r"list\[.*Point\] does not describe an object"),
        (int, "int does not describe an object"),
        (object(), "cannot make a JSON schema of <object"),
        ({"title": "T", "type": "array"}, "the JSON schema T does not describe"),
        ({"$ref": "#/$defs/X"}, "refers to #/\\$defs/X, which it does not define"),
        ({"$ref": "https://elsewhere"}, "refers to https://elsewhere"),
        ({"$ref": "#"}, "nested too deeply"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "nested too deeply"),
    ],
)
def test_what_no_provider_takes_is_a_config_error_that_names_it(kind: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        json_schema(kind)


def test_only_what_contains_itself_stays_a_reference() -> None:
    leaf = {"type": "object", "properties": {"x": {"$ref": "#/$defs/Flat"}}}
    node = {"type": "object", "properties": {"kids": {"items": {"$ref": "#/$defs/Node"}}}}
    given = {
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/Node"}, "leaf": {"$ref": "#/$defs/Leaf"}},
        "$defs": {"Node": node, "Leaf": leaf, "Flat": {"type": "integer"}},
    }
    assert json_schema(given) == {
        "type": "object",
        "properties": {
            "tree": {"$ref": "#/$defs/Node"},
            "leaf": {"type": "object", "properties": {"x": {"type": "integer"}}},
        },
        "$defs": {"Node": node},
    }


def test_a_recursive_root_is_an_object_that_its_parts_refer_to() -> None:
    schema = json_schema(Node)
    assert schema["type"] == "object"
    assert "#/$defs/Node" in json.dumps(schema["properties"])
    assert schema["$defs"]["Node"]["properties"] == schema["properties"]


def test_nothing_stands_beside_a_reference_and_the_root_gets_a_name() -> None:
    given = {"properties": {"a": {"$ref": "#", "description": "again"}}}
    properties = {"a": {"$ref": "#/$defs/root"}}
    assert json_schema(given) == {
        "type": "object",
        "properties": properties,
        "$defs": {"root": {"properties": properties}},
    }


def test_definitions_with_one_name_get_names_of_their_own() -> None:
    one, two = "#/$defs/A", "#/definitions/A"
    given = {
        "type": "object",
        "properties": {"one": {"$ref": one}, "two": {"$ref": two}},
        "$defs": {"A": {"properties": {"a": {"$ref": one}}}},
        "definitions": {"A": {"properties": {"b": {"$ref": two}}}},
    }
    schema = json_schema(given)
    assert schema["properties"] == {"one": {"$ref": one}, "two": {"$ref": "#/$defs/A_2"}}
    assert schema["$defs"]["A_2"] == {"properties": {"b": {"$ref": "#/$defs/A_2"}}}


def test_many_types_that_contain_each_other_stay_small() -> None:
    names = [f"T{number}" for number in range(30)]
    every = {name: {"$ref": f"#/$defs/{name}"} for name in names}
    kind = {"type": "object", "properties": every}
    schema = json_schema(kind | {"$defs": dict.fromkeys(names, kind)})
    assert schema["$defs"].keys() == set(names)


def test_strict_mode_takes_recursion_and_anthropics_output_does_not() -> None:
    schema = strict(json_schema(Node))
    assert schema["$defs"]["Node"]["additionalProperties"] is False
    assert schema["$defs"]["Node"]["required"] == list(schema["properties"])
    with pytest.raises(UnsupportedError, match="a type that contains itself"):
        bounded(json_schema(Node))


def test_a_reference_bomb_is_refused_at_once() -> None:
    names = [f"L{level}" for level in range(40)]
    definitions: dict[str, Any] = {
        name: {"anyOf": [{"$ref": f"#/$defs/{after}"}] * 2} for name, after in pairwise(names)
    }
    definitions[names[-1]] = {"type": "string"}
    with pytest.raises(ConfigError, match="more than 10000 subschemas"):
        json_schema({"$ref": "#/$defs/L0", "$defs": definitions})


def test_a_schema_nested_too_deeply_is_refused() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(5000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(ConfigError, match="nested too deeply"):
        type_schema(deep)


def test_strict_closes_every_object_and_requires_all_its_properties() -> None:
    for schema in _subschemas(strict(json_schema(Drawing))):
        assert "type" in schema or "anyOf" in schema
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is False
            assert schema["required"] == list(schema["properties"])


def test_strict_makes_an_optional_property_nullable_unless_it_has_a_default() -> None:
    shape = strict(json_schema(Drawing))["properties"]
    assert shape["layer"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert shape["note"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    point = strict(json_schema(Point))["properties"]
    assert point["y"] == {"type": "number", "description": "{default: 1.5}"}


def test_strict_keeps_bounds_on_numbers_and_notes_what_it_cannot_say() -> None:
    assert strict(json_schema(Point))["properties"]["x"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": 9,
    }
    assert strict(json_schema(Drawing))["properties"]["label"] == {
        "type": "string",
        "pattern": "^a",
        "description": "a label\n\n{minLength: 2}",
    }


@pytest.mark.parametrize("fit", [strict, bounded])
@pytest.mark.parametrize("pattern", ["^(?!0)a", "(?=a)", "a(?<=a)", "(?<!b)a"])
def test_a_pattern_that_looks_around_is_only_described(fit: Any, pattern: str) -> None:
    given = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}
    fitted = fit(given | {"required": ["a"]})["properties"]["a"]
    assert "pattern" not in fitted
    assert pattern in fitted["description"]


def test_loosened_leaves_optional_what_leads_into_itself_and_nothing_else() -> None:
    class Wood(msgspec.Struct):
        trees: list[Tree]
        best: Tree

    class Tree(msgspec.Struct):
        name: str
        pair: tuple[Tree, Tree]
        box: dict[str, Tree]
        parent: Tree | None = None

    schema, names = loosened(json_schema(Wood))
    assert names == ["pair", "box"]
    assert schema["required"] == ["trees", "best"]
    assert schema["$defs"]["Tree"]["required"] == ["name"]
    assert schema["$defs"]["Tree"]["properties"] == json_schema(Wood)["$defs"]["Tree"]["properties"]
    assert loosened(json_schema(Drawing)) == (json_schema(Drawing), [])


def test_bounded_moves_all_bounds_to_the_description_and_keeps_optional_ones_optional() -> None:
    schema = bounded(json_schema(Drawing))
    assert schema["required"] == ["shape", "pair", "kind", "label"]
    assert schema["description"] == "What is drawn."
    assert bounded(json_schema(Point))["properties"]["x"] == {
        "type": "integer",
        "description": "{minimum: 0, maximum: 9}",
    }
    assert schema["properties"]["pair"] == {
        "type": "array",
        "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "description": "{minItems: 2, maxItems: 2}",
    }


@pytest.mark.parametrize("fit", [strict, bounded])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {}, "additionalProperties": True},
        {"type": "object", "properties": {}, "patternProperties": {"^a": {"type": "string"}}},
        {},
        True,
    ],
)
def test_what_strict_modes_cannot_say_moves_on_to_another_target(fit: Any, part: Any) -> None:
    with pytest.raises(UnsupportedError, match="the property 'part'"):
        fit({"type": "object", "properties": {"part": part}})


@pytest.mark.parametrize("fit", [strict, bounded])
def test_older_ways_to_say_the_same_are_rewritten(fit: Any) -> None:
    fitted = fit(
        {
            "type": "object",
            "required": ["a", "b", "c"],
            "properties": {
                "a": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
                "b": {"type": ["string", "null"], "enum": ["x", None], "description": "d"},
                "c": {
                    "allOf": [
                        {"properties": {"x": {"const": 1}}, "required": ["x"]},
                        {"properties": {"y": {"enum": [None, "z"]}}, "required": ["y"]},
                    ]
                },
            },
        }
    )["properties"]
    assert fitted["a"] == {"anyOf": [{"type": "string"}, {"type": "integer"}]}
    assert fitted["b"] == {
        "anyOf": [{"type": "string", "enum": ["x"]}, {"type": "null"}],
        "description": "d",
    }
    assert fitted["c"] == {
        "type": "object",
        "properties": {
            "x": {"const": 1, "type": "integer"},
            "y": {"anyOf": [{"type": "null", "enum": [None]}, {"type": "string", "enum": ["z"]}]},
        },
        "required": ["x", "y"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("part", "fitted"),
    [
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}),
        ({"type": "string", "format": "x"}, {"type": "string", "description": '{format: "x"}'}),
        ({"type": ["string"], "title": "t"}, {"type": "string", "title": "t"}),
        ({"type": "array", "items": False}, {"type": "array"}),
        ({"items": {"type": "null"}}, {"type": "array", "items": {"type": "null"}}),
        ({"enum": [1, 2]}, {"type": "integer", "enum": [1, 2]}),
        (
            {"prefixItems": [{"type": "null"}] * 2},
            {"type": "array", "items": {"type": "null"}},
        ),
    ],
)
@pytest.mark.parametrize("fit", [strict, bounded])
def test_a_schema_is_told_by_what_it_holds(fit: Any, part: Any, fitted: Any) -> None:
    whole = {"type": "object", "properties": {"a": part}, "required": ["a"]}
    assert fit(whole)["properties"]["a"] == fitted


@pytest.mark.parametrize("bad", [{"anyOf": 3}, {"allOf": 1}, {"required": 1}])
def test_a_malformed_schema_is_a_config_error(bad: Any) -> None:
    with pytest.raises(ConfigError, match="malformed"):
        strict({"type": "object", "properties": {"a": {"type": "string"}}} | bad)


def test_a_tool_without_arguments_is_a_closed_empty_object() -> None:
    assert strict({"type": "object", "properties": {}}) == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }


def test_names_fit_every_provider() -> None:
    assert schema_name(Drawing) == "Drawing"
    assert schema_name(list[Point]) == "list_Point"
    assert schema_name({"title": "Ein Titel!" * 20}) == ("Ein_Titel_" * 20)[:64]
    assert schema_name({}) == "output"
