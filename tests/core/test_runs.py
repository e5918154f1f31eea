"""Frames that hold many hold what the usual framers cut into one frame each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._wire.framing import NDJSON, NamedSSE
from aiollm._wire.runs import EventRuns, LineRuns, Run

EVENT = b'event: a\ndata: {"n":1}\n\n'
LINE = b'{"n":1}\n'
MANY = 300
"""How many of these are more than what comes one by one."""


def frames(framer, reads):
    """Return the frames of all reads, cut where they hold many, and whether any did."""
    found, any_run = [], False
    for each in [framer.feed(read) for read in reads] + [framer.close()]:
        if type(each) is Run:
            (frame,) = each
            any_run = True
            if isinstance(frame, bytes):
                found += [line for line in frame.split(b"\n") if line.strip()]
            else:
                found += [(frame[0], data) for data in frame[1]]
        else:
            found += each
    return found, any_run


def cut(body, place):
    place %= len(body) + 1
    return [body[:place], body[place:]]


EVENTS = [
    EVENT, EVENT.replace(b"\n", b"\r\n"), EVENT.replace(b"\n", b"\r"), b"event: a\ndata: \n\n",
    b"event: a\n\n", b"event: error\ndata: {}\n\n", b"data: {}\n\n", b": a comment\n\n",
    b"event: a\ndata: {\ndata: }\n\n", b'event: a\nid: 1\ndata: {"n":2}\n\n', b'{"error":"e"}\n',
    b"event: a\nevent: b\ndata: {}\n\n", b"event: a\ndata: {}\r\n\n", b"event: a\ndata:{}\n\n",
]  # fmt: skip
LINES = [LINE, LINE.replace(b"\n", b"\r\n"), b"\n", b" \n", b'{"n":\n1}\n', b"{}{}\n", b"["]


@pytest.mark.parametrize(
    ("runs", "usual", "one", "odd"),
    [(EventRuns, NamedSSE, EVENT, EVENTS), (LineRuns, NDJSON, LINE, LINES)],
    ids=["events", "lines"],
)
@given(data=st.data())
def test_many_frames_as_one_are_what_they_are_one_by_one(runs, usual, one, odd, data) -> None:
    parts = data.draw(st.lists(st.sampled_from([one * MANY, *odd]), max_size=6))
    reads = cut(b"".join(parts), data.draw(st.integers(0, MANY * len(one))))
    assert frames(runs(), reads)[0] == frames(usual(), reads)[0]


@pytest.mark.parametrize(("runs", "one"), [(EventRuns, EVENT), (LineRuns, LINE)])
def test_only_many_come_as_one(runs, one) -> None:
    assert frames(runs(), [one * MANY])[1]
    assert not frames(runs(), [one] * MANY)[1]


@pytest.mark.parametrize("odd", EVENTS[1:])
def test_events_come_as_one_only_if_they_are_alike(odd) -> None:
    for body in (EVENT * MANY + odd + EVENT * MANY, odd * MANY, odd * MANY + EVENT):
        assert frames(EventRuns(), [body])[0] == frames(NamedSSE(), [body])[0]
