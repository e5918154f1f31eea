"""Anthropic's streams and whole replies: blocks, signatures, usage, odd servers, real captures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aiollm._streams.stream import Accumulator
from aiollm.errors import (
    ContextLengthError,
    GenerationError,
    InvalidRequestError,
    LLMError,
    OverloadedError,
    ProtocolError,
    QuotaError,
    ServerError,
    StreamInterrupted,
)
from aiollm.provider import HttpResponse
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.types import (
    Citation,
    CitationChunk,
    Finish,
    Item,
    Notice,
    OpaquePart,
    PartChunk,
    ProviderData,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    Response,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageUpdate,
)

CODEC = AnthropicCodec()
CAPTURES = Path(__file__).parents[2] / "captures"
START = {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}}
STOP = {"type": "message_stop"}


def end(reason: str = "end_turn", **usage: int) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def opened(block: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "type": "content_block_delta",
        "index": index,
        "delta": {"type": f"{kind}_delta"} | fields,
    }


def shut(index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def frame(event: dict[str, Any] | bytes, name: str | None = None) -> tuple[bytes, bytes]:
    if isinstance(event, bytes):
        return ((name or "").encode(), event)
    return ((event["type"] if name is None else name).encode(), json.dumps(event).encode())


def decode(*events: Any) -> list[Item]:
    """Decode events (dicts, or frames) and the end of the body after them."""
    decoder, out = CODEC.decoder(), []
    frames = [event if isinstance(event, tuple) else frame(event) for event in events]
    decoder.feed(frames, out)
    decoder.close(out)
    return out


def added(items: list[Item]) -> Response:
    total = Accumulator()
    total.add(items)
    return total.response()


def replay(body: bytes) -> list[Item]:
    framer, decoder, out = CODEC.framing(), CODEC.decoder(), []
    decoder.feed(framer.feed(body), out)
    decoder.feed(framer.close(), out)
    decoder.close(out)
    return out


def test_a_stream_of_text() -> None:
    items = decode(
        START,
        opened({"type": "text", "text": ""}),
        delta("text", text="a"),
        delta("text", text="b"),
        shut(),
        end(output_tokens=2),
        STOP,
    )
    assert items == [
        UsageUpdate(Usage(3, 1, certainty="partial")),
        TextDelta("a"),
        TextDelta("b"),
        Finish("stop", "end_turn", Usage(3, 2, certainty="exact")),
    ]


def test_the_container_of_code_is_kept_as_the_providers_data() -> None:
    container = {"id": "cont_1", "expires_at": "2026-11-28T12:00:00Z"}
    last = end()
    last["delta"]["container"] = container
    kept = OpaquePart(ProviderData("anthropic", {"container": container}))
    assert added(decode(START, last, STOP)).message.parts == (kept,)
    out: list[Item] = []
    message = {"type": "message", "content": [], "stop_reason": "end_turn", "container": container}
    CODEC.decoder().whole(json.dumps(message).encode(), out)
    assert added(out).message.parts == (kept,)
    last["delta"]["container"] = None
    assert added(decode(START, last, STOP)).message.parts == ()


def test_events_without_names_are_told_by_their_type() -> None:
    events = [
        START,
        opened({"type": "thinking"}),
        delta("thinking", thinking="t"),
        shut(),
        delta("text", 1, text="a"),
        {"type": "ping"},
        end(output_tokens=2),
        STOP,
    ]
    assert decode(*(frame(event, "") for event in events)) == decode(*events)


def test_events_without_types_are_told_by_their_names() -> None:
    untyped = {"index": 0, "delta": {"type": "text_delta", "text": "a"}}
    stop = {"delta": {"stop_reason": "end_turn"}}
    items = decode(frame(untyped, "content_block_delta"), frame(stop, "message_delta"))
    assert added(items).text == "a"
    assert items[-1] == Finish("stop", "end_turn")


def test_the_type_of_the_data_wins_over_the_name() -> None:
    items = decode(frame(end("max_tokens"), "content_block_delta"), frame(STOP, "message_delta"))
    assert items == [Finish("length", "max_tokens")]


def test_what_is_new_is_ignored() -> None:
    items = decode(
        {"type": "telemetry", "x": 1},
        frame(b"", "keepalive"),
        frame(b"[DONE]", ""),
        delta("hologram", text="x"),
        opened({"type": "text", "text": "a"}),
        end("hibernated"),
    )
    assert items == [TextDelta("a"), Finish("other", "hibernated")]


def test_nothing_after_the_end_is_read() -> None:
    items = decode(end(), STOP, delta("text", text="late"), frame(b"[DONE]", ""))
    assert items == [Finish("stop", "end_turn")]


def test_a_stop_reason_completes_a_stream_that_lacks_its_last_event() -> None:
    assert decode(delta("text", text="a"), end()) == [TextDelta("a"), Finish("stop", "end_turn")]


def test_a_message_stop_completes_a_stream_that_names_no_reason() -> None:
    assert decode(delta("text", text="a"), STOP) == [TextDelta("a"), Finish("other", "")]


@pytest.mark.parametrize("events", [(), (START,), (START, delta("text", text="a"), shut())])
def test_an_end_without_either_is_an_interruption(events: Any) -> None:
    with pytest.raises(StreamInterrupted):
        decode(*events)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "other"),
    ],
)
def test_each_stop_reason_has_its_finish_reason(raw: str, reason: str) -> None:
    assert decode(end(raw)) == [Finish(reason, raw)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "said",
    [
        (),
        (opened({"type": "thinking", "thinking": "Let me look."}), shut()),
        (opened({"type": "redacted_thinking", "data": "x"}), shut()),
    ],
)
def test_an_end_for_calls_with_neither_a_call_nor_text_is_an_error(said: Any) -> None:
    """As an empty answer it would end an agent's work; the model can be asked again."""
    with pytest.raises(GenerationError):
        decode(*said, end("tool_use"), STOP)
    with pytest.raises(GenerationError):
        CODEC.decoder().whole(b'{"type":"message","content":[],"stop_reason":"tool_use"}', [])


