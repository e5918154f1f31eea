"""Framing: the standard's rules, however the bytes are cut, at a cost that stays linear."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiollm._wire import framing
from aiollm._wire.framing import BARE, NDJSON, SSE, NamedSSE
from aiollm.errors import ProtocolError

BOM = b"\xef\xbb\xbf"


def read(framer, pieces):
    return [frame for piece in pieces for frame in framer.feed(piece)] + framer.close()


def cut(body: bytes, places) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


def dribble(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


# The oracle: the standard's algorithm, line by line over the whole body, and our own rules: raw
# JSON, `error:` lines, and a last event that lacks its blank line.


def expected(body: bytes, *, ended: bool = True) -> list[tuple[bytes, bytes]]:
    *lines, unfinished = re.split(b"\r\n|\n|\r", body.removeprefix(BOM))
    events: list[tuple[bytes, bytes]] = []
    data: list[bytes] = []
    name = b""
    raw: list[bytes] = []
    for line in [*lines, unfinished] if ended and unfinished else lines:
        field, value = field_of(line)
        if field in (b"data", b"event") or (field == b"error" and value.strip()):
            raw = []
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif field == b"error" and value.strip():
            name = field
            value = value.strip()
            words = json.dumps({"error": value.decode("utf-8", "replace")}).encode()
            data.append(value if value[:1] in (b"{", b"[") else words)
        elif raw or line[:1] in (b"{", b"["):
            raw = collect([*raw, line], events)
        elif not line:
            if any(data) or len(data) > 1:
                events.append((name, b"\n".join(data)))
            data, name = [], b""
    last = b"\n".join(data).strip()
    if ended and last[:1] in (b"{", b"[") and last[-1:] in (b"}", b"]") and balanced(last):
        events.append((name, b"\n".join(data)))
    return events


def field_of(line: bytes) -> tuple[bytes, bytes]:
    field, _, value = line.partition(b":")
    return field, value.removeprefix(b" ")


def collect(raw: list[bytes], events: list[tuple[bytes, bytes]]) -> list[bytes]:
    whole = b"\n".join(raw)
    if not balanced(whole):
        return raw
    if whole[-1:] in (b"}", b"]"):
        events.append((b"", whole if reports_error(whole) else BARE + whole))
    return []


def reports_error(whole: bytes) -> bool:
    """Only `{"error": ...}` is generated here; other shapes have tests of their own."""
    try:
        value = json.loads(whole, strict=False)
    except ValueError:
        return False
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, dict) and bool(value.get("error"))


def balanced(text: bytes) -> bool:
    depth, quoted, escaped = 0, False, False
    for char in text.decode("latin-1"):
        if escaped:
            escaped = False
        elif quoted:
            escaped, quoted = char == "\\", char != '"'
        elif char == '"':
            quoted = True
        else:
            depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(char, 0)
    return depth <= 0 and not quoted


# Generated streams: plausible ones, and ones made of the tokens that the rules are about.

TEXT = st.text(
    st.one_of(
        st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]),
        st.sampled_from('\u2028\u2029\u0085\x0b\x0c\ufeff\U0001f9ea:{}[]"\\ '),
    ),
    max_size=12,
).map(str.encode)
JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
OBJECT = st.dictionaries(st.text(max_size=5), JSON, min_size=1, max_size=3)
FIELD = st.builds(
    lambda name, colon, value: name + colon + value if colon else name,
    st.sampled_from([b"data", b"data", b"data", b"event", b"id", b"error", b"", b"datas", b"Data"]),
    st.sampled_from([b":", b": ", b":  ", b""]),
    TEXT,
)
RAW = st.builds(
    lambda value, indent: json.dumps({"error": value}, indent=indent).encode().split(b"\n"),
    JSON,
    st.sampled_from([None, 0, 2]),
)
PLAIN = JSON.map(lambda value: [b"data: " + json.dumps(value, ensure_ascii=False).encode(), b""])
NAMED = st.tuples(TEXT, TEXT).map(lambda pair: [b"event: " + pair[0], b"data: " + pair[1], b""])
EVENT = st.one_of(PLAIN, NAMED, RAW, st.lists(FIELD, max_size=4).map(lambda lines: [*lines, b""]))
TOKENS = [
    b"data",
    b"event",
    b":",
    b" ",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b"x",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    BOM,
    b"data: ",
    b"event: ",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\ndata: ",
]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Return a stream of events whose lines end in one way, or in all ways."""
    lines = [line for event in draw(st.lists(EVENT, max_size=6)) for line in event]
    endings = draw(st.sampled_from([[b"\n"], [b"\r\n"], [b"\r"], [b"\n", b"\r\n", b"\r"]]))
    body = b"".join(line + draw(st.sampled_from(endings)) for line in lines)
    body = draw(st.sampled_from([b"", BOM])) + body
    return body[: len(body) - draw(st.sampled_from([0, 0, 0, 1, 2, 5]))]


