"""Chat streams: what chunks of every server give, and when the stream is complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import errors
from aiollm.errors import ProtocolError, StreamInterrupted
from aiollm.types import (
    CitationChunk,
    Finish,
    Notice,
    RefusalDelta,
    Status,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageUpdate,
)

TESTS = Path(__file__).parents[2]
CAPTURES = {
    "llama-native/chat-think-budget-stream": ("length", 0, 0),
    "llama-native/chat-think-stream": ("stop", 38, 12),
    "llama-native/chat-tools-stream": ("tool_calls", 298, 31),
    "llama-swap/chat-loading-state-stream": ("length", 0, 0),
    "llama-swap/chat-stream-cold": ("length", 31, 8),
    "llama-xllama-tools/chat-json-schema-stream": ("stop", 0, 0),
    "llama-xllama-tools/chat-n2-stream": ("length", 0, 0),
    "llama-xllama-tools/chat-stream": ("stop", 0, 0),
    "llama-xllama-tools/chat-stream-usage": ("stop", 22, 20),
    "llama-xllama-tools/chat-tools-auto-stream": ("length", 0, 0),
    "ollama/v1-chat-stream": ("length", 13, 8),
}
"""Recorded streams of real servers: finish reason, input and output tokens."""


def chunk(delta: dict[str, Any] | None = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return {"id": "c1", "model": "m", "choices": [choice]} | more


def text(words: str, **more: Any) -> dict[str, Any]:
    return chunk({"content": words}, **more)


def call(**fragment: Any) -> dict[str, Any]:
    return chunk({"tool_calls": [fragment]})


def usage(prompt: Any, completion: Any, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion} | more


STOP = chunk(finish="stop")
DONE = "[DONE]"


@pytest.fixture(params=CAPTURES, ids=str)
def capture(request) -> tuple[bytes, tuple[str, int, int]]:
    path = TESTS / "captures" / f"{request.param}.body"
    return path.read_bytes(), CAPTURES[request.param]


def test_a_recorded_stream_decodes_to_its_end(chat, capture) -> None:
    body, (reason, prompt, completion) = capture
    read = chat.asked(n=2).decode([body])
    assert read.error is None
    assert (read.finish.reason, read.items[-1]) == (reason, read.finish)
    assert (read.finish.usage.input_tokens, read.finish.usage.output_tokens) == (prompt, completion)
    told = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]
    deltas = [
        choice["delta"] for each in told for choice in each["choices"] if not choice.get("index")
    ]
    assert read.response.text == "".join(delta.get("content") or "" for delta in deltas)
    named = [choice for each in told if "id" in each for choice in each["choices"]]
    thoughts = [choice["delta"].get("reasoning_content") or "" for choice in named]
    assert read.response.reasoning == "".join(thoughts)


def test_a_recorded_stream_may_come_byte_by_byte(chat, capture) -> None:
    body, _ = capture
    assert chat.decode(bytes([byte]) for byte in body).items == chat.decode([body]).items


@given(data=st.data())
def test_a_recorded_stream_may_be_cut_anywhere(chat, data) -> None:
    name = data.draw(st.sampled_from(sorted(CAPTURES)))
    body = (TESTS / "captures" / f"{name}.body").read_bytes()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert chat.decode(pieces).items == chat.decode([body]).items


def test_a_recorded_stream_cut_off_is_never_a_success_with_less(chat, capture) -> None:
    body, _ = capture
    chat = chat.asked(n=2)
    full = chat.decode([body])
    for end in range(0, len(body), 7):
        cut = chat.decode([body[:end]])
        if cut.error is None:
            assert cut.response.message == full.response.message
        else:
            assert type(cut.error) is StreamInterrupted


def _steps() -> st.SearchStrategy[list[tuple[str, str]]]:
    fields = ["content", "reasoning_content", "reasoning", "refusal", "both", "empty", "arguments"]
    return st.lists(st.tuples(st.sampled_from(fields), st.text(min_size=1, max_size=5)))


@given(steps=_steps(), together=st.booleans())
def test_any_order_of_deltas_gives_every_word_once(chat, steps, together) -> None:
    events: list[Any] = [chunk({"role": "assistant", "content": ""})]
    expected = {"text": "", "reasoning": "", "refusal": "", "arguments": "{"}
    events.append(call(index=0, id="call_1", function={"name": "f", "arguments": "{"}))
    for field, words in steps:
        match field:
            case "content":
                events.append(text(words))
                expected["text"] += words
            case "refusal":
                events.append(chunk({"refusal": words}))
                expected["refusal"] += words
            case "both":
                events.append(chunk({"content": words, "reasoning_content": words}))
                expected["text"] += words
                expected["reasoning"] += words
            case "empty":
                events.append(chunk({"content": None, "tool_calls": [], "reasoning": ""}))
            case "arguments":
                events.append(call(index=0, function={"arguments": words}))
                expected["arguments"] += words
            case _:
                events.append(chunk({field: words}))
                expected["reasoning"] += words
    events += [STOP, DONE]
    body = chat.body(events)
    read = chat.decode([body] if together else body.splitlines(keepends=True))
    said = read.response
    assert (said.text, said.reasoning, said.refusal) == (
        expected["text"],
        expected["reasoning"],
        expected["refusal"],
    )
    # As pieces: what is put together is tidied where it is no JSON.
    pieces = "".join(delta.arguments for delta in read.of(ToolCallDelta))
    assert pieces == expected["arguments"]


def test_a_plain_stream_gives_one_delta_a_chunk(chat) -> None:
    first = chunk({"role": "assistant", "content": ""})
    read = chat.read(first, text("a"), text("b"), text(""), STOP, DONE)
    assert read.items == [TextDelta("a"), TextDelta("b"), Finish("stop", "stop")]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("length", "length"),
        ("model_length", "length"),
        ("content_filter", "content_filter"),
        ("STOP", "stop"),
        ("FinishReason.STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("model_context_window_exceeded", "length"),
        ("SAFETY", "content_filter"),
        ("sensitive", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "error"),
        ("odd", "other"),
        ("tool_calls", "stop"),
        ("function_call", "stop"),
    ],
)
def test_the_servers_words_for_the_end_are_mapped(chat, raw, reason) -> None:
    finish = chat.read(text("x"), chunk(finish=raw), DONE).finish
    assert (finish.reason, finish.raw_reason) == (reason, raw)


@pytest.mark.parametrize("said", [(), (chunk({"reasoning": "Let me look."}),)])
@pytest.mark.parametrize("raw", ["tool_calls", "function_call"])
def test_an_answer_for_calls_with_neither_a_call_nor_text_is_an_error(chat, said, raw) -> None:
    """As an empty answer it would end an agent's work; the model can be asked again."""
    read = chat.read(*said, chunk(finish=raw, usage=usage(3, 4)), DONE)
    assert type(read.error) is errors.GenerationError
    assert not read.finish
    assert read.of(UsageUpdate)[-1].usage == Usage(3, 4, certainty="exact")
    message = {"content": None, "reasoning": "hm", "tool_calls": []}
    assert type(chat.whole({"choices": [{"message": message, "finish_reason": raw}]}).error) is (
        errors.GenerationError
    )