def test_an_end_for_calls_after_text_is_an_ordinary_end() -> None:
    items = decode(opened({"type": "text", "text": "x"}), shut(), end("tool_use"), STOP)
    assert items[-1] == Finish("stop", "tool_use")


def test_a_call_makes_an_ordinary_end_a_tool_call() -> None:
    items = decode(opened({"type": "tool_use", "id": "i", "name": "f"}), shut(), end("end_turn"))
    assert items[-1] == Finish("tool_calls", "end_turn")


def test_calls_are_numbered_in_order_of_appearance() -> None:
    items = decode(
        opened({"type": "text", "text": ""}),
        shut(),
        opened({"type": "tool_use", "id": "i", "name": "f", "input": {}}, 1),
        delta("input_json", 1, partial_json=""),
        delta("input_json", 1, partial_json='{"a'),
        opened({"type": "tool_use", "id": "j", "name": "g"}, 2),
        delta("input_json", 1, partial_json='":1}'),
        delta("input_json", 2, partial_json="{}"),
        end("tool_use"),
        STOP,
    )
    assert items[:-1] == [
        ToolCallDelta(0, "i", "f"),
        ToolCallDelta(0, arguments='{"a'),
        ToolCallDelta(1, "j", "g"),
        ToolCallDelta(0, arguments='":1}'),
        ToolCallDelta(1, arguments="{}"),
    ]
    assert [call.parsed() for call in added(items).tool_calls] == [{"a": 1}, {}]


def test_a_whole_input_at_the_start_counts_unless_pieces_follow() -> None:
    block = {"type": "tool_use", "id": "i", "name": "f", "input": {"a": "é"}}
    assert decode(opened(block), shut(), end())[1] == ToolCallDelta(0, arguments='{"a":"é"}')
    items = decode(opened(block), delta("input_json", partial_json='{"b":2}'), shut(), end())
    assert added(items).tool_calls[0].parsed() == {"b": 2}


