"""Responses streams: events of every server to items, repaired where only whole values came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import errors
from aiollm.errors import InvalidRequestError, ProtocolError, StreamInterrupted
from aiollm.types import (
    CitationChunk,
    Finish,
    OpaquePart,
    ProviderData,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageUpdate,
)

TESTS = Path(__file__).parents[2]
CAPTURE = (TESTS / "captures/llama-native/responses-think-budget-stream.body").read_bytes()
FAMILY = "openai-responses"
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}


def event(kind: str, index: int | None = 0, **fields: Any) -> dict[str, Any]:
    known = {} if index is None else {"output_index": index}
    return {"type": f"response.{kind}"} | known | fields


def added(item: dict[str, Any], index: int | None = 0) -> dict[str, Any]:
    return event("output_item.added", index, item=item)


def done(item: dict[str, Any], index: int | None = 0) -> dict[str, Any]:
    return event("output_item.done", index, item=item)


def text(words: str, index: int | None = 0, **fields: Any) -> dict[str, Any]:
    return event("output_text.delta", index, delta=words, content_index=0, **fields)


def ended(kind: str = "completed", **response: Any) -> dict[str, Any]:
    return event(kind, None, response={"status": kind, "output": []} | response)


def marked(**data: str) -> ProviderData:
    return ProviderData(FAMILY, dict(data))


def test_a_recorded_stream_decodes_to_its_end(responses) -> None:
    """llama.cpp's, which has no output_index, and seals reasoning after the text."""
    read = responses.decode([CAPTURE])
    assert read.error is None
    assert read.finish == Finish("stop", "completed", Usage(41, 40, 40, certainty="exact"))
    said = read.response
    assert said.reasoning == "\nThe sea is a"
    assert said.text.startswith("The sea is a mysterious and vast, ")
    assert said.message.parts[0].provider_data.data["item"]["id"].startswith("rs_")


def test_a_recorded_stream_may_come_byte_by_byte_or_be_cut_off(responses) -> None:
    whole = responses.decode([CAPTURE])
    assert responses.decode(bytes([byte]) for byte in CAPTURE).items == whole.items
    end = CAPTURE.index(b"event: response.completed")
    for size in range(0, end, 7):
        assert type(responses.decode([CAPTURE[:size]]).error) is StreamInterrupted


@given(data=st.data())
def test_a_recorded_stream_may_be_cut_anywhere(responses, data) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(CAPTURE)), max_size=20)))
    pieces = [CAPTURE[a:b] for a, b in zip([0, *cuts], [*cuts, len(CAPTURE)], strict=True)]
    assert responses.decode(pieces).items == responses.decode([CAPTURE]).items


def test_the_first_text_of_a_message_carries_its_state(responses) -> None:
    item = MESSAGE | {"phase": "commentary"}
    read = responses.read(added(item), text("a"), text("b"), text("c"), done(item), ended())
    assert read.items == [
        TextDelta("a", marked(id="msg_1", phase="commentary")),
        TextDelta("b"), TextDelta("c"), Finish("stop", "completed"),
    ]  # fmt: skip


def test_state_that_comes_at_the_end_alone_is_not_lost(responses) -> None:
    item = MESSAGE | {"phase": "final_answer"}
    read = responses.read(added(MESSAGE), text("a"), done(item), ended())
    assert read.items[1] == TextDelta("", marked(id="msg_1", phase="final_answer"))


def test_two_messages_are_told_apart(responses) -> None:
    second = MESSAGE | {"id": "msg_2"}
    read = responses.read(
        added(MESSAGE), text("a"), text("b"), done(MESSAGE),
        added(second, 1), text("c", 1), text("d", 1), done(second, 1), ended(),
    )  # fmt: skip
    states = [item.provider_data for item in read.of(TextDelta)]
    assert states == [marked(id="msg_1"), None, marked(id="msg_2"), None]
    assert read.response.text == "abcd"


def test_messages_may_interleave(responses) -> None:
    """No server is known to, but nothing forbids it."""
    second = MESSAGE | {"id": "msg_2"}
    read = responses.read(
        added(MESSAGE), added(second, 1), text("a"), text("b"), text("c", 1), text("d"), ended(),
    )  # fmt: skip
    assert read.response.text == "abcd"
    assert read.of(TextDelta)[2] == TextDelta("c", marked(id="msg_2"))


