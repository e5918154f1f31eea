"""Conversations in OpenAI's form become messages, and lose nothing on the way."""

from __future__ import annotations

import base64
import types

import pytest

from aiollm import (
    AudioPart,
    CachePoint,
    ConfigError,
    DocumentPart,
    ImagePart,
    Message,
    OpaquePart,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    assistant,
    messages_from_openai,
    system,
    tool_results,
    user,
)

PNG = b"\x89PNG\r\n\x1a\n and more"
PNG_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
PDF_URL = f"data:application/pdf;base64,{base64.b64encode(b'%PDF-1.7').decode()}"
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
CUT = {**CALL, "function": {"name": "f", "arguments": "{"}}
CUSTOM = {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "SELECT"}}
SIGNED = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "cmVk"}
DETAILS = [
    {"type": "reasoning.summary", "summary": "so "},
    {"type": "reasoning.text", "text": "hm", "signature": "c2ln"},
    {"type": "reasoning.encrypted", "data": "gAAA"},
]
GEMINI = {"google": {"thought_signature": "c2ln"}}

CHAT = [
    ({"role": "user", "content": "hi"}, user("hi")),
    ({"role": "system", "content": "rules"}, system("rules")),
    ({"role": "developer", "content": "rules"}, system("rules")),
    (
        {
            "role": "system",
            "content": [{"type": "text", "text": "r", "cache_control": {"type": "x"}}],
        },
        system("r", CachePoint()),
    ),
    (
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}},
                {"type": "text", "text": "b", "cache_control": None},
            ],
        },
        user("a", CachePoint(), "b"),
    ),
    (
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "a", "cache_control": {"t": 1}}],
        },
        assistant("a"),
    ),
    ({"role": "assistant", "content": None}, Message("assistant", ())),
    ({"role": "assistant", "content": "", "refusal": "no"}, assistant(RefusalPart("no"))),
    (
        {"role": "assistant", "content": "a", "reasoning_content": "hm"},
        assistant(ReasoningPart("hm"), "a"),
    ),
    (
        {
            "role": "assistant",
            "content": "a",
            "reasoning": "hm",
            "thinking_blocks": [{"type": "thinking", "thinking": "h"}, SIGNED, REDACTED, "odd"],
        },
        assistant(
            ReasoningPart(
                "hm", ProviderData("openai", {"field": "reasoning", "blocks": [SIGNED, REDACTED]})
            ),
            "a",
        ),
    ),
    (
        {"role": "assistant", "thinking_blocks": [{**SIGNED, "signature": None}, SIGNED]},
        assistant(ReasoningPart("hmhm", ProviderData("openai", {"blocks": [SIGNED]}))),
    ),
    (
        {"role": "assistant", "thinking_blocks": [{"type": "thinking", "thinking": "hm"}]},
        assistant(ReasoningPart("hm")),
    ),
    (
        {"role": "assistant", "thinking_blocks": [REDACTED], "reasoning_content": ""},
        assistant(ReasoningPart("", ProviderData("openai", {"blocks": [REDACTED]}))),
    ),
    (
        {"role": "assistant", "reasoning_details": DETAILS},
        assistant(ReasoningPart("so hm", ProviderData("openai", {"details": DETAILS}))),
    ),
    (
        {
            "role": "assistant",
            "content": "a",
            "tool_calls": [{**CALL, "extra_content": GEMINI}],
            "extra_content": GEMINI,
        },
        assistant(
            "a",
            ToolCallPart(
                "c1",
                "f",
                '{"x": 1}',
                provider_data=ProviderData("openai", {"extra_content": GEMINI}),
            ),
            OpaquePart(ProviderData("openai", {"extra_content": GEMINI})),
        ),
    ),
    (
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        assistant(ToolCallPart("c1", "f", '{"x": 1}')),
    ),
    (
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        assistant(ToolCallPart("f", "f", "{}")),
    ),
    (
        {
            "role": "assistant",
            "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}],
        },
        assistant(ToolCallPart("c1", "f", "{", valid=False)),
    ),
    (
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "SELECT"}}
            ],
        },
        assistant(
            ToolCallPart(
                "c",
                "sql",
                "SELECT",
                provider_data=ProviderData("openai", {"type": "custom"}),
                custom=True,
            )
        ),
    ),
    (
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        tool_results(ToolResultPart("c1", "sunny")),
    ),
    (
        {"role": "function", "name": "f", "content": "sunny"},
        tool_results(ToolResultPart("f", "sunny", "f")),
    ),
]
PARTS = [
    ({"type": "text", "text": "hi"}, TextPart("hi")),
    ({"type": "image_url", "image_url": {"url": PNG_URL}}, ImagePart(PNG, mime="image/png")),
    ({"type": "image_url", "image_url": "https://x.y/z.png"}, ImagePart(url="https://x.y/z.png")),
    (
        {"type": "image_url", "image_url": {"url": "https://x.y/z.png", "detail": "low"}},
        ImagePart(url="https://x.y/z.png", detail="low"),
    ),
    (
        {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF_URL}},
        DocumentPart(b"%PDF-1.7", name="a.pdf"),
    ),
    (
        {"type": "file", "file": {"file_id": "file-1"}},
        OpaquePart(
            ProviderData("openai", {"type": "file", "file": {"file_id": "file-1"}}),
        ),
    ),
    (
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "mp3"}},
        AudioPart(b"RIFF", mime="audio/mpeg"),
    ),
    ({"type": "input_text", "text": "hi"}, TextPart("hi")),
    ({"type": "input_image", "image_url": PNG_URL}, ImagePart(PNG, mime="image/png")),
    (
        {"type": "input_image", "file_id": "file-1"},
        OpaquePart(ProviderData("openai-responses", {"type": "input_image", "file_id": "file-1"})),
    ),
    (
        {"type": "input_file", "filename": "a.pdf", "file_data": PDF_URL},
        DocumentPart(b"%PDF-1.7", name="a.pdf"),
    ),
    (
        {"type": "input_file", "file_url": "https://x.y/a.pdf"},
        DocumentPart(url="https://x.y/a.pdf"),
    ),
]


