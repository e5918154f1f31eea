"""A conversation that begins with an answer, such as a greeting, reaches every server."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import pytest

from aiollm.dsn import Secret
from aiollm.provider import Provider
from aiollm.providers.turns import OPENED, OPENING
from aiollm.types import (
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


def sent(wire: str, *messages: Message, url: str = "https://h.invalid/v1") -> tuple[list[Any], Any]:
    """Return the turns of user and assistant that a wire sends, and the warnings."""
    module, name = CODECS[wire].split(":")
    codec = getattr(import_module(f"aiollm.providers.{module}"), name)()
    provider = Provider("p", wire, url, codec, token=Secret("k"))
    http = codec.encode(provider, Target("p", "m"), Request(messages))
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
