"""Arguments in pieces: paths, joined strings, bounds."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from aiollm.errors import ProtocolError
from aiollm.providers.google.arguments import MAX_DEPTH, PartialArguments
from aiollm.providers.google.decode import GoogleDecoder
from tests.work.test_work import Counter


def built(*pieces: dict[str, Any]) -> Any:
    arguments = PartialArguments()
    for piece in pieces:
        arguments.add(piece)
    return json.loads(arguments.json())


@pytest.mark.parametrize(("path", "value"), [
    ("$.a", {"a": 1}),
    ("$.a.b", {"a": {"b": 1}}),
    ("$['a b'].c", {"a b": {"c": 1}}),
    ('$["it\\"s"]', {'it"s': 1}),
    ("$['']", {"": 1}),
    ("$.a[0][0].b", {"a": [[{"b": 1}]]}),
    ("$.a-b_c.Łódź", {"a-b_c": {"Łódź": 1}}),
])  # fmt: skip
def test_a_path_leads_to_its_place(path: str, value: object) -> None:
    assert built({"jsonPath": path, "numberValue": 1}) == value


def test_strings_at_one_place_are_joined() -> None:
    pieces = [{"jsonPath": "$.a", "stringValue": part} for part in ("x", "", "y")]
    assert built(*pieces) == {"a": "xy"}


def test_halves_of_a_surrogate_pair_are_joined_and_lone_ones_replaced() -> None:
    pieces = [{"jsonPath": "$.a", "stringValue": part} for part in ("\ud83e", "\udd2f", "\ud83e")]
    assert built(*pieces, {"jsonPath": "$['\ud83e']", "numberValue": 1}) == {
        "a": "\U0001f92f\ufffd",
        "\ufffd": 1,
    }


@pytest.mark.parametrize(("piece", "value"), [
    ({"stringValue": ""}, ""), ({"numberValue": 2.5}, 2.5), ({"boolValue": False}, False),
    ({"nullValue": "NULL_VALUE"}, None),
])  # fmt: skip
def test_every_kind_of_value_is_taken(piece: dict[str, Any], value: object) -> None:
    assert built({"jsonPath": "$.a", **piece}) == {"a": value}


def test_a_piece_without_a_value_is_nothing() -> None:
    assert built({"jsonPath": "$.a"}) == {}


def test_lists_grow_in_order_and_elements_may_be_revisited() -> None:
    pieces = [{"jsonPath": f"$.a[{at}]", "stringValue": str(at)} for at in (0, 1, 0)]
    assert built(*pieces) == {"a": ["00", "1"]}


@pytest.mark.parametrize("path", [
    "$", "", "a", "$.", "$.a[1]", "$.a[999999999999]", "$.a[-1]", "$.a[0", "$[0]", "$.a]b", "$x.a",
    "$" + ".a" * (MAX_DEPTH + 1), 5, None,
])  # fmt: skip
def test_a_path_that_leads_nowhere_is_a_protocol_error(path: Any) -> None:
    with pytest.raises(ProtocolError):
        built({"jsonPath": path, "numberValue": 1})


def test_a_path_through_a_value_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        built({"jsonPath": "$.a", "numberValue": 1}, {"jsonPath": "$.a.b", "numberValue": 1})


@pytest.mark.parametrize("step", [".a", "[0]", "['a']", "['"])
def test_no_more_of_a_path_is_read_than_may_be(step: str) -> None:
    """It is part of a text, of which a frame may have megabytes."""
    with Counter() as counter, pytest.raises(ProtocolError, match="cannot be read"):
        built({"jsonPath": "$" + step * 100_000, "numberValue": 1})
    assert counter.count <= 4000


def test_a_frame_has_no_more_paths_than_may_be() -> None:
    piece = {"jsonPath": "$.a", "stringValue": "x"}
    part = {"functionCall": {"partialArgs": [piece] * 300, "willContinue": True}}
    start = {"functionCall": {"name": "f", "willContinue": True}}

    def frame(*parts: Any) -> bytes:
        return msgspec.json.encode({"candidates": [{"content": {"parts": parts}}]})

    out: list[Any] = []
    decoder = GoogleDecoder()
    decoder.feed([frame(start, part), frame(part), frame(part, part)], out)
    with pytest.raises(ProtocolError, match="too many pieces"):
        decoder.feed([frame(*[part] * 3)], out)
