"""Bodies: any value as JSON, images encoded piece by piece, nothing that fails in mid-request."""

from __future__ import annotations

import base64
import json
import math
from types import MappingProxyType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._wire.body import Blob, Body, json_body
from aiollm._wire.lenient import mend
from aiollm.dsn import Secret
from aiollm.errors import ConfigError
from aiollm.provider import HttpRequest, Provider
from aiollm.providers.ollama.codec import OllamaCodec

TEXT = st.text() | st.text(st.characters())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner) | st.tuples(inner, inner),
)  # fmt: skip


def mended(value):
    match value:
        case str():
            return mend(value)
        case dict():
            return {mend(key): mended(item) for key, item in value.items()}
        case list() | tuple():
            return [mended(item) for item in value]
        case _:
            return value


@given(value=VALUES)
def test_any_value_is_written_with_its_surrogates_mended(value) -> None:
    body = json_body(value)
    assert json.loads(bytes(body)) == mended(value)
    assert body.simple == bytes(body)
    assert len(body) == len(bytes(body))


@given(
    datas=st.lists(st.binary(max_size=50) | st.just(b"x" * 100_000), min_size=1, max_size=4),
    prefix=st.sampled_from(["", "data:image/png;base64,"]),
    text=TEXT,
)
def test_blobs_are_written_where_they_stand(datas, prefix, text) -> None:
    value = {"text": text, "images": [{"a": [Blob(data, prefix), text]} for data in datas]}
    body = json_body(value)
    written = json.loads(bytes(body))
    assert written["text"] == mend(text)
    for data, image in zip(datas, written["images"], strict=True):
        assert image["a"] == [prefix + base64.b64encode(data).decode(), mend(text)]
    assert len(body) == len(bytes(body)) == sum(map(len, body.slices()))
    assert body.simple is None


def test_a_blob_is_encoded_a_bounded_piece_at_a_time() -> None:
    body = json_body([Blob(b"x" * 1_000_001, "p,"), "end"])
    slices = list(body.slices())
    assert max(map(len, slices)) <= 64 * 1024
    assert b"".join(slices) == b'["p,' + base64.b64encode(b"x" * 1_000_001) + b'","end"]'


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 48 * 1024 - 1, 48 * 1024, 48 * 1024 + 1])
def test_a_blob_knows_its_length_before_it_is_encoded(length) -> None:
    blob = Blob(b"x" * length)
    assert len(blob) == len(b"".join(blob.slices())) == len(base64.b64encode(b"x" * length))


def test_text_cannot_pass_for_a_blob() -> None:
    """The mark that stands for a blob while the rest is encoded is new each time."""
    marks = set()
    for _ in range(3):
        first, blob, last = json_body([Blob(b"x"), "@0@"]).segments
        assert (first, blob.data, last) == (b'["', b"x", b'","@0@"]')
        marks.add(first)
    assert Body([b"a", Blob(b"x"), b"b"]).simple is None
    assert Body([]).simple is None
    assert bytes(Body([])) == b""


def test_values_of_the_callers_extra_may_be_what_msgspec_knows() -> None:
    class Point(msgspec.Struct):
        x: int

    value = {"m": MappingProxyType({"a": MappingProxyType({"b": 1})}), "p": Point(1), "s": {2}}
    assert json.loads(bytes(json_body(value))) == {"m": {"a": {"b": 1}}, "p": {"x": 1}, "s": [2]}
    odd = {"m": MappingProxyType({"a": ("\ud83e",)}), 1: 2}
    assert json.loads(bytes(json_body(odd))) == {"m": {"a": ["\ufffd"]}, "1": 2}
    assert bytes(json_body({"a": math.nan})) == b'{"a":null}'


def cyclic(*items: object) -> list[object]:
    value = list(items)
    value.append(value)
    return value


class Text(msgspec.Struct):
    text: str


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": object()}, "object is not a JSON value"),
        ({"a": print}, "builtin_function_or_method is not a JSON value"),
        ({"a": Secret("sk-secret")}, "Secret is not a JSON value"),
        ({(1, 2): 3}, "tuple is not a JSON value"),
        (cyclic(), "contains itself"),
        (cyclic("\ud83e"), "contains itself"),
        (Text("\ud83e"), "surrogates not allowed"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_json_cannot_hold_is_a_config_error(value, reason) -> None:
    with pytest.raises(ConfigError, match=f"cannot be written as JSON: .*{reason}") as caught:
        json_body(value)
    assert caught.value.__context__ is None
    assert len(str(caught.value)) < 300


def test_no_key_in_headers_is_shown() -> None:
    headers = {"Authorization": "Bearer sk-secret", "X-Other": "sk-other"}
    request = HttpRequest("https://h/v1", headers)
    provider = Provider(
        "x", "ollama", "https://h", OllamaCodec(), token=Secret("sk-secret"), headers=headers
    )
    assert repr(request) == ("HttpRequest(POST https://h/v1, headers=['Authorization', 'X-Other'])")
    for shown in (repr(request), str(request), repr(provider), str(provider), repr([provider])):
        assert "sk-" not in shown
    assert "'https://h'" in repr(provider)
