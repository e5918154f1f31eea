"""What templates and wires want of the order of turns: a user begins, results are answered."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import pytest

from aiollm.dsn import Secret
from aiollm.provider import Provider
from aiollm.providers.turns import OPENED, OPENING
from aiollm.types import (
    ImagePart,
    Message,
    Request,
    Target,
    ToolCallPart,
    ToolResultPart,
    assistant,
    system,
    tool_results,
    user,
)

CODECS = {
    "chat": "openai.chat_codec:ChatCodec",
    "responses": "openai.responses_codec:ResponsesCodec",
    "anthropic": "anthropic.codec:AnthropicCodec",
    "google": "google.codec:GoogleCodec",
    "ollama": "ollama.codec:OllamaCodec",
}
CALLED = (assistant(ToolCallPart("a", "f")), tool_results(ToolResultPart("a", "1")))


def sent(
    wire: str, *messages: Message, url: str = "https://h.invalid/v1", model: str = "m"
) -> tuple[list[Any], Any]:
    """Return the turns of user and assistant that a wire sends, and the warnings."""
    module, name = CODECS[wire].split(":")
    codec = getattr(import_module(f"aiollm.providers.{module}"), name)()
    provider = Provider("p", wire, url, codec, token=Secret("k"))
    http = codec.encode(provider, Target("p", model), Request(messages))
    body = json.loads(bytes(http.body or b""))
    turns = body.get("messages") or body.get("contents") or body["input"]
    return [turn for turn in turns if turn.get("role") != "system"], http.warnings


@pytest.mark.parametrize("wire", ["chat", "anthropic", "google"])
@pytest.mark.parametrize(
    "history",
    [
        (assistant("Hello!"), user("hi")),
        (system("s"), assistant("Hello!"), user("hi")),
        (*CALLED, assistant("so"), user("hi")),
        (assistant("Hel"),),
    ],
    ids=["greeting", "system", "cut", "prefill"],
)
def test_a_user_begins_where_the_wire_or_a_template_wants_it(
    wire: str, history: tuple[Message, ...]
) -> None:
    if wire == "anthropic" and len(history) == 1:
        history = (*history, user("hi"))  # whether an answer may be last is the model's business
    turns, warnings = sent(wire, *history)
    assert turns[0]["role"] == "user"
    assert OPENING in json.dumps(turns[0])
    assert turns[1]["role"] in ("assistant", "model")
    assert OPENED in warnings


@pytest.mark.parametrize("wire", CODECS)
@pytest.mark.parametrize("history", [(user("hi"), assistant("Hello!"), user("so?")),
                                     (assistant(""), user("hi"))])  # fmt: skip
def test_what_a_user_begins_stays_as_it_is(wire: str, history: tuple[Message, ...]) -> None:
    turns, warnings = sent(wire, *history)
    assert OPENING not in json.dumps(turns)
    assert OPENED not in warnings


@pytest.mark.parametrize(
    ("wire", "url"),
    [
        ("chat", "https://api.openai.com/v1"),
        ("responses", "https://api.openai.com/v1"),
        ("ollama", "http://h.invalid"),
    ],
)
def test_servers_that_take_a_greeting_get_it_as_it_is(wire: str, url: str) -> None:
    turns, warnings = sent(wire, assistant("Hello!"), user("hi"), url=url)
    assert turns[0]["role"] == "assistant"
    assert not warnings


PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de")
SEEN = (assistant(ToolCallPart("a", "f")), tool_results(ToolResultPart("a", (ImagePart(PNG),))))
LOCAL, HOSTED = "http://h.invalid/v1", "https://api.mistral.ai/v1"


@pytest.mark.parametrize(("url", "model", "is_answered"), [
    (HOSTED, "any", True),
    (LOCAL, "mistral-small:24b", True),
    (LOCAL, "unsloth/Ministral-3-8B-GGUF", True),
    ("https://openrouter.ai/api/v1", "mistralai/devstral-2512", True),
    (LOCAL, "Pixtral-12B", True),
    (LOCAL, "qwen3:8b", False),
    ("https://api.openai.com/v1", "gpt-4.1", False),
])  # fmt: skip
@pytest.mark.parametrize("history", [(user("go"), *CALLED, user("and?")), (user("go"), *SEEN)],
                         ids=["words", "an image of the tool's"])  # fmt: skip
def test_mistrals_get_an_answer_between_results_and_a_user(
    history: tuple[Message, ...], url: str, model: str, *, is_answered: bool
) -> None:
    turns, _ = sent("chat", *history, url=url, model=model)
    between = ["assistant"] * is_answered
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", *between, "user"]
    assert all(turn.get("content") or turn.get("tool_calls") for turn in turns)


def test_results_that_an_answer_follows_or_nothing_stay_as_they_are() -> None:
    for history in ((user("go"), *CALLED), (user("go"), *CALLED, assistant("so"), user("and?"))):
        turns, _ = sent("chat", *history, url=HOSTED)
        assert [turn["role"] for turn in turns] == [message.role for message in history]