@pytest.mark.parametrize(
    "said",
    [
        (chunk({"reasoning": "hm"}), chunk({"reasoning": "m"}), text("x")),
        (text("x"), text("y"), chunk({"reasoning": "hm"}), chunk({"reasoning": "m"})),
        (chunk({"refusal": "no"}),),
        tuple(text("x") for _ in range(20)),
        (chunk({"images": [{"image_url": {"url": "https://x/y.png"}}]}), chunk({"reasoning": "m"})),
    ],
)
def test_an_answer_for_calls_that_says_something_has_ended(chat, said) -> None:
    assert chat.read(*said, chunk(finish="tool_calls"), DONE).finish.reason == "stop"


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        ("error", errors.ServerError),
        ("ERROR", errors.ServerError),
        ("network_error", errors.ServerError),
        ("abort", errors.ServerError),
        ("insufficient_system_resource", errors.OverloadedError),
    ],
)
def test_an_answer_that_the_server_broke_off_is_an_error(chat, raw, error) -> None:
    read = chat.read(text("x"), chunk(finish=raw, usage=usage(3, 4)), DONE)
    assert type(read.error) is error
    assert raw in str(read.error)
    assert read.response.usage == Usage(3, 4, certainty="exact")


def test_a_broken_answer_without_usage_has_none(chat) -> None:
    assert chat.read(text("x"), chunk(finish="abort")).items == [TextDelta("x")]


