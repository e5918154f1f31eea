"""Faults as steps: whatever is cut, held or paced, the bytes before and after add up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aiollm.testing import (
    Answer,
    Cut,
    End,
    Gate,
    Hang,
    Pause,
    SeenRequest,
    Serve,
    Trickle,
    Truncate,
)
from aiollm.testing.faults import steps
from aiollm.testing.http1 import Parser

REQUEST = SeenRequest("POST", "/", {}, {}, b"", 0.0, 0)

bodies = st.lists(st.binary(min_size=1, max_size=9), max_size=6)
framings = st.sampled_from(["length", "chunked"])


def wire(fault) -> bytes:
    return b"".join(step for step in steps(fault, REQUEST) if isinstance(step, bytes))


def parsed(data: bytes) -> bytes:
    (message,) = Parser(reply_to="POST").feed(data)
    return message.body


@given(bodies, framings)
def test_an_answer_parses_back_to_its_body(pieces, framing):
    assert parsed(wire(Answer(200, {}, pieces, framing))) == b"".join(pieces)


@given(bodies, framings, st.integers(0, 60))
def test_a_truncated_answer_of_chunks_parses_to_its_first_bytes(pieces, framing, after):
    whole = b"".join(pieces)
    sent = wire(Truncate(after, Answer(200, {}, pieces, "chunked")))
    assert parsed(sent) == whole[:after]


@given(bodies, framings, st.integers(0, 60))
def test_a_hang_that_goes_on_sends_the_whole_body(pieces, framing, after):
    gate = Gate()
    fault = Hang(after, Answer(200, {}, pieces, framing), gate)
    played = list(steps(fault, REQUEST))
    assert parsed(b"".join(step for step in played if isinstance(step, bytes))) == b"".join(pieces)
    assert played.count(gate) == 1


@given(bodies, framings, st.integers(0, 60))
def test_a_cut_sends_a_prefix_of_the_answer_and_no_last_chunk(pieces, framing, after):
    whole = b"".join(pieces)
    answer = Answer(200, {}, [whole] if whole else [], framing)
    played = list(steps(Cut(after, answer), REQUEST))
    assert played[-1] == End("close")
    body = b"".join(played[1:-1])
    if framing == "length":
        assert body == whole[:after]
    else:
        assert not body.endswith(b"0\r\n\r\n") or whole[:after].endswith(b"0")
        assert whole[:after] in body


@given(bodies, st.integers(1, 12))
def test_a_trickle_waits_before_each_piece_and_sends_all(pieces, size):
    played = list(steps(Trickle(2.0, size, Serve(b"".join(pieces))), REQUEST))
    waits = played.count(Pause(2.0))
    assert waits == -(-len(b"".join(pieces)) // size)
    assert parsed(b"".join(step for step in played if isinstance(step, bytes))) == b"".join(pieces)


def test_gates_among_pieces_that_are_cut_off_are_cut_off_too():
    early, late = Gate(), Gate()
    answer = Answer(200, {}, (b"ab", early, b"cd", late, b"ef"))
    played = list(steps(Cut(3, answer), REQUEST))
    assert early in played
    assert late not in played


def test_headers_given_win_over_those_that_framing_adds():
    sent = wire(Answer(200, {"Content-Length": "99", "Content-Type": "x/y"}, {"a": 1}))
    assert sent.lower().count(b"content-length") == 1
    assert sent.lower().count(b"content-type") == 1
