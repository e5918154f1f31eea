"""Lenient decoding: an odd value never kills a stream, and only ProtocolError comes out."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._user_types.loose_json import decode_numbers
from aiollm._wire.lenient import (
    SurrogateJoiner,
    decode,
    decode_leniently,
    encode,
    load,
    mend,
    mend_all,
)
from aiollm.errors import ProtocolError


class Inner(msgspec.Struct):
    need: int
    note: str = "-"


class Wire(msgspec.Struct):
    text: str = ""
    count: int = 0
    ratio: float = 0.0
    code: int | str | None = None
    kind: Literal["a", "b"] | None = None
    items: list[Inner] = []
    table: dict[str, Inner] = {}
    numbered: dict[int, int] = {}
    raw: msgspec.Raw = msgspec.Raw(b"")
    blob: bytes = b""


WIRE = msgspec.json.Decoder(Wire, strict=False)
STRICT = msgspec.json.Decoder(Wire)


def both(frame: bytes) -> Wire:
    """Decode by both decoders: a strict one falls back more often, to the same result."""
    lax, strict = decode(frame, WIRE), decode(frame, STRICT)
    assert msgspec.structs.replace(lax, raw=msgspec.Raw()) == msgspec.structs.replace(
        strict, raw=msgspec.Raw()
    )
    return lax


@pytest.mark.parametrize(
    ("frame", "field", "value"),
    [
        pytest.param(rb'{"text":"\ud83e\uddea"}', "text", "\U0001f9ea", id="paired escapes"),
        pytest.param(rb'{"text":"a\ud83e"}', "text", "a\ud83e", id="lone high escape"),
        pytest.param(rb'{"text":"\ud83eabc"}', "text", "\ud83eabc", id="high escape, then text"),
        pytest.param(rb'{"text":"\uddea"}', "text", "\uddea", id="lone low escape"),
        pytest.param(rb'{"other":"\ud83e","text":"a"}', "text", "a", id="in an ignored field"),
        pytest.param(b'{"text":"a\xffb"}', "text", "a\ufffdb", id="invalid UTF-8"),
        pytest.param(b'{"other":"\xff","text":"a"}', "text", "a", id="invalid UTF-8, ignored"),
        pytest.param(b'{"text":"a\n\tb"}', "text", "a\n\tb", id="control characters"),
        pytest.param(b'{"text":"a","count":NaN}', "count", 0, id="NaN"),
        pytest.param(b'{"text":"a","ratio":-Infinity}', "ratio", -math.inf, id="Infinity"),
        pytest.param(b'{"other":NaN,"text":"a"}', "text", "a", id="NaN in an ignored field"),
        pytest.param(b'{"count":1e400,"text":"a"}', "count", 0, id="number out of range"),
        pytest.param(b'{"other":1e400,"text":"a"}', "text", "a", id="the same, ignored"),
        pytest.param(b'\xef\xbb\xbf{"text":"a"}', "text", "a", id="byte order mark"),
        pytest.param(b'{"text":"a","text":"b"}', "text", "b", id="the last duplicate wins"),
        pytest.param(b'{"count":3.0}', "count", 3, id="float for int"),
        pytest.param(b'{"count":1e3}', "count", 1000, id="exponent for int"),
        pytest.param(b'{"count":"3"}', "count", 3, id="string for int"),
        pytest.param(b'{"count":3.5,"text":"a"}', "count", 0, id="fraction for int is dropped"),
        pytest.param(b'{"count":true}', "count", 0, id="bool for int is dropped"),
        pytest.param(b'{"count":123456789012345678901234567890}', "count",
                     123456789012345678901234567890, id="more than 64 bits"),
        pytest.param(b'{"text":null,"count":2}', "count", 2, id="null for a field that has none"),
        pytest.param(b'{"text":null}', "text", "", id="null leaves the default"),
        pytest.param(b'{"text":5,"count":2}', "count", 2, id="wrong type"),
        pytest.param(b'{"text":{"a":[1]}}', "text", "", id="wrong type leaves the default"),
        pytest.param(b'{"code":[1],"count":2}', "code", None, id="wrong type in a union"),
        pytest.param(b'{"code":7}', "code", 7, id="union, int"),
        pytest.param(b'{"code":"7"}', "code", "7", id="union, str"),
        pytest.param(b'{"kind":"zzz","count":2}', "kind", None, id="unknown word"),
        pytest.param(b'{"blob":"-_8"}', "blob", b"", id="another base64"),
        pytest.param(b'{"items":5,"count":2}', "items", [], id="no list"),
        pytest.param(b'{"items":[{"need":1},{"need":"x"},{},null,{"need":2,"note":null}]}', "items",
                     [Inner(1), Inner(2)], id="what does not fit in a list goes, alone"),
        pytest.param(b'{"table":{"k":{"need":"x"}},"count":2}', "table", {},
                     id="a value under any key takes its mapping with it"),
        pytest.param(b'{"numbered":{"x":1},"count":2}', "numbered", {}, id="a wrong key"),
        pytest.param(b'{"unknown":{"deep":[1]},"count":2}', "count", 2, id="unknown field"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_becomes_the_nearest_or_the_default(frame, field, value) -> None:
    assert getattr(both(frame), field) == value


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        pytest.param(b"", "Expecting value", id="nothing"),
        pytest.param(b"{", "Expecting property name", id="half"),
        pytest.param(b"<html>", "Expecting value", id="no JSON"),
        pytest.param(b'{"a":1}{"b":2}', "Extra data", id="two values"),
        pytest.param(b"[1]", "Expected `object`", id="another shape"),
        pytest.param(b"null", "Expected `object`", id="null"),
        # How deep is too deep goes by the stack from Python 3.14 on.
        pytest.param(b"[" * 60_000, "nests too deeply|Expecting value", id="deep lists"),
        pytest.param(b'{"a":' * 10_000, "nests too deeply|Expecting value", id="deep objects"),
        pytest.param(b'{"a":' * 100_000, "24576 strings", id="deep and large"),
        pytest.param(b'{"count":%s}' % (b"9" * 5000), "limit", id="more digits than allowed"),
        pytest.param(b'{"items":[%s]}' % b",".join([b"{}"] * 40), "than 32", id="too much is odd"),
    ],
)
def test_what_cannot_be_read_is_a_protocol_error(frame, reason) -> None:
    with pytest.raises(ProtocolError, match=reason) as caught:
        decode(frame, WIRE)
    assert caught.value.frame == frame[:1024]
    assert len(str(caught.value)) < 300
    assert caught.value.__context__ is None


def test_a_field_whose_name_msgspec_cannot_point_at_is_dropped() -> None:
    class Dotted(msgspec.Struct):
        value: int = msgspec.field(default=0, name="a.b")

    assert decode(b'{"a.b":"x"}', msgspec.json.Decoder(Dotted)) == Dotted(0)


@pytest.mark.parametrize("odd", [1, 31])
def test_a_frame_is_converted_a_bounded_number_of_times_whatever_is_odd(monkeypatch, odd) -> None:
    sizes = []
    convert = msgspec.convert

    def counted(value, kind, **options):
        sizes.append(len(json.dumps(value, default=repr)))
        return convert(value, kind, **options)

    monkeypatch.setattr(msgspec, "convert", counted)
    frame = b'{"items":[%s]}' % b",".join([b'{"need":1}'] * 900 + [b'{"need":[]}'] * odd)
    assert len(decode_leniently(frame, Wire).items) == 900
    assert sum(sizes) < 4 * len(frame)


def test_a_large_frame_of_nothing_but_structure_is_not_read_leniently() -> None:
    frame = b'{"text":["%s"],"count":7,"other":[%s]}'
    assert decode(frame % (b",{" * 1_000_000, b"0," * 1000 + b"0"), WIRE).count == 7
    with pytest.raises(ProtocolError, match="holds more than 131072 values"):
        decode(frame % (b"", b"0," * 300_000 + b"0"), WIRE)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        pytest.param(b'{"text":"\\ud83e%s"}' % (b"a" * 300_000), "surrogate", id="halves"),
        pytest.param(b'{"text":"%s\t"}' % (rb"\n" * 70_000), "70000 escapes", id="escapes"),
        pytest.param(b'{"items":[%s[]]}' % (b'{"need":1},' * 1024), "1024 items", id="items"),
    ],
)
def test_a_large_frame_that_is_slow_to_mend_is_refused(frame, said) -> None:
    with pytest.raises(ProtocolError, match=said):
        decode(frame, WIRE)


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        (chr(0xD83E) + chr(0xDD99), "\U0001f999"),
        (chr(0xD83E), "\ufffd"),
        (chr(0xDD99), "\ufffd"),
        ("é", "é"),
    ],
)
@pytest.mark.parametrize("around", ["", "a" * 5000, "é" * 5000], ids=["short", "ASCII", "long"])
def test_long_texts_are_mended_like_short_ones(text, mended, around) -> None:
    assert mend(around + text + around) == around + mended + around


def test_an_odd_frame_is_read_at_once_after_another_and_any_other_strictly() -> None:
    """What is odd is rarely alone, and a strict decoder takes its time to say what does not fit."""

    class Counted:
        type = Wire
        calls = 0

        def decode(self, frame):
            self.calls += 1
            return WIRE.decode(frame)

    joiner, decoder = SurrogateJoiner(odd=True), Counted()
    for frame, calls in [
        (b'{"count":[]}', 0),
        (b'{"text":"\\ud83e"}', 0),
        (b'{"text":"a"}', 0),
        (b'{"text":"a"}', 1),
        (b'{"text":7}', 2),
        (b'{"text":7}', 2),
    ]:
        assert joiner.decode(frame, decoder) == decode(frame, WIRE)
        assert decoder.calls == calls


def test_memory_that_runs_out_is_a_protocol_error() -> None:
    class Greedy(bytes):
        def decode(self, *_args: Any) -> str:
            raise MemoryError

    with pytest.raises(ProtocolError, match="too large"):
        decode_leniently(Greedy(b'{"text":"\\ud83e"}'), Wire)


def test_raw_fields_survive_an_odd_value_beside_them() -> None:
    frame = rb'{"raw":{"data":["x",1]},"text":"\ud83e","items":[{"need":1}]}'
    wire = decode(frame, WIRE)
    assert json.loads(bytes(wire.raw)) == {"data": ["x", 1]}
    assert wire.items == [Inner(1)]


WORD = st.text(max_size=6)
ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORD),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(WORD, inner, max_size=3)
    ),
    max_leaves=5,
)  # fmt: skip
ITEM = st.fixed_dictionaries({}, optional={"need": ANY, "note": ANY})
FIELDS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(Wire.__struct_fields__, ANY | ITEM)
    | {"items": st.lists(ITEM, max_size=4)},
)


@given(value=st.one_of(ANY, FIELDS))
def test_any_json_is_read_or_is_a_protocol_error(value) -> None:
    try:
        wire = decode(json.dumps(value).encode(), WIRE)
    except ProtocolError:
        return
    assert isinstance(wire, Wire)
    assert isinstance(wire.text, str)
    assert isinstance(wire.count, int)
    assert all(isinstance(item.need, int) for item in wire.items)


@given(frame=st.binary())
def test_any_bytes_are_read_or_are_a_protocol_error(frame) -> None:
    try:
        wire = decode(frame, WIRE)
    except ProtocolError:
        return
    assert isinstance(wire, Wire)


@given(value=FIELDS)
def test_what_fits_is_never_touched_by_what_does_not(value) -> None:
    """The fields that fit alone are the same when odd ones stand beside them."""
    value.pop("raw", None)
    alone = {}
    for name, item in value.items():
        try:
            alone[name] = msgspec.convert({name: item}, Wire, strict=False)
        except (ValueError, RecursionError):
            continue
    try:
        together = decode(json.dumps(value).encode(), WIRE)
    except ProtocolError:
        return
    for name, wire in alone.items():
        assert repr(getattr(together, name)) == repr(getattr(wire, name))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":1}', {"a": 1}),
        (b'\xef\xbb\xbf"x\ny"', "x\ny"),
        (b'"\xff"', "\ufffd"),
        (b"", None),
        (b"<html>", None),
        (b"[" * 100_000, None),
        (b"9" * 5000, None),
    ],
)
def test_load_reads_any_json_and_gives_none_for_what_is_none(data, value) -> None:
    assert load(data) == value


HALVES = st.text(
    st.one_of(
        st.characters(categories=["Cs"]), st.characters(), st.sampled_from("\ud83e\uddea\U0001f9ea")
    )
)


@given(text=HALVES)
def test_mended_text_can_be_encoded_and_differs_in_surrogates_alone(text) -> None:
    mended = mend(text)
    mended.encode()
    assert mend(mended) == mended
    assert mended.replace("\ufffd", "") == "".join(
        char for char in utf16(text) if not "\ud800" <= char <= "\udfff" and char != "\ufffd"
    )


def utf16(text: str) -> str:
    """Join pairs as UTF-16 does; lone halves stay."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def halved(text: str) -> str:
    """Write every code point beyond the basic plane as two surrogates."""
    return "".join(
        char if code <= 0xFFFF else chr(0xD7C0 + (code >> 10)) + chr(0xDC00 | code & 0x3FF)
        for char in text
        for code in (ord(char),)
    )