BODY = st.one_of(streams(), st.lists(st.sampled_from(TOKENS), max_size=40).map(b"".join))
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@given(body=BODY, places=CUTS)
def test_any_cut_of_any_stream_gives_what_the_standard_says(body, places) -> None:
    events = expected(body)
    datas = [data for _, data in events]
    for pieces in ([body], dribble(body), cut(body, places)):
        assert read(NamedSSE(), pieces) == events
        assert read(SSE(), pieces) == datas


@given(values=st.lists(JSON, min_size=1, max_size=6), places=CUTS)
def test_raw_values_are_whole_json(values, places) -> None:
    bodies = [json.dumps({"error": value}, indent=1) for value in values]
    frames = read(SSE(), cut("\n".join(bodies).encode(), places))
    frames = [frame.removeprefix(BARE) for frame in frames]
    assert [json.loads(frame) for frame in frames] == [{"error": value} for value in values]


@given(
    events=st.lists(PLAIN | NAMED, max_size=5), ending=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    places=CUTS,
)  # fmt: skip
def test_no_event_waits_for_bytes_after_it(events, ending, places) -> None:
    body = b"".join(line + ending for event in events for line in event)
    framer = NamedSSE()
    frames: list[tuple[bytes, bytes]] = []
    seen = b""
    for piece in cut(body, places):
        seen += piece
        frames += framer.feed(piece)
        assert frames == expected(seen, ended=False)


@example(values=["between two line ends", 0], ending=b"\r\n", places=[31])
@given(
    values=st.lists(JSON, min_size=1, max_size=6), ending=st.sampled_from([b"\n", b"\r\n"]),
    places=CUTS,
)  # fmt: skip
def test_plain_events_never_take_the_slow_path(values, ending, places) -> None:
    """Wherever a read ends, the tail it leaves does not spoil the next one."""

    class Fast(SSE):
        def _slow(self, lines, frames):
            raise AssertionError(lines)

    class FastNamed(NamedSSE):
        def _slow(self, lines, frames):
            raise AssertionError(lines)

    datas = [json.dumps(value).encode() for value in values]
    plain = b"".join(b"data: %s\n\n" % data for data in datas).replace(b"\n", ending)
    named = b"".join(b"event: delta\ndata: %s\n\n" % data for data in datas)
    named = named.replace(b"\n", ending)
    for pieces in (lambda body: [body], lambda body: cut(body, places), dribble):
        framer = Fast()
        assert [frame for piece in pieces(plain) for frame in framer.feed(piece)] == datas
        framer = FastNamed()
        pairs = [frame for piece in pieces(named) for frame in framer.feed(piece)]
        assert pairs == [(b"delta", data) for data in datas]


