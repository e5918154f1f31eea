"""Tool calls and reasoning in chat: assembled however servers label them, and replayed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aiollm.errors import ProtocolError
from aiollm.types import (
    ProviderData,
    ReasoningDelta,
    ReasoningPart,
    ToolCallPart,
    ToolResultPart,
    assistant,
    tool_results,
    user,
)

GEMINI = "https://generativelanguage.googleapis.com/v1beta/openai"
COMPATIBLE = "http://127.0.0.1:8080/v1"


def fragment(
    arguments: Any = None, name: Any = None, id_: Any = None, index: Any = None, **more: Any
) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    known = {"index": index, "id": id_, "function": function} | more
    return {key: value for key, value in known.items() if value is not None}


def chunk(*fragments: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": list(fragments)}}]}


STOP = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}

ASSEMBLY: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str, str]]]] = {
    "fragments by index": (
        [fragment('{"a"', "f", "c1", 0), fragment(":1}", index=0)], [("c1", "f", '{"a":1}')],
    ),
    "fragments interleave": (
        [fragment("[", "f", "c1", 0), fragment("", "g", "c2", 1), fragment("{}", index=1),
         fragment("]", index=0)],
        [("c1", "f", "[]"), ("c2", "g", "{}")],
    ),
    "indexes with gaps, out of order": (
        [fragment("{}", "g", "c2", 7), fragment("{}", "f", "c1", 3)],
        [("c2", "g", "{}"), ("c1", "f", "{}")],
    ),
    "another id on the same index": (
        [fragment("{}", "f", "c1", 0), fragment("{}", "f", "c2", 0)],
        [("c1", "f", "{}"), ("c2", "f", "{}")],
    ),
    "id and name repeated": (
        [fragment('{"a"', "f", "c1", 0), fragment(":1}", "f", "c1", 0)], [("c1", "f", '{"a":1}')],
    ),
    "id and name repeated, with braces and escapes that are cut": (
        [fragment(piece, "f", "c1", 0) for piece in ('{"a":"\\', '"}{"', ',"b":{}', "}")],
        [("c1", "f", '{"a":"\\"}{","b":{}}')],
    ),
    "braces that are balanced and no JSON, with id and name": (
        [fragment(piece, "f", "c1", 0) for piece in ("{x}", "{}")], [("c1", "f", "{x}{}")],
    ),
    "an id made up for each fragment": (
        [fragment('{"a"', "f", "c1", 0), fragment(":1}", id_="c9", index=0)],
        [("c1", "f", '{"a":1}')],
    ),
    "no index, by id": (
        [fragment('{"a"', "f", "c1"), fragment("{}", "g", "c2"), fragment(":1}", id_="c1")],
        [("c1", "f", '{"a":1}'), ("c2", "g", "{}")],
    ),
    "no index, no id": (
        [fragment('{"a"', "f", "c1"), fragment(":1}")], [("c1", "f", '{"a":1}')],
    ),
    "no index, no id, whole calls": (
        [fragment('{"a":1}', "f"), fragment('{"b":2}', "g"), fragment('{"c":3}', "g")],
        [("", "f", '{"a":1}'), ("", "g", '{"b":2}'), ("", "g", '{"c":3}')],
    ),
    "one index, no id, names that differ": (
        [fragment("", "f", index=0), fragment('{"b":2}', "g", index=0)],
        [("", "f", "{}"), ("", "g", '{"b":2}')],
    ),
    "one index, no id, name repeated": (
        [fragment('{"a"', "f", index=0), fragment(":1}", "f", index=0), fragment("", "f", index=0)],
        [("", "f", '{"a":1}')],
    ),
    "another id once the call is whole": (
        [fragment("{}", "f", "c1", 0), fragment('{"a":1}', id_="c2", index=0)],
        [("c1", "f", "{}"), ("c2", "", '{"a":1}')],
    ),
    "the name comes late": (
        [fragment("", id_="c1", index=0), fragment("{}", "f", index=0)], [("c1", "f", "{}")],
    ),
    "the id comes late": (
        [fragment("{", "f", index=0), fragment("}", id_="c1", index=0)], [("", "f", "{}")],
    ),
    "arguments before a name": (
        [fragment("{}", "f", "c1", 0), fragment("[]", index=1), fragment("", "g", index=1)],
        [("c1", "f", "{}"), ("", "g", "[]")],
    ),
    "no arguments": ([fragment("", "f", "c1", 0)], [("c1", "f", "{}")]),
    "arguments blank": ([fragment(" ", "f", "c1", 0)], [("c1", "f", "{}")]),
    "arguments null": ([fragment(None, "f", "c1", 0)], [("c1", "f", "{}")]),
    "arguments decoded": ([fragment({"a": "ł"}, "f", "c1", 0)], [("c1", "f", '{"a":"ł"}')]),
    "an odd index": ([fragment("{}", "f", "c1", -5)], [("c1", "f", "{}")]),
}  # fmt: skip


@pytest.mark.parametrize("apart", [True, False], ids=["a chunk each", "one chunk"])
@pytest.mark.parametrize(("pieces", "calls"), ASSEMBLY.values(), ids=ASSEMBLY)
def test_calls_are_assembled_however_they_are_labelled(chat, pieces, calls, apart) -> None:
    events = [chunk(piece) for piece in pieces] if apart else [chunk(*pieces)]
    read = chat.read(*events, STOP, "[DONE]")
    known = [
        (got if want else "", *rest)
        for (got, *rest), (want, *_) in zip(read.calls, calls, strict=True)
    ]
    assert known == calls
    ids = [got for got, *_ in read.calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)


def test_stop_after_whole_calls_is_tool_calls(chat) -> None:
    assert chat.read(chunk(fragment("{}", "f", "c1", 0)), STOP).finish.reason == "tool_calls"
    assert chat.read(chunk(fragment("{}", "f", "c1", 0)), "[DONE]").finish.reason == "tool_calls"


def test_stop_after_half_a_call_is_not(chat) -> None:
    read = chat.read(chunk(fragment('{"a', "f", "c1", 0)), STOP)
    assert read.finish.reason == "stop"
    assert not read.response.tool_calls[0].valid


def test_a_legacy_function_call_is_a_tool_call(chat) -> None:
    def piece(**fields: str) -> dict[str, Any]:
        return {"id": "c", "choices": [{"index": 0, "delta": {"function_call": fields}}]}

    end = {"id": "c", "choices": [{"delta": {}, "finish_reason": "function_call"}]}
    read = chat.read(piece(name="f", arguments=""), piece(arguments='{"a":1}'), end)
    ((id_, *rest),) = read.calls
    assert (rest, read.finish.reason) == (["f", '{"a":1}'], "tool_calls")
    assert id_.startswith("call_")


def test_calls_are_bounded(chat) -> None:
    many = [fragment("{}", "f", f"c{number}", number) for number in range(4097)]
    assert type(chat.read(chunk(*many)).error) is ProtocolError


def test_a_custom_call_keeps_its_kind(chat) -> None:
    custom = {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "f", "input": "x y"}}
    (call,) = chat.read(chunk(custom), STOP).response.tool_calls
    assert (call.name, call.arguments) == ("f", "x y")
    answer = tool_results(ToolResultPart("c1", "ok"))
    sent = chat.send(messages=(user("q"), assistant(call), answer)).body["messages"]
    assert sent[1]["tool_calls"] == [
        {"id": "c1", "type": "custom", "custom": {"name": "f", "input": "x y"}}
    ]


def test_a_calls_signature_goes_back_where_it_was(chat) -> None:
    """Gemini's compatible endpoint refuses a call that comes back without it."""
    signed = {"extra_content": {"google": {"thought_signature": "sig"}}}
    (call,) = chat.read(chunk(fragment("{}", "f", "c1", 0, **signed)), STOP).response.tool_calls
    answer = tool_results(ToolResultPart("c1", "ok"))
    history = (user("q"), assistant(call), answer)
    sent = chat.send(GEMINI, messages=history).body["messages"]
    assert sent[1]["tool_calls"][0]["extra_content"] == signed["extra_content"]
    elsewhere = chat.send(messages=history)
    assert "extra_content" not in elsewhere.body["messages"][1]["tool_calls"][0]
    assert "extra_content" in elsewhere.warnings[0]


