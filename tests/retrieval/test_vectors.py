"""Vectors taken out of replies: as a plain decoder has them, bounded, and with turns between."""

from __future__ import annotations

import json
from array import array
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._http.retrieving import _embeddings
from aiollm._wire import vectors
from aiollm.provider import HttpResponse
from aiollm.providers.google.embed_codec import GoogleEmbeddings
from aiollm.providers.ollama.embed_codec import OllamaEmbeddings
from aiollm.providers.openai.embed_codec import OpenAIEmbeddings
from aiollm.retrieval import EmbedRequest, VectorReply
from aiollm.types import LLMError
from tests.turns import turns

CODEC = OpenAIEmbeddings()


def packed(numbers):
    return b64encode(array("f", numbers).tobytes()).decode()


def read(body, count, codec=CODEC):
    """Return the vectors of a reply and the turns that it took, or the word for an error."""
    request = EmbedRequest(["x"] * count)
    reading = _embeddings(codec, HttpResponse(200, {}, body, ""), request)
    turns = 0
    try:
        while True:
            reading.send(None)
            turns += 1
    except StopIteration as end:
        return [each.tolist() for each in end.value.vectors], end.value.usage, turns
    except LLMError:
        return "error", None, turns


def lifted(body, count, codec=CODEC):
    """Read a small reply as if it were a large one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "LARGE", 0)
        patch.setattr(vectors, "STEP", 128)
        return read(body, count, codec)


def same(body, count, codec=CODEC):
    plain, large = read(body, count, codec), lifted(body, count, codec)
    assert plain[:2] == large[:2], body
    return plain[0]


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
NUMBERS = st.lists(FLOATS, min_size=3, max_size=3)
LOOKALIKE = st.sampled_from(
    [
        "A" * 32,
        "[1,2]",
        '"' + "B" * 40,
        "\\" + "C" * 32,
        "x [1",
        "a]b",
        "é" * 9,
        "/+" * 16,
        'x"' + "D" * 32 + '"y',
        "https://" + "e" * 40,
    ]
)
ODD = st.one_of(LOOKALIKE, st.none(), st.integers(-1, 3), st.booleans(), st.just([1, None]))
VECTOR = st.one_of(NUMBERS, NUMBERS.map(packed), NUMBERS, ODD, st.just([[1.5, 2.5]]))
ITEM = st.fixed_dictionaries(
    {"embedding": VECTOR},
    optional={
        "index": st.integers(0, 3) | ODD,
        "id": LOOKALIKE,
        "tokens": st.lists(st.integers(), max_size=3) | LOOKALIKE,
        "A" * 32: LOOKALIKE,
        "[1]": st.just([2]),
    },
)
REPLY = st.fixed_dictionaries(
    {"data": st.lists(ITEM, max_size=4)},
    optional={
        "model": LOOKALIKE,
        "usage": st.fixed_dictionaries(
            {}, optional={"prompt_tokens": st.integers(0, 9) | ODD, "cost": FLOATS | ODD}
        ),
    },
)


@given(REPLY, st.booleans(), st.sampled_from([None, 2]), st.sampled_from([None, (" ,", " : ")]))
def test_a_large_reply_gives_what_a_plain_decoder_gives(reply, slashes, indent, separators):
    """Whatever the rest looks like: names, texts and counts that could be vectors are none."""
    text = json.dumps(reply, indent=indent, separators=separators)
    body = (text.replace("/", "\\/") if slashes else text).encode()
    same(body, len(reply["data"]) or 1)


@given(REPLY, st.data())
def test_a_spoiled_large_reply_gives_what_a_plain_decoder_gives(reply, data):
    body = json.dumps(reply).encode()
    at = data.draw(st.integers(0, len(body)))
    piece = data.draw(st.sampled_from([b"", b'"', b"[", b"]", b"\\", b"1", b",", b"\0", b":"]))
    same(body[:at] + piece + body[at + data.draw(st.integers(0, 2)) :], len(reply["data"]) or 1)


GOOD = {
    "numbers": ([0.5, -1.25, 2], [1, 2, 3]),
    "base64": (packed([0.5, -1.25, 2] * 8), packed([1, 2, 3] * 8)),
}


@pytest.mark.parametrize("form", GOOD)
def test_a_reply_cut_at_any_byte_gives_nothing(form):
    one, two = GOOD[form]
    body = json.dumps({"data": [{"embedding": one}, {"embedding": two}]}).encode()
    assert len(same(body, 2)) == 2
    assert {str(same(body[:cut], 2)) for cut in range(len(body))} == {"error"}


@pytest.mark.parametrize(
    "wrong",
    [
        "[]", '""', "null", "3", "true", "{}", '"AAAA"', '"AAA"', '"not base64"', "[1,null]",
        '[1,"2"]', "[1,[2]]", "[NaN]", "[Infinity]", "[1e39]", "[1e999]", "[1,2]", "[1,2,3,4]",
        "[true,1,2]", '"AADAfwAAgD8AAIA/"', '"AACAfwAAgD8AAIA/"', '"AACA/wAAgD8AAIA/"', "[1 2 3]",
        "[[1,2,3]]", '"\\u0000"', "[" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_vector_of_the_same_width_is_an_error(wrong):
    body = b'{"data":[{"embedding":[1,2,3]},{"embedding":%s}]}' % wrong.encode()
    assert same(body, 2) == "error"


@pytest.mark.parametrize(
    "places", [(0, 0), (0, 2), (1, 2), (-1, 0), (None, 1), (0, 10**30), ("0", "1"), (0.5, 1)]
)
def test_places_that_are_twice_or_outside_are_an_error(places):
    items = [{"embedding": [1.0], "index": place} for place in places]
    assert same(json.dumps({"data": items}).encode(), 2) == "error"


@pytest.mark.parametrize("count", [1, 3])
def test_more_or_fewer_vectors_than_inputs_are_an_error(count):
    assert same(b'{"data":[{"embedding":[1]},{"embedding":[2]}]}', count) == "error"


def test_vectors_come_in_the_order_of_their_places():
    items = [{"embedding": [float(n)], "index": n} for n in (2, 0, 1)]
    assert same(json.dumps({"data": items}).encode(), 3) == [[0.0], [1.0], [2.0]]


def test_the_last_of_two_equal_names_counts():
    body = b'{"data":[{"embedding":[1,2],"embedding":[3,4],"index":1,"index":0}]}'
    assert same(body, 1) == [[3.0, 4.0]]


def test_escaped_slashes_are_slashes():
    text = packed([1e-3] * 3 + [-9.1e7] * 9)
    body = json.dumps({"data": [{"embedding": text}]}).replace("/", "\\/").encode()
    assert same(body, 1) == [array("f", [1e-3] * 3 + [-9.1e7] * 9).tolist()]


def test_a_server_cannot_name_a_vector_that_was_taken_out():
    """The marks are random, and of bytes that are no vector: a guess gives an error."""
    forged = [0, b64encode(bytes(9)).decode(), b64encode(b"\xff" * 9).decode()]
    for guess in forged:
        items = [{"tokens": [7.0] * 30}, {"embedding": guess}]
        body = json.dumps({"data": items[1:], "x": items[0]}).encode()
        assert lifted(body, 1)[0] == "error"


@pytest.mark.parametrize(
    ("codec", "reply"),
    [
        (OllamaEmbeddings(), {"embeddings": [[1, 2], [3, 4]], "prompt_eval_count": 5}),
        (GoogleEmbeddings(), {"embeddings": [{"values": [1, 2]}, {"values": [3, 4]}]}),
    ],
)
def test_other_wires_large_replies_are_read_alike(codec, reply):
    assert same(json.dumps(reply).encode(), 2, codec) == [[1.0, 2.0], [3.0, 4.0]]


SHAPES = {
    "tiny lists": b"[1],",
    "open lists": b"[1",
    "nested lists": b"[1,",
    "spaced lists": b"[" + b" " * 63,
    "mixed lists": b'[1,"x"],',
    "quotes": b'"',
    "texts": b'"%s",' % (b"A" * 28),
    "text without an end": b"A",
    "numbers": b"1,",
    "objects": b"{},",
    "brackets": b"[",
    "escapes": b"\\",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_hostile_replies_are_refused_in_bounded_steps(shape):
    """Of 8 MB, whatever they repeat: a turn for each 128 KiB at least, and few tries."""
    piece = SHAPES[shape]
    body = b'{"data":[{"embedding":"' * ("text" in shape) + piece * (8_000_000 // len(piece))
    outcome, _, turns = read(body, 4)
    assert outcome == "error"
    assert turns <= 2 * len(body) / vectors.STEP + 2
    if shape in ("objects", "brackets", "numbers", "escapes"):
        assert turns >= len(body) / vectors.STEP - 2


LONG = packed([0.5] * 16_384)
DENSE = {
    "objects": b"[" + b",".join([b"{}"] * 60_000) + b"]",
    "nested lists": b"[" + b",".join([b"[" * 400 + b"]" * 400] * 140) + b"]",
    "nested objects": b"[" + b",".join([b'{"":' * 400 + b"1" + b"}" * 400] * 140) + b"]",
    "values": b"[" + b",".join([b"null"] * 140_000) + b"]",
    "escapes": b'"' + b"\\n" * 300_000 + b'"',
}


@pytest.mark.parametrize("shape", DENSE)
def test_a_reply_below_a_megabyte_may_not_hide_many_parts_behind_a_long_vector(shape):
    """It is decoded in one go, so its parts are counted before."""
    plain = b'{"data":[{"embedding":"%s"}],"usage":{"x":%s}}'
    assert len(read(plain % (LONG.encode(), b"[{},1]"), 1)[0][0]) == 16_384
    body = plain % (LONG.encode(), DENSE[shape])
    assert len(body) < vectors.LARGE
    assert read(body, 1)[0] == "error"


def test_a_large_reply_may_have_few_megabytes_beside_its_vectors():
    """They are decoded in one go."""
    texts = ["!" * (vectors.MAX_TEXT - 9)] * 3
    for beside, expected in ((texts[:1], [[1.0]]), (texts, "error")):
        reply = {"data": [{"embedding": [1.0]}], "notes": beside}
        assert read(json.dumps(reply).encode(), 1)[0] == expected


@pytest.mark.parametrize("most", [2e38, -3.4028234663852886e38])
def test_the_largest_numbers_are_finite(most):
    """Their highest byte is that of infinity."""
    numbers = array("f", [1, most, 2]).tolist()
    for form in (numbers, packed(numbers)):
        body = json.dumps({"data": [{"embedding": form}]}).encode()
        assert same(body, 1) == [numbers]


@pytest.mark.parametrize("most", [1.0, 2e38])
def test_wide_vectors_are_checked_in_turns_of_a_quarter_megabyte(most):
    """Numbers that look as if they were not finite are looked at one by one."""
    vector = packed([most] * 8192)
    body = json.dumps({"data": [{"embedding": vector}] * 64}).encode()
    small = json.dumps({"data": [{"embedding": vector[:64]}] * 64}).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "LARGE", len(body))
        found, _, turns = read(body, 64)
        assert read(small, 64)[2] == 0
    assert len(found) == 64
    assert turns >= 64 * 8192 * 4 / (256 * 1024) - 1


@pytest.mark.parametrize("wrong", [[10**400], [float("nan")], b"", b"123", []])
def test_what_a_codec_hands_on_in_the_place_of_a_vector_is_checked(wrong):
    """A codec of one's own may read numbers that JSON does not have."""

    class Codec(OpenAIEmbeddings):
        def decode(self, reply):
            return VectorReply([wrong])

    assert read(b"{}", 1, Codec())[0] == "error"