@pytest.mark.parametrize("kind", [SSE, NamedSSE])
@given(body=BODY, places=CUTS)
def test_the_fast_path_gives_what_the_slow_one_gives(kind, body, places) -> None:
    """Read by read, so that neither waits longer than the other."""

    class Slow(kind):
        def feed(self, data):
            return self._feed(data)

        def _events(self, block):
            return framing._EventStream._events(self, block)

    fast, slow = kind(), Slow()
    for piece in cut(body, places):
        assert fast.feed(piece) == slow.feed(piece)
    assert fast.close() == slow.close()


@pytest.mark.parametrize(
    ("body", "frames"),
    [
        pytest.param(b"data: x\n\n", [b"x"], id="one event"),
        pytest.param(b"data:x\n\n", [b"x"], id="no space"),
        pytest.param(b"data:  x\n\n", [b" x"], id="only one space is stripped"),
        pytest.param(b"data:\tx\n\n", [b"\tx"], id="a tab is no space"),
        pytest.param(b"data: a\ndata: b\n\n", [b"a\nb"], id="data lines are joined"),
        pytest.param(b"data: a\ndata\ndata: b\n\n", [b"a\n\nb"], id="a field without a colon"),
        pytest.param(b"data: x\n\n\n\ndata: y\n\n", [b"x", b"y"], id="more blank lines"),
        pytest.param(b"\n\ndata: x\n\n", [b"x"], id="blank lines at the start"),
        pytest.param(b": ping\n\ndata: x\n\n: ping\n\n", [b"x"], id="comments"),
        pytest.param(b"data: x\n: ping\ndata: y\n\n", [b"x\ny"], id="a comment inside an event"),
        pytest.param(b"id: 1\nretry: 2\nfoo: 3\n\n", [], id="fields that carry nothing"),
        pytest.param(b" data: x\n\n", [], id="an indented field is another field"),
        pytest.param(b"data: x", [], id="half an event at the end is dropped"),
        pytest.param(b"data: x\n", [], id="an event without its blank line is dropped"),
        pytest.param(b"data: \n\ndata: x\n\n", [b"x"], id="an event with empty data"),
        pytest.param(b"data:\n\n", [], id="an event with no data at all"),
        pytest.param(BOM + b"data: x\n\n", [b"x"], id="a byte order mark"),
        pytest.param(BOM + BOM + b"data: x\n\n", [], id="only one mark is stripped"),
        pytest.param(BOM[:2], [], id="half a mark"),
        pytest.param(b"data: x\n\n" + BOM + b"data: y\n\n", [b"x"], id="a mark later is a field"),
        pytest.param(b"data: x\r\n\r\ndata: y\r\n\r\n", [b"x", b"y"], id="CRLF"),
        pytest.param(b"data: x\r\rdata: y\r\r", [b"x", b"y"], id="CR"),
        pytest.param(b"data: x\r\n\rdata: y\n\r\n", [b"x", b"y"], id="mixed"),
        pytest.param(b"data: x\rdata: y\n\n", [b"x\ny"], id="CR amid an event that ends in LF"),
        pytest.param("data: a\u2028b\u0085c\x0b\x0cd\n\n".encode(),
                     ["a\u2028b\u0085c\x0b\x0cd".encode()], id="what is no line end"),
        pytest.param(b'data: x\n\n{"error": {"a": "}"}}', [b"x", b'{"error": {"a": "}"}}'],
                     id="a raw JSON tail"),
        pytest.param(b'{\n "error": {\n\n  "a": "{"\n }\n}\n\ndata: x\n\n',
                     [b'{\n "error": {\n\n  "a": "{"\n }\n}', b"x"], id="pretty raw JSON"),
        pytest.param(b'{"error": "\\"}"}\n', [b'{"error": "\\"}"}'], id="an escaped quote"),
        pytest.param(b'{"error": "a\n}"}\n', [b'{"error": "a\n}"}'], id="a raw line end in a text"),
        pytest.param(b'[{"error": 1},\n{"error": 2}]', [b'[{"error": 1},\n{"error": 2}]'],
                     id="a raw array"),
        pytest.param(b'{"error": {"message": "cut', [], id="raw JSON cut at the end is dropped"),
        pytest.param(b'data: {"a": 1}\n', [b'{"a": 1}'], id="complete JSON needs no blank line"),
        pytest.param(b'data: {"a": [1, "]}"', [], id="half an object"),
        pytest.param(b"data: [DONE]", [b"[DONE]"], id="the end mark needs no blank line"),
        pytest.param(b'data: {"a":\ndata: 1}', [b'{"a":\n1}'], id="two lines of one object"),
        pytest.param(b'{"a": 1}\n', [BARE + b'{"a": 1}'], id="raw JSON that is no error"),
        pytest.param(b"[1]\n\ndata: x\n\n", [BARE + b"[1]", b"x"], id="a raw list of numbers"),
        pytest.param(b'{"choices": 1, "message": 2}', [BARE + b'{"choices": 1, "message": 2}'],
                     id="a raw piece of an answer is no error"),
        pytest.param(b'{"message": "x", "code": 5}', [b'{"message": "x", "code": 5}'],
                     id="raw words of an error"),
        pytest.param(b'{"type": "error", "error": null}', [b'{"type": "error", "error": null}'],
                     id="a raw object whose type is error"),
        pytest.param(b'{"error parsing tool call": "x"}\n', [b'{"error parsing tool call": "x"}'],
                     id="a raw key that begins with error"),
        pytest.param(b'error: {"message": "x"}\n\n', [b'{"message": "x"}'], id="an error line"),
        pytest.param(b'error: {"message": "x"}', [b'{"message": "x"}'], id="a last error line"),
        pytest.param(b'error: {"message": "x', [], id="half an error line"),
        pytest.param(b"error: out of \xff\n\n", [b'{"error": "out of \\ufffd"}'],
                     id="an error line in words"),
        pytest.param(b"error:\n\nerror:  \n\n", [], id="empty error lines"),
        pytest.param(b"[info] loading\n\ndata: x\n\n", [b"x"], id="a log line is no JSON"),
        pytest.param(b'{"open": 1,\ndata: x\n\n', [b"x"], id="a field ends broken raw JSON"),
        pytest.param(b'{"open": 1,\nevent: e\ndata: x\n\n', [b"x"], id="a name ends it, too"),
        pytest.param(b"", [], id="nothing"),
    ],
)  # fmt: skip
def test_the_rules_one_by_one(body, frames) -> None:
    assert read(SSE(), [body]) == frames
    assert read(SSE(), dribble(body)) == frames
    assert [data for _, data in read(NamedSSE(), [body])] == frames


