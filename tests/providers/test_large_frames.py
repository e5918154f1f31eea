"""How much one frame may hold on each wire: all of it is read without a turn of the event loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from aiollm._streams.accumulator import Accumulator
from aiollm.errors import LLMError, ProtocolError, RateLimitError, ServerError
from aiollm.provider import HttpResponse
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.decoding import MAX_CALLS, MAX_PARTS
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.ollama.decode import MAX_BLANK
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.providers.openai.responses_outputs import MAX_ITEMS
from aiollm.types import (
    Finish,
    Item,
    OpaquePart,
    PartChunk,
    TextDelta,
    ToolCallDelta,
    ToolCallPart,
)

CODECS: dict[str, Any] = {
    "chat": ChatCodec,
    "responses": ResponsesCodec,
    "anthropic": AnthropicCodec,
    "google": GoogleCodec,
    "ollama": OllamaCodec,
}
TEXT = {"type": "output_text", "text": "a"}


def completed(*output: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.completed", "response": {"status": "completed", "output": output}}


def read(wire: str, value: Any, *, whole: bool = False) -> tuple[list[Item], LLMError | None]:
    """Decode one frame, or one body; return the items and the error."""
    decoder = CODECS[wire]().decoder()
    out: list[Item] = []
    data = json.dumps(value).encode()
    try:
        if whole:
            decoder.whole(data, out)
        else:
            decoder.feed([(b"", data) if wire in ("anthropic", "responses") else data], out)
    except LLMError as error:
        return out, error
    return out, None


@pytest.mark.parametrize(
    ("wire", "make"),
    [
        pytest.param(
            "chat", lambda n: {"choices": [{"delta": {"content": "a"}}] * n}, id="choices"
        ),
        pytest.param(
            "chat",
            lambda n: {"choices": [{"delta": {"content": [{"type": "text", "text": "a"}] * n}}]},
            id="parts of a text",
        ),
        pytest.param(
            "google",
            lambda n: {"candidates": [{"content": {"parts": [{"text": "a"}] * n}}]},
            id="parts",
        ),
        pytest.param("google", lambda n: {"candidates": [{"index": 1}] * n}, id="candidates"),
        pytest.param(
            "google",
            lambda n: {"candidates": [{"groundingMetadata": {"groundingChunks": [{}] * n}}]},
            id="sources",
        ),
        pytest.param(
            "responses",
            lambda n: completed(*[{"type": "message", "content": [TEXT]}] * n),
            id="items",
        ),
        pytest.param(
            "responses",
            lambda n: completed({"type": "message", "content": [TEXT] * n}),
            id="contents",
        ),
    ],
)
def test_one_frame_has_a_bounded_number_of_parts(wire: str, make: Any) -> None:
    assert read(wire, make(MAX_PARTS))[1] is None
    _, error = read(wire, make(MAX_PARTS + 1))
    assert type(error) is ProtocolError
    assert str(MAX_PARTS) in str(error)


def test_so_has_a_message_that_is_not_streamed() -> None:
    block = {"type": "text", "text": "a"}
    assert read("anthropic", {"content": [block] * MAX_PARTS}, whole=True)[1] is None
    _, error = read("anthropic", {"content": [block] * (MAX_PARTS + 1)}, whole=True)
    assert type(error) is ProtocolError


def events(*values: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    return [(b"", json.dumps(value).encode()) for value in values]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "container_upload"},
        {"type": "text", "text": "a"},
        {"type": "thinking", "thinking": "a", "signature": "s"},
    ],
    ids=str,
)
def test_few_blocks_are_open_at_a_time(block: dict[str, Any]) -> None:
    """All that are left open end with the message, in one go."""
    decoder, out = AnthropicCodec().decoder(), list[Item]()
    for index in range(3 * MAX_PARTS):
        begin = {"type": "content_block_start", "index": index, "content_block": block}
        decoder.feed(events(begin, {"type": "content_block_stop", "index": index}), out)
    assert len(out) >= 3 * MAX_PARTS
    begins = [
        {"type": "content_block_start", "index": index, "content_block": block}
        for index in range(MAX_PARTS + 1)
    ]
    decoder.feed(events(*begins[:-1]), out)
    with pytest.raises(ProtocolError, match="512 parts that have not ended"):
        decoder.feed(events(begins[-1]), out)


def test_a_response_has_a_bounded_number_of_items() -> None:
    """Its end looks at each, also where the last event repeats none."""
    decoder, out = ResponsesCodec().decoder(), list[Item]()
    begins = [
        {"type": "response.output_item.added", "output_index": at, "item": {"type": "message"}}
        for at in range(MAX_ITEMS + 1)
    ]
    decoder.feed(events(*begins[:-1]), out)
    with pytest.raises(ProtocolError, match="more than 1024 items"):
        decoder.feed(events(begins[-1]), out)


def test_an_item_of_a_response_has_a_bounded_number_of_parts() -> None:
    """Its end joins them."""
    decoder, out = ResponsesCodec().decoder(), list[Item]()
    deltas = [
        {
            "type": "response.reasoning_text.delta",
            "output_index": 0,
            "content_index": at,
            "delta": "a",
        }
        for at in range(4097)
    ]
    decoder.feed(events(*deltas[:-1]), out)
    with pytest.raises(ProtocolError, match="more than 4096 parts"):
        decoder.feed(events(deltas[-1]), out)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("[]," * 100 + "0", [[]] * 100 + [0]), ("[]," * 50_000 + "0", {})],
    ids=["few", "many"],
)
def test_the_input_of_a_call_that_a_server_ran_is_decoded_if_it_is_not_too_dense(
    given: str, kept: Any
) -> None:
    """A million of lists in it took 0.3 s, in which nothing else ran."""
    decoder, out = AnthropicCodec().decoder(), list[Item]()
    block = {"type": "server_tool_use", "id": "a", "name": "b", "input": {}}
    delta = {"type": "input_json_delta", "partial_json": f"[{given}]"}
    decoder.feed(
        events(
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
        ),
        out,
    )
    (chunk,) = out
    assert isinstance(chunk, PartChunk)
    assert isinstance(chunk.part, OpaquePart)
    assert chunk.part.provider_data.data["block"]["input"] == kept


def test_the_calls_before_one_too_many_are_kept() -> None:
    calls = [
        {"index": at, "id": f"c{at}", "function": {"name": "f"}} for at in range(MAX_CALLS + 1)
    ]
    decoder = ChatCodec().decoder()
    frames = [
        json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]}).encode() for call in calls
    ]
    out: list[Item] = []
    with pytest.raises(ProtocolError, match="512 tool calls"):
        decoder.feed(frames, out)
    assert len(out) == MAX_CALLS


def test_ollamas_lines_without_a_message_are_counted() -> None:
    decoder = OllamaCodec().decoder()
    said = b'{"message":{"content":"a"},"done":false}'
    out: list[Item] = []
    decoder.feed([b"{}", said] * MAX_BLANK, out)
    with pytest.raises(ProtocolError, match="4096 lines"):
        decoder.feed([b"{}"], out)
    assert out == [TextDelta("a")] * MAX_BLANK


DENSE = json.dumps({f"b{at}": 1 for at in range(70_000)})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param(
            json.dumps({"path": "a", "text": "line {\n" * 100_000}), "tool_calls", id="a file"
        ),
        pytest.param(DENSE, "tool_calls", id="too many parts for a tool"),
        pytest.param(json.dumps({"text": "a" * 3_000_000}), "stop", id="too long"),
    ],
)
@pytest.mark.parametrize("piece", [10_000, 10_000_000], ids=["in pieces", "at once"])
def test_whether_a_call_is_complete_is_found_out_of_what_is_quick_to_read(
    arguments: str, reason: str, piece: int
) -> None:
    """A server that says `stop` after a call that is not complete means it."""
    decoder = ChatCodec().decoder()
    calls: list[dict[str, Any]] = [{"index": 0, "id": "c", "function": {"name": "f"}}]
    pieces = (arguments[at : at + piece] for at in range(0, len(arguments), piece))
    calls += ({"index": 0, "function": {"arguments": each}} for each in pieces)
    chunks: list[dict[str, Any]] = [{"delta": {"tool_calls": [call]}} for call in calls]
    chunks.append({"delta": {}, "finish_reason": "stop"})
    out: list[Item] = []
    decoder.feed([json.dumps({"choices": [each]}).encode() for each in chunks], out)
    decoder.close(out)
    (finish,) = [item for item in out if isinstance(item, Finish)]
    assert finish.reason == reason


@pytest.mark.parametrize("odd", [b'"\\ud83e"', b"7"], ids=["half a pair", "a number"])
@pytest.mark.parametrize("length", [1000, 100_000])
def test_an_error_is_found_in_a_frame_of_any_length(odd: bytes, length: int) -> None:
    decoder = ChatCodec().decoder()
    with pytest.raises(ServerError, match="it broke"):
        decoder.feed(
            [b'{"id":%s,"a":"%s","error":{"message":"it broke"}}' % (odd, b"x" * length)], []
        )


@pytest.mark.parametrize("before", [0, 100_000, 1_000_000])
def test_an_error_without_its_key_is_found_at_both_ends_of_a_large_frame(before: int) -> None:
    """It may echo the prompt before its words or behind them."""
    echo = {"echo": "a" * before}
    for value in (echo | {"detail": "no such model"}, {"detail": "no such model"} | echo):
        _, error = read("chat", value)
        assert "no such model" in str(error)


@pytest.mark.parametrize("length", [1000, 5000, 50_000])
def test_all_of_an_error_with_few_parts_is_read(length: int) -> None:
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}
    _, error = read("google", {"error": {"code": 429, "details": [retry | {"why": "a" * length}]}})
    assert isinstance(error, RateLimitError)
    assert error.retry_after == 7


ECHOED = [{"loc": ["body", "messages", place], "input": {}} for place in range(1000)]
"""More than is decoded of an error, in some 60 KiB."""


@pytest.mark.parametrize("more", [ECHOED, ECHOED * 2], ids=["dense", "large"])
@pytest.mark.parametrize("place", ["within", "beside"])
@pytest.mark.parametrize("wire", ["chat", "google"])
def test_what_an_error_says_is_found_beside_a_lot_that_nobody_reads(
    wire: str, place: str, more: Any
) -> None:
    said = {
        "code": 429,
        "status": "RESOURCE_EXHAUSTED",
        "message": "too many",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}],
    }
    value = {"error": {"a": more} | said} if place == "within" else {"a": more, "error": said}
    assert len(json.dumps(value)) > 40_000
    _, error = read(wire, value)
    assert isinstance(error, RateLimitError)
    assert "too many" in str(error)
    assert error.retry_after == 7


@pytest.mark.parametrize("wire", CODECS)
def test_the_beginning_of_a_long_message_is_shown_without_escapes(wire: str) -> None:
    """It may be cut amid an escape."""
    for place in range(24):
        said = "x" * place + '"\u4e16\n\U0001f642' * 4000
        _, error = read(wire, {"error": {"message": said}})
        assert str(error).startswith(said[:100])


PROBLEMS = [
    {"loc": ["body", "messages", place], "msg": "Field required", "input": {"a": "SECRET"}}
    for place in range(100)
]


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("wire", CODECS)
def test_what_a_validator_does_not_like_is_said_without_what_it_echoes(
    wire: str, count: int
) -> None:
    value = {"detail": PROBLEMS * count}
    reply = HttpResponse(422, {}, json.dumps(value).encode(), "http://a/")
    for error in (CODECS[wire]().error(reply), read(wire, {"error": value})[1]):
        assert str(error).startswith("body.messages.0: Field required; body.messages.1: ")
        assert "SECRET" not in str(error)


@pytest.mark.parametrize("wire", CODECS)
def test_many_errors_by_the_names_of_fields_hide_no_message(wire: str) -> None:
    fields = {f"messages[{place}]": ["is required"] for place in range(1000)}
    _, error = read(wire, {"error": {"message": "too many", "code": 429, "errors": fields}})
    assert isinstance(error, RateLimitError)
    assert "too many" in str(error)


@pytest.mark.parametrize("wire", CODECS)
def test_the_first_of_many_errors_is_shown(wire: str) -> None:
    errors = [{"message": "too many", "code": 429}, *[{"message": "no", "a": {}}] * 1000]
    _, error = read(wire, {"error": {"errors": errors}})
    assert isinstance(error, RateLimitError)
    assert "too many" in str(error)


@pytest.mark.parametrize("count", [10, 1000, 8000])
def test_the_key_of_an_error_may_be_its_name_whatever_it_holds(count: int) -> None:
    _, error = read("chat", {"Error parsing a call": [{"a": count}] * count})
    assert "Error parsing a call: [" in str(error)


ARGUMENTS = {f"name {place}": [place / 7, "\u6587\n", {}] for place in range(5000)}
CALLING: dict[str, Callable[[Any], Any]] = {
    "chat": lambda given: {
        "choices": [
            {
                "delta": {
                    "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": given}}]
                },
                "finish_reason": "tool_calls",
            }
        ]
    },
    "anthropic": lambda given: {
        "content": [{"type": "tool_use", "id": "a", "name": "f", "input": given}],
        "stop_reason": "tool_use",
    },
    "google": lambda given: {
        "candidates": [
            {
                "content": {"parts": [{"functionCall": {"name": "f", "args": given}}]},
                "finishReason": "STOP",
            }
        ]
    },
    "ollama": lambda given: {
        "message": {"tool_calls": [{"function": {"name": "f", "arguments": given}}]},
        "done": True,
    },
}


def called(items: list[Item]) -> ToolCallPart:
    combined = Accumulator()
    combined.add(items)
    (call,) = combined.message().parts
    assert isinstance(call, ToolCallPart)
    return call


@pytest.mark.parametrize("wire", CALLING)
def test_large_arguments_that_come_decoded_say_what_they_said(wire: str) -> None:
    items, error = read(wire, CALLING[wire](ARGUMENTS), whole=True)
    assert error is None
    call = called(items)
    assert call.valid
    assert json.loads(call.arguments) == ARGUMENTS


def test_large_arguments_are_usually_a_text() -> None:
    items, _ = read("chat", CALLING["chat"](json.dumps(ARGUMENTS)), whole=True)
    delta, *_ = items
    assert isinstance(delta, ToolCallDelta)
    assert delta.arguments == json.dumps(ARGUMENTS)


@pytest.mark.parametrize("more", [0, 1000])
@pytest.mark.parametrize("wire", CALLING)
def test_half_a_pair_in_arguments_that_come_decoded_is_replaced(wire: str, more: int) -> None:
    items, error = read(wire, CALLING[wire]({"a": "\ud83e", "b": ["c"] * more}), whole=True)
    assert error is None
    call = called(items)
    assert call.valid
    assert json.loads(call.arguments) == {"a": "\ufffd", "b": ["c"] * more}


@pytest.mark.parametrize("more", [0, 1000])
@pytest.mark.parametrize("wire", CALLING)
def test_invalid_text_in_arguments_that_come_decoded_is_replaced(wire: str, more: int) -> None:
    given = {"a": "@", "b": ["c"] * more}
    start = {"content_block": {"type": "tool_use", "id": "a", "name": "f", "input": given}}
    value = start | {"type": "content_block_start"} if wire == "anthropic" else CALLING[wire](given)
    decoder, out = CODECS[wire]().decoder(), list[Item]()
    frames: list[Any] = [json.dumps(value).replace("@", "\xff").encode("latin-1")]
    if wire == "anthropic":
        stop = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}
        ends = [{"type": "content_block_stop"}, stop, {"type": "message_stop"}]
        frames = [(b"", each) for each in (*frames, *(json.dumps(end).encode() for end in ends))]
    decoder.feed(frames, out)
    if not decoder.finished:
        decoder.close(out)
    call = called(out)
    assert call.valid
    assert json.loads(call.arguments)["a"] == "\ufffd"


@pytest.mark.parametrize("more", ["", "a" * 10_000], ids=["small", "large"])
def test_a_cut_call_whose_input_never_came_is_not_run(more: str) -> None:
    block = {"type": "tool_use", "id": "a", "name": "f", "input": {}, "caller": {"a": more}}
    start = {"type": "content_block_start", "index": 0, "content_block": block}
    decoder, out = AnthropicCodec().decoder(), list[Item]()
    stop: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}
    decoder.feed([(b"", json.dumps(each).encode()) for each in (start, stop)], out)
    decoder.close(out)
    assert not called(out).valid


@pytest.mark.parametrize("length", [10, 10_000])
def test_a_block_that_is_not_a_call_goes_back_as_it_came(length: int) -> None:
    block = {"type": "server_tool_use", "id": "a", "name": "search", "input": {"a": "b" * length}}
    events = {"type": "content_block_start", "content_block": block}, {"type": "content_block_stop"}
    decoder, out = AnthropicCodec().decoder(), list[Item]()
    decoder.feed([(b"", json.dumps(each).encode()) for each in events], out)
    (chunk,) = out
    assert isinstance(chunk, PartChunk)
    assert isinstance(chunk.part, OpaquePart)
    assert chunk.part.provider_data.data == {"block": block}