def test_a_call_cut_at_the_limit_stays_as_it_came_and_is_invalid() -> None:
    items = decode(
        opened({"type": "tool_use", "id": "i", "name": "f", "input": {}}),
        delta("input_json", partial_json='{"a": "cu'),
        end("max_tokens"),
        STOP,
    )
    (call,) = added(items).tool_calls
    assert (call.arguments, call.valid) == ('{"a": "cu', False)


def test_a_call_without_an_id_gets_one() -> None:
    items = decode(opened({"type": "tool_use", "name": "f"}), end())
    assert added(items).tool_calls[0].id.startswith("call_")


def test_further_keys_of_a_call_travel_with_it() -> None:
    block = {"type": "tool_use", "id": "i", "name": "f", "caller": {"type": "direct"}}
    (call,) = added(decode(opened(block), end())).tool_calls
    assert call.provider_data == ProviderData("anthropic", {"caller": {"type": "direct"}})


def test_too_many_calls_are_refused() -> None:
    block = {"type": "tool_use", "id": "i", "name": "f"}
    with pytest.raises(ProtocolError, match="512 tool calls"):
        decode(*(opened(block, index) for index in range(4097)))


def test_thinking_is_sealed_by_its_signature() -> None:
    items = decode(
        opened({"type": "thinking", "thinking": "", "signature": ""}),
        delta("thinking", thinking="a"),
        delta("signature", signature="S="),
        shut(),
        opened({"type": "redacted_thinking", "data": "R="}, 1),
        shut(1),
        end(),
        STOP,
    )
    assert items[:-1] == [
        ReasoningDelta("a"),
        ReasoningDelta("", ProviderData("anthropic", {"signature": "S="})),
        PartChunk(ReasoningPart("", ProviderData("anthropic", {"redacted_thinking": "R="}))),
    ]


def test_a_signature_that_comes_twice_replaces_the_first() -> None:
    items = decode(
        opened({"type": "thinking"}),
        delta("thinking", thinking="a"),
        delta("signature", signature="S"),
        delta("signature", signature="T"),
        shut(),
        end(),
    )
    assert items[1] == ReasoningDelta("", ProviderData("anthropic", {"signature": "T"}))


def test_hidden_thoughts_are_a_part_with_a_signature_alone() -> None:
    items = decode(
        opened({"type": "thinking", "thinking": "", "signature": ""}),
        delta("signature", signature="S="),
        shut(),
        end(),
        STOP,
    )
    sealed = ReasoningPart("", ProviderData("anthropic", {"signature": "S="}))
    assert items[0] == PartChunk(sealed)
    assert added(items).message.parts == (sealed,)


def test_an_index_that_is_used_again_ends_the_block_before() -> None:
    items = decode(
        opened({"type": "thinking"}),
        delta("thinking", thinking="a"),
        delta("signature", signature="S"),
        opened({"type": "text", "text": "b"}),
        end(),
    )
    assert items[1] == ReasoningDelta("", ProviderData("anthropic", {"signature": "S"}))


def test_unknown_blocks_are_kept_whole_with_their_deltas() -> None:
    items = decode(
        opened({"type": "compaction", "content": None}),
        delta("compaction", content="sum"),
        delta("compaction", content="mary", more=[1]),
        shut(),
        opened({"type": "server_tool_use", "id": "s", "name": "w", "input": {}}, 1),
        delta("input_json", 1, partial_json='{"q":'),
        delta("input_json", 1, partial_json="1.50}"),
        end(),
        STOP,
    )
    blocks = [
        {"type": "compaction", "content": "summary", "more": [1]},
        {"type": "server_tool_use", "id": "s", "name": "w", "input": {"q": 1.5}},
    ]
    assert items[:-1] == [
        PartChunk(OpaquePart(ProviderData("anthropic", {"block": block}))) for block in blocks
    ]