@pytest.mark.parametrize(
    ("body", "pairs"),
    [
        pytest.param(b"event: a\ndata: x\n\n", [(b"a", b"x")], id="name first"),
        pytest.param(b"data: x\nevent: a\n\n", [(b"a", b"x")], id="name last"),
        pytest.param(b"event: a\nevent: b\ndata: x\n\n", [(b"b", b"x")], id="the last name wins"),
        pytest.param(b"event: a\n\ndata: x\n\n", [(b"", b"x")], id="a name without data is void"),
        pytest.param(b"event:a\ndata:x\n\n", [(b"a", b"x")], id="no spaces"),
        pytest.param(b"event: a\ndata: x\n\ndata: y\n\n", [(b"a", b"x"), (b"", b"y")],
                     id="a name holds for one event"),
        pytest.param(b"event: a\nid: 1\n\nevent: b\ndata: x\n\n", [(b"b", b"x")],
                     id="three lines that are not name and data"),
        pytest.param(b"event: a\ndata: \n\nevent: b\ndata: x\n\n", [(b"b", b"x")],
                     id="empty data"),
        pytest.param(b'event: a\ndata: x\n\n{"error": 1}', [(b"a", b"x"), (b"", b'{"error": 1}')],
                     id="raw JSON has no name"),
        pytest.param(b'event: a\nerror: {"a": 1}\n\n', [(b"error", b'{"a": 1}')],
                     id="an error line is an event of that name"),
        pytest.param(b'event: a\ndata: {"b": 2}', [(b"a", b'{"b": 2}')],
                     id="the last event keeps its name"),
    ],
)  # fmt: skip
def test_each_event_comes_with_its_name(body, pairs) -> None:
    assert read(NamedSSE(), [body]) == pairs
    assert read(NamedSSE(), dribble(body)) == pairs


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_an_event_comes_as_soon_as_its_blank_line_begins(ending) -> None:
    """A CR at the end of a read ends its line; the LF that may follow is skipped."""
    framer = SSE()
    body = b"data: [DONE]" + ending + ending
    assert framer.feed(body) == [b"[DONE]"]
    assert framer.feed(b"") == []
    assert framer.feed(b"data: x" + ending + ending[:1]) == [b"x"]