def test_a_vector_has_a_bounded_number_of_numbers():
    """All of one is decoded without a turn of the loop."""
    most = vectors.MAX_SIZE
    for size in (most, most + 1):
        numbers = ",".join(["1"] * size)
        body = f'{{"data":[{{"index":0,"embedding":[{numbers}]}}]}}'
        found = lifted(body.encode(), 1)[0]
        assert found == ([[1.0] * size] if size == most else "error")


def test_a_text_with_escapes_has_a_bounded_length():
    for size in (vectors.MAX_ESCAPED - 9, vectors.MAX_ESCAPED + 9):
        body = rb'{"data":[{"index":0,"embedding":[1,2]}],"a":"\"%s"}' % (b"a" * size)
        assert (lifted(body, 1)[0] == "error") == (size > vectors.MAX_ESCAPED)


def test_many_tiny_lists_count_as_work_each():
    """Else 128 KiB of them would be a step of tens of milliseconds."""
    count = 20_000
    body = b'{"embeddings":[%s]}' % b",".join([b"[1.5]"] * count)
    assert len(body) < vectors.LARGE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "LARGE", 0)
        found, _, turns = read(body, count, OllamaEmbeddings())
    assert found == [[1.5]] * count
    assert turns >= count * vectors.EACH / vectors.STEP + count / 256 - 3


async def test_the_loop_turns_while_30_megabytes_are_read():
    """A task that runs at each turn runs for every 128 KiB, and between checks of vectors."""
    row = ",".join(["0.123456789012345678"] * 1536)
    items = b",".join([b'{"embedding":[%s]}' % row.encode()] * 1000)
    body = b'{"data":[%s]}' % items
    request = EmbedRequest(["x"] * 1000)
    async with turns() as seen:
        found = await _embeddings(CODEC, HttpResponse(200, {}, body, ""), request)
    assert len(found.vectors) == 1000
    assert found.dimensions == 1536
    assert len(seen) >= len(body) / (vectors.STEP + len(row)) + 4
