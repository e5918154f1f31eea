"""Canonical requests to bodies of /api/chat."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiollm.dsn import Secret
from aiollm.errors import UnsupportedError
from aiollm.provider import HttpRequest, Provider
from aiollm.providers.ollama.codec import OllamaCodec
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
    Tool,
    ToolCallPart,
    ToolResultPart,
    assistant,
    system,
    tool_results,
    user,
)

RECORDED = Path(__file__).parents[2] / "fixtures/requests/ollama_chat.json"
PNG = ImagePart(b"\x89PNG\r\n\x1a\n...")
BARE = base64.b64encode(PNG.data).decode()


class City(msgspec.Struct):
    city: str


def encode(request: Request, token: Secret | None = None) -> HttpRequest:
    codec = OllamaCodec()
    provider = Provider("box", "ollama", "http://gpu1:11434", codec, token=token)
    return codec.encode(provider, Target("box", "qwen3:8b"), request)


def body(request: Request) -> Any:
    return json.loads(bytes(encode(request).body))


def wire(*messages: Message, **options: Any) -> list[dict[str, Any]]:
    return body(Request(messages, **options))["messages"]


def test_a_plain_request_holds_no_more_than_it_must() -> None:
    http = encode(Request("hi"))
    assert http.url == "http://gpu1:11434/api/chat"
    assert http.method == "POST"
    assert json.loads(bytes(http.body)) == {
        "model": "qwen3:8b",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
    }
    assert "Authorization" not in http.headers
    assert http.warnings == ()


def test_a_full_request_is_what_the_vendors_own_library_sends() -> None:
    recorded = json.loads(RECORDED.read_text())["body"]
    image = base64.b64decode(recorded["messages"][1]["images"][0])
    http = encode(
        Request(
            (
                user("Co to?", ImagePart(image)),
                assistant(ReasoningPart("hm"), ToolCallPart("", "get_weather", '{"city":"Łódź"}')),
                tool_results(ToolResultPart("", ("12°C",), "get_weather")),
            ),
            system="Be brief",
            tools=(Tool("get_weather", "d", recorded["tools"][0]["function"]["parameters"]),),
            max_output_tokens=100,
            temperature=0.1,
            stop=("X",),
            seed=7,
            reasoning="low",
            extra={"options": {"num_ctx": 8192}, "keep_alive": "5m"},
        ),
        Secret("okey"),
    )
    sent = json.loads(bytes(http.body))
    del recorded["format"]  # it would hold a call to the schema of the answer
    assert sent == recorded
    assert http.headers["Authorization"] == "Bearer okey"
    assert "okey" not in repr(http)


def test_options_reach_ollama_under_its_own_names() -> None:
    request = Request("x", max_output_tokens=5, temperature=0.0, top_p=0.5, stop=("a", "b"), seed=0)
    assert body(request)["options"] == {
        "num_predict": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "stop": ["a", "b"],
        "seed": 0,
    }


def test_extra_is_merged_into_what_is_there() -> None:
    extra = {"options": {"num_ctx": 8192}, "keep_alive": -1, "truncate": False}
    sent = body(Request("x", temperature=0.5, extra=extra))
    assert sent["options"] == {"temperature": 0.5, "num_ctx": 8192}
    assert (sent["keep_alive"], sent["truncate"]) == (-1, False)


def test_system_text_stands_first_and_later_system_messages_stay_in_place() -> None:
    sent = wire(system("b"), user("x"), system("c"), user("y"), system="a")
    assert sent[0] == {"role": "system", "content": "a\n\nb"}
    assert [message["role"] for message in sent] == ["system", "user", "system", "user"]


def test_images_are_bare_base64() -> None:
    assert wire(user("what", PNG, "is it?", PNG)) == [
        {"role": "user", "content": "whatis it?", "images": [BARE, BARE]}
    ]
    assert wire(user(ImagePart(url=f"data:image/png;base64,{BARE}")))[0]["images"] == [BARE]


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (ImagePart(url="https://example.org/x.png"), "not fetch image URLs"),
        (ImagePart(url="data:image/png,abc"), "not fetch image URLs"),
        (DocumentPart(b"%PDF"), "not accept documents"),
        (AudioPart(b"RIFF"), "not accept audio"),
    ],
)
def test_what_ollama_cannot_take_is_unsupported(part: Any, why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        encode(Request((user("x", part),)))


def test_calls_and_results_carry_objects_ids_and_names() -> None:
    sent = wire(
        user("x"),
        assistant("wait", ToolCallPart("c1", "f", '{"a":1}'), ToolCallPart("c2", "g", "")),
        tool_results(ToolResultPart("c1", ("one",)), ToolResultPart("c2", ("two",), "g")),
    )
    assert sent[1] == {
        "role": "assistant",
        "content": "wait",
        "tool_calls": [
            {"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}},
            {"id": "c2", "function": {"name": "g", "arguments": {}}},
        ],
    }
    assert sent[2:] == [
        {"role": "tool", "content": "one", "tool_name": "f", "tool_call_id": "c1"},
        {"role": "tool", "content": "two", "tool_name": "g", "tool_call_id": "c2"},
    ]


def test_images_of_results_follow_all_results_of_the_turn_in_a_user_message() -> None:
    calls = assistant(ToolCallPart("c1", "f"), ToolCallPart("c2", "f"))
    results = [ToolResultPart("c1", ("one", PNG)), ToolResultPart("c2", (PNG,))]
    together = wire(user("x"), calls, tool_results(*results), user("so?"))
    apart = wire(user("x"), calls, *map(tool_results, results), user("so?"))
    assert together == apart
    assert [message["role"] for message in together[2:]] == ["tool", "tool", "user", "user"]
    assert together[4]["images"] == [BARE, BARE]
    assert all("images" not in message for message in together[:4])
    assert wire(user("x"), calls, tool_results(*results))[-1]["images"] == [BARE, BARE]


def test_a_result_in_a_user_message_stands_before_its_text() -> None:
    sent = wire(user(ToolResultPart("c1", ("one", PNG), "f"), "and now?"))
    assert [(message["role"], message["content"]) for message in sent] == [
        ("tool", "one"),
        ("user", "The images of the tool results above:"),
        ("user", "and now?"),
    ]


def test_a_failed_result_without_text_still_says_so() -> None:
    assert wire(tool_results(ToolResultPart("c", (), "f", is_error=True)))[0]["content"] == "error"


def test_a_call_that_was_cut_is_sent_without_arguments_and_noted() -> None:
    http = encode(Request((user("x"), assistant(ToolCallPart("c", "f", '{"a":', valid=False)))))
    message = json.loads(bytes(http.body))["messages"][1]
    assert message["tool_calls"][0]["function"]["arguments"] == {}
    assert "'f'" in http.warnings[0]


def test_own_thinking_is_replayed_and_foreign_state_is_dropped_with_a_warning() -> None:
    http = encode(
        Request(
            (
                user("x"),
                assistant(
                    ReasoningPart("mine "),
                    ReasoningPart("theirs", ProviderData("anthropic", {"signature": "s"})),
                    OpaquePart(ProviderData("google", {"x": 1})),
                    RefusalPart("no"),
                ),
            )
        )
    )
    message = json.loads(bytes(http.body))["messages"][1]
    assert message == {"role": "assistant", "content": "no", "thinking": "mine "}
    noted = "\n".join(sorted(http.warnings))
    assert noted.count("\n") == 1
    assert "anthropic" in noted
    assert "google" in noted


def test_a_prefilled_answer_stays_the_last_message() -> None:
    assert wire(user("x"), assistant("The"))[-1] == {"role": "assistant", "content": "The"}


TOOL = Tool("f", "does f", {"type": "object", "properties": {}})


def test_tools_are_sent_unless_none_may_be_called() -> None:
    request = Request("x", tools=(TOOL,), tool_choice="auto")
    assert body(request)["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "does f", "parameters": TOOL.parameters},
        }
    ]
    assert "tools" not in body(Request("x", tools=(TOOL,), tool_choice="none"))


@pytest.mark.parametrize("choice", ["required", "f"])
def test_a_forced_call_is_unsupported(choice: str) -> None:
    with pytest.raises(UnsupportedError, match="cannot force"):
        encode(Request("x", tools=(TOOL,), tool_choice=choice))


def test_harmless_drops_are_noted() -> None:
    strict = msgspec.structs.replace(TOOL, strict=True)
    http = encode(Request("x", tools=(strict, TOOL), parallel_tool_calls=False))
    assert len(http.warnings) == 2
    assert encode(Request("x", tools=(TOOL,), parallel_tool_calls=True)).warnings == ()


@pytest.mark.parametrize(
    ("reasoning", "think", "noted"),
    [
        ("none", False, False),
        ("minimal", "low", True),
        ("low", "low", False),
        ("medium", "medium", False),
        ("high", "high", False),
        ("xhigh", "max", True),
        ("max", "max", False),
        (0, False, False),
        (2048, True, True),
    ],
)
def test_effort_and_budget_become_think(reasoning: Any, think: object, noted: bool) -> None:
    http = encode(Request("x", reasoning=reasoning))
    assert repr(json.loads(bytes(http.body))["think"]) == repr(think)
    assert bool(http.warnings) is noted


def test_think_is_sent_only_when_asked_for() -> None:
    assert "think" not in body(Request("x"))


def test_an_output_type_becomes_the_format() -> None:
    sent = body(Request("x", output=City))["format"]
    assert sent["properties"] == {"city": {"type": "string"}}
    assert sent["required"] == ["city"]


def test_an_output_beside_tools_goes_into_the_prompt_so_that_they_can_be_called() -> None:
    http = encode(Request("x", system="Be brief", output=City, tools=(Tool("f"),)))
    sent = json.loads(bytes(http.body))
    assert "format" not in sent
    said = sent["messages"][0]["content"]
    assert said.startswith("Be brief\n\nCall tools as you need them.")
    assert '"city":{"type":"string"}' in said
    assert "where tools may be called" in http.warnings[0]
    sent = body(Request("x", output=City, tools=(Tool("f"),), tool_choice="none"))
    assert sent["format"]["required"] == ["city"]


def test_lone_surrogates_are_mended_on_the_way_out() -> None:
    assert wire(user("a\ud83e"))[0]["content"] == "a\ufffd"


def test_an_empty_answer_is_left_out() -> None:
    sent = wire(user("a"), assistant(), assistant(""), user("b"))
    assert [message["content"] for message in sent] == ["a", "b"]
    assert wire(user("a"), assistant(ReasoningPart("hm")))[1] == {
        "role": "assistant",
        "thinking": "hm",
    }


def test_a_result_with_a_document_is_refused_with_what_to_do() -> None:
    result = tool_results(ToolResultPart("a", DocumentPart(b"%PDF")))
    with pytest.raises(UnsupportedError, match="send their text or images"):
        wire(user("q"), assistant(ToolCallPart("a", "f")), result)
