"""Damaged and malicious answers: a codec raises aiollm's errors or none, and never hangs."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiollm.errors import LLMError, StreamInterrupted

if TYPE_CHECKING:
    from conftest import Case

EXAMPLES = int(os.environ.get("FUZZ", "25"))
"""Damages of each answer; `FUZZ=2000` with this file alone is an hour of fuzzing."""

pytestmark = pytest.mark.timeout(5 * EXAMPLES)
COMMON = settings(
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3.5,
    10**30,
    "",
    "x",
    "3",
    "\ud83e",
    "\udd2f",
    [],
    {},
    [None],
    [[]],
    [{}],
    {"a": None},
    {"type": "x"},
    {"index": -1},
    "\u0000",
    2**63,
    1e308,
    float("inf"),
    float("nan"),
)


@st.composite
def damaged(draw: st.DrawFn, body: bytes) -> bytes:
    """Return the body with some bytes replaced, removed, inserted or repeated."""
    data = bytearray(body)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(["replace", "remove", "insert", "repeat"])):
            case "replace":
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "remove":
                del data[at : at + length]
            case "insert":
                data[at:at] = draw(st.binary(max_size=40))
            case _:
                data[at:at] = data[at : at + 10 * length]
    return bytes(data)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    pairs = value.items() if isinstance(value, dict) else ()
    pairs = enumerate(value) if isinstance(value, list) else pairs
    for key, item in pairs:
        found += _paths(item, (*path, key))
    return found


@st.composite
def odd_values(draw: st.DrawFn, line: bytes) -> bytes:
    """Return the line with values of its JSON replaced by odd ones, or removed."""
    prefix = line[: line.index(b"{")]
    value = json.loads(line[len(prefix) :])
    for _ in range(draw(st.integers(1, 3))):
        paths = _paths(value)
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        owner = value
        for key in way:
            owner = owner[key]
        if draw(st.booleans()):
            owner[last] = deepcopy(draw(st.sampled_from(ODD)))
        else:
            del owner[last]
    return prefix + json.dumps(value).encode()


def _is_json(line: bytes) -> bool:
    start = line.find(b"{")
    if start < 0 or line[:start].strip() not in (b"", b"data:"):
        return False
    try:
        json.loads(line[start:])
    except ValueError:
        return False
    return True


@COMMON
@given(data=st.data())
def test_damaged_bytes_raise_nothing_but_our_errors(stream: Case, data: st.DataObject) -> None:
    body = data.draw(damaged(stream.body))
    size = data.draw(st.sampled_from([1 << 20, 64, 7]))
    stream.read(body[at : at + size] for at in range(0, len(body), size))


@COMMON
@given(data=st.data())
def test_odd_values_raise_nothing_but_our_errors(stream: Case, data: st.DataObject) -> None:
    lines = stream.body.replace(b"\r\n", b"\n").split(b"\n")
    places = [at for at, line in enumerate(lines) if _is_json(line)]
    for at in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3, unique=True)):
        lines[at] = data.draw(odd_values(lines[at]))
    stream.read([b"\n".join(lines)])


@COMMON
@given(data=st.data())
def test_a_damaged_whole_answer_raises_nothing_but_our_errors(
    stream: Case, data: st.DataObject
) -> None:
    """Whatever JSON comes where one whole answer is due."""
    lines = [line for line in stream.body.splitlines() if _is_json(line)]
    line = data.draw(odd_values(data.draw(st.sampled_from(lines))))
    decoder = stream.codec.decoder()
    try:
        decoder.whole(line[line.index(b"{") :], [])
    except LLMError:
        return


@COMMON
@given(data=st.data())
def test_any_error_body_becomes_one_of_our_errors(failure: Case, data: st.DataObject) -> None:
    body = data.draw(
        st.one_of(
            damaged(failure.body),
            odd_values(json.dumps({"error": json.loads(failure.body)}).encode()),
            st.binary(max_size=200),
        )
    )
    assert isinstance(failure.codec.error(failure.reply(body)), LLMError)


@COMMON
@given(data=st.data())
def test_any_listing_gives_names_or_our_errors(listing: Case, data: st.DataObject) -> None:
    body = data.draw(
        st.one_of(damaged(listing.body), odd_values(json.dumps(json.loads(listing.body)).encode()))
    )
    try:
        names = listing.codec.model_names(listing.reply(body))
    except LLMError:
        return
    assert all(isinstance(name, str) for name in names)


def test_deep_nesting_is_an_error_of_ours(stream: Case) -> None:
    bomb = b"[" * 100_000
    for frame in (bomb, b'data: {"x":' + bomb + b"\n\n", b'{"error":' + bomb + b"\n"):
        assert stream.read([frame]).error is not None


@pytest.mark.parametrize("depth", [50, 400, 800, 950, 990, 100_000])
def test_deep_nesting_in_an_error_reply_is_an_error_of_ours(failure: Case, depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    for body in (nested, b'{"error":' * depth + b"1" + b"}" * depth, b'{"error":' + nested + b"}"):
        assert isinstance(failure.codec.error(failure.reply(body)), LLMError)


def test_a_stream_of_nothing_is_an_interruption(stream: Case) -> None:
    for pieces in ([], [b"\n"], [b"\n\n"]):
        assert type(stream.read(pieces).error) is StreamInterrupted


def test_half_a_surrogate_pair_in_a_models_name_can_be_printed(listing: Case) -> None:
    body = json.dumps(_with_half(json.loads(listing.body))).encode()
    names = listing.codec.model_names(listing.reply(body))
    assert names
    assert "\ufffd" in "".join(names).encode().decode()


def _with_half(value: Any) -> Any:
    """Put half a surrogate pair at the end of all texts, as cut JSON does."""
    match value:
        case dict():
            return {key: _with_half(item) for key, item in value.items()}
        case list():
            return [_with_half(item) for item in value]
        case str():
            return value + "\ud83e"
        case _:
            return value