@pytest.mark.parametrize(
    ("url", "model", "signs"),
    [
        (GEMINI, "gemini-3.7-flash", True),
        ("https://europe-west4-aiplatform.googleapis.com/v1/p/openapi", "google/gemini-4-x", True),
        (GEMINI, "gemini-flash-latest", True),
        (GEMINI, "gemini-12-x", True),
        (GEMINI, "gemini-2.5-flash", False),
        (GEMINI, "gemini-1.5-pro", False),
        (GEMINI, "gemma-4-31b-it", False),
        (COMPATIBLE, "gemini-3.7-flash", False),
    ],
)
def test_a_step_of_another_model_has_google_s_placeholder(chat, url, model, signs) -> None:
    """Gemini 3 refuses a step whose first call is not signed; it signs no other call."""
    calls = (ToolCallPart("c1", "f"), ToolCallPart("c2", "g"))
    answers = tool_results(ToolResultPart("c1", "ok"), ToolResultPart("c2", "ok"))
    sent = chat.send(url, model=model, messages=(user("q"), assistant(*calls), answers))
    first, second = sent.body["messages"][1]["tool_calls"]
    placeholder = {"google": {"thought_signature": "skip_thought_signature_validator"}}
    assert first.get("extra_content") == (placeholder if signs else None)
    assert "extra_content" not in second