def test_events_may_have_neither_index_nor_names(responses) -> None:
    second = MESSAGE | {"id": "msg_2"}
    events = [
        added(MESSAGE, None), text("a", None, item_id="msg_1"),
        added(second, None), text("b", None, item_id="msg_2"), text("c", None), ended(),
    ]  # fmt: skip
    body = "".join(f"data: {json.dumps(each)}\n\n" for each in events).encode()
    assert responses.decode([body]).items == responses.read(*events).items
    assert responses.decode([body]).response.text == "abc"


def test_the_name_stands_in_for_a_missing_type(responses) -> None:
    events = [added(MESSAGE), text("a"), ended()]
    named = [
        (each["type"], {key: value for key, value in each.items() if key != "type"})
        for each in events
    ]
    body = "".join(f"event: {name}\ndata: {json.dumps(each)}\n\n" for name, each in named)
    assert responses.decode([body.encode()]).response.text == "a"


def test_text_that_comes_whole_alone_is_taken_from_there(responses) -> None:
    part = {"type": "output_text", "text": "hello"}
    only_done = event("output_text.done", content_index=0, text="hello")
    whole = MESSAGE | {"content": [part]}
    for events in (
        [added(MESSAGE), only_done, done(whole), ended()],
        [added(MESSAGE), done(whole), ended()],
        [done(whole), ended()],
        [ended(output=[whole])],
        [added(MESSAGE), text("hel"), text("lo"), only_done, done(whole), ended(output=[whole])],
    ):
        read = responses.read(*events)
        assert read.response.text == "hello", events
        assert read.of(TextDelta)[0].provider_data == marked(id="msg_1")


def test_parts_of_one_message_are_repaired_one_by_one(responses) -> None:
    whole = MESSAGE | {
        "content": [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}]
    }
    read = responses.read(added(MESSAGE), text("a"), done(whole), ended())
    assert read.response.text == "ab"


def test_a_refusal_is_told_apart(responses) -> None:
    whole = MESSAGE | {"content": [{"type": "refusal", "refusal": "no way"}]}
    piece = event("refusal.delta", delta="no ", content_index=0)
    rest = event("refusal.delta", delta="way", content_index=0)
    all_of_it = event("refusal.done", refusal="no way", content_index=0)
    for events in ([piece, rest, all_of_it], [all_of_it], []):
        read = responses.read(added(MESSAGE), *events, done(whole), ended())
        assert read.response.refusal == "no way"
        assert read.finish == Finish("stop", "completed")
        assert all(type(item) in (RefusalDelta, Finish) for item in read.items)


REASONING = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "One."}, {"type": "summary_text", "text": "Two."}],
    "encrypted_content": "gAAA",
}


def test_summary_parts_are_paragraphs_and_the_item_is_kept_whole(responses) -> None:
    def piece(words: str, part: int) -> dict[str, Any]:
        return event("reasoning_summary_text.delta", delta=words, summary_index=part)

    began = REASONING | {"summary": [], "encrypted_content": "PARTIAL"}
    sealed = ReasoningDelta("", ProviderData(FAMILY, {"item": REASONING}))
    streamed = [piece("On", 0), piece("e.", 0), piece("Two.", 1)]
    wholes = [
        event("reasoning_summary_text.done", text="One.", summary_index=0),
        event("reasoning_summary_text.done", text="Two.", summary_index=1),
    ]
    for events in (streamed, streamed + wholes, wholes, []):
        read = responses.read(added(began), *events, done(REASONING), ended())
        assert read.response.reasoning == "One.\n\nTwo."
        assert read.items[-2] == sealed


def test_the_reasoning_of_open_models_is_reasoning(responses) -> None:
    item = {"id": "rs", "type": "reasoning", "summary": [], "content": [{"text": "hm"}]}
    piece = event("reasoning_text.delta", delta="hm", content_index=0)
    for events in ([piece], [event("reasoning_text.done", text="hm", content_index=0)], []):
        read = responses.read(added(item), *events, done(item), ended())
        assert read.response.reasoning == "hm"


