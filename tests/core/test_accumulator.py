"""The accumulator: millions of pieces are a text at any time, at little cost."""

from __future__ import annotations

import json

import pytest

from aiollm._streams.accumulator import FOLD, MAX_LOOSE, Accumulator
from aiollm._user_types.density import MAX_ARGUMENTS
from aiollm._wire.batch import Batch, add_texts
from aiollm.providers.openai.chat_tool_calls import ToolCallAssembler
from aiollm.types import (
    Finish,
    Item,
    Notice,
    ReasoningDelta,
    RefusalDelta,
    Restart,
    Target,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageUpdate,
)

KINDS = {
    "text": TextDelta,
    "reasoning": ReasoningDelta,
    "refusal": RefusalDelta,
    "arguments": lambda piece: ToolCallDelta(0, "c", "f", piece),
}


def texts(total: Accumulator) -> list[str]:
    found = []
    for part in total.message().parts:
        fields = ("text", "reasoning", "refusal", "arguments")
        found += [getattr(part, name) for name in fields if hasattr(part, name)]
    return found


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("per_batch", [1, 7, 50_000])
def test_pieces_are_joined_from_time_to_time_and_nothing_is_lost(kind, per_batch) -> None:
    pieces = [f"{number} " for number in range(50_000)]
    total = Accumulator()
    for at in range(0, len(pieces), per_batch):
        total.add([kind(piece) for piece in pieces[at : at + per_batch]])
        (builder,) = total._builders
        assert len(builder.pieces) <= len(pieces) / FOLD + FOLD + 1
    assert texts(total)[0].strip() == "".join(pieces).strip()


@pytest.mark.parametrize("places", [(0,), (0, 1), (1,), (1, 2), (3,), (0, 2, 3), (1, 4)])
def test_callers_see_all_but_what_only_the_result_keeps(places) -> None:
    batch: list[Item] = [TextDelta("a"), ReasoningDelta("b"), TextDelta("c")]
    seen = [*batch]
    for place in places:
        batch.insert(place, UsageUpdate(Usage(place)) if place % 2 else Notice(str(place)))
    total = Accumulator()
    assert total.add(batch) == seen
    assert texts(total) == ["a", "b", "c"]
    assert list(total.warnings) == [str(place) for place in places if place % 2 == 0]


def test_of_equal_items_that_only_the_result_keeps_callers_see_none() -> None:
    text, count = TextDelta("a"), UsageUpdate(Usage(1))
    assert Accumulator().add([count, text, count, text]) == [text, text]


def test_texts_that_a_batch_knows_are_added_once_and_joined_while_they_come() -> None:
    total = Accumulator()
    for _ in range(3 * FOLD):
        batch = Batch()
        add_texts(("a", "b"), batch)
        batch.append(UsageUpdate(Usage(1)))
        assert total.add(batch) == [TextDelta("a"), TextDelta("b")]
        (builder,) = total._builders
        assert len(builder.pieces) <= 2 * FOLD
    assert texts(total) == ["ab" * 3 * FOLD]


def test_a_batch_knows_no_texts_behind_other_items() -> None:
    batch = Batch([ReasoningDelta("hm")])
    add_texts(("a", "b"), batch)
    total = Accumulator()
    assert total.add(batch) == [ReasoningDelta("hm"), TextDelta("a"), TextDelta("b")]
    assert texts(total) == ["hm", "ab"]


def test_texts_that_alternate_are_kept_apart() -> None:
    total = Accumulator()
    for number in range(10_000):
        total.add([TextDelta(f"{number} "), ToolCallDelta(number % 2, "c", "f", f"{number} ")])
    numbers = [f"{number} " for number in range(10_000)]
    said = "".join(part.text for part in total.message().parts if hasattr(part, "text"))
    assert said == "".join(numbers)
    assert total._calls[1].part().arguments == "".join(numbers[1::2]).strip()


def test_a_restart_begins_anew() -> None:
    total = Accumulator()
    total.add([TextDelta("a")] * 3 * FOLD)
    total.add([Restart(Target("b", "m"), "why"), *[TextDelta("b")] * 2 * FOLD])
    assert texts(total) == ["b" * 2 * FOLD]


DENSE = json.dumps({f"b{at}": 1 for at in range(70_000)})


@pytest.mark.parametrize("arguments", [DENSE, json.dumps(DENSE), json.dumps(json.dumps(DENSE))])
def test_arguments_of_too_many_parts_are_not_decoded(arguments) -> None:
    """They are kept as they came, for whoever wants to look at them."""
    total = Accumulator()
    total.add([ToolCallDelta(0, "c", "f", arguments), Finish("tool_calls")])
    (call,) = total.message().parts
    assert (call.arguments, call.valid) == (arguments, False)


@pytest.mark.parametrize(
    ("size", "is_read"), [(9, True), (MAX_LOOSE - 9, True), (MAX_LOOSE, False)]
)
def test_large_arguments_that_are_no_strict_json_are_not_read(size, is_read) -> None:
    """They are searched many times, and nothing else can run meanwhile."""
    total = Accumulator()
    total.add([ToolCallDelta(0, "c", "f", '{"a":"%s",}' % ("a" * size)), Finish("tool_calls")])
    (call,) = total.message().parts
    assert call.valid == is_read


def read(arguments: str) -> tuple[bool, bool]:
    """Return whether the result has a valid call, and whether chat's decoder finds it complete."""
    pieces = [arguments[at : at + 4000] for at in range(0, len(arguments), 4000)]
    total, calls = Accumulator(), ToolCallAssembler()
    calls.add(0, "c", "f", "")
    for piece in pieces:
        total.add([ToolCallDelta(0, "c", "f", piece)])
        calls.extend(0, piece)
    total.add([Finish("tool_calls")])
    (call,) = total.message().parts
    return call.valid, calls.whole(ended=True)


@pytest.mark.parametrize(
    "line",
    ['    return f(x["a"], {1: 2})\n', "\u6587\u4ef6\u7684\u6587\u5b57\uff0c\u5f88\u957f\u3002\n"],
)
def test_a_file_of_a_megabyte_is_read_as_arguments(line) -> None:
    source = line * (2**20 // len(line.encode()))
    assert read(json.dumps({"path": "a", "source": source}, ensure_ascii=False)) == (True, True)


@pytest.mark.parametrize("letter", ["a", "\u00e4", "\u6587", "\U0001f600"])
@pytest.mark.parametrize(("share", "is_read"), [(0.999, True), (1.001, False)])
def test_arguments_are_bounded_in_bytes_whatever_they_are_written_in(
    letter, share, is_read
) -> None:
    count = int(share * MAX_ARGUMENTS) // len(letter.encode())
    assert read('{"a":"%s"}' % (letter * count)) == (is_read, is_read)


@pytest.mark.parametrize(("size", "is_read"), [(MAX_LOOSE - 99, True), (MAX_LOOSE, False)])
def test_large_arguments_that_are_encoded_twice_are_not_read(size, is_read) -> None:
    """Each time takes a pass, and all of them hold up the event loop."""
    assert read(json.dumps('{"a":"%s"}' % ("a" * size)))[0] == is_read


@pytest.mark.parametrize("size", [9, 2**17, 2**20])
def test_arguments_with_half_a_pair_are_as_valid_as_they_were(size) -> None:
    assert read('{"a":"%s\ud83d"}' % ("a" * size))[0] == (size < MAX_LOOSE)