def test_a_crlf_cut_in_two_is_one_line_end() -> None:
    framer = SSE()
    pieces = [b"data: a\r", b"", b"\ndata: b\r", b"\n\r", b"", b"\n", b"data: c\r\n\r\n"]
    assert [framer.feed(piece) for piece in pieces] == [[], [], [], [b"a\nb"], [], [], [b"c"]]


def test_a_crlf_cut_in_two_after_whole_events_is_one_line_end() -> None:
    framer = NamedSSE()
    assert framer.feed(b"data: a\n\nevent: b\r") == [(b"", b"a")]
    assert framer.feed(b"\ndata: c\r\n\r\n") == [(b"b", b"c")]


@pytest.mark.parametrize("kind", [SSE, NamedSSE, NDJSON])
def test_a_large_frame_is_not_copied_while_it_arrives(kind) -> None:
    """8 MiB in pieces of 4 KiB: each waits as it came, and is joined once."""
    framer = kind()
    pieces = [bytes(bytearray(b"x" * 4096)) for _ in range(2048)]
    assert framer.feed(b'data: "') == []
    for piece in pieces:
        assert framer.feed(piece) == []
    waiting = framer._pending
    assert all(held is piece for held, piece in zip(waiting[1:], pieces, strict=True))
    (frame,) = framer.feed(b'"\n\n')
    assert not framer._pending
    assert len(frame if isinstance(frame, bytes) else frame[1]) > 2048 * 1024


@pytest.mark.parametrize("kind", [SSE, NamedSSE, NDJSON])
def test_a_frame_beyond_the_bound_is_an_error(kind) -> None:
    framer = kind()
    piece = b"x" * (1024 * 1024)
    framer.feed(b'data: "')
    with pytest.raises(ProtocolError, match="larger than 67108864 bytes") as caught:
        for _ in range(64):
            framer.feed(piece)
    assert caught.value.frame == b'data: "'
    assert framer.feed(b'data: {"ok": 1}\n\n') != [], "the framer holds nothing of it"


def test_raw_json_beyond_the_bound_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(framing, "MAX_RAW", 1000)
    framer = SSE()
    framer.feed(b"{\n\n")
    with pytest.raises(ProtocolError, match="raw JSON is larger than 1000 bytes"):
        for _ in range(20):
            framer.feed(b"[" * 100 + b"\n\n")


@pytest.mark.parametrize("hostile", [b'{"a":"' + b'\\"' * 200_000, b"{" + b'"' * 400_001])
def test_hostile_json_costs_one_pass(hostile) -> None:
    """A quadratic scan would exceed the time limit of a test by far."""
    with contextlib.suppress(ProtocolError):
        assert read(NDJSON(), [hostile]) == []
    with pytest.raises(ProtocolError, match=r"raw JSON is larger|more than 24576 strings"):
        read(SSE(), [hostile])


@pytest.mark.parametrize("junk", [b": ping", b"data: x", b"retry: 1", b"junk", b"{}", b"error: x"])
def test_lines_do_not_wait_for_the_end_of_an_event_that_never_comes(junk) -> None:
    framer = SSE()
    with contextlib.suppress(ProtocolError):
        for _ in range(1000):
            framer.feed((junk + b"\n") * 1000)
            assert sum(map(len, framer._pending)) < 32 * 1024