def test_a_choice_may_hold_nothing_but_its_end(chat) -> None:
    end = {"id": "c", "choices": [{"index": 0, "finish_reason": "stop"}]}
    assert chat.read(text("x"), end).finish == Finish("stop", "stop")


def test_blank_events_are_skipped(chat) -> None:
    assert chat.read(" ", text("x"), "", STOP).response.text == "x"


def test_a_finish_reason_without_done_is_complete_at_the_end(chat) -> None:
    assert chat.read(text("x"), STOP).finish == Finish("stop", "stop")


def test_an_empty_finish_reason_is_none(chat) -> None:
    """Some servers send "" where others send null."""
    read = chat.read(chunk({"content": "x"}, ""), chunk({"content": "y"}, ""))
    assert type(read.error) is StreamInterrupted
    assert read.response.text == "xy"


def test_done_without_an_answer_is_an_interruption(chat) -> None:
    assert type(chat.read(DONE).error) is StreamInterrupted
    assert type(chat.read().error) is StreamInterrupted


def test_done_without_a_finish_reason_is_complete_for_a_reason_unknown(chat) -> None:
    assert chat.read(text("x"), DONE).finish == Finish("other")


def test_nothing_counts_after_the_end(chat) -> None:
    read = chat.read(text("x"), STOP, DONE, text("more"), {"error": "late"}, DONE)
    assert [type(item) for item in read.items] == [TextDelta, Finish]


def test_the_usage_after_the_finish_ends_the_stream(chat) -> None:
    """So that a server that forgets `[DONE]` and keeps the connection costs nothing."""
    codec = chat.codec
    decoder, items = codec.decoder(), []
    frames = [text("x"), STOP, {"choices": [], "usage": usage(1, 2)}]
    decoder.feed([json.dumps(frame).encode() for frame in frames], items)
    assert decoder.finished
    assert items[-1] == Finish("stop", "stop", Usage(1, 2, certainty="exact"))


@pytest.mark.parametrize(
    "events",
    [
        (text("x"), chunk(finish="stop", usage=usage(5, 7)), DONE),
        (text("x"), chunk(finish="stop", x_groq={"usage": usage(5, 7)}), DONE),
        (text("x", usage=usage(5, 1)), text("y", usage=usage(5, 7)), STOP, DONE),
        (text("x"), text("y"), text("z", usage=usage(5, 7)), STOP, DONE),
        (chunk(usage=usage(5, 7)), text("x"), STOP, DONE),
        (text("x"), {"choices": [], "usage": usage(5.0, "7")}, STOP, DONE),
        (text("x"), {"choices": [], "usage": usage(5, 7)}, chunk(finish="stop", usage=None), DONE),
    ],
    ids=["finish", "groq", "cumulative", "late", "first", "odd types", "later null"],
)
def test_usage_counts_wherever_it_stands(chat, events) -> None:
    assert chat.read(*events).finish.usage == Usage(5, 7, certainty="exact")