@pytest.mark.parametrize(("wire", "message"), CHAT)
def test_a_chat_message_becomes_a_message(wire, message):
    assert messages_from_openai([wire]) == (message,)


@pytest.mark.parametrize(("wire", "part"), PARTS)
def test_a_part_of_the_content_becomes_a_part(wire, part):
    assert messages_from_openai([{"role": "user", "content": [wire]}]) == (user(part),)


def test_results_of_tools_become_one_message_with_the_names_of_their_calls():
    second = {**CALL, "id": "c2", "function": {"name": "g", "arguments": "{}"}}
    history = messages_from_openai(
        [
            {"role": "assistant", "tool_calls": [CALL, second]},
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "one"}]},
        ]
    )
    assert history[1] == tool_results(
        ToolResultPart("c2", "two", "g"), ToolResultPart("c1", "one", "f")
    )


def test_the_items_of_a_turn_of_responses_become_one_message():
    thought = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "hm"}]}
    search = {"type": "web_search_call", "id": "ws", "status": "completed"}
    history = messages_from_openai(
        [
            {"role": "user", "content": "hi"},
            thought,
            search,
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Let me see."}],
            },
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "ok"}]},
        ]
    )
    family = "openai-responses"
    assert history == (
        user("hi"),
        assistant(
            ReasoningPart("hm", ProviderData(family, {"item": thought})),
            OpaquePart(ProviderData(family, search)),
            "Let me see.",
            ToolCallPart("c1", "f", "{}"),
        ),
        tool_results(ToolResultPart("c1", "42", "f")),
        user("ok"),
    )


CONVERSATION = (
    system("rules"),
    user("look", ImagePart(PNG, mime="image/png"), DocumentPart(b"%PDF-1.7", name="a.pdf")),
    assistant("I call.", ToolCallPart("c1", "f", '{"x": 1}'), ToolCallPart("c2", "g", "{}")),
    tool_results(ToolResultPart("c1", "one", "f"), ToolResultPart("c2", "two", "g")),
    assistant("Done.", RefusalPart("But no.")),
    user("ok"),
)