def test_an_event_of_endless_lines_is_an_error() -> None:
    framer = SSE()
    for _ in range(6):
        framer.feed(b"data: x\n" * 10_000)
    with pytest.raises(ProtocolError, match="more than 65536 lines"):
        framer.feed(b"data: x\n" * 10_000)


def test_a_large_frame_that_is_mostly_structure_is_an_error() -> None:
    for framer in (SSE(), NDJSON()):
        framer.feed(b"data: [")
        with pytest.raises(ProtocolError, match="holds more than 16384 objects and lists"):
            framer.feed(b"{}," * 100_000)


def test_what_a_large_frame_holds_is_counted_piece_by_piece() -> None:
    """All at once would hold up the event loop, however much of it is refused."""
    for kind in (SSE, NamedSSE, NDJSON):
        framer = kind()
        framer.feed(b"data: [")
        fed = 0
        with pytest.raises(ProtocolError, match="holds more than 24576 strings"):
            for _ in range(1000):
                framer.feed(rb'"a\",""[",' * 1000)
                fed += 1
        assert fed == 12, "at the first piece that is too much"


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n\ndata: {}\n\n", b"\ndata: 7\n\n"])
@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_large_event_ends_wherever_its_end_is_cut(end, cut) -> None:
    text = b'"%s"' % (b"a" * 100_000)
    for kind, begin in itertools.product(
        (SSE, NamedSSE), (b"data: ", b"data: {}\n\nevent: a\ndata: ")
    ):
        framer = kind()
        found = framer.feed(begin + text[:50_000])
        found += framer.feed(text[50_000:70_000]) + framer.feed(text[70_000:] + end[:cut])
        found += framer.feed(end[cut:])
        assert found == read(kind(), [begin + text + end])
        assert len(found) == 1 + (begin + end).count(b"{}")


def test_the_lines_of_one_event_are_counted_together() -> None:
    framer = SSE()
    with pytest.raises(ProtocolError, match="holds more than 24576 strings"):
        for _ in range(50):
            framer.feed(b'data: "a","a","a","a"\n' * 1000)
        framer.feed(b"\n")


def test_raw_json_is_read_a_bounded_number_of_times() -> None:
    frames = read(SSE(), [b"data: a\n\n" + b"{}\n" * 10_000 + b"\ndata: b\n\n"])
    assert frames == [b"a", *[BARE + b"{}"] * 64, b"b"]


@pytest.mark.parametrize(
    ("body", "frames"),
    [
        (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\r\n{"b":2}\r\n', [b'{"a":1}\r', b'{"b":2}\r']),
        (b'\n \n\r\n{"a":1}\n\n', [b'{"a":1}']),
        (b'{"a":1}\n{"b":2}', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\n{"b":2} \r', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\n{"b":', [b'{"a":1}']),
        (b'{"a":{"b":1}', []),
        (b'{"a":"}', []),
        (b"", []),
        ('{"a":"\u2028\u0085"}\n'.encode(), ['{"a":"\u2028\u0085"}'.encode()]),
    ],
)
def test_each_complete_line_of_json_is_a_frame(body, frames) -> None:
    """Half a line at the end is no frame: the stream is cut, not malformed."""
    assert read(NDJSON(), [body]) == frames
    assert read(NDJSON(), dribble(body)) == frames


@given(values=st.lists(OBJECT, max_size=5), places=CUTS, last=st.booleans())
def test_json_lines_however_they_are_cut(values, places, last) -> None:
    lines = [json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") for value in values]
    body = b"\n".join(lines) + (b"\n" if last else b"")
    assert read(NDJSON(), cut(body, places)) == lines


@given(value=OBJECT, length=st.integers(1))
def test_a_cut_json_line_is_no_frame(value, length) -> None:
    line = json.dumps(value).encode()
    assert read(NDJSON(), [line[: length % len(line)]]) == []
