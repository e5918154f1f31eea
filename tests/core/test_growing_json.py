"""JSON while it arrives: every value on the way is a beginning of the whole, for linear work."""

from __future__ import annotations

import gc
import itertools
import json
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiollm._wire import growing_json
from aiollm._wire.growing_json import COPIED, GrowingJson

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=24,
)
ROOTS = st.lists(TREES, max_size=4) | st.dictionaries(st.text(max_size=4), TREES, max_size=4)


def begins(part, whole) -> bool:
    """Whether a value is another one as far as it had come when its text was cut."""
    if isinstance(part, str) and isinstance(whole, str):
        return whole.startswith(part)
    if isinstance(part, list) and isinstance(whole, list):
        done = part[:-1] == whole[: max(len(part) - 1, 0)]
        return (
            len(part) <= len(whole) and done and all(map(begins, part[-1:], whole[len(part) - 1 :]))
        )
    if isinstance(part, dict) and isinstance(whole, dict):
        names = list(part)
        done = all(part[name] == whole[name] for name in names[:-1])
        return (
            names == list(whole)[: len(names)]
            and done
            and all(begins(part[name], whole[name]) for name in names[-1:])
        )
    return type(part) is type(whole) and part == whole


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def values(pieces, **options):
    """Yield each value on the way, with what grows in it."""
    growing = GrowingJson(**options)
    for piece in pieces:
        growing.feed(piece)
        while not growing.read():
            pass
        if growing.is_due:
            yield growing.value(), growing.growing()


@given(ROOTS, st.lists(st.integers(0), max_size=40), st.booleans(), st.sampled_from([None, 1]))
@example({"": ""}, [1, 2, 3, 4, 5, 6], True, None)
@example(["\U0001f600\ud7ff", 1.0, -0.0], list(range(60)), True, 1)
def test_each_value_is_a_beginning_of_the_next_and_the_last_is_the_whole(
    root, places, ascii_only, indent
):
    text = json.dumps(root, ensure_ascii=ascii_only, indent=indent)
    found = [*values(cut(text, places)), (root, None)]
    for (early, _), (late, _) in itertools.pairwise(found):
        assert begins(early, late)
    assert found[-2 if len(found) > 1 else -1] == (root, None)


@given(ROOTS, st.integers(0))
def test_one_character_at_a_time_makes_no_difference(root, place):
    text = json.dumps(root)
    growing = GrowingJson()
    for character in text[: place % (len(text) + 1)]:
        growing.feed(character)
        assert growing.read()
    whole = GrowingJson()
    whole.feed(text[: place % (len(text) + 1)])
    while not whole.read():
        pass
    assert growing.began == whole.began
    if growing.began:
        assert (growing.value(), growing.growing()) == (whole.value(), whole.growing())


@given(ROOTS, st.lists(st.integers(0), max_size=20))
def test_all_but_the_growing_path_is_final(root, places):
    for value, path in values(cut(json.dumps(root), places)):
        if path is None:
            assert value == root
            continue
        part, whole = value, root
        for step in path:
            last = list(part)[-1] if isinstance(part, dict) else len(part) - 1
            assert step == last
            part, whole = part[step], whole[step]
        assert begins(part, whole)


def test_what_was_handed_out_does_not_grow():
    growing = GrowingJson()
    growing.feed('{"a": [1, {"b": "x')
    growing.read()
    early = growing.value()
    growing.feed('y"}, 2], "c": 3}')
    growing.read()
    assert early == {"a": [1, {"b": "x"}]}
    assert growing.value() == {"a": [1, {"b": "xy"}, 2], "c": 3}


def test_numbers_and_constants_come_whole():
    growing = GrowingJson()
    growing.feed('{"a": 12')
    growing.read()
    assert not growing.is_due
    growing.feed('3, "b": tru')
    growing.read()
    assert growing.value() == {"a": 123}
    assert growing.growing() == ()


@pytest.mark.parametrize(
    "before",
    [
        "Sure, here it is:\n```json\n",
        "<think>perhaps {1} or [2]</think>",
        "\n<THINKING>{}</thinking>\n<think></think> ",
        "a [list, as asked]: ",
        "<b>bold</b> ",
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_thinking_and_words_before_it_are_passed_over(before, size):
    text = before + '{"a": 1}\n```\nAnything else, {you}?'
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert [value for value, _ in values(pieces)][-1] == {"a": 1}


def test_only_the_brackets_that_are_wanted_begin_a_value():
    assert [value for value, _ in values(['[{"a": 1}]'], openers="{")] == [{"a": 1}]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": 1, b: 2}',
        '{"a": 1,}',
        '{"a": 1 "b": 2}',
        '{"a": "\\x and more text"}',
        '{"a": "\\ud800 and more text"}',
        '{"a": 1, "b": nul}',
        '{"a": 1, "b": ' + "[" * 600,
        '{"a": 1, "b": ' + "1" * 600,
        '{"a": 1]',
        '{"a": 1, "b" 2}',
    ],
)
def test_what_is_no_strict_json_ends_the_reading_with_what_had_come(text):
    growing = GrowingJson()
    growing.feed(text)
    growing.read()
    assert growing.value()["a"] in (1, "")
    growing.feed('{"z": 1}]}')
    growing.read()
    assert not growing.whole
    assert "z" not in growing.value()


def steps_of(pieces) -> int:
    """Return how many lines run for these pieces; copies are made where they are due."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename == growing_json.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for _ in values(pieces):
            pass
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "text_of",
    [
        lambda n: json.dumps({"text": "word " * n}),
        lambda n: json.dumps([{"name": "x", "n": i} for i in range(n // 4)]),
        lambda n: json.dumps({str(i): i for i in range(n)}),
        lambda n: "[" + " " * 5 * n + "]",
        lambda n: json.dumps("<think>" + "x" * 5 * n),
        lambda n: "[" * 5 * n,
        lambda n: json.dumps(["\U0001f600" * n]),
    ],
    ids=["text", "objects", "fields", "spaces", "words", "brackets", "escapes"],
)
def test_the_work_is_linear_in_the_length(text_of):
    counts = []
    for size in (400, 800):
        text = text_of(size)
        counts.append(steps_of([text[at : at + 4] for at in range(0, len(text), 4)]) / len(text))
    assert counts[1] <= 1.2 * counts[0]


@pytest.mark.parametrize("root", [{"t": "x" * 200_000}, [7] * 50_000, [["y" * 9] * 9] * 2000])
def test_all_copies_together_are_bounded_by_the_text(root):
    text = json.dumps(root)
    growing, copied = GrowingJson(), 0
    for start in range(0, len(text), 4):
        growing.feed(text[start : start + 4])
        growing.read()
        if growing.is_due:
            copied += growing._weight()
            growing.value()
    assert copied <= COPIED * len(text)


def test_a_read_takes_bounded_steps_so_that_the_loop_turns():
    growing = GrowingJson()
    growing.feed("[" + "1," * 100_000)
    reads = 1
    while not growing.read():
        reads += 1
    assert reads >= 100_000 / growing_json.STEPS
    growing = GrowingJson()
    growing.feed('["' + "x" * 3 * growing_json.MOST)
    assert not growing.read()


def test_it_needs_no_garbage_collector():
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(50):
            made = GrowingJson()
            made.feed('{"a": [1')
            made.read()
        del made
        assert len(gc.get_objects()) - before < 20
    finally:
        gc.enable()
