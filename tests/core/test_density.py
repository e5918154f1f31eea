"""What large JSON may hold: all that honest servers send, and little of what is slow to decode."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiollm._user_types import density
from aiollm._user_types.density import FRAME, LARGE, MESSAGE, REPLY, USER, Limits
from aiollm._wire.framing import NDJSON, SSE, NamedSSE, check_density
from aiollm.errors import ProtocolError

PROBABILITY = {"token": ' "a', "logprob": -0.123456, "bytes": [32, 34, 97]}
MODEL = {f"field {at}": "a text, and {more}" for at in range(15)}


def in_text(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}}]}


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(in_text("A7f/+=" * 4_000_000), id="a file of 24 MB"),
        pytest.param(in_text("a line of a program {\n" * 100_000), id="a program"),
        pytest.param(in_text("1,2,3,[4],{5}," * 150_000), id="a table in a text"),
        pytest.param(in_text(json.dumps([MODEL] * 500)), id="JSON in a text"),
        pytest.param(in_text('\\"\\\\",[' * 25_000), id="escapes before quotes"),
        pytest.param(in_text("\u6587" * 200_000), id="another script"),
        pytest.param({"logprobs": [PROBABILITY] * 6000}, id="probabilities of tokens"),
        pytest.param({"prompt_token_ids": list(range(70_000))}, id="a prompt of token ids"),
        pytest.param({"citations": [{"url": "https://a.example/" + "a" * 200}] * 1000}, id="urls"),
    ],
)
@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "UTF-8"])
def test_what_honest_servers_send_is_accepted(value: Any, escaped: bool) -> None:
    data = json.dumps(value, ensure_ascii=escaped).encode()
    assert len(data) > LARGE
    check_density(data)


@pytest.mark.parametrize(
    ("limits", "value"),
    [
        pytest.param(REPLY, {"data": [MODEL] * 1000}, id="a list of models"),
        pytest.param(USER, [PROBABILITY] * 14_000, id="what a user asked for"),
        pytest.param(USER, {"results": [{"index": 1, "score": 0.5}] * 20_000}, id="scores"),
    ],
)
def test_single_replies_and_what_a_user_asked_for_may_have_more(limits: Limits, value: Any) -> None:
    data = json.dumps(value).encode()
    assert not density.excess_in(data, limits)
    with pytest.raises(ProtocolError):
        check_density(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(b'{"a":[%s0]}' % (b"0," * 200_000), "more than 131072 values", id="numbers"),
        pytest.param(b"[%s0]" % (b'"a",' * 70_000), "24576 strings", id="texts"),
        pytest.param(
            b"{%s}" % b",".join(b'"b%d":1' % at for at in range(70_000)), "strings", id="names"
        ),
        pytest.param(
            b"[%s0]" % (b"{}," * 50_000), "more than 16384 objects and lists", id="objects"
        ),
        pytest.param(b"[" * 70_000, "more than 16384 objects and lists", id="a deep nesting"),
        pytest.param(b'{"a":%s1}' % (b" " * FRAME.bare), "outside its strings", id="white space"),
        pytest.param(b'{"a":%s}' % (b"1" * FRAME.bare), "outside its strings", id="a long number"),
        pytest.param(
            b'{"a":"%s"}' % (rb"\u0041" * 1_100_000), "more than 204800 escapes", id="escapes"
        ),
        pytest.param(
            b'{"a":"%s"}' % ("é" * 1_100_000).encode(),
            "more than 1048576 bytes that are not",
            id="UTF-8",
        ),
        pytest.param(
            rb'{"a":"\\","b":[%s0]}' % (b"0," * 200_000),
            "more than 131072 values",
            id="after a backslash",
        ),
        pytest.param(
            rb'{"a":"\"","b":[%s0]}' % (b"0," * 200_000),
            "more than 131072 values",
            id="after a quote",
        ),
    ],
)
def test_what_would_hold_up_the_loop_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        check_density(data)


BOUNDS = {
    "an answer": (FRAME, 24_576, 16_384, 131_072, 524_288, 204_800, 1_048_576),
    "a list": (REPLY, 32_768, 16_384, 131_072, 1_048_576, 204_800, 1_048_576),
    "what a user asked for": (USER, 65_536, 49_152, 131_072, 2_097_152, 262_144, 4_194_304),
    "a message": (MESSAGE, 24_576, 16_384, 131_072, 1_048_576, 524_288, 8_388_608),
}
MAKERS: dict[str, Callable[[int], bytes]] = {
    "strings": lambda count: b'""' * count,
    "objects and lists": lambda count: b"[{" * (count // 2) + b"[" * (count % 2),
    "values": lambda count: b"[{" + b"," * (count - 2),
    "bytes outside": lambda count: b"1" * count,
    "escapes": lambda count: b'"%s"' % (b"\\n" * count),
    "bytes that are not ASCII": lambda count: b'"%s"' % (b"\xff" * count),
}


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("counted", MAKERS)
def test_each_bound_lets_so_many_pass_and_no_more(kind: str, counted: str) -> None:
    limits, *bounds = BOUNDS[kind]
    most = bounds[[*MAKERS].index(counted)]
    large = b" " * LARGE if counted == "strings" else b'"%s"' % bytes(LARGE)
    fits, exceeds = (large + MAKERS[counted](count) for count in (most, most + 1))
    assert density.excess_in(fits, limits) == ""
    assert density.excess_in(exceeds, limits).startswith(f"more than {most} {counted}")


def test_a_text_of_few_characters_may_have_too_many_bytes() -> None:
    fits, exceeds = ('"%s"' % ("\u6587" * count) for count in (1_398_101, 1_398_102))
    assert not density.is_dense(fits)
    assert density.is_dense(exceeds)
    assert len(exceeds) < USER.bare


def test_up_to_64_kib_anything_is_decoded() -> None:
    check_density(b"[" * 64 * 1024)
    with pytest.raises(ProtocolError):
        check_density(b"[" * (64 * 1024 + 1))


def test_what_there_is_too_much_of_stays_the_first_that_was_found() -> None:
    weight = density.Weight()
    first = weight.add(b"[" * 20_000)
    assert "objects" in first
    assert weight.add(b'""' * 30_000) == weight.excess == first


@given(st.lists(st.text('"\\{[,\né'), min_size=1), st.lists(st.integers(0, 3)))
def test_pieces_count_as_the_whole(texts: list[str], sizes: list[int]) -> None:
    """Also where an escape is cut."""
    data = json.dumps([texts, {"a": texts}], ensure_ascii=False).encode()
    whole, cut = density.Weight(), density.Weight()
    whole.add(data)
    for size in sizes:
        cut.add(data[:size])
        data = data[size:]
    cut.add(data)
    for name in ("_bare", "_brackets", "_commas", "_quotes", "_escapes", "_foreign"):
        assert getattr(whole, name) == getattr(cut, name), name


AT_THE_BOUND: dict[str, tuple[int, Any]] = {
    "strings": (FRAME.strings, lambda count: ["a"] * count),
    "objects": (FRAME.brackets - 1, lambda count: [{}] * count),
    "numbers": (FRAME.values, lambda count: [1] * count),
    "escapes": (FRAME.escapes // 3, lambda count: '\\"\n' * (count - 1)),
    "text": (20_000, lambda count: ['[{"\\,'] * count),
}
"""What a frame has much of, how many about fill its bound, and a value with so many."""


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([*AT_THE_BOUND]),
    more=st.sampled_from([-9000, -9, -1, 0, 1, 2, 9, 9000]),
    sizes=st.lists(st.sampled_from([1, 9, 4096, 9000, 16384]), min_size=1),
    framing=st.sampled_from([SSE, NamedSSE, NDJSON]),
    end=st.sampled_from([b"\n", b"\r\n"]),
)
def test_a_frame_is_refused_however_it_is_cut_or_never(kind, more, sizes, framing, end) -> None:
    """Around each bound, with frames before and behind it that hold nothing of what is counted."""
    bound, make = AT_THE_BOUND[kind]
    data = json.dumps(make(bound + more)).encode()
    before, frame, behind = (_framed(each, framing, end) for each in (b"1", data, b"1"))
    body = before + frame + behind
    framer, frames = framing(), []
    step = itertools.cycle([*sizes, 9000])
    at = 0
    try:
        while at < len(body):
            size = next(step)
            frames += framer.feed(body[at : at + size])
            at += size
    except ProtocolError:
        # The name of its field counts, too, until all of a frame is there.
        assert density.excess_in(frame), "an honest frame was refused"
    else:
        assert not density.excess_in(data)
        assert len(frames) == 3


def _framed(data: bytes, framing: type, end: bytes) -> bytes:
    if framing is NDJSON:
        return data + end
    name = b"event: e" + end if framing is NamedSSE else b""
    return name + b"data: " + data + 2 * end


@pytest.mark.parametrize("share", [0.99, 1.01, 2.1])
@pytest.mark.parametrize("counted", MAKERS)
@pytest.mark.parametrize("around", ["%s", '["%s"]'], ids=["outside a text", "within one"])
def test_a_quick_look_at_what_a_user_asked_for_comes_to_the_same(
    around: str, counted: str, share: float
) -> None:
    """Most is known to be sparse without looking for what is outside strings."""
    _, *bounds = BOUNDS["what a user asked for"]
    made = MAKERS[counted](int(share * bounds[[*MAKERS].index(counted)]))
    text = "a" * LARGE + around % made.replace(b"\xff", "\u6587".encode()).decode()
    assert density.is_dense(text) == bool(density.excess_in(text.encode(), USER))