def test_hidden_reasoning_keeps_its_place_before_what_follows(responses) -> None:
    hidden = REASONING | {"summary": []}
    call = {"id": "fc", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    read = responses.read(added(hidden), done(hidden), added(call, 1), done(call, 1), ended())
    assert [type(part).__name__ for part in read.response.message.parts] == [
        "ReasoningPart", "ToolCallPart",
    ]  # fmt: skip


CALL = {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "c1", "name": "f"}


def _call_events(name: str) -> list[dict[str, Any]]:
    whole = CALL | {"arguments": '{"a":"ł"}'}
    pieces = [
        event("function_call_arguments.delta", delta='{"a":'),
        event("function_call_arguments.delta", delta='"ł"}'),
    ]
    at_once = event("function_call_arguments.done", arguments='{"a":"ł"}')
    begun = added(CALL | {"arguments": ""})
    nameless = added(CALL | {"arguments": "", "name": "", "call_id": ""})
    return {
        "all": [begun, *pieces, at_once, done(whole)],
        "name at the end": [nameless, *pieces, at_once, done(whole)],
        "name and arguments at the end": [nameless, done(whole)],
        "deltas alone": [begun, *pieces, done(CALL | {"arguments": ""})],
        "arguments.done alone": [begun, at_once, done(whole)],
        "item.done alone": [done(whole)],
        "no item.added": [*pieces, at_once, done(whole)],
        "decoded": [begun, done(CALL | {"arguments": {"a": "ł"}})],
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "all",
        "name at the end",
        "name and arguments at the end",
        "deltas alone",
        "arguments.done alone",
        "item.done alone",
        "no item.added",
        "decoded",
    ],
)
def test_a_call_is_whole_whatever_events_come(responses, name) -> None:
    read = responses.read(*_call_events(name), ended())
    assert read.calls == [("c1", "f", '{"a":"ł"}')]
    assert read.finish == Finish("tool_calls", "completed")
    (call,) = read.response.tool_calls
    assert call.provider_data == marked(id="fc_1", status="completed")


def test_a_call_that_was_never_named_is_not_taken_for_an_answer(responses) -> None:
    nameless = added(CALL | {"arguments": "", "name": "", "call_id": ""})
    assert type(responses.read(nameless, ended()).error) is StreamInterrupted


def test_a_call_without_arguments_has_an_empty_object(responses) -> None:
    read = responses.read(added(CALL), done(CALL | {"arguments": ""}), ended())
    assert read.calls == [("c1", "f", "{}")]


def test_interleaved_calls_are_told_apart(responses) -> None:
    other = CALL | {"id": "fc_2", "call_id": "c2", "name": "g"}
    read = responses.read(
        added(CALL, 3), event("function_call_arguments.delta", 3, delta="["),
        added(other, 5), event("function_call_arguments.delta", 5, delta="{}"),
        event("function_call_arguments.delta", 3, delta="]"), ended(),
    )  # fmt: skip
    assert read.calls == [("c1", "f", "[]"), ("c2", "g", "{}")]
    assert [item.index for item in read.of(ToolCallDelta)] == [0, 0, 1, 1, 0]


def test_calls_are_told_apart_by_item_id_where_there_is_no_index(responses) -> None:
    other = CALL | {"id": "fc_2", "call_id": "c2", "name": "g"}
    read = responses.read(
        added(CALL, None), added(other, None),
        event("function_call_arguments.delta", None, delta='{"a":1}', item_id="fc_1"),
        event("function_call_arguments.delta", None, delta="{}", item_id="fc_2"), ended(),
    )  # fmt: skip
    assert read.calls == [("c1", "f", '{"a":1}'), ("c2", "g", "{}")]


def test_a_custom_call_keeps_its_kind(responses) -> None:
    item = {"id": "ct", "type": "custom_tool_call", "call_id": "c1", "name": "sh", "input": "ls -l"}
    piece = event("custom_tool_call_input.delta", delta="ls -l")
    for events in ([piece], [event("custom_tool_call_input.done", input="ls -l")], []):
        read = responses.read(added(item | {"input": ""}), *events, done(item), ended())
        assert read.calls == [("c1", "sh", "ls -l")]
        (call,) = read.response.tool_calls
        assert call.provider_data == marked(id="ct", type="custom_tool_call")


def test_calls_are_bounded(responses) -> None:
    events = [added(CALL | {"id": f"f{n}", "call_id": f"c{n}"}, n) for n in range(4097)]
    assert type(responses.read(*events).error) is ProtocolError