@given(text=st.text(max_size=30), places=st.lists(st.integers(0, 100)))
def test_text_cut_between_the_halves_of_a_pair_is_whole_again(text, places) -> None:
    halves = halved(text)
    edges = [0, *sorted(place % (len(halves) + 1) for place in places), len(halves)]
    joiner = SurrogateJoiner()
    pieces = [joiner.feed("text", halves[start:end]) for start, end in pairwise(edges)]
    for piece in pieces:
        piece.encode()
    assert "".join(pieces) + joiner.flush("text") == text
    assert not joiner


@given(pieces=st.lists(HALVES))
def test_whatever_is_cut_joins_as_if_it_had_come_whole(pieces) -> None:
    joiner = SurrogateJoiner()
    joined = "".join(joiner.feed("a", piece) for piece in pieces)
    assert joined + joiner.flush("a") == mend("".join(pieces))


@pytest.mark.parametrize("char", ["\U00010000", "\U000103ff", "\U0001f9ea", "\U0010ffff"])
def test_every_pair_is_joined(char) -> None:
    high, low = halved(char)
    joiner = SurrogateJoiner()
    assert joiner.feed("a", high) == ""
    assert joiner.feed("a", low) == char


def test_fields_are_joined_apart_from_each_other() -> None:
    joiner = SurrogateJoiner()
    assert joiner.feed("a", "x\ud83e") == "x"
    assert joiner
    assert joiner.feed("b", "\uddea") == "\ufffd"
    assert joiner.feed("a", "") == ""
    assert joiner.feed("a", "\uddea") == "\U0001f9ea"
    assert joiner.feed("a", "\ud83e") == ""
    assert joiner.flush("a") == "\ufffd"
    assert joiner.flush("a") == ""


def test_texts_are_mended_at_any_depth_and_in_keys() -> None:
    odd = {"a\ud800": ["b\udc00", ("c", 1, None)], 2: {"d": "\ud83e\uddea"}}
    mended = {"a\ufffd": ["b\ufffd", ["c", 1, None]], 2: {"d": "\U0001f9ea"}}
    assert mend_all(odd) == mended
    assert encode(odd) == msgspec.json.encode(mended)


def test_what_the_hook_returns_is_mended_too() -> None:
    assert encode({"a": 1j}, lambda value: f"{value}\ud800") == '{"a":"1j\ufffd"}'.encode()
    with pytest.raises(TypeError):
        encode(1j)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3.0", 3), ("-2e3", -2000), ("[0.5, 1]", [0.5, 1]), ("3.", None)],
)
def test_a_whole_number_with_a_point_is_an_integer(text, value) -> None:
    if value is None:
        with pytest.raises(ValueError, match=r"."):
            decode_numbers(text)
    else:
        decoded = decode_numbers(text)
        assert (decoded, type(decoded)) == (value, type(value))