def test_usage_details_are_parts_of_the_totals(chat) -> None:
    details = {
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    told = usage(10, 20, total_tokens=30, **details)
    assert chat.read(STOP, {"choices": [], "usage": told}).finish.usage == Usage(
        10, 20, 3, 4, "exact"
    )


def test_reasoning_counted_beside_the_completion_is_added(chat) -> None:
    """As xAI counts it; only the total shows."""
    details = {"completion_tokens_details": {"reasoning_tokens": 4}}
    told = usage(10, 20, total_tokens=34, **details)
    assert chat.read(STOP, {"choices": [], "usage": told}).finish.usage.output_tokens == 24


def test_deepseeks_cache_hits_are_cached_tokens(chat) -> None:
    told = usage(10, 20, prompt_cache_hit_tokens=6)
    assert chat.read(chunk(finish="stop", usage=told)).finish.usage.cached_tokens == 6


def test_a_cut_stream_keeps_the_usage_so_far_as_partial(chat) -> None:
    read = chat.read(text("x", usage=usage(5, 1)))
    assert type(read.error) is StreamInterrupted
    assert read.of(UsageUpdate) == [UsageUpdate(Usage(5, 1, certainty="partial"))]


def test_half_a_usage_is_partial_and_an_empty_one_missing(chat) -> None:
    assert chat.read(chunk(finish="stop", usage=usage(5, None))).finish.usage.certainty == "partial"
    assert chat.read(chunk(finish="stop", usage={})).finish.usage == Usage()


def test_an_index_counts_only_where_several_answers_were_requested(chat) -> None:
    """Some gateways give each block of the one answer an index of its own."""
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a":1}'}}
    second = {"id": "c", "choices": [{"index": 1, "delta": {"tool_calls": [call]}}]}
    third = {"id": "c", "choices": [{"index": 2, "delta": {"content": " there"}}]}
    read = chat.read(text("look"), second, third, STOP, DONE)
    assert (read.response.text, read.finish.reason) == ("look there", "tool_calls")
    assert read.calls == [("c1", "f", '{"a":1}')]
    assert read.of(Notice) == []
    assert chat.asked(n=2).read(text("look"), second, third, STOP, DONE).calls == []


def test_choices_beside_the_first_are_ignored_with_one_notice(chat) -> None:
    second = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]}
    read = chat.asked(n=2).read(second, text("yes"), second, STOP, DONE)
    assert read.response.text == "yes"
    assert len(read.of(Notice)) == 1


def test_a_choice_without_index_is_the_first(chat) -> None:
    read = chat.read({"id": "c", "choices": [{"delta": {"content": "x"}}]}, STOP, DONE)
    assert read.response.text == "x"


def test_the_end_of_another_choice_does_not_end_the_first(chat) -> None:
    second = {"id": "c", "choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}
    assert type(chat.asked(n=2).read(text("x"), second).error) is StreamInterrupted


def test_chunks_without_choices_tell_nothing(chat) -> None:
    azure = {"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    progress = {"id": "c", "choices": [], "prompt_progress": {"total": 3}}
    assert chat.read(azure, progress, {}, text("x"), STOP, DONE).response.text == "x"


def test_llama_swaps_loading_text_is_status_not_reasoning(chat) -> None:
    def loading(words: str) -> dict[str, Any]:
        return {"choices": [{"delta": {"reasoning_content": words}}]}

    read = chat.read(
        loading("━━━━━"),
        loading("\n"),
        loading("llama-"),
        loading("swap loading: q\n"),
        loading("."),
        loading("."),
        loading("\n"),
        loading("Done!"),
        chunk({"role": "assistant", "content": None}),
        chunk({"reasoning_content": "hm"}),
        text("x"),
        STOP,
        DONE,
    )
    assert read.of(Status) == [Status("llama-swap loading: q"), Status("Done!")]
    assert (read.response.reasoning, read.response.text) == ("hm", "x")


def test_reasoning_is_no_loading_text_once_a_model_is_known(chat) -> None:
    choice = {"delta": {"reasoning_content": "hm"}}
    bare = {"choices": [choice]}
    for event in (bare | {"id": "c"}, bare | {"model": "m"}, {"choices": [choice | {"index": 0}]}):
        assert chat.read(event, STOP).response.reasoning == "hm"
    assert chat.read(text("x"), bare, STOP).response.reasoning == "hm"


def test_a_failure_to_load_comes_as_raw_json_after_the_events(chat) -> None:
    failure = {
        "src": "llama-swap",
        "error": {"message": "unspecific error: gone", "code": "internal_error"},
    }
    body = chat.body([{"choices": [{"delta": {"reasoning_content": "loading"}}]}])
    read = chat.decode([body + json.dumps(failure).encode()])
    assert type(read.error) is errors.ServerError
    assert "unspecific error: gone" in str(read.error)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"error": {"message": "m", "type": "server_error", "code": None}}, "ServerError"),
        ({"error": {"message": "m", "code": "rate_limit_exceeded"}}, "RateLimitError"),
        ({"error": {"message": "m", "code": 429}}, "RateLimitError"),
        ({"error": {"message": "m", "code": 502}}, "ServerError"),
        ({"error": {"message": "m", "code": "insufficient_quota"}}, "QuotaError"),
        ({"error": {"message": "m", "type": "invalid_request_error"}}, "InvalidRequestError"),
        ({"error": {"message": "m", "type": "invalid_request_error",
                    "code": "context_length_exceeded"}}, "ContextLengthError"),
        ({"error": "m"}, "ServerError"),
        ({"message": "m", "code": 503}, "OverloadedError"),
        ({"object": "error", "message": "m", "type": "BadRequestError", "code": 400},
         "InvalidRequestError"),
        ({"object": "error", "message": "m", "type": "NotFoundError", "code": 404},
         "ModelNotFoundError"),
        ({"detail": "m"}, "ServerError"),
        ([{"error": {"message": "m", "code": 400, "status": "INVALID_ARGUMENT"}}],
         "InvalidRequestError"),
        ({"id": "c", "error": {"message": "m", "code": 504},
          "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]},
         "ServerError"),
    ],
)  # fmt: skip
def test_an_error_in_the_stream_is_raised_whatever_its_shape(chat, event, error) -> None:
    read = chat.read(text("half"), event)
    assert type(read.error) is getattr(errors, error), repr(read.error)
    assert read.error.message == "m"
    assert read.error.status == 0
    assert read.response.text == "half"


