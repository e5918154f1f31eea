"""Anthropic's requests: turns, blocks, ids, media, tools, replayed state, headers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from aiollm.dsn import Secret
from aiollm.errors import ConfigError, UnsupportedError
from aiollm.provider import HttpRequest, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Message,
    OpaquePart,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Request,
    Target,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    assistant,
    system,
    tool_results,
    user,
)

PNG = b"\x89PNG\r\n\x1a\n-not-really"
JPEG = b"\xff\xd8\xff-not-really"
NEWEST = "claude-sonnet-5-5"
OLDER = "claude-haiku-4-5"
CODEC = AnthropicCodec()


def provider(token: str | None = "sk-ant-api03-k", **others: Any) -> Provider:
    base = others.pop("base_url", "https://api.anthropic.com/v1")
    key = Secret(token) if token else None
    return Provider("anthropic", "anthropic", base, CODEC, token=key, **others)


def send(*messages: Message, model: str = NEWEST, **fields: Any) -> HttpRequest:
    request = Request(messages or (user("hi"),), **fields)
    return CODEC.encode(provider(), Target("anthropic", model), request)


def body(*messages: Message, **fields: Any) -> dict[str, Any]:
    return json.loads(bytes(send(*messages, **fields).body))


def turns(*messages: Message, **fields: Any) -> list[Any]:
    return body(*messages, **fields)["messages"]


def test_a_plain_question_is_a_body_of_four_fields() -> None:
    assert body() == {
        "model": NEWEST,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "max_tokens": 64_000,
        "stream": True,
    }


def test_the_request_goes_to_messages_with_version_and_key() -> None:
    http = send()
    assert http.url == "https://api.anthropic.com/v1/messages"
    assert http.headers == {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "anthropic-version": "2026-10-21",
        "x-api-key": "sk-ant-api03-k",
    }


@pytest.mark.parametrize(
    ("token", "header", "value"),
    [
        ("sk-ant-api03-k", "x-api-key", "sk-ant-api03-k"),
        ("local-key", "x-api-key", "local-key"),
        ("sk-ant-oat01-k", "Authorization", "Bearer sk-ant-oat01-k"),
        ("Bearer tok", "Authorization", "Bearer tok"),
    ],
)
def test_oauth_tokens_and_what_says_bearer_go_as_bearer(
    token: str, header: str, value: str
) -> None:
    http = CODEC.encode(provider(token), Target("anthropic", NEWEST), Request("hi"))
    assert {"x-api-key", "Authorization"} & http.headers.keys() == {header}
    assert http.headers[header] == value


def test_headers_of_the_provider_win_over_the_key() -> None:
    row = provider(headers={"authorization": "Bearer other", "anthropic-beta": "b"})
    headers = CODEC.encode(row, Target("anthropic", NEWEST), Request("hi")).headers
    assert "x-api-key" not in headers
    assert headers["authorization"] == "Bearer other"
    assert headers["anthropic-beta"] == "b"


def test_without_a_key_none_is_sent() -> None:
    headers = CODEC.encode(provider(None), Target("a", "m"), Request("hi")).headers
    assert not {"x-api-key", "Authorization"} & headers.keys()


def test_the_list_of_models_comes_on_one_page() -> None:
    http = CODEC.models(provider())
    assert (http.method, http.url) == ("GET", "https://api.anthropic.com/v1/models?limit=1000")
    assert http.headers["x-api-key"] == "sk-ant-api03-k"
    assert http.body is None


def test_a_version_with_a_dot_is_spelled_as_anthropic_does() -> None:
    assert body(model="claude-sonnet-5.5")["model"] == "claude-sonnet-5-5"
    gateway = provider(base_url="https://gateway.example/v1")
    http = CODEC.encode(gateway, Target("gw", "anthropic/claude-opus-4.5"), Request("hi"))
    assert json.loads(bytes(http.body))["model"] == "anthropic/claude-opus-4.5"


def test_system_texts_at_the_head_become_the_system_prompt() -> None:
    sent = body(system("Two."), user("hi"), system="One.")
    assert sent["system"] == "One.\n\nTwo."
    assert [turn["role"] for turn in sent["messages"]] == ["user"]


def test_a_system_message_inside_stays_one_where_the_model_takes_it() -> None:
    conversation = (user("a"), assistant("b"), user("c"), system("now shout"), user("d"))
    # It may follow only what the user says, and only an answer may follow it.
    for model in ("claude-opus-4-8", "claude-opus-5", "claude-opus-5-5", "claude-opus-6"):
        sent = body(*conversation, assistant("e"), user("f"), model=model)["messages"]
        roles = ["user", "assistant", "user", "system", "assistant", "user"]
        assert [turn["role"] for turn in sent] == roles
        assert [block["text"] for block in sent[2]["content"]] == ["c", "d"]
    last = turns(user("a"), system("b"), system("c"))
    assert [len(turn["content"]) for turn in last] == [1, 2]
    older = send(*conversation, model=OLDER)
    assert [turn["role"] for turn in json.loads(bytes(older.body))["messages"]] == [
        "user",
        "assistant",
        "user",
    ]
    assert "system message inside" in older.warnings[0]


@pytest.mark.parametrize(
    "model", ["claude-opus-4-7", "claude-sonnet-5", "claude-sonnet-5-20260701"]
)
def test_a_system_message_inside_is_the_users_for_models_that_refuse_it(model: str) -> None:
    sent = body(user("a"), assistant("b"), user("c"), system("d"), model=model)["messages"]
    assert [turn["role"] for turn in sent] == ["user", "assistant", "user"]


def test_a_system_message_that_follows_no_user_is_sent_as_the_users() -> None:
    http = send(user("a"), assistant("b"), system("c"), assistant("d"), user("e"))
    roles = [turn["role"] for turn in json.loads(bytes(http.body))["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert "except after a user's message" in http.warnings[0]


def test_a_users_own_parts_are_sent() -> None:
    block = {"type": "container_upload", "file_id": "file_plum"}
    mine = OpaquePart(ProviderData("anthropic", {"block": block}))
    (turn,) = turns(user("Sum it up.", mine))
    assert turn["content"][1] == block
    http = send(user("a", OpaquePart(ProviderData("google", {"part": {}}))))
    assert "google" in http.warnings[0]


def test_a_last_block_of_an_unknown_form_is_trimmed_without_changing_the_callers_part() -> None:
    block = {"type": "text", "text": "So  "}
    mine = OpaquePart(ProviderData("anthropic", {"block": block}))
    sent = turns(user("hi"), assistant(mine), model="claude-haiku-4-5")
    assert sent[-1]["content"] == [{"type": "text", "text": "So"}]
    assert block == {"type": "text", "text": "So  "}


def test_results_hold_documents_and_search_results() -> None:
    found = {"type": "search_result", "source": "https://x", "title": "X", "content": []}
    mine = OpaquePart(ProviderData("anthropic", {"block": found}))
    content = ("see", DocumentPart(b"%PDF", name="a.pdf"), mine)
    call = assistant(ToolCallPart("a", "f"))
    (result,) = turns(user("q"), call, tool_results(ToolResultPart("a", content)))[2]["content"]
    assert [block["type"] for block in result["content"]] == ["text", "document", "search_result"]


def test_calls_in_two_messages_are_one_turn_before_their_results() -> None:
    calls = (assistant(ToolCallPart("a", "f")), assistant(ToolCallPart("b", "f")))
    results = tool_results(ToolResultPart("a", "1"), ToolResultPart("b", "2"))
    sent = turns(user("q"), *calls, results)
    assert [[block["type"] for block in turn["content"]] for turn in sent[1:]] == [
        ["tool_use", "tool_use"], ["tool_result", "tool_result"],
    ]  # fmt: skip


def test_the_container_of_the_turn_that_goes_on_is_named_again() -> None:
    data = ProviderData("anthropic", {"container": {"id": "cont_1", "expires_at": "2026-11-28"}})
    turn = assistant(ToolCallPart("a", "f"), OpaquePart(data))
    results = tool_results(ToolResultPart("a", "1"))
    sent = body(user("q"), turn, results)
    assert sent["container"] == "cont_1"
    assert [block["type"] for block in sent["messages"][1]["content"]] == ["tool_use"]
    later = body(user("q"), turn, results, assistant("done"), user("again"))
    assert "container" not in later


def test_a_newer_model_is_asked_to_continue_an_answer() -> None:
    assert turns(user("q"), assistant("so "), model="claude-opus-6")[-1]["role"] == "assistant"
    for model in ("claude-opus-4-6", "claude-sonnet-5", "claude-haiku-5-5", "claude-fable-5"):
        with pytest.raises(UnsupportedError, match="end with a user message"):
            turns(user("q"), assistant("so "), model=model)


def test_turns_of_the_same_side_are_merged() -> None:
    sent = turns(user("a"), user("b"), assistant("c"), assistant("d"), user("e"))
    assert [(turn["role"], len(turn["content"])) for turn in sent] == [
        ("user", 2),
        ("assistant", 2),
        ("user", 1),
    ]


def test_empty_texts_and_empty_messages_are_left_out() -> None:
    assert turns(user("", "a", " \n"), assistant(""), user("b")) == [
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
    ]


def test_all_results_of_a_turn_stand_in_one_message_before_anything_else() -> None:
    sent = turns(
        user("go"),
        assistant("calling", ToolCallPart("a", "f", "{}"), ToolCallPart("b", "g", '{"x": 1.0}')),
        tool_results(ToolResultPart("a", ("1", ImagePart(PNG)))),
        user("hurry"),
        tool_results(ToolResultPart("b", "2", is_error=True)),
    )
    assert sent[1]["content"] == [
        {"type": "text", "text": "calling"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {"x": 1.0}},
    ]
    first, second, text = sent[2]["content"]
    assert first["tool_use_id"] == "a"
    assert [block["type"] for block in first["content"]] == ["text", "image"]
    assert second == {
        "type": "tool_result",
        "tool_use_id": "b",
        "content": [{"type": "text", "text": "2"}],
        "is_error": True,
    }
    assert text == {"type": "text", "text": "hurry"}


def test_an_empty_result_has_no_content() -> None:
    call = assistant(ToolCallPart("a", "f"))
    sent = turns(user("go"), call, tool_results(ToolResultPart("a", "")))
    assert sent[2]["content"] == [{"type": "tool_result", "tool_use_id": "a"}]


def test_arguments_go_out_as_they_came() -> None:
    text = '{ "b":1.50, "a" :"é"}'
    http = send(user("go"), assistant(ToolCallPart("a", "f", text)), user("no"))
    assert text.encode() in bytes(http.body)


@pytest.mark.parametrize("text", ['{"cut": "of', "[1]", "3", "null"])
def test_arguments_that_are_no_object_are_sent_as_none_with_a_warning(text: str) -> None:
    http = send(user("go"), assistant(ToolCallPart("a", "f", text, valid=False)), user("no"))
    assert json.loads(bytes(http.body))["messages"][1]["content"][0]["input"] == {}
    assert "arguments of call 'a'" in http.warnings[0]


def test_ids_are_made_of_the_letters_that_anthropic_allows_and_stay_distinct() -> None:
    ids = ["call.1", "call:1", "call_1", "", "ok-1"]
    sent = turns(
        user("go"),
        assistant(*(ToolCallPart(id_, "f") for id_ in ids)),
        tool_results(*(ToolResultPart(id_, "x") for id_ in ids)),
    )
    calls = [block["id"] for block in sent[1]["content"]]
    assert calls == ["call_1", "call_1_2", "call_1_3", "call", "ok-1"]
    assert [block["tool_use_id"] for block in sent[2]["content"]] == calls


def test_images_go_as_base64_of_their_true_type_or_as_url() -> None:
    data = ImagePart(url="data:image/gif;base64,R0lG")
    sent = turns(user(ImagePart(JPEG, mime="image/png"), ImagePart(url="https://x/y.png"), data))
    assert [block["source"] for block in sent[0]["content"]] == [
        {"type": "base64", "media_type": "image/jpeg", "data": "/9j/LW5vdC1yZWFsbHk="},
        {"type": "url", "url": "https://x/y.png"},
        {"type": "base64", "media_type": "image/gif", "data": "R0lG"},
    ]


@pytest.mark.parametrize(
    "part",
    [
        AudioPart(b"RIFF"),
        ImagePart(b"????"),
        ImagePart(url="data:image/svg+xml,<svg/>"),
        DocumentPart(b"PK", mime="application/zip"),
    ],
)
def test_what_anthropic_cannot_take_is_unsupported(part: Any) -> None:
    with pytest.raises(UnsupportedError):
        send(user(part))


def test_documents_go_as_pdf_text_or_url() -> None:
    sent = turns(
        user(
            DocumentPart(b"%PDF", name="a.pdf"),
            DocumentPart("zażółć".encode(), mime="text/markdown", name="b.md"),
            DocumentPart(url="https://x/c.pdf", name="c.pdf"),
        )
    )
    assert [(block["title"], block["source"]) for block in sent[0]["content"]] == [
        ("a.pdf", {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}),
        ("b.md", {"type": "text", "media_type": "text/plain", "data": "zażółć"}),
        ("c.pdf", {"type": "url", "url": "https://x/c.pdf"}),
    ]


def test_own_reasoning_is_replayed_in_position_and_byte_identically() -> None:
    blocks = turns(
        user("go"),
        assistant(
            ReasoningPart("", ProviderData("anthropic", {"signature": "Eo=="})),
            ReasoningPart("hm ", ProviderData("anthropic", {"signature": "S+/="})),
            ReasoningPart("", ProviderData("anthropic", {"redacted_thinking": "R=="})),
            "answer",
        ),
        user("more"),
    )[1]["content"]
    assert blocks == [
        {"type": "thinking", "thinking": "", "signature": "Eo=="},
        {"type": "thinking", "thinking": "hm ", "signature": "S+/="},
        {"type": "redacted_thinking", "data": "R=="},
        {"type": "text", "text": "answer"},
    ]


@pytest.mark.parametrize(
    ("model", "is_sent"),
    [
        ("deepseek-v4-pro", True),
        ("moonshotai/Kimi-K2.6", True),
        ("qwen3:8b", True),
        (NEWEST, False),
        ("bedrock/claude-of-qwen", False),
        ("an-alias", False),
    ],
)
def test_thoughts_go_back_without_a_signature_to_models_that_give_none(
    model: str, is_sent: bool
) -> None:
    """DeepSeek refuses calls without the thoughts before them."""
    http = send(
        user("go"), assistant(ReasoningPart("hm"), ReasoningPart(""), ToolCallPart("i", "f")),
        tool_results(ToolResultPart("i", "r")), assistant("So.", ReasoningPart("hm?")), user("r"),
        model=model,
    )  # fmt: skip
    said = json.loads(bytes(http.body))["messages"]
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    assert (said[1]["content"][0] == thought) is is_sent
    assert len(said[1]["content"]) == 1 + is_sent
    assert said[3]["content"] == [{"type": "text", "text": "So."}]  # it ended in thoughts
    assert bool(http.warnings)


def test_foreign_and_unsigned_state_is_dropped_with_one_warning_each() -> None:
    foreign = ProviderData("google", {"thoughtSignature": "x"})
    http = send(
        user("go"),
        assistant(
            ReasoningPart("a", foreign),
            ReasoningPart("b", foreign),
            ReasoningPart("c"),
            TextPart("kept", provider_data=foreign),
            ToolCallPart("i", "f", provider_data=foreign),
            OpaquePart(foreign),
            ImagePart(PNG),
        ),
        tool_results(ToolResultPart("i", "r")),
    )
    assert json.loads(bytes(http.body))["messages"][1]["content"] == [
        {"type": "text", "text": "kept"},
        {"type": "tool_use", "id": "i", "name": "f", "input": {}},
    ]
    assert http.warnings == (
        "reasoning of google cannot be replayed to anthropic: dropped",
        "reasoning without a signature cannot be replayed: dropped",
        "the state of a part of google cannot be replayed to anthropic: dropped",
        "a part of google cannot be replayed to anthropic: dropped",
        "Anthropic accepts no image part in the assistant's turn: dropped",
    )


def test_parts_on_the_wrong_side_are_dropped_with_a_warning() -> None:
    http = send(user("go", ToolCallPart("i", "f")))
    assert len(json.loads(bytes(http.body))["messages"][0]["content"]) == 1
    assert http.warnings == ("Anthropic accepts no toolcall part in the user's turn: dropped",)


def test_opaque_blocks_and_refusals_are_replayed() -> None:
    call = {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {"q": 1}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srv", "content": []}
    opaque = [OpaquePart(ProviderData("anthropic", {"block": block})) for block in (call, found)]
    sent = turns(user("go"), assistant(*opaque, RefusalPart("no")), user("why"))
    assert sent[1]["content"] == [call, found, {"type": "text", "text": "no"}]


def test_a_part_may_carry_keys_of_its_block() -> None:
    cache = ProviderData("anthropic", {"cache_control": {"type": "ephemeral"}})
    sent = turns(user(TextPart("long", provider_data=cache)))
    assert sent[0]["content"][0]["cache_control"] == {"type": "ephemeral"}


def test_a_conversation_that_ends_with_the_assistant_is_continued_where_models_can() -> None:
    sent = turns(user("go"), assistant("Sure: \n"), model=OLDER)
    assert sent[1]["content"][0]["text"] == "Sure:"
    with pytest.raises(UnsupportedError, match="end with a user message"):
        send(user("go"), assistant("Sure: "), model=NEWEST)


def test_a_turn_that_the_server_paused_is_sent_back_to_any_model() -> None:
    paused = OpaquePart(ProviderData("anthropic", {"block": {"type": "web_search_tool_result"}}))
    assert turns(user("go"), assistant("x", paused))[-1]["role"] == "assistant"


def test_tools_carry_their_schema_and_strict_ones_a_closed_one() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1}},
        "required": ["n"],
    }
    sent = body(tools=(Tool("a", "does a", schema), Tool("b", "", schema, strict=True), Tool("c")))
    assert sent["tools"] == [
        {"name": "a", "description": "does a", "input_schema": schema},
        {
            "name": "b",
            "strict": True,
            "input_schema": {
                "type": "object",
                "properties": {"n": {"type": "integer", "description": "{minimum: 1}"}},
                "required": ["n"],
                "additionalProperties": False,
            },
        },
        {"name": "c", "input_schema": {"type": "object", "properties": {}}},
    ]


def test_a_tool_that_cannot_be_strict_is_sent_loose_with_a_warning() -> None:
    http = send(tools=(Tool("a", parameters={"type": "object"}, strict=True),))
    (tool,) = json.loads(bytes(http.body))["tools"]
    assert tool == {"name": "a", "input_schema": {"type": "object"}}
    assert "tool 'a' is not strict" in http.warnings[0]


@pytest.mark.parametrize(
    ("choice", "parallel", "sent"),
    [
        (None, None, None),
        (None, True, None),
        ("auto", None, {"type": "auto"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ("f", False, {"type": "tool", "name": "f", "disable_parallel_tool_use": True}),
    ],
)
def test_each_tool_choice_has_its_form(
    choice: str | None, parallel: bool | None, sent: Any
) -> None:
    made = body(model=OLDER, tools=(Tool("f"),), tool_choice=choice, parallel_tool_calls=parallel)
    assert made.get("tool_choice") == sent


def test_tool_choice_without_tools_is_not_sent() -> None:
    assert "tool_choice" not in body(tool_choice="required")


@pytest.mark.parametrize("model", ["claude-opus-5-5", "claude-sonnet-5-5", "claude-fable-5-1"])
def test_models_that_cannot_be_forced_to_call_a_tool_refuse_before_any_byte(model: str) -> None:
    for choice in ("required", "f"):
        with pytest.raises(UnsupportedError, match="cannot be forced"):
            send(model=model, tools=(Tool("f"),), tool_choice=choice)


def test_a_tool_choice_goes_with_tools_in_the_providers_own_form() -> None:
    hosted = {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}
    sent = body(model="claude-opus-5", tool_choice="required", extra=hosted)
    assert sent["tool_choice"] == {"type": "any"}


@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-opus-4-8", "claude-opus-5"])
def test_adaptive_thinking_goes_with_a_forced_call(model: str) -> None:
    http = send(model=model, tools=(Tool("f"),), tool_choice="f", reasoning="high")
    sent = json.loads(bytes(http.body))
    assert sent["thinking"]["type"] == "adaptive"
    assert sent["output_config"] == {"effort": "high"}
    assert sent["tool_choice"] == {"type": "tool", "name": "f"}
    assert not http.warnings


def test_a_forced_call_excludes_a_budget() -> None:
    for model, wish in (("claude-opus-4-6", 2000), (OLDER, "high")):
        http = send(model=model, tools=(Tool("f"),), tool_choice="f", reasoning=wish)
        assert "thinking" not in json.loads(bytes(http.body))
        assert http.warnings == (
            "a forced tool call excludes a reasoning budget: reasoning is dropped",
        )


@pytest.mark.parametrize("model", ["deepseek-v4-pro", "glm-5.2", "qwen3.6-plus"])
def test_a_forced_call_switches_open_models_thinking_off_rather_than_to_its_default(model) -> None:
    """They think by default, and DeepSeek refuses the two together on this wire, too."""
    sent = body(model=model, tools=(Tool("f"),), tool_choice="f", reasoning="high")
    assert sent["thinking"] == {"type": "disabled"}


def test_a_forced_call_switches_thinking_off_where_nothing_asks_for_it() -> None:
    sent = body(model="claude-opus-5", tools=(Tool("f"),), tool_choice="f")
    assert sent["thinking"] == {"type": "disabled"}
    assert "thinking" not in body(model=OLDER, tools=(Tool("f"),), tool_choice="f")


class City(msgspec.Struct):
    name: str
    size: int = 0


def test_a_type_becomes_the_output_format() -> None:
    assert body(output=City)["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {
            "title": "City",
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "size": {"type": "integer", "description": "{default: 0}"},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
    }


def test_tools_and_a_type_go_together() -> None:
    sent = body(output=City, tools=(Tool("f"),))
    assert sent["tools"]
    assert sent["output_config"]["format"]["type"] == "json_schema"


def test_a_type_that_no_schema_can_say_is_asked_for_in_the_prompt() -> None:
    http = send(output=dict[str, int], system="Be brief", reasoning="low")
    sent = json.loads(bytes(http.body))
    assert "format" not in sent["output_config"]
    assert sent["system"].startswith("Be brief\n\nAnswer with one JSON object")
    assert '"additionalProperties":{"type":"integer"}' in sent["system"]
    assert "an object with free keys" in http.warnings[0]


def test_an_output_that_is_no_object_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"list\[.*City\]"):
        send(output=list[City])


def test_what_anthropic_does_not_know_is_dropped_with_a_warning() -> None:
    http = send(seed=7, stop=("X", " \n"))
    sent = json.loads(bytes(http.body))
    assert sent["stop_sequences"] == ["X"]
    assert "seed" not in sent
    assert len(http.warnings) == 2


def test_extra_is_merged_into_the_body() -> None:
    sent = body(reasoning="low", extra={"output_config": {"effort": "max"}, "speed": "fast"})
    assert sent["output_config"] == {"effort": "max"}
    assert sent["speed"] == "fast"


def test_lone_surrogates_can_be_sent() -> None:
    assert turns(user("a\ud83eb"))[0]["content"][0]["text"] == "a\ufffdb"
    sent = turns(user("x"), assistant(ToolCallPart("i", "f", '{"a":"\\ud83e"}')), user("y"))
    assert sent[1]["content"][0]["input"] == {"a": "\ufffd"}


def _optional(count: int) -> type:
    return msgspec.defstruct("Form", [(f"f{at}", str, "") for at in range(count)])


@pytest.mark.parametrize(
    ("kind", "is_enforced"),
    [
        (_optional(24), True),
        (_optional(25), False),
        (msgspec.defstruct("Some", [(f"f{at}", int | str) for at in range(16)]), True),
        (msgspec.defstruct("More", [(f"f{at}", int | None) for at in range(17)]), False),
        (msgspec.defstruct("Rows", [("a", list[_optional(13)]), ("b", _optional(12))]), False),
    ],
)
def test_a_schema_too_large_to_be_enforced_goes_into_the_prompt(kind, is_enforced) -> None:
    """Anthropic refuses it, and no smaller one could say the same."""
    sent = send(model="claude-opus-5", output=kind)
    assert ("format" in json.loads(bytes(sent.body)).get("output_config", {})) == is_enforced
    assert bool(sent.warnings) != is_enforced


def test_a_server_with_an_open_model_enforces_any_schema() -> None:
    tools = tuple(Tool(f"t{at}", strict=True) for at in range(21))
    made = body(model="qwen3.6-27b", output=_optional(40), tools=tools)
    assert "format" in made["output_config"]
    assert all(tool["strict"] for tool in made["tools"])


def test_only_so_many_strict_tools_are_strict_as_are_enforced() -> None:
    """Anthropic counts those of all schemas, the answer's included, and refuses any more."""
    form = msgspec.json.schema(_optional(10))
    tools = (*(Tool(f"t{at}", parameters=form, strict=True) for at in range(3)), Tool("loose"))
    sent = send(model="claude-opus-5", output=_optional(10), tools=tools)
    made = json.loads(bytes(sent.body))
    assert [tool["name"] for tool in made["tools"] if tool.get("strict")] == ["t0"]
    assert "format" in made["output_config"]
    assert sum("is not strict" in warning for warning in sent.warnings) == 2
    large = Tool("t", parameters=msgspec.json.schema(_optional(25)), strict=True)
    assert "strict" not in body(model="claude-opus-5", tools=(large,))["tools"][0]
    made = body(model="claude-opus-5", output=_optional(25), tools=tools)  # it is in the prompt
    assert [tool["name"] for tool in made["tools"] if tool.get("strict")] == ["t0", "t1"]
    many = tuple(Tool(f"t{at}", strict=True) for at in range(21))
    made = body(model="claude-opus-5", tools=many)
    assert sum(tool.get("strict", False) for tool in made["tools"]) == 20
