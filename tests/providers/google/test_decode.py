"""Chunks of generateContent to items: whole, in pieces, cut short, odd."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm.errors import (
    AuthenticationError,
    ContentFilterError,
    GenerationError,
    InvalidRequestError,
    LLMError,
    OverloadedError,
    ProtocolError,
    RateLimitError,
    ServerError,
    StreamInterrupted,
    classify,
)
from aiollm.providers.decoding import MAX_CALLS
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.google.decode import GoogleDecoder
from aiollm.types import (
    AudioPart,
    Citation,
    CitationChunk,
    Finish,
    ImageChunk,
    ImagePart,
    Item,
    Notice,
    OpaquePart,
    PartChunk,
    ProviderData,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageUpdate,
)

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


OVERLOADED = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}


def chunk(*parts: object, **candidate: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts), "role": "model"}, **candidate}]}


def end(reason: str = "STOP", **more: Any) -> dict[str, Any]:
    return {"candidates": [{"finishReason": reason, "index": 0, **more}]}


def events(*chunks: object) -> bytes:
    return b"".join(b"data: " + json.dumps(each).encode() + b"\r\n\r\n" for each in chunks)


def read(*pieces: bytes) -> tuple[list[Item], LLMError | None]:
    """Decode as the engine does: to the end of the body or the first error."""
    codec = GoogleCodec()
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


def whole(body: bytes) -> list[Item]:
    items: list[Item] = []
    GoogleCodec().decoder().whole(body, items)
    return items


def finished(*chunks: object) -> list[Item]:
    """The items of a stream that ends well."""
    items, error = read(events(*chunks))
    assert error is None
    return items


def failed(*chunks: object) -> LLMError:
    items, error = read(events(*chunks))
    assert error is not None
    assert not any(isinstance(item, Finish) for item in items)
    return error


def signed(signature: str, **more: object) -> ProviderData:
    return ProviderData("google", {"thoughtSignature": signature, **more})


RICH = events(
    chunk({"text": "Hmm 🧪", "thought": True}),
    chunk({"text": "Ab\u2028"}, index=0),
    {
        **chunk({"text": "c"}, {"functionCall": {"name": "f", "args": {"x": 1}, "id": "a"}}),
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2},
    },
    chunk({"executableCode": {"language": "PYTHON", "code": "1"}}),
    {**end(), "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 5}},
)


def test_a_stream_gives_the_same_items_however_it_is_cut() -> None:
    expected = read(RICH)
    assert expected[1] is None
    assert [type(item).__name__ for item in expected[0]] == [
        "ReasoningDelta", "TextDelta", "TextDelta", "ToolCallDelta", "UsageUpdate", "PartChunk",
        "Finish",
    ]  # fmt: skip
    assert read(*(RICH[at : at + 1] for at in range(len(RICH)))) == expected


def test_what_another_candidate_says_changes_nothing_however_it_is_cut() -> None:
    counts = {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 5}}
    said = [chunk({"text": "a"}), chunk({"text": "other"}, index=5), chunk({"text": "b"})]
    frames = [json.dumps({**each, **counts}).encode() for each in said]
    together, one_by_one = GoogleDecoder(), GoogleDecoder()
    items: list[Item] = []
    together.feed(frames, items)
    alone: list[Item] = []
    for frame in frames:
        batch: list[Item] = []
        one_by_one.feed([frame], batch)
        alone += batch
    assert items == alone


@given(st.lists(st.integers(0, len(RICH)), max_size=8))
def test_cuts_at_random_change_nothing(places: list[int]) -> None:
    edges = [0, *sorted(places), len(RICH)]
    assert read(*(RICH[a:b] for a, b in pairwise(edges))) == read(RICH)


@pytest.mark.parametrize("end_mark", [b"data: [DONE]\n\n", b"\r\n", b": ping\n\n"])
def test_what_a_proxy_adds_at_the_end_changes_nothing(end_mark: bytes) -> None:
    assert read(RICH, end_mark) == read(RICH)


def test_a_done_mark_is_no_end() -> None:
    items, error = read(events(chunk({"text": "a"})), b"data: [DONE]\n\n")
    assert items == [TextDelta("a")]
    assert isinstance(error, StreamInterrupted)


def test_a_call_without_an_id_gets_one_and_a_mark() -> None:
    call, _ = finished(chunk({"functionCall": {"name": "now"}}), end())
    assert isinstance(call, ToolCallDelta)
    assert call.id.startswith("call_")
    assert (call.name, call.arguments) == ("now", "")
    assert call.provider_data == ProviderData("google", {"synthetic_id": True})


def test_calls_finish_the_answer_though_it_says_stop() -> None:
    items = finished(chunk({"functionCall": {"name": "f", "id": "a"}}), end("STOP"))
    assert items[-1] == Finish("tool_calls", "STOP", Usage())


def test_calls_are_numbered_in_order_of_appearance() -> None:
    calls = finished(
        chunk(*({"functionCall": {"name": name, "id": name}} for name in "ab")),
        chunk({"functionCall": {"name": "c", "id": "c"}}, index=0),
        end(),
    )[:-1]
    assert [(call.index, call.id) for call in calls if isinstance(call, ToolCallDelta)] == [
        (0, "a"), (1, "b"), (2, "c"),
    ]  # fmt: skip


def test_arguments_keep_their_order_and_their_characters() -> None:
    args = {"z": "Łódź", "a": [1, 2.5, None], "big": 12345678901234567890123}
    call = finished(chunk({"functionCall": {"name": "f", "args": args, "id": "a"}}), end())[0]
    assert isinstance(call, ToolCallDelta)
    assert call.arguments == json.dumps(args, ensure_ascii=False, separators=(",", ":"))


def test_more_calls_than_the_bound_are_an_error() -> None:
    calls = [{"functionCall": {"name": "f", "id": str(at)}} for at in range(MAX_CALLS + 1)]
    assert isinstance(failed(chunk(*calls), end()), ProtocolError)


def test_arguments_in_pieces_come_as_one_call() -> None:
    items = finished(
        chunk({"functionCall": {"name": "f", "id": "a", "willContinue": True},
               "thoughtSignature": "S"}),
        chunk({"functionCall": {"willContinue": True, "partialArgs": [
            {"jsonPath": "$.city", "stringValue": "New ", "willContinue": True}]}}),
        chunk({"functionCall": {"willContinue": True, "partialArgs": [
            {"jsonPath": "$.city", "stringValue": "Delhi"},
            {"jsonPath": "$.days[0].n", "numberValue": 3}]}}),
        chunk({"functionCall": {}}),
        chunk({"functionCall": {"name": "g", "partialArgs": [
            {"jsonPath": "$.deep", "boolValue": True}]}}),
        end(),
    )  # fmt: skip
    assert items[:2] == [
        ToolCallDelta(0, "a", "f", "", signed("S")),
        ToolCallDelta(0, arguments='{"city":"New Delhi","days":[{"n":3}]}'),
    ]
    assert items[3] == ToolCallDelta(1, arguments='{"deep":true}')


def test_a_call_whose_pieces_are_cut_has_arguments_that_are_no_json() -> None:
    pieces = [{"jsonPath": "$.path", "stringValue": "/etc"}]
    call = {"name": "rm", "id": "a", "willContinue": True, "partialArgs": pieces}
    items = finished(chunk({"functionCall": call}), end("MAX_TOKENS"))
    assert items[1] == ToolCallDelta(0, arguments='{"path":"/etc"')
    assert isinstance(items[2], Finish)
    assert items[2].reason == "length"


def test_a_call_that_begins_cuts_the_one_before_it() -> None:
    """It was to continue, so its arguments are half a JSON object, and nobody runs it."""
    items = finished(
        chunk({"functionCall": {"name": "f", "id": "a", "willContinue": True}}),
        chunk({"functionCall": {"name": "g", "id": "b", "args": {}}}),
        end(),
    )
    assert items[1] == ToolCallDelta(0, arguments="{")
    assert items[2] == ToolCallDelta(1, "b", "g", "{}")


def test_an_empty_call_without_a_beginning_is_nothing() -> None:
    assert finished(chunk({"functionCall": {}}, {"text": "a"}), end())[0] == TextDelta("a")


def test_a_signature_on_an_empty_last_text_is_a_part_of_its_own() -> None:
    items = finished(chunk({"text": "Hi"}), chunk({"text": "", "thoughtSignature": "S+/="}), end())
    assert items[:2] == [TextDelta("Hi"), TextDelta("", signed("S+/="))]


def test_a_signature_alone_is_kept_and_an_empty_one_is_none() -> None:
    items = finished(
        chunk({"thoughtSignature": "S"}), chunk({"text": "a", "thoughtSignature": ""}), end()
    )
    assert items[:2] == [TextDelta("", signed("S")), TextDelta("a")]


def test_a_signed_thought_keeps_its_own_text_beside_the_signature() -> None:
    items = finished(
        chunk({"text": "One. ", "thought": True}),
        chunk({"text": "Two.", "thought": True, "thoughtSignature": "S"}),
        chunk({"text": "Hi"}),
        end(),
    )
    assert items[:2] == [ReasoningDelta("One. "), ReasoningDelta("Two.", signed("S", text="Two."))]


def test_an_empty_text_is_nothing() -> None:
    items = finished(chunk({"text": ""}), chunk({"text": "", "thought": True}), chunk(), end())
    assert [type(item) for item in items] == [Finish]


@pytest.mark.parametrize("change", [
    str, lambda text: text.rstrip("="), lambda text: text.replace("+", "-").replace("/", "_"),
])  # fmt: skip
def test_an_image_comes_whole_whatever_its_base64(change: Any) -> None:
    data = change(base64.b64encode(PNG).decode())
    blob = {"mimeType": "image/png", "data": data}
    items = finished(chunk({"inlineData": blob, "thoughtSignature": "S"}), end())
    assert items[0] == ImageChunk(ImagePart(PNG, mime="image/png", provider_data=signed("S")))


def test_an_image_that_is_no_base64_is_a_protocol_error() -> None:
    assert isinstance(failed(chunk({"inlineData": {"data": "a"}}), end()), ProtocolError)


def test_a_draft_image_among_the_thoughts_is_left_out() -> None:
    blob = {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}
    items = finished(
        chunk({"inlineData": blob, "thought": True}), chunk({"inlineData": blob}), end()
    )
    assert [type(item) for item in items] == [ImageChunk, Finish]


@pytest.mark.parametrize("blob", [None, {}, 5, {"mimeType": "image/png", "data": ""}, {"data": 5}])
def test_inline_data_without_data_is_nothing(blob: object) -> None:
    items = finished(chunk({"text": "a"}), chunk({"inlineData": blob}), end())
    assert [type(item) for item in items] == [TextDelta, Finish]


@pytest.mark.parametrize("text", ["hi", None])
def test_a_null_beside_a_text_is_nothing(text: str | None) -> None:
    first = {"functionCall": {"name": "f"}}  # the next part is not read as plain text
    items, error = read(events(chunk(first), chunk({"text": text, "inlineData": None}), end()))
    assert error is None
    rest = [item for item in items if not isinstance(item, ToolCallDelta | Finish)]
    assert rest == ([TextDelta(text)] if text else [])


def test_an_image_of_an_odd_type_keeps_its_bytes() -> None:
    blob = {"mimeType": 5, "data": base64.b64encode(PNG).decode()}
    assert finished(chunk({"inlineData": blob}), end())[0] == ImageChunk(ImagePart(PNG))


def test_spoken_answers_are_audio_parts() -> None:
    mime = "audio/L16;codec=pcm;rate=24000"
    items = finished(chunk({"inlineData": {"mimeType": mime, "data": "AAEC"}}), end())
    assert items[0] == PartChunk(AudioPart(b"\0\1\2", mime=mime))


@pytest.mark.parametrize("part", [
    {"executableCode": {"language": "PYTHON", "code": "print(1)"}, "thoughtSignature": "S"},
    {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
    {"toolCall": {"id": "x", "toolType": "GOOGLE_SEARCH"}},
    {"somethingNew": {"a": [1, None]}, "thought": True},
])  # fmt: skip
def test_a_part_of_another_kind_is_kept_as_it_came(part: dict[str, Any]) -> None:
    items = finished(chunk({"text": "a"}, part), end())
    assert items[1] == PartChunk(OpaquePart(ProviderData("google", {"part": part})))


def test_sources_are_citations_each_once() -> None:
    web = {"web": {"uri": "https://a/", "title": "A"}}
    items = finished(
        chunk({"text": "x"}, citationMetadata={"citationSources": [{"uri": "https://r/"}]}),
        chunk({"text": "y"}, groundingMetadata={"groundingChunks": [web]}),
        end(groundingMetadata={"groundingChunks": [
            web,
            {"retrievedContext": {"uri": "gs://b", "title": "B", "text": "it says"}},
            {"maps": {"uri": "https://m/", "title": "M", "text": "4.5 stars"}},
            {"image": {"sourceUri": "https://i/", "title": "I"}},
            {"unknown": {}},
        ]}),
    )  # fmt: skip
    assert [item.citation for item in items if isinstance(item, CitationChunk)] == [
        Citation("https://r/"),
        Citation("https://a/", "A"),
        Citation("gs://b", "B", "it says"),
        Citation("https://m/", "M", "4.5 stars"),
        Citation("https://i/", "I"),
    ]


def test_only_the_first_candidate_is_the_answer() -> None:
    two = {"candidates": [
        {"index": 1, "content": {"parts": [{"text": "B"}]}, "finishReason": "STOP"},
        {"index": 0, "content": {"parts": [{"text": "A"}]}},
    ]}  # fmt: skip
    items, error = read(events(two))
    assert items == [TextDelta("A")]
    assert isinstance(error, StreamInterrupted)


def test_a_chunk_of_another_candidate_alone_is_not_the_answer() -> None:
    items = finished(chunk({"text": "B"}, index=1), chunk({"text": "A"}, index=0), end())
    assert items[0] == TextDelta("A")


def test_sources_come_where_they_are_named() -> None:
    web = {"web": {"uri": "https://a/", "title": "A"}}
    items = finished(
        chunk({"text": "y"}, groundingMetadata={"groundingChunks": [web]}), chunk({"text": "z"}),
        end(),
    )  # fmt: skip
    assert items[:3] == [
        TextDelta("y"), CitationChunk(Citation("https://a/", "A")), TextDelta("z"),
    ]  # fmt: skip


def counts(number: int) -> dict[str, Any]:
    return {
        "usageMetadata": {
            "promptTokenCount": 10,
            "toolUsePromptTokenCount": 5,
            "cachedContentTokenCount": 4,
            "candidatesTokenCount": number,
            "thoughtsTokenCount": 7,
        }
    }


def test_the_last_counts_win_and_thoughts_are_output() -> None:
    items = finished(chunk({"text": "a"}) | counts(1), end() | counts(2))
    assert isinstance(items[-1], Finish)
    assert items[-1].usage == Usage(15, 9, 4, 7, "exact")


def test_counts_of_a_later_chunk_of_the_same_read_are_the_last() -> None:
    items = finished(end() | counts(2), counts(3))
    assert isinstance(items[-1], Finish)
    assert items[-1].usage.output_tokens == 10


def test_a_cut_stream_keeps_the_counts_so_far() -> None:
    many = [chunk({"text": "a"}) | counts(number) for number in range(1, 35)]
    items, error = read(events(*many))
    assert isinstance(error, StreamInterrupted)
    assert items[-1] == UsageUpdate(Usage(15, 34 + 7, 4, 7, "partial"))


def test_an_error_amid_the_stream_keeps_the_counts_so_far() -> None:
    items, error = read(events(*(chunk({"text": "a"}) | counts(at) for at in (1, 2)), OVERLOADED))
    assert isinstance(error, OverloadedError)
    assert items[-1] == UsageUpdate(Usage(15, 9, 4, 7, "partial"))


@pytest.mark.parametrize(("raw", "reason"), [
    ("STOP", "stop"), ("MAX_TOKENS", "length"), ("FUNCTION_CALL", "stop"),
    ("SAFETY", "content_filter"),
    ("RECITATION", "content_filter"), ("LANGUAGE", "content_filter"),
    ("BLOCKLIST", "content_filter"), ("PROHIBITED_CONTENT", "content_filter"),
    ("SPII", "content_filter"), ("MODEL_ARMOR", "content_filter"),
    ("ESCALATION", "content_filter"), ("IMAGE_SAFETY", "content_filter"),
    ("IMAGE_PROHIBITED_CONTENT", "content_filter"), ("IMAGE_RECITATION", "content_filter"),
    ("MALFORMED_FUNCTION_CALL", "error"), ("MALFORMED_RESPONSE", "error"),
    ("UNEXPECTED_TOOL_CALL", "error"), ("TOO_MANY_TOOL_CALLS", "error"),
    ("MISSING_THOUGHT_SIGNATURE", "error"), ("PUP_LIMITED_DISABLED", "error"),
    ("NO_IMAGE", "other"), ("IMAGE_OTHER", "other"), ("OTHER", "other"),
    ("CONTINUATION", "length"), ("stop", "stop"), ("BRAND_NEW", "other"),
])  # fmt: skip
def test_every_end_after_an_answer_has_a_reason_and_keeps_its_word(raw: str, reason: str) -> None:
    assert finished(chunk({"text": "a"}), end(raw))[-1] == Finish(reason, raw, Usage())


@pytest.mark.parametrize(("raw", "kind"), [
    ("MALFORMED_FUNCTION_CALL", GenerationError), ("MALFORMED_RESPONSE", GenerationError),
    ("UNEXPECTED_TOOL_CALL", GenerationError), ("TOO_MANY_TOOL_CALLS", GenerationError),
    ("NO_IMAGE", GenerationError), ("IMAGE_OTHER", GenerationError), ("OTHER", ServerError),
    ("MISSING_THOUGHT_SIGNATURE", InvalidRequestError),
    ("PUP_LIMITED_DISABLED", AuthenticationError),
])  # fmt: skip
def test_an_end_without_an_answer_that_is_an_error_raises(raw: str, kind: type) -> None:
    error = failed(chunk({"text": "Hm", "thought": True}), end(raw, finishMessage="because"))
    assert type(error) is kind
    assert (getattr(error, "code", None), "because" in str(error)) == (raw, True)


def test_a_proxy_s_end_for_calls_without_one_is_an_error_if_nothing_was_said() -> None:
    thought, text = chunk({"text": "Hm", "thought": True}), chunk({"text": "a"})
    assert type(failed(thought, end("tool_calls"))) is GenerationError
    assert finished(thought, text, end("tool_calls"))[-1] == Finish("stop", "tool_calls", Usage())


def test_a_malformed_call_moves_on_without_harm() -> None:
    verdict = classify(failed(end("MALFORMED_FUNCTION_CALL")))
    assert (verdict.moves_on, verdict.harms) == (True, "no")


@pytest.mark.parametrize("raw", ["SAFETY", "STOP", "MAX_TOKENS", "CONTINUATION", "BRAND_NEW"])
def test_other_ends_without_an_answer_are_answers_of_no_words(raw: str) -> None:
    (finish,) = finished(end(raw))
    assert isinstance(finish, Finish)
    assert finish.raw_reason == raw


def test_an_unspecified_reason_is_no_end() -> None:
    error = failed(chunk({"text": "a"}, finishReason="FINISH_REASON_UNSPECIFIED"))
    assert isinstance(error, StreamInterrupted)


def test_a_paused_answer_tells_how_to_go_on() -> None:
    items = finished(chunk({"text": "a"}), end("CONTINUATION", continuationToken="tok=="))
    assert isinstance(items[1], Notice)
    assert "'continuationToken': 'tok=='" in items[1].message


def test_a_blocked_prompt_is_a_content_filter_error() -> None:
    feedback = {"blockReason": "SAFETY", "blockReasonMessage": "no such thing"}
    error = failed({"promptFeedback": feedback})
    assert isinstance(error, ContentFilterError)
    assert error.code == "SAFETY"
    assert "no such thing" in str(error)


def test_feedback_that_does_not_block_is_no_end() -> None:
    feedback: dict[str, Any] = {"promptFeedback": {"safetyRatings": []}}
    assert finished(feedback, chunk({"text": "a"}), end())[0] == TextDelta("a")


def test_an_error_amid_the_stream_comes_after_the_words_before_it() -> None:
    items, error = read(events(chunk({"text": "Hel"}), OVERLOADED))
    assert items == [TextDelta("Hel")]
    assert isinstance(error, OverloadedError)
    assert (error.code, error.status) == ("UNAVAILABLE", 0)


@pytest.mark.parametrize("value", [OVERLOADED, [OVERLOADED]])
def test_an_error_as_bare_json_after_the_events_is_found(value: object) -> None:
    tail = json.dumps(value, indent=2).encode()
    items, error = read(events(chunk({"text": "Hel"})), tail)
    assert items == [TextDelta("Hel")]
    assert isinstance(error, OverloadedError)


def test_an_error_without_its_wrapper_is_found() -> None:
    assert "out of order" in str(failed({"message": "out of order", "code": 500}))


@pytest.mark.parametrize(("error", "kind"), [
    ({"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow"}, RateLimitError),
    ({"code": 400, "status": "INVALID_ARGUMENT", "message": "bad"}, InvalidRequestError),
    ({"code": 500, "status": "INTERNAL", "message": "oh"}, ServerError),
    ("just words", ServerError),
])  # fmt: skip
def test_errors_amid_the_stream_map_like_replies(error: object, kind: type) -> None:
    assert type(failed({"error": error})) is kind


def test_a_whole_answer_is_one_chunk() -> None:
    assert whole(json.dumps(chunk({"text": "a"}, finishReason="STOP")).encode()) == [
        TextDelta("a"), Finish("stop", "STOP"),
    ]  # fmt: skip


def test_a_whole_answer_is_an_array_of_chunks() -> None:
    body = json.dumps([chunk({"text": "a"}), chunk({"text": "b"}), end()], indent=1).encode()
    assert whole(body) == [TextDelta("a"), TextDelta("b"), Finish("stop", "STOP")]


def test_a_whole_answer_is_events_under_the_wrong_content_type() -> None:
    assert whole(RICH) == read(RICH)[0]


def test_a_whole_answer_that_is_an_error_raises() -> None:
    with pytest.raises(OverloadedError):
        whole(json.dumps([OVERLOADED]).encode())


def test_a_whole_answer_without_an_end_is_an_interruption() -> None:
    with pytest.raises(StreamInterrupted):
        whole(json.dumps([chunk({"text": "a"})]).encode())


@pytest.mark.parametrize("body", [b"nonsense", b"[1", b'["a"]', b"[[[[1]]]]", b"data: x"])
def test_what_is_no_json_of_ours_raises_our_errors(body: bytes) -> None:
    with pytest.raises((ProtocolError, StreamInterrupted)):
        whole(body)


HIGH, LOW = '"\\ud83e"', '"\\uddea"'


def lax(text: str, **more: object) -> bytes:
    """Return a chunk whose text is raw JSON, such as half of a surrogate pair."""
    frame = json.dumps(chunk({"text": "@", **more}))
    return b"data: " + frame.replace('"@"', text).encode() + b"\n\n"


@pytest.mark.parametrize("more", [{}, {"thought": True}])
def test_a_surrogate_pair_split_over_chunks_is_joined(more: dict[str, object]) -> None:
    items, error = read(lax(HIGH, **more), lax(LOW, **more), events(end()))
    assert error is None
    first = items[0]
    assert first == (ReasoningDelta("🧪") if more else TextDelta("🧪"))


@pytest.mark.parametrize("more", [{}, {"thought": True}])
def test_half_a_pair_at_the_end_is_a_replacement_character(more: dict[str, object]) -> None:
    items, error = read(lax(HIGH, **more), events(end()))
    assert error is None
    assert items[0] == (ReasoningDelta("\ufffd") if more else TextDelta("\ufffd"))


CODE = {"executableCode": {"language": "PYTHON", "code": "print(6 * 7)"}}
RESULT = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "42\n"}}


def test_a_finish_reason_beside_code_that_is_still_to_be_run_is_not_the_end() -> None:
    items = finished(
        chunk(CODE, finishReason="STOP"), chunk(RESULT), chunk({"text": "42"}, finishReason="STOP")
    )
    assert [type(item) for item in items] == [PartChunk, PartChunk, TextDelta, Finish]
    for cut in ([], [chunk(RESULT)], [chunk(RESULT), chunk({"text": "4"})]):
        for mark in (b"", b"data: [DONE]\n\n"):
            _, error = read(events(chunk(CODE, finishReason="STOP"), *cut), mark)
            assert isinstance(error, StreamInterrupted)


@pytest.mark.parametrize(
    "parts",
    [[CODE, RESULT], [CODE, {"text": "42"}], [{"text": "42"}]],
    ids=["with its result", "with what follows", "no code"],
)
def test_a_finish_reason_ends_an_answer_whose_code_was_run(parts: list[object]) -> None:
    assert isinstance(finished(chunk(*parts, finishReason="STOP"))[-1], Finish)


def test_too_few_tokens_for_more_than_the_code_end_an_answer() -> None:
    assert finished(chunk(CODE, finishReason="MAX_TOKENS"))[-1] == Finish("length", "MAX_TOKENS")


def test_code_may_be_the_last_of_an_answer_that_was_not_streamed() -> None:
    assert isinstance(whole(json.dumps(chunk(CODE, finishReason="STOP")).encode())[-1], Finish)


def test_an_unknown_part_behind_nothing_is_no_obstacle() -> None:
    odd = chunk({"executableCode": {}})
    odd["candidates"].insert(0, None)
    assert isinstance(finished(odd, chunk({"text": "a"}), end())[-1], Finish)


def test_one_odd_value_does_not_kill_the_stream() -> None:
    odd = chunk({"text": "a", "thoughtSignature": 5}, index="x") | {"usageMetadata": "none"}
    items = finished(odd, chunk({"text": "b"}), end())
    assert [item.text for item in items if isinstance(item, TextDelta)] == ["a", "b"]


def test_lax_decoding_loses_no_image_and_no_call() -> None:
    blob = {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}
    frame = chunk(
        {"text": "@"}, {"inlineData": blob}, {"functionCall": {"name": "f", "args": {"a": 1}}}
    )
    body = json.dumps(frame).replace('"@"', LOW).encode()
    items, error = read(b"data: " + body + b"\n\n", events(end()))
    assert error is None
    assert items[:2] == [TextDelta("\ufffd"), ImageChunk(ImagePart(PNG, mime="image/png"))]
    assert isinstance(items[2], ToolCallDelta)
    assert items[2].arguments == '{"a":1}'


def test_lax_elements_of_an_array_are_read_too() -> None:
    body = json.dumps([chunk({"text": "@"}), end()]).replace('"@"', HIGH).encode()
    assert whole(body) == [TextDelta("\ufffd"), Finish("stop", "STOP")]