def test_what_was_sent_as_chat_comes_back(chat):
    assert messages_from_openai(chat.send(messages=CONVERSATION).body["messages"]) == CONVERSATION


@pytest.mark.parametrize(
    ("host", "kept"),
    [
        ("litellm.test/v1", {"reasoning_content": "hm", "thinking_blocks": [SIGNED, REDACTED]}),
        ("litellm.test/v1", {"reasoning": "hm", "thinking_blocks": [SIGNED, REDACTED]}),
        ("litellm.test/v1", {"thinking_blocks": [SIGNED, SIGNED]}),
        ("openrouter.ai/api/v1", {"reasoning_details": DETAILS}),
        ("ai-gateway.vercel.sh/v1", {"reasoning_details": DETAILS}),
        ("x-y.snowflakecomputing.com/api/v2/cortex/v1", {"reasoning_details": DETAILS}),
        ("generativelanguage.googleapis.com/v1beta/openai", {"extra_content": GEMINI}),
    ],
)
def test_what_a_gateway_signed_goes_back_to_it_unchanged(chat, host, kept):
    message = {"role": "assistant", "content": "a", **kept}
    wire = [{"role": "user", "content": "q"}, message, {"role": "user", "content": "go on"}]
    sent = chat.send(f"https://{host}", messages=messages_from_openai(wire)).body["messages"][1]
    assert {name: sent.get(name) for name in kept} == kept


def test_mistrals_thoughts_go_back_to_it(chat):
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    message = {"role": "assistant", "content": [thought, {"type": "text", "text": "a"}]}
    wire = [{"role": "user", "content": "q"}, message, {"role": "user", "content": "go on"}]
    history = messages_from_openai(wire)
    assert history[1] == assistant(ReasoningPart("hm"), "a")
    sent = chat.send("https://api.mistral.ai/v1", messages=history).body["messages"]
    assert sent[1]["content"] == message["content"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": "aGk="},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "https://x.y/a.pdf"}},
    ],
    ids=["Mistral's audio without a format", "OpenRouter's address of a document"],
)
def test_parts_that_only_some_hosts_take_go_back_to_them(chat, part):
    history = messages_from_openai([{"role": "user", "content": [part]}])
    sent = chat.send("https://openrouter.ai/api/v1", messages=history).body["messages"]
    assert sent[0]["content"] == [part]


def test_what_was_sent_as_responses_comes_back(responses):
    back = messages_from_openai(responses.send(messages=CONVERSATION).body["input"])
    again = responses.send(messages=back).body["input"]
    assert again == responses.send(messages=CONVERSATION).body["input"]


def test_the_objects_of_an_sdk_are_read_as_dicts_are():
    message = types.SimpleNamespace(model_dump=lambda **_: {"role": "user", "content": "hi"})
    assert messages_from_openai([message]) == (user("hi"),)


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        ("hi", "it is str, not a dict"),
        ({"content": "hi"}, "it has no 'role'"),
        ({"role": "wizard", "content": "hi"}, "the role 'wizard' is unknown"),
        ({"role": "user", "content": 5}, "its content is int"),
        ({"role": "user", "content": [{"text": "hi"}]}, "has no type"),
        ({"role": "user", "content": [{"type": "text"}]}, "it has no 'text'"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "a text in it is int"),
        ({"role": "tool", "content": "x"}, "needs the id of its call"),
        ({"role": "assistant", "tool_calls": ["f"]}, "no attribute 'get'"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "data:,abc"}]},
            "a data URL in it is not base64",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "data:;base64,%%"}]},
            "a file in it is not base64",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "data:;base64,"}]},
            "takes either data",
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(wire, reason):
    with pytest.raises(ConfigError, match=r"^messages\[1\] is not in OpenAI's form") as caught:
        messages_from_openai([{"role": "user", "content": "hi"}, wire])
    assert reason in str(caught.value)