def thought(**delta: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": delta}]}


def replayed(chat, message, base_url: str = COMPATIBLE) -> dict[str, Any]:
    return chat.send(base_url, messages=(user("q"), message, user("go on"))).body["messages"][1]


PARSED = [
    {"type": "file", "file": {"hash": h, "name": "a.pdf", "content": [{"type": "text", "text": t}]}}
    for h, t in (("h1", "One \ud800"), ("h2", "Two"))
]


def test_documents_that_openrouter_parsed_go_back_to_it_and_nowhere_else(chat) -> None:
    """So they are neither parsed nor billed again with each turn."""
    cited = {"type": "url_citation", "url_citation": {"url": "https://x", "title": "t"}}
    read = chat.read(
        thought(content="x", annotations=[PARSED[0], cited]), thought(annotations=[PARSED[1]]), STOP
    )
    message = read.response.message
    assert [citation.url for citation in read.response.citations] == ["https://x"]
    sent = replayed(chat, message, "https://openrouter.ai/api/v1")
    assert sent["content"] == "x"
    assert [each["file"]["hash"] for each in sent["annotations"]] == ["h1", "h2"]
    assert sent["annotations"][0]["file"]["content"][0]["text"] == "One \ufffd"
    elsewhere = chat.send(COMPATIBLE, messages=(user("q"), message, user("go on")))
    assert elsewhere.body["messages"][1] == {"role": "assistant", "content": "x"}
    assert "annotations" in elsewhere.warnings[0]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_goes_back_in_the_field_it_came_in(chat, field) -> None:
    events = [thought(**{field: "h"}), thought(**{field: "m"}), thought(content="x"), STOP]
    message = chat.read(*events).response.message
    assert message.parts[0] == ReasoningPart("hm", ProviderData("openai", {"field": field}))
    assert replayed(chat, message) == {"role": "assistant", "content": "x", field: "hm"}


def test_reasoning_under_two_names_counts_once(chat) -> None:
    read = chat.read(*[thought(reasoning_content="a", reasoning="a")] * 3, STOP)
    assert read.response.reasoning == "aaa"


def test_reasoning_that_is_no_text_is_ignored(chat) -> None:
    assert chat.read(thought(reasoning={"x": 1}, content="y"), STOP).response.reasoning == ""


def test_reasoning_details_are_kept_whole_and_go_back_unmodified(chat) -> None:
    def piece(words: str, **more: Any) -> dict[str, Any]:
        detail = {"type": "reasoning.text", "text": words, "format": "f", "index": 0} | more
        return thought(reasoning=words, reasoning_details=[detail])

    sealed = {"type": "reasoning.encrypted", "data": "gAAA", "id": "rs_1", "index": 1}
    read = chat.read(
        piece("Let "), piece("me"), piece("", signature="sig"),
        thought(content="", reasoning_details=[sealed]), thought(content="x"), STOP,
    )  # fmt: skip
    assert read.response.reasoning == "Let me"
    details = [
        {"type": "reasoning.text", "text": "Let me", "format": "f", "index": 0, "signature": "sig"},
        sealed,
    ]
    message = read.response.message
    assert replayed(chat, message, "https://openrouter.ai/api/v1")["reasoning_details"] == details
    assert replayed(chat, message)["reasoning"] == "Let me"


def test_a_block_of_thinking_that_was_cut_before_its_signature_goes_back_as_text_alone(
    chat,
) -> None:
    def block(words: str, signature: str | None = None) -> dict[str, Any]:
        part = {"type": "thinking", "thinking": words, "signature": signature}
        return thought(reasoning_content=words, thinking_blocks=[part])

    read = chat.read(block("Let "), block("me", "c2ln"), block(" see"), thought(content="x"), STOP)
    sent = replayed(chat, read.response.message)
    assert sent["reasoning_content"] == "Let me see"
    signed = {"type": "thinking", "thinking": "Let me", "signature": "c2ln"}
    assert sent["thinking_blocks"] == [signed]
    read = chat.read(block("Let"), thought(content="x"), STOP)
    assert "thinking_blocks" not in replayed(chat, read.response.message)


def test_details_without_any_text_are_a_sealed_part(chat) -> None:
    sealed = {"type": "reasoning.encrypted", "data": "gAAA"}
    read = chat.read(thought(reasoning_details=[sealed, 3]), thought(content="x"), STOP)
    data = ProviderData("openai", {"details": [sealed]})
    assert read.of(ReasoningDelta) == [ReasoningDelta("", data)]


def test_details_alone_tell_the_reasoning(chat) -> None:
    details = [{"type": "reasoning.summary", "summary": "So "}, {"type": "reasoning.text"}]
    read = chat.read(thought(reasoning_details=details), STOP)
    assert read.response.reasoning == "So "


@pytest.mark.parametrize(
    ("host", "fields"),
    [
        ("https://api.deepseek.com/v1", {"content": "x", "reasoning_content": "hm"}),
        ("https://api.openai.com/v1", {"content": "x"}),
        ("https://api.groq.com/openai/v1", {"content": "x"}),
        ("https://openrouter.ai/api/v1", {"content": "x", "reasoning": "hm"}),
        (
            "https://api.mistral.ai/v1",
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "x"},
                ]
            },
        ),
        (COMPATIBLE, {"content": "x", "reasoning": "hm"}),
    ],
)
def test_each_host_gets_reasoning_back_as_it_takes_it(chat, host, fields) -> None:
    part = ReasoningPart("hm", ProviderData("openai", {"field": "reasoning"}))
    assert replayed(chat, assistant(part, "x"), host) == {"role": "assistant"} | fields


