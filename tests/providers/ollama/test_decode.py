"""Lines of /api/chat to items: whole, in pieces, cut short, odd."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm.errors import (
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    OverloadedError,
    ProtocolError,
    ServerError,
    StreamInterrupted,
    UnsupportedFeatureError,
)
from aiollm.provider import Provider
from aiollm.providers.decoding import MAX_CALLS
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.types import (
    Finish,
    Item,
    Notice,
    ReasoningDelta,
    Request,
    Target,
    TextDelta,
    ToolCallDelta,
    Usage,
)

TESTS = Path(__file__).parents[2]
FIXTURES = TESTS / "fixtures/ollama"
CAPTURES = TESTS / "captures/ollama"
STREAMS = [
    FIXTURES / "chat_text_utf8.ndjson",
    FIXTURES / "chat_thinking.ndjson",
    FIXTURES / "chat_tools_parallel.ndjson",
    CAPTURES / "chat-stream.body",
    CAPTURES / "chat-think-stream.body",
    CAPTURES / "chat-tools-stream.body",
]


def read(*pieces: bytes) -> tuple[list[Item], LLMError | None]:
    """Decode as the engine does: to the end of the body or the first error."""
    codec = OllamaCodec()
    framer, decoder = codec.framing(), codec.decoder()
    items: list[Item] = []
    try:
        for piece in pieces:
            decoder.feed(framer.feed(piece), items)
        decoder.feed(framer.close(), items)
        decoder.close(items)
    except LLMError as error:
        return items, error
    return items, None


def lines(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def said(**message: object) -> dict[str, object]:
    return {"message": {"role": "assistant", **message}, "done": False}


END = {"message": {"content": ""}, "done": True, "done_reason": "stop"}


def called(*calls: object) -> dict[str, object]:
    return said(content="", tool_calls=list(calls))


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.name)
def test_a_stream_gives_the_same_items_however_it_is_cut(path: Path) -> None:
    body = path.read_bytes()
    whole, error = read(body)
    assert error is None
    assert isinstance(whole[-1], Finish)
    assert read(*(body[at : at + 1] for at in range(len(body)))) == (whole, None)

    @given(st.lists(st.integers(0, len(body)), max_size=8))
    def cut(places: list[int]) -> None:
        edges = [0, *sorted(places), len(body)]
        pieces = (body[a:b] for a, b in pairwise(edges))
        assert read(*pieces) == (whole, None)

    cut()


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.name)
def test_a_stream_cut_at_any_byte_is_interrupted_and_keeps_what_came(path: Path) -> None:
    body = path.read_bytes()
    whole, _ = read(body)
    for end in range(len(body.rstrip())):
        items, error = read(body[:end])
        assert type(error) is StreamInterrupted
        assert items == whole[: len(items)]
        assert not any(isinstance(item, Finish) for item in items)


def test_a_last_line_without_its_newline_is_complete() -> None:
    body = FIXTURES.joinpath("chat_text_utf8.ndjson").read_bytes()
    assert read(body.rstrip(b"\n")) == read(body)


def test_text_of_a_real_stream_and_its_end() -> None:
    items, error = read(CAPTURES.joinpath("chat-stream.body").read_bytes())
    assert error is None
    text = "".join(item.text for item in items if isinstance(item, TextDelta))
    assert text.startswith("1. Bananas\n2. Oranges")
    assert items[-1] == Finish("stop", "stop", Usage(13, 15, certainty="exact"))


def test_thinking_of_a_real_stream_is_reasoning() -> None:
    items, _ = read(CAPTURES.joinpath("chat-think-stream.body").read_bytes())
    thoughts = [item.reasoning for item in items if isinstance(item, ReasoningDelta)]
    assert thoughts[:3] == ["The", " three", " fruits"]


def test_a_stream_runs_on_while_its_model_is_unloaded() -> None:
    """`keep_alive: 0` does not cut a running stream."""
    raw = CAPTURES.joinpath("unload-during-stream.body").read_bytes()
    items, error = read(raw)
    assert error is None
    assert items[-1] == Finish("length", "length", Usage(13, 60, certainty="exact"))


def test_thinking_comes_before_text_of_the_same_line() -> None:
    items, _ = read(lines(said(content="Tr", thinking="!"), END))
    assert items[:2] == [ReasoningDelta("!"), TextDelta("Tr")]


def test_a_real_tool_call_keeps_its_id() -> None:
    items, _ = read(CAPTURES.joinpath("chat-tools-stream.body").read_bytes())
    assert items == [
        ToolCallDelta(0, "call_5lfajq8s", "get_weather", '{"city":"Paris"}'),
        Finish("tool_calls", "stop", Usage(235, 30, certainty="exact")),
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"city": "Łódź"}, '{"city":"Łódź"}'),
        ({"n": 1.0, "big": 10**18}, '{"n":1.0,"big":1000000000000000000}'),
        ({}, "{}"),
        (None, ""),
        ("", ""),
        ('{"city": "Oslo"}', '{"city": "Oslo"}'),
        ({"city": "\ud83e"}, '{"city":"\ufffd"}'),
    ],
)
def test_arguments_are_json_text(arguments: object, text: str) -> None:
    items, error = read(lines(called({"function": {"name": "f", "arguments": arguments}}), END))
    assert error is None
    assert isinstance(items[0], ToolCallDelta)
    assert items[0].arguments == text


def test_calls_are_counted_in_order_and_get_ids_of_their_own_where_they_have_none() -> None:
    """A wire index repeats when every line holds one call."""
    call = {"function": {"index": 0, "name": "f", "arguments": {}}}
    items, _ = read(lines(called(call, call), called({"id": "", **call}), END))
    calls = [item for item in items if isinstance(item, ToolCallDelta)]
    assert [item.index for item in calls] == [0, 1, 2]
    assert len({item.id for item in calls}) == 3
    assert all(item.id for item in calls)


def test_more_calls_than_anyone_needs_are_a_protocol_error() -> None:
    call = {"function": {"name": "f"}}
    _, error = read(lines(called(*[call] * (MAX_CALLS + 1)), END))
    assert type(error) is ProtocolError


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("load", "other"),
        ("unload", "other"),
        ("", "stop"),
        (None, "stop"),
        ("tired", "other"),
    ],
)
def test_the_word_for_the_end_becomes_a_reason(raw: str | None, reason: str) -> None:
    items, _ = read(lines({"message": {"content": ""}, "done": True, "done_reason": raw}))
    assert items == [Finish(reason, raw or "")]


def test_an_answer_cut_at_its_limit_stays_so_with_calls_in_it() -> None:
    end = {"done": True, "done_reason": "length"}
    items, _ = read(lines(called({"function": {"name": "f"}}), end))
    assert items[-1] == Finish("length", "length")


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"prompt_eval_count": 3, "eval_count": 4}, Usage(3, 4, certainty="exact")),
        ({"prompt_eval_count": 3.0, "eval_count": 4.0}, Usage(3, 4, certainty="exact")),
        ({"eval_count": 4}, Usage(0, 4, certainty="partial")),
        ({"prompt_eval_count": 3}, Usage(3, 0, certainty="partial")),
        ({"prompt_eval_count": None, "eval_count": "x"}, Usage()),
        ({}, Usage()),
    ],
)
def test_a_count_that_is_missing_is_unknown(counts: dict[str, object], usage: Usage) -> None:
    items, _ = read(lines({"done": True, "done_reason": "stop", **counts}))
    assert items == [Finish("stop", "stop", usage)]


def test_text_on_the_last_line_is_not_lost() -> None:
    items, _ = read(lines({"message": {"content": "x"}, "done": True, "done_reason": "stop"}))
    assert items[0] == TextDelta("x")


def test_nothing_counts_after_the_last_line() -> None:
    items, error = read(lines(END, said(content="more"), {"error": "late"}))
    assert error is None
    assert items == [Finish("stop", "stop")]


def test_a_surrogate_pair_split_over_two_lines_is_joined() -> None:
    body = lines(said(content="a\ud83e"), said(content="\uddea"), END)
    assert b"\\ud83e" in body
    items, error = read(body)
    assert error is None
    assert "".join(item.text for item in items) == "a🧪"


def test_half_a_surrogate_pair_at_the_end_is_a_replacement_character() -> None:
    for tail in ([END], []):
        items, _ = read(lines(said(content="a\ud83e"), *tail))
        assert "".join(item.text for item in items) == "a\ufffd"


def test_odd_bytes_in_a_line_do_not_end_the_stream() -> None:
    body = b'{"message":{"content":"a\tb \xff","thinking":null,"tool_calls":null}}\n' + lines(END)
    items, error = read(body)
    assert error is None
    assert items[0] == TextDelta("a\tb \ufffd")


@pytest.mark.parametrize(
    ("line", "kind", "status"),
    [
        ({"error": "an error was encountered while running the model: CUDA error"}, ServerError, 0),
        ({"error": {"message": "boom", "code": 7}}, ServerError, 0),
        ({"error": {"message": "boom"}, "status_code": 503}, OverloadedError, 503),
        ({"error": "model 'x' not found", "status_code": 404}, ModelNotFoundError, 404),
        ({"error": "bad", "status_code": 400}, InvalidRequestError, 400),
        ({"error": '"x" does not support thinking'}, UnsupportedFeatureError, 0),
        ({"error": ["odd"]}, ServerError, 0),
    ],
)
def test_an_error_line_is_raised_after_what_came_before_it(
    line: object, kind: type[LLMError], status: int
) -> None:
    items, error = read(lines(said(content="Hel"), line))
    assert items == [TextDelta("Hel")]
    assert type(error) is kind
    assert error.status == status


def test_an_empty_error_is_none() -> None:
    items, error = read(lines({"error": "", **said(content="x")}, END))
    assert error is None
    assert items[0] == TextDelta("x")


def test_a_line_that_is_no_json_is_a_protocol_error_with_its_bytes() -> None:
    _, error = read(b"<html>502</html>\n")
    assert type(error) is ProtocolError
    assert error.frame == b"<html>502</html>"


def whole(body: bytes) -> list[Item]:
    items: list[Item] = []
    decoder = OllamaCodec().decoder()
    decoder.whole(body, items)
    assert decoder.finished
    return items


def test_a_whole_reply_is_decoded_as_one_line() -> None:
    assert whole(CAPTURES.joinpath("chat-tools.body").read_bytes()) == [
        ToolCallDelta(0, "call_zsqrk5ka", "get_weather", '{"city":"Paris"}'),
        Finish("tool_calls", "stop", Usage(235, 30, certainty="exact")),
    ]
    assert whole(CAPTURES.joinpath("chat-logprobs.body").read_bytes()) == [
        TextDelta("Here are"),
        Finish("length", "length", Usage(13, 2, certainty="exact")),
    ]
    assert whole(CAPTURES.joinpath("unload.body").read_bytes()) == [Finish("other", "unload")]


def test_lines_under_the_wrong_content_type_are_decoded_as_lines() -> None:
    body = CAPTURES.joinpath("chat-stream.body").read_bytes()
    assert whole(body) == read(body)[0]
    pretty = json.dumps(END, indent=2).encode()
    assert whole(pretty) == [Finish("stop", "stop")]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (lines(said(content="x")), StreamInterrupted),
        (b'{"status":"ok"}', StreamInterrupted),
        (b'{"error":"model runner has unexpectedly stopped"}', ServerError),
        (b"ok", ProtocolError),
        (b"[]", ProtocolError),
    ],
)
def test_a_whole_reply_without_an_answer_is_an_error(body: bytes, kind: type[LLMError]) -> None:
    with pytest.raises(kind):
        OllamaCodec().decoder().whole(body, [])


@pytest.mark.parametrize(("tokens", "noted"), [(4096, 1), (3900, 1), (3000, 0), (None, 0)])
def test_a_prompt_that_fills_the_context_that_was_set_is_noted(
    tokens: int | None, noted: int
) -> None:
    """Ollama drops the oldest messages without a word."""
    request = Request("x", extra={"options": {"num_ctx": 4096}})
    codec = OllamaCodec()
    provider = Provider("box", "ollama", "http://gpu1:11434", codec)
    http = codec.encode(provider, Target("box", "m"), request)
    assert http.decoder is not None
    items: list[Item] = []
    http.decoder().feed([lines({**END, "prompt_eval_count": tokens})], items)
    notices = [item for item in items if isinstance(item, Notice)]
    assert len(notices) == noted
    assert all("num_ctx 4096" in notice.message for notice in notices)
    assert isinstance(items[-1], Finish)
