"""Lines of JSON-RPC: any cut gives the same lines, and none is kept beyond the limit."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._mcp.lines import MAX_ITEMS, Lines, Seen, TooLong, readable, seen
from aiollm._wire.lenient import MAX_MENDED


@given(
    st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=8),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_any_cut_gives_the_same_lines(lines, cuts):
    data = b"".join(line + b"\n" for line in lines)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    reader = Lines(20)
    found = [each for start, end in pairwise(places) for each in reader.feed(data[start:end])]
    expected = [line if len(line) <= 20 else TooLong(len(line), None) for line in lines if line]
    assert found == expected


@pytest.mark.parametrize("as_first", [True, False])
def test_a_line_that_is_too_long_says_whose_answer_it_is(as_first):
    result = {"result": {"content": ["x" * 1000], "id": 9}}
    first, last = (
        ({"jsonrpc": "2.0", "id": 7}, {}) if as_first else ({}, {"jsonrpc": "2.0", "id": 7})
    )
    line = json.dumps(first | result | last).encode()
    reader = Lines(100)
    pieces = [line[i : i + 90] for i in range(0, len(line), 90)] + [b"\n"]
    assert [each for piece in pieces for each in reader.feed(piece)] == [TooLong(len(line), 7)]


def test_an_id_inside_a_result_is_not_taken_for_the_answers():
    line = json.dumps({"jsonrpc": "2.0", "result": {"content": ["x" * 1000], "id": 9}}).encode()
    assert list(Lines(100).feed(line + b"\n")) == [TooLong(len(line), None)]


@pytest.mark.parametrize(
    ("line", "is_message"),
    [
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', True),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}', True),
        (b'{"jsonrpc":"2.0","method":"ping","id":"a"}', True),
        (b'{"jsonrpc":"2.0"}', False),
        (b'{"jsonrpc":"2.0","id":1}', False),
        (b"[]", False),
        (b"null", False),
        (b"\xff", False),
        (b"[" * 100_000, False),
        (b"Listening on port 1", False),
    ],
)
def test_what_is_no_message_is_told_from_one(line, is_message):
    assert seen(line).is_message is is_message


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"content": [{"type": "text", "text": "x" * 3_000_000}]}, ""),
        ({"content": [{"type": "text", "text": "x"}] * (MAX_ITEMS + 1)}, "1001 items"),
        ({"tools": [{"name": "x" * 9}] * (MAX_ITEMS + 1)}, "1001 items"),
        ({"content": [], "structuredContent": [1] * 600_000}, "beside its texts"),
        ({"content": [{"type": "text", "text": "x", "_meta": [1] * 600_000}]}, "beside its texts"),
        ({"content": [{"type": "text", "text": [1] * 600_000}]}, "beside its texts"),
        ({"content": "x" * 2_000_000}, "beside its texts"),
    ],
)
def test_a_message_with_too_many_pieces_is_refused(result, reason):
    found = seen(json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode())
    assert reason in found.refusal
    assert bool(reason) is bool(found.refusal)


ANSWER = b'{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"%b"}]}}'


def test_what_is_plain_json_or_no_message_stays_as_it_is():
    plain = ANSWER % rb"\\ud83d \ud83d\ude00 \n"
    for line in (plain, b"Listening on port 1", b'{"jsonrpc"', b'{"a":1 }'):
        assert readable(line) == (line, seen(line))


def test_half_a_character_below_much_else_is_mended_or_left():
    """How deep can be read goes by the size of the stack from Python 3.14 on."""
    deep = b'{"jsonrpc":"2.0","id":7,"result":%b"\\ud83d"%b}' % (b"[" * 900, b"]" * 900)
    line, found = readable(deep)
    assert found.is_message is (line != deep)


def test_what_servers_take_for_json_is_made_readable():
    """Of JavaScript's `text.slice(0, 1000)`, and of Python's `json.dumps`."""
    line, found = readable(ANSWER % rb"cut \ud83d off")
    assert line.decode() == (ANSWER % "cut \ufffd off".encode()).decode()
    assert found == Seen(is_message=True, id=7)
    line, found = readable(b'{"jsonrpc":"2.0","id":7,"result":{"celsius":NaN}}')
    assert (line, found.id) == (b'{"jsonrpc":"2.0","id":7,"result":{"celsius":null}}', 7)


def test_a_large_message_that_is_not_plain_json_is_refused():
    line = ANSWER % (b"x" * MAX_MENDED + rb"\ud83d")
    assert readable(line) == (line, Seen(is_message=True, id=7, refusal=readable(line)[1].refusal))
    assert "is not plain JSON" in readable(line)[1].refusal
    assert not readable(b"{" + b"x" * MAX_MENDED)[1].is_message