def test_reasoning_that_a_host_takes_not_back_is_dropped_with_a_warning(chat) -> None:
    part = ReasoningPart("hm", ProviderData("openai", {"field": "reasoning"}))
    (warning,) = chat.send(messages=(user("q"), assistant(part, "x"), user("r"))).warnings
    assert "not accept reasoning back" in warning


def test_another_familys_reasoning_is_dropped_with_a_warning(chat) -> None:
    part = ReasoningPart("hm", ProviderData("anthropic", {"signature": "s"}))
    sent = chat.send(COMPATIBLE, messages=(user("q"), assistant(part, "x"), user("r")))
    assert sent.body["messages"][1] == {"role": "assistant", "content": "x"}
    assert "anthropic" in sent.warnings[0]


def test_deepseek_gets_the_field_with_every_answer(chat) -> None:
    """It refuses an answer without, or with an empty one, even where another model gave it."""
    read = chat.read(chunk(fragment("{}", "f", "c1", 0)), STOP)
    answer = tool_results(ToolResultPart("c1", "ok"))
    history = (user("q"), read.response.message, answer, assistant("So."), user("r"))
    sent = chat.send("https://api.deepseek.com/v1", messages=history).body["messages"]
    assert (sent[1]["content"], sent[1]["reasoning_content"]) == ("", " ")
    assert sent[3] == {"role": "assistant", "content": "So.", "reasoning_content": " "}


def test_a_call_after_mistrals_thinking_has_no_text(chat) -> None:
    turn = assistant(ReasoningPart("hm"), ToolCallPart("abcdefGH1", "f"))
    answer = tool_results(ToolResultPart("abcdefGH1", "ok"))
    sent = chat.send("https://api.mistral.ai/v1", messages=(user("q"), turn, answer)).body
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    assert sent["messages"][1]["content"] == [thought]


@pytest.mark.parametrize("host", ["openrouter.ai", "api.mistral.ai", "localhost:8080"])
def test_an_answer_without_reasoning_has_no_field_for_it(chat, host) -> None:
    assert replayed(chat, assistant("x"), f"https://{host}/v1") == {
        "role": "assistant", "content": "x",
    }  # fmt: skip


def test_a_turn_of_reasoning_alone_is_left_out(chat) -> None:
    turns = (user("q"), assistant(ReasoningPart("hm")), user("r"))
    sent = chat.send("https://api.openai.com/v1", messages=turns)
    assert [message["role"] for message in sent.body["messages"]] == ["user", "user"]
    joined = chat.send(COMPATIBLE, messages=turns)
    assert joined.body["messages"] == [{"role": "user", "content": "q\n\nr"}]


def test_a_whole_tool_round_trip_keeps_ids_and_order(chat) -> None:
    read = chat.read(
        thought(content="Looking."),
        chunk(fragment('{"a":1}', "f", "c1", 0), fragment("{}", "g", "c2", 1)),
        STOP,
    )
    answers = tool_results(ToolResultPart("c2", "two"), ToolResultPart("c1", "one"))
    sent = chat.send(messages=(user("q"), read.response.message, answers)).body["messages"]
    assert sent[1] == {
        "role": "assistant",
        "content": "Looking.",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    assert json.dumps(sent[2:]) == json.dumps(
        [
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
        ]
    )