def test_a_context_overflow_in_the_stream_is_told_by_its_text(chat) -> None:
    event = {"error": {"message": "Context size has been exceeded.", "type": "server_error"}}
    invalid = {"error": event["error"] | {"type": "invalid_request_error"}}
    for each in (event, invalid):
        assert type(chat.read(text("half"), each).error) is errors.ContextLengthError


def test_an_error_does_not_lose_what_came_in_the_same_read(chat) -> None:
    read = chat.read(text("a"), text("b"), {"error": {"message": "m"}})
    assert [item.text for item in read.of(TextDelta)] == ["a", "b"]


def test_a_frame_that_is_no_json_is_a_protocol_error_with_its_beginning(chat) -> None:
    read = chat.read(text("a"), '{"choices": [')
    assert type(read.error) is ProtocolError
    assert read.error.frame == b'{"choices": ['


def test_odd_fields_do_not_kill_the_stream(chat) -> None:
    odd = {"id": 7, "model": None, "choices": [{"index": "0", "delta": {"content": "x", "x": []}}],
           "usage": "none", "error": None}  # fmt: skip
    assert chat.read(odd, text("y"), STOP, DONE).response.text == "xy"


def test_a_surrogate_pair_split_over_deltas_is_joined(chat) -> None:
    read = chat.read(
        text("a\ud83e"), text("\uddeab"), text("c"), chunk({"reasoning_content": "\ud83e"}),
        chunk({"reasoning_content": "\uddea"}), STOP, DONE,
    )  # fmt: skip
    assert read.response.text == "a🧪bc"
    assert read.response.reasoning == "🧪"


def test_half_a_pair_that_stays_alone_becomes_a_replacement(chat) -> None:
    assert chat.read(text("a\ud83e"), text("b"), STOP, DONE).response.text == "a\ufffdb"
    assert chat.read(text("a\ud83e"), STOP, DONE).response.text == "a\ufffd"
    assert chat.read(chunk({"refusal": "\ud83e"}), STOP, DONE).response.refusal == "\ufffd"
    assert chat.read(chunk({"reasoning": "\ud83e"}), STOP, DONE).response.reasoning == "\ufffd"


def test_a_split_pair_in_arguments_is_joined(chat) -> None:
    begin = call(index=0, id="c1", function={"name": "f", "arguments": '{"a":"\ud83e'})
    read = chat.read(begin, call(index=0, function={"arguments": '\uddea"}'}), STOP, DONE)
    assert read.calls == [("c1", "f", '{"a":"🧪"}')]