def test_citations_come_with_their_text() -> None:
    web = {"url": "https://x", "title": "T", "cited_text": "c"}
    page = {"document_title": "D", "cited_text": "e", "title": None}
    items = decode(
        opened({"type": "text", "text": "a", "citations": [page]}),
        delta("citations", citation=web),
        delta("citations", citation=None),
        end(),
    )
    assert items[1:3] == [
        CitationChunk(Citation("", "D", "e")),
        CitationChunk(Citation("https://x", "T", "c")),
    ]


def test_a_refusal_says_why() -> None:
    stop = {
        "stop_reason": "refusal",
        "stop_details": {"type": "refusal", "category": "cyber", "explanation": "Not this."},
    }
    assert decode({"type": "message_delta", "delta": stop}) == [
        Notice("Anthropic declined for reasons of policy: cyber"),
        RefusalDelta("Not this."),
        Finish("content_filter", "refusal"),
    ]


def test_usage_adds_the_cache_to_the_input_and_later_counts_replace_earlier() -> None:
    usage = {
        "input_tokens": 25,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 50,
        "output_tokens": 1,
    }
    later = {
        "output_tokens": 42,
        "input_tokens": None,
        "output_tokens_details": {
            "thinking_tokens": 31,
        },
    }
    items = decode(
        {"type": "message_start", "message": {"usage": usage}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": later},
        {"type": "message_delta", "usage": {"output_tokens": 43}},
        STOP,
    )
    assert items == [
        UsageUpdate(Usage(175, 1, 50, 0, "partial", 100)),
        Finish("stop", "end_turn", Usage(175, 43, 50, 31, "exact", 100)),
    ]


def test_counts_that_are_none_are_ignored() -> None:
    usage: dict[str, Any] = {"input_tokens": -1, "output_tokens": 1e300, "x": 3}
    assert decode(end(**usage))[-1] == Finish("stop", "end_turn")


def began(id_: str) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": id_, "usage": {"input_tokens": 3}}}


CALL = {"type": "tool_use", "id": "c", "name": "f", "input": {}}


@pytest.mark.parametrize(
    "so_far",
    [
        [opened({"type": "text", "text": "Half an"})],
        [opened({"type": "thinking", "thinking": "Hm"})],
        [opened(CALL), shut()],
        [opened({"type": "text", "text": "Half an"}), shut()],
        [opened({"type": "thinking", "thinking": "Hm", "signature": "s"}), shut()],
    ],
    ids=["a text", "a thought", "a complete call", "a complete text", "a complete thought"],
)
def test_another_message_after_half_of_one_is_a_cut(so_far: list[dict[str, Any]]) -> None:
    rest = opened({"type": "text", "text": "Another"}, 1), end(), STOP
    with pytest.raises(StreamInterrupted, match="another message"):
        decode(began("m1"), *so_far, began("m2"), *rest)
    again = decode(began("m1"), *so_far, began("m1"), *rest)
    assert isinstance(again[-1], Finish)


def test_a_message_without_counts_has_begun_and_one_without_a_start_has_not() -> None:
    text = opened({"type": "text", "text": "Half an"})
    bare = {"type": "message_start", "message": {"id": "m1"}}
    with pytest.raises(StreamInterrupted, match="another message"):
        decode(bare, text, began("m2"), end(), STOP)
    assert isinstance(decode(text, began("m2"), shut(), end(), STOP)[-1], Finish)


def test_another_message_before_anything_was_said_or_after_the_end_changes_nothing() -> None:
    text = opened({"type": "text", "text": "A"})
    items = decode(began("m1"), began("m2"), text, shut(), end(), began("m3"), STOP)
    assert TextDelta("A") in items
    assert isinstance(items[-1], Finish)


SUMMARY = {
    "type": "compaction",
    "input_tokens": 100,
    "output_tokens": 30,
    "cache_read_input_tokens": 5000,
    "cache_creation_input_tokens": 700,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 700},
}
AFTER_SUMMARY = {"input_tokens": 90, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


def test_usage_has_the_pass_that_wrote_a_summary_but_not_that_of_another_model() -> None:
    passes = [
        SUMMARY,
        {"type": "message", "input_tokens": 90, "output_tokens": 8},
        {"type": "advisor_message", "model": "big", "input_tokens": 40, "output_tokens": 4},
    ]
    told = {**AFTER_SUMMARY, "output_tokens": 8, "iterations": passes}
    started = {"type": "message_start", "message": {"usage": SUMMARY | {"output_tokens": 1}}}
    ended = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": told}
    expected = Usage(5890, 38, 5000, 0, "exact", 700, 700)
    assert decode(started, ended, STOP)[-1] == Finish("stop", "end_turn", expected)
    message = {"type": "message", "content": [], "stop_reason": "end_turn", "usage": told}
    items: list[Item] = []
    AnthropicCodec().decoder().whole(json.dumps(message).encode(), items)
    assert items[-1] == Finish("stop", "end_turn", expected)


@pytest.mark.parametrize("passes", [None, [], "two", [3], [{"type": "compaction"}], [{}]])
def test_passes_that_say_nothing_change_no_usage(passes: object) -> None:
    usage = {"input_tokens": 3, "output_tokens": 5, "iterations": passes}
    ended = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    assert decode(ended, STOP)[-1] == Finish("stop", "end_turn", Usage(3, 5, certainty="exact"))


def test_half_a_usage_is_partial() -> None:
    assert decode(end(output_tokens=5))[-1] == Finish(
        "stop", "end_turn", Usage(0, 5, certainty="partial")
    )


def test_surrogates_split_over_deltas_are_joined_and_lone_ones_replaced() -> None:
    items = decode(
        opened({"type": "text", "text": ""}),
        delta("text", text="a\ud83e"),
        delta("text", text="\uddea b"),
        delta("text", text="\ud83e"),
        shut(),
        opened({"type": "tool_use", "id": "i", "name": "f"}, 1),
        delta("input_json", 1, partial_json='{"x":"\ud83e'),
        delta("input_json", 1, partial_json='\uddea"}'),
        shut(1),
        end(),
        STOP,
    )
    response = added(items)
    assert response.text == "a🧪 b\ufffd"
    assert response.tool_calls[0].parsed() == {"x": "🧪"}


def test_half_a_pair_at_the_end_of_a_block_comes_out_as_a_replacement() -> None:
    items = decode(
        opened({"type": "thinking"}),
        delta("thinking", thinking="a\ud83e"),
        shut(),
        opened({"type": "tool_use", "id": "i", "name": "f"}, 1),
        delta("input_json", 1, partial_json='"\ud83e'),
        end(),
    )
    assert items == [
        ReasoningDelta("a"),
        ReasoningDelta("\ufffd"),
        ToolCallDelta(0, "i", "f"),
        ToolCallDelta(0, arguments='"'),
        ToolCallDelta(0, arguments="\ufffd"),
        Finish("tool_calls", "end_turn"),
    ]


def test_a_server_call_with_broken_input_is_kept_without_it() -> None:
    items = decode(
        opened({"type": "server_tool_use", "id": "s"}),
        delta("input_json", partial_json='{"q'),
        end(),
    )
    block = {"type": "server_tool_use", "id": "s", "input": {}}
    assert items[0] == PartChunk(OpaquePart(ProviderData("anthropic", {"block": block})))


def test_an_index_may_be_written_as_a_float() -> None:
    block = {"type": "tool_use", "id": "i", "name": "f"}
    items = decode(opened(block, 1.0), delta("input_json", 1, partial_json="{}"), end())  # type: ignore[arg-type]
    assert items[1] == ToolCallDelta(0, arguments="{}")


@pytest.mark.parametrize(
    ("event", "kind", "words"),
    [
        ({"error": {"type": "overloaded_error", "message": "M"}}, OverloadedError, "M"),
        ({"error": {"type": "api_error", "message": "M"}}, ServerError, "M"),
        (
            {
                "error": {
                    "type": "rate_limit_error",
                    "message": "M",
                    "details": {"error_code": "contract_spend_limit_reached"},
                }
            },
            QuotaError,
            "M",
        ),
        ({"error": {"type": "invalid_request_error", "message": "M"}}, InvalidRequestError, "M"),
        (
            {"error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}},
            ContextLengthError,
            "prompt is too long",
        ),
        # llama.cpp sends the bare object.
        ({"code": 500, "message": "M", "type": "server_error"}, ServerError, "M"),
        (
            {"code": 400, "message": "M", "type": "exceed_context_size_error"},
            ContextLengthError,
            "M",
        ),
        ({"error": "plain"}, ServerError, "plain"),
    ],
)
def test_errors_in_a_stream_keep_what_came_before(event: Any, kind: type, words: str) -> None:
    for sent in (event, {"type": "error"} | event):
        decoder, out = CODEC.decoder(), []
        with pytest.raises(LLMError, match=words) as caught:
            decoder.feed([frame(delta("text", text="a")), frame(sent, "error")], out)
        assert type(caught.value) is kind
        assert out == [TextDelta("a")]


def test_a_bare_error_without_a_name_is_an_error() -> None:
    body = b'event: ping\ndata: {"type":"ping"}\n\n{"error":{"message":"died","type":"x"}}\n'
    with pytest.raises(ServerError, match="died"):
        replay(body)


def test_a_frame_that_is_no_json_is_a_protocol_error() -> None:
    for name in ("content_block_delta", "message_delta", ""):
        with pytest.raises(ProtocolError):
            decode(frame(b"<html>", name))
    with pytest.raises(ProtocolError):
        decode(frame(b"[1]", "message_start"))


def test_a_whole_reply_gives_the_same_as_its_stream() -> None:
    message = {
        "type": "message",
        "content": [
            {"type": "thinking", "thinking": "t", "signature": "S"},
            {"type": "redacted_thinking", "data": "R"},
            {"type": "text", "text": "a", "citations": [{"url": "u"}]},
            {"type": "tool_use", "id": "i", "name": "f", "input": {"x": 1}},
            {"type": "mystery", "n": 1},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 3, "output_tokens": 5},
    }
    out: list[Item] = []
    decoder = CODEC.decoder()
    decoder.whole(json.dumps(message).encode(), out)
    assert decoder.finished
    assert out == [
        ReasoningDelta("t"),
        ReasoningDelta("", ProviderData("anthropic", {"signature": "S"})),
        PartChunk(ReasoningPart("", ProviderData("anthropic", {"redacted_thinking": "R"}))),
        TextDelta("a"),
        CitationChunk(Citation("u")),
        ToolCallDelta(0, "i", "f"),
        ToolCallDelta(0, arguments='{"x":1}'),
        PartChunk(OpaquePart(ProviderData("anthropic", {"block": {"type": "mystery", "n": 1}}))),
        Finish("tool_calls", "tool_use", Usage(3, 5, certainty="exact")),
    ]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"type":"error","error":{"type":"overloaded_error","message":"M"}}', OverloadedError),
        (b'{"error":{"code":503,"message":"Loading model","type":"x"}}', OverloadedError),
        (b"[]", ProtocolError),
        (b"{}", ProtocolError),
        (b"nope", ProtocolError),
    ],
)
def test_a_whole_reply_that_is_none_is_an_error(body: bytes, kind: type) -> None:
    with pytest.raises(kind):
        CODEC.decoder().whole(body, [])


