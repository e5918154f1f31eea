"""JSON as models write it is read where it can mean one thing only."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
import pytest

from aiollm._user_types.answers import read
from aiollm._user_types.loose_json import after_thinking, fit, object_in, values_in


class Inner(msgspec.Struct):
    n: int = 0


class Place(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    people: int | None = None
    tags: list[str] = []
    sizes: list[int] = []
    scores: dict[str, int] = {}
    inner: Inner = msgspec.field(default_factory=Inner)
    open: bool = False
    either: int | str = 0
    kind: Literal["a", "1"] = "a"


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("people", "7", 7),
        ("people", " 7 ", 7),
        ("people", "7.0", 7),
        ("people", "null", None),
        ("people", "None", None),
        ("open", "true", True),
        ("open", "True", True),
        ("tags", '["a","b"]', ["a", "b"]),
        ("sizes", "[1,2]", [1, 2]),
        ("sizes", '["1","2"]', [1, 2]),
        ("sizes", ["1", "2"], [1, 2]),
        ("scores", {"x": "1", "y": 2}, {"x": 1, "y": 2}),
        ("scores", '{"x":"1"}', {"x": 1}),
        ("inner", '{"n":"3"}', Inner(3)),
        ("inner", {"n": "3"}, Inner(3)),
        ("inner", "{'n': 3}", Inner(3)),
        ("tags", "['a', 'b']", ["a", "b"]),
        ("sizes", '"[1]"', [1]),
        ("people", '"\\"7\\""', 7),
    ],
)
def test_a_text_is_read_as_json_where_no_text_fits(field: str, text: Any, value: Any) -> None:
    assert getattr(fit({"name": "x", field: text}, Place), field) == value


@pytest.mark.parametrize("text", ["7", "null", "true", "[1]", '"7"', "{}"])
def test_a_text_stays_a_text_where_one_is_taken(text: str) -> None:
    """Even beside a field that is read so."""
    made = fit({"name": text, "either": text, "tags": [text], "people": "7"}, Place)
    assert (made.name, made.either, made.tags, made.people) == (text, text, [text], 7)


@pytest.mark.parametrize(
    "given",
    [
        {"people": "seven"},
        {"people": "7.5"},
        {"people": "true"},
        {"open": "1"},
        {"sizes": "1,2"},
        {"kind": "b"},
        {"unknown": "1"},
        {"people": ""},
    ],
)
def test_what_can_not_be_read_without_doubt_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        fit({"name": "x"} | given, Place)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('Sure! {"a":1}', [{"a": 1}]),
        ('```json\n{"a":1}\n```\nAnything else?', [{"a": 1}]),
        ("Use {braces} for it: [1, 2.0]", [[1, 2]]),
        ('{"a":1,}', [{"a": 1}]),
        ('{"a":1, // the "first"\n "b":"http://x", /* , } */ "c":[1,],}',
         [{"a": 1, "b": "http://x", "c": [1]}]),
        ('{"a":1}\n{"b":2}', [{"a": 1}, {"b": 2}]),
        ("{'a': {\"b\":1}, 'it\\'s \"c\"': [True, None, 'x // y',]} I'm sure",
         [{"a": {"b": 1}, 'it\'s "c"': [True, None, "x // y"]}]),
        ('{"a":1, // it\'s\n "b":2 // that\'s\n}', [{"a": 1, "b": 2}]),
        ('{"a":"two\nlines"}', [{"a": "two\nlines"}]),
        ('{a: {"b":1}}', []),
        ('Here: {"a": {"b": 1}, "c": ', []),
        ("no value", []),
        ("", []),
    ],
)  # fmt: skip
def test_values_are_found_among_words_but_no_parts_of_a_broken_one(
    text: str, values: list[Any]
) -> None:
    assert list(values_in(text)) == values


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a</think>\nb", "\nb"),
        (" <thinking>a</thinking>b", "b"),
        ("a</think>b", "b"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ('<think>perhaps {"a":1}', ""),
        ("b <think>", "b <think>"),
        ("b", "b"),
    ],
)
def test_thinking_is_left_out(text: str, left: str) -> None:
    assert after_thinking(text) == left


@pytest.mark.parametrize(
    "text",
    [
        '"{\\"n\\":2}"',
        '"\\"{\\\\\\"n\\\\\\":2}\\""',
        '```json\n{"n":2}\n```',
        '<think>{"n":1}</think>{"n":2}',
        'Here: {"n":2} there',
        '\ufeff{"n":2,}',
        "{'n': 2}",
        '{"n":2 /* x */}',
        '{}{"n":2}',
        '{ }\n{"n":2}',
        '{"n":2}{"n":2}',
    ],
)
def test_one_object_is_found(text: str) -> None:
    assert object_in(text) == {"n": 2}


@pytest.mark.parametrize(
    "text",
    [
        '{"n":2}{"n":3}',
        '{"n":2}{}',
        '{"n":2}{"n":2}{"n":2}',
        '{}{}{"n":2}',
        '{"n":2}}',
        '[{"n":2}]',
        '[1] {"n":2}',
        '{"n":2',
        '{"n":NaN}',
        '{"a":"say "hi" {"n":2} ok"}',
        '{"a":"</think> {"n":2}"}',
        '<think>{"n":2}',
        "two",
        "",
    ],
)
def test_an_object_that_may_be_a_part_or_one_of_several_is_not_taken(text: str) -> None:
    assert object_in(text) is None


@pytest.mark.parametrize(
    "piece",
    ["{", "[", '{"a":', "{a ", "/*", '"', ", ", "//", "<think>", "'", "\\'", "'\\", "True "],
)
def test_a_text_of_openers_alone_is_read_through(piece: str) -> None:
    """Its work grows with its size: squared, this would not end."""
    text = "{ " + piece * (1_000_000 // len(piece))
    assert list(values_in(after_thinking(text))) == []
    assert object_in(text) is None


class Sloppy(msgspec.Struct):
    tags: list[str] = []
    sizes: list[int] = []
    pairs: dict[str, list[float]] = {}
    maybe: list[str] | None = None


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"tags": "urgent"}, Sloppy(tags=["urgent"])),
        ({"tags": "5"}, Sloppy(tags=["5"])),
        ({"tags": '["a", "b"]'}, Sloppy(tags=["a", "b"])),
        ({"sizes": 5}, Sloppy(sizes=[5])),
        ({"sizes": "5"}, Sloppy(sizes=[5])),
        ({"pairs": {"a": 1, "b": [2]}}, Sloppy(pairs={"a": [1], "b": [2]})),
        ({"maybe": "null"}, Sloppy(maybe=None)),
    ],
)
def test_a_number_or_a_word_is_a_list_of_one(given: Any, made: Any) -> None:
    assert fit(given, Sloppy) == made


@pytest.mark.parametrize("tags", ["a, b", "a b", "a;b", "", "[a", {"tags": ["a"]}, None])
def test_what_may_be_several_items_or_none_is_not_guessed(tags: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        fit({"tags": tags}, Sloppy)


DENSE = json.dumps({f"b{at}": 1 for at in range(70_000)})


@pytest.mark.parametrize("text", [DENSE, json.dumps(DENSE), f"Here it is: {DENSE}"])
def test_what_holds_too_many_parts_is_not_read(text: str) -> None:
    assert object_in(text) is None
    with pytest.raises(ValueError, match=r"too large|JSON|object"):
        read(text, [(dict, lambda value: value)], "stop")