def test_citations_come_once(responses) -> None:
    source = {"type": "url_citation", "url": "https://x", "title": "X", "start_index": 0}
    live = event("output_text.annotation.added", annotation=source)
    part = {"type": "output_text", "text": "a", "annotations": [source]}
    whole = done(MESSAGE | {"content": [part]})
    for events in ([live, whole], [whole]):
        read = responses.read(added(MESSAGE), text("a"), *events, ended())
        (chunk,) = read.of(CitationChunk)
        assert (chunk.citation.url, chunk.citation.title) == ("https://x", "X")


def test_a_generated_image_is_an_image_with_its_state(responses) -> None:
    item = {"id": "ig", "type": "image_generation_call", "status": "completed", "result": "aGk="}
    read = responses.read(added(item | {"result": None}), done(item), ended())
    (image,) = read.response.images
    assert (image.data, image.mime) == (b"hi", "image/png")
    state = {key: value for key, value in item.items() if key != "result"}
    assert image.provider_data == ProviderData(FAMILY, state)


def test_items_of_other_kinds_are_kept_whole(responses) -> None:
    search = {"id": "ws", "type": "web_search_call", "status": "completed", "action": {"q": [1]}}
    failed = {"id": "ig", "type": "image_generation_call", "status": "failed", "result": None}
    read = responses.read(
        added(search), event("web_search_call.searching", item_id="ws"), done(search),
        done(failed, 1), event("something.new", x=1), done({}, 2), {"x": 1}, added({"id": "y"}, 3),
        added(MESSAGE, 4), done(MESSAGE | {"content": [{"type": "x"}]}, 4), ended(),
    )  # fmt: skip
    assert read.response.message.parts == (
        OpaquePart(ProviderData(FAMILY, search)), OpaquePart(ProviderData(FAMILY, failed)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ({"reason": "max_output_tokens"}, Finish("length", "max_output_tokens")),
        ({"reason": "content_filter"}, Finish("content_filter", "content_filter")),
        ({"reason": "steered"}, Finish("other", "steered")),
        (None, Finish("other", "incomplete")),
    ],
)
def test_an_incomplete_response_ends_for_its_reason(responses, reason, finish) -> None:
    read = responses.read(added(MESSAGE), text("a"), ended("incomplete", incomplete_details=reason))
    assert (read.finish, read.error) == (finish, None)


def test_an_incomplete_call_is_not_a_finished_one(responses) -> None:
    cut = ended("incomplete", incomplete_details={"reason": "max_output_tokens"})
    read = responses.read(
        added(CALL), event("function_call_arguments.delta", delta='{"a'), cut
    )  # fmt: skip
    assert read.finish.reason == "length"
    assert not read.response.tool_calls[0].valid


def test_usage_details_are_parts_of_the_totals(responses) -> None:
    told = {
        "input_tokens": 10,
        "output_tokens": 20,
        "input_tokens_details": {"cached_tokens": 3},
        "output_tokens_details": {"reasoning_tokens": 4},
    }
    assert responses.read(ended(usage=told)).finish.usage == Usage(10, 20, 3, 4, "exact")
    assert responses.read(ended(usage={})).finish.usage == Usage()


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([{"type": "error", "code": "rate_limit_exceeded", "message": "m"}], "RateLimitError"),
        ([{"type": "error", "error": {"code": "server_error", "message": "m"}}], "ServerError"),
        ([{"type": "error", "error": {"type": "invalid_request_error", "message": "m"}}],
         "InvalidRequestError"),
        ([{"error": {"code": "insufficient_quota", "message": "m"}}], "QuotaError"),
        ([{"message": "m", "code": 503}], "OverloadedError"),
        ([ended("failed", error={"code": "server_error", "message": "m"})], "ServerError"),
        ([ended("failed", error={"code": "vector_store_timeout", "message": "m"})], "ServerError"),
        ([ended("failed", error={"code": "rate_limit_exceeded", "message": "m"})],
         "RateLimitError"),
        ([ended("failed", error={"code": "bio_policy", "message": "m"})], "ContentFilterError"),
        ([ended("failed", error={"code": "invalid_image_url", "message": "m"})],
         "InvalidRequestError"),
        ([ended("failed", error={"code": "data_residency_mismatch", "message": "m"})],
         "UnsupportedFeatureError"),
    ],
)  # fmt: skip
def test_an_error_is_raised_whatever_its_shape(responses, events, error) -> None:
    read = responses.read(added(MESSAGE), text("half"), *events)
    assert type(read.error) is getattr(errors, error), repr(read.error)
    assert read.error.message == "m"
    assert read.response.text == "half"