def test_events_that_are_labelled_as_a_whole_reply_are_read_as_events() -> None:
    events = (
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"text","text":"a"}}\n\n'
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}'
    )
    out: list[Item] = []
    CODEC.decoder().whole(events, out)
    assert [type(item) for item in out] == [TextDelta, Finish]
    with pytest.raises(StreamInterrupted):
        CODEC.decoder().whole(events[: events.index(b"event: message_delta")], [])


def test_a_whole_reply_may_hold_plain_text() -> None:
    out: list[Item] = []
    CODEC.decoder().whole(b'{"content":"a","stop_reason":null}', out)
    assert out == [TextDelta("a"), Finish("other")]


@pytest.mark.parametrize("body", [b"{}", b"", b'{"models":7}', b"<html>"])
def test_a_list_of_models_that_is_none_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        CODEC.model_names(HttpResponse(200, {}, body))


def test_models_are_named_by_their_ids() -> None:
    body = b'{"data":[{"id":"claude-opus-5-5"},{"id":""},{"x":1},3],"has_more":false}'
    assert CODEC.model_names(HttpResponse(200, {}, body)) == ("claude-opus-5-5",)


@pytest.mark.parametrize(
    ("capture", "text", "reasoning", "raw", "usage"),
    [
        (
            "llama-native/messages-think-stream",
            "",
            "\n*Banana*\n*Cherry*",
            "end_turn",
            Usage(38, 12, 37, certainty="exact"),
        ),
        (
            "llama-native/messages-think-budget-stream",
            "The sea is a",
            "\nThe sea is a",
            "max_tokens",
            Usage(41, 40, 40, certainty="exact"),
        ),
        (
            "llama-swap/messages-stream",
            "Hello, welcome to",
            "",
            "max_tokens",
            Usage(31, 4, 30, certainty="exact"),
        ),
        (
            "llama-xllama-tools/messages-stream",
            "1. Grapes\n2. Oranges\n3. Orcas\n\nThese",
            "",
            "max_tokens",
            Usage(21, 24, 3, certainty="exact"),
        ),
        (
            "llama-xllama-tools/messages-thinking-stream",
            "1. Grapes\n2. Oranges\n3. Bananas",
            "",
            "end_turn",
            Usage(34, 15, 33, certainty="exact"),
        ),
    ],
)
def test_streams_of_real_servers(
    capture: str, text: str, reasoning: str, raw: str, usage: Usage
) -> None:
    body = (CAPTURES / f"{capture}.body").read_bytes()
    items = replay(body)
    response = added(items)
    assert response.text.startswith(text)
    assert response.reasoning == reasoning
    assert response.raw_finish_reason == raw
    assert response.usage == usage
    # Its thoughts carry an empty signature, which says no more than none.
    assert all(part.provider_data is None for part in response.message.parts)  # type: ignore[union-attr]
    framer, decoder, out = CODEC.framing(), CODEC.decoder(), []
    for byte in body:
        decoder.feed(framer.feed(bytes([byte])), out)
    assert out == items


@pytest.mark.parametrize(
    ("capture", "text", "raw"),
    [
        ("llama-xllama-tools/messages", "1. Bananas\n2. Oranges\n3. Grapes", "end_turn"),
        ("ollama/v1-messages", "1. **Apple**\n2.", "max_tokens"),
    ],
)
def test_whole_replies_of_real_servers(capture: str, text: str, raw: str) -> None:
    out: list[Item] = []
    CODEC.decoder().whole((CAPTURES / f"{capture}.body").read_bytes(), out)
    response = added(out)
    assert (response.text, response.raw_finish_reason) == (text, raw)
    assert response.usage.certainty == "exact"


def test_a_block_without_a_type_is_not_kept_because_it_could_not_be_sent_back() -> None:
    items: list[Item] = []
    frames = [opened({"odd": 1}), opened({"type": "mystery"}, 1), end(), STOP]
    CODEC.decoder().feed([(b"", json.dumps(frame).encode()) for frame in frames], items)
    assert [item for item in items if isinstance(item, PartChunk)] == [
        PartChunk(OpaquePart(ProviderData("anthropic", {"block": {"type": "mystery"}})))
    ]