def test_half_a_pair_in_arguments_or_a_name_becomes_a_replacement(chat) -> None:
    begin = call(index=0, id="c\udd2f", function={"name": "f\udd2f", "arguments": '{"a":"\ud83e'})
    read = chat.read(begin, call(index=0, function={"arguments": 'x"}'}), STOP, DONE)
    assert read.calls == [("c\ufffd", "f\ufffd", '{"a":"\ufffdx"}')]


def test_a_refusal_is_told_apart_and_ends_with_stop(chat) -> None:
    read = chat.read(chunk({"content": "", "refusal": "I "}), chunk({"refusal": "won't"}), STOP)
    assert read.items == [RefusalDelta("I "), RefusalDelta("won't"), Finish("stop", "stop")]


def test_citations_images_and_lists_of_parts_are_read(chat) -> None:
    cited = {"type": "url_citation", "url_citation": {"url": "https://x", "title": "X"}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    read = chat.read(
        chunk({"content": "see", "annotations": [cited, {"type": "file"}, None]}),
        chunk({"content": "", "images": [picture, {"image_url": {"url": "https://i"}}, 3]}),
        chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                           {"type": "thinking", "thinking": "?"}, {"type": "thinking"},
                           {"type": "thinking", "thinking": []}, " ",
                           {"type": "text", "text": "yes"}, {"type": "reference"}]}),
        STOP,
    )  # fmt: skip
    assert read.of(CitationChunk)[0].citation.url == "https://x"
    first, second = read.response.images
    assert (first.data, first.mime, second.url) == (b"hi", "image/png", "https://i")
    assert read.response.reasoning == "hm?"
    assert read.response.text == "see yes"


def test_an_image_that_is_no_base64_is_a_protocol_error(chat) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,é"}}
    assert type(chat.read(chunk({"images": [picture]})).error) is ProtocolError


def test_audio_is_left_out_with_a_notice(chat) -> None:
    read = chat.read(chunk({"audio": {"id": "a", "data": "aGk="}}), chunk({"audio": {}}), STOP)
    assert len(read.of(Notice)) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
         "usage": usage(1, 2)},
        {"id": "c", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}],
         "usage": usage(1, 2)},
    ],
)  # fmt: skip
def test_an_answer_may_come_whole(chat, body) -> None:
    read = chat.whole(body)
    assert read.items == [
        TextDelta("hi"), Finish("stop", "stop", Usage(1, 2, certainty="exact")),
    ]  # fmt: skip
    assert chat.read(body, DONE).response.text == "hi"


def test_a_whole_answer_may_hold_calls_and_reasoning(chat) -> None:
    message = {
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"a": "ł"}}}],
    }
    read = chat.whole({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    assert read.calls == [("c1", "f", '{"a":"ł"}')]
    assert (read.response.reasoning, read.finish.reason) == ("hm", "tool_calls")


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (b'{"error": {"message": "no", "code": "model_not_found"}}', "ModelNotFoundError", "no"),
        (b'{"detail": "no"}', "ServerError", "no"),
        (b'[{"error": {"message": "no", "code": 503}}]', "OverloadedError", "no"),
        (b"[]", "ProtocolError", "no answer"),
        (b'"no"', "ServerError", "no"),
        (b"", "ServerError", "empty"),
        (b" <html>", "ServerError", "HTML"),
        (b"{}", "ProtocolError", "no answer"),
        (b'{"choices": []}', "ProtocolError", "no answer"),
        (b"404 page not found", "ProtocolError", "no answer"),
    ],
)
def test_a_whole_body_that_is_no_answer_is_an_error(chat, responses, body, error, words) -> None:
    for wire in (chat, responses):
        read = wire.whole(body)
        assert type(read.error) is getattr(errors, error), repr(read.error)
        assert words in str(read.error)
        assert not read.items


def test_events_under_a_wrong_content_type_are_read_as_events(chat) -> None:
    assert chat.whole(chat.body([text("x"), STOP, DONE])).response.text == "x"
    assert type(chat.whole(chat.body([text("x")])).error) is StreamInterrupted