@pytest.mark.parametrize("kind", ["failed", "cancelled"])
def test_a_response_that_fails_without_a_word_is_an_error(responses, kind) -> None:
    read = responses.read(text("a"), ended(kind, usage={"input_tokens": 1, "output_tokens": 2}))
    assert type(read.error) is errors.ServerError
    assert kind in read.error.message
    assert read.of(UsageUpdate) == [UsageUpdate(Usage(1, 2, certainty="exact"))]
    bare = responses.read(event(kind, None))
    assert kind in bare.error.message


def test_a_stream_without_its_terminal_event_is_an_interruption(responses) -> None:
    whole = MESSAGE | {"content": [{"type": "output_text", "text": "a"}]}
    read = responses.read(added(MESSAGE), text("a"), done(whole))
    assert type(read.error) is StreamInterrupted
    assert type(responses.read("[DONE]").error) is StreamInterrupted


def test_the_error_of_a_hosted_tool_is_not_the_streams(responses) -> None:
    failed = event("mcp_call.failed", item_id="mcp_1", error="tool broke")
    assert responses.read(failed, text("a"), ended()).response.text == "a"


def test_a_terminal_event_needs_no_response(responses) -> None:
    assert responses.read(text("a"), event("completed", None)).finish == Finish("stop", "completed")


def test_nothing_counts_after_the_end(responses) -> None:
    read = responses.read(text("a"), ended(), "[DONE]", text("b"), {"type": "error"})
    assert (read.response.text, read.error) == ("a", None)


def test_a_surrogate_pair_split_over_deltas_is_joined(responses) -> None:
    def thought(words: str) -> dict[str, Any]:
        return event("reasoning_text.delta", 1, delta=words, content_index=0)

    read = responses.read(
        text("a\ud83e"), text("\uddeab"), text("c\ud83e"), text("d"),
        thought("\ud83e"), thought("\uddea"), text("\ud83e"), ended(),
    )  # fmt: skip
    assert read.response.text == "a🧪bc\ufffdd\ufffd"
    assert read.response.reasoning == "🧪"


def test_half_a_pair_at_the_end_becomes_a_replacement(responses) -> None:
    refusal = event("refusal.delta", delta="\ud83e", content_index=0)
    thought = event("reasoning_text.delta", 1, delta="\ud83e", content_index=0)
    said = responses.read(refusal, thought, ended()).response
    assert (said.refusal, said.reasoning) == ("\ufffd", "\ufffd")


def test_odd_fields_do_not_kill_the_stream(responses) -> None:
    odd = text("a") | {"item_id": 3, "content_index": "0", "logprobs": "x"}
    assert responses.read(added(MESSAGE), odd, text("b"), ended(usage=3)).response.text == "ab"
    read = responses.read(added(MESSAGE), text("a"), text("b", "0"), text("c"), ended())
    assert read.response.text == "abc"


def test_a_frame_that_is_no_json_is_a_protocol_error(responses) -> None:
    assert type(responses.read('{"type": ').error) is ProtocolError


def test_an_answer_may_come_whole(responses) -> None:
    output = [
        REASONING,
        MESSAGE | {"content": [{"type": "output_text", "text": "hi \ud83e"}]},
        CALL | {"arguments": "{}"},
    ]
    read = responses.whole({"object": "response", "status": "completed", "output": output})
    said = read.response
    assert (said.reasoning, said.text) == ("One.\n\nTwo.", "hi \ufffd")
    assert (read.calls, read.finish.reason) == ([("c1", "f", "{}")], "tool_calls")


def test_a_whole_answer_that_is_not_one_yet_is_an_error(responses) -> None:
    for status in ("queued", "in_progress"):
        waiting = responses.whole({"status": status, "output": []}).error
        assert isinstance(waiting, InvalidRequestError)
        assert "background" in str(waiting)
    failed = {"status": "failed", "output": [], "error": {"code": "server_error", "message": "m"}}
    assert type(responses.whole(failed).error) is errors.ServerError


def test_events_under_a_wrong_content_type_are_read_as_events(responses) -> None:
    assert responses.whole(responses.body([text("x"), ended()])).response.text == "x"
