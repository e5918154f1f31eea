"""Whether the official SDKs' own request types take hosted tools, choices, and what ran before."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiollm import (
    CodeExecution,
    FileSearch,
    HostedTool,
    Message,
    Request,
    Tool,
    UnsupportedError,
    UserLocation,
    WebSearch,
)
from aiollm._streams.accumulator import Accumulator
from aiollm._wire.framing import NamedSSE
from aiollm.dsn import Secret
from aiollm.provider import Codec, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.types import AnyTool, Item, Target, user

ODDITIES = Path(__file__).parents[1] / "contract" / "oddities.toml"
WIRES: dict[str, tuple[Codec, str, str]] = {
    "openai_chat": (ChatCodec(), "https://api.openai.com/v1", "gpt-5-search-api"),
    "openai_responses": (ResponsesCodec(), "https://api.openai.com/v1", "gpt-6"),
    "anthropic": (AnthropicCodec(), "https://api.anthropic.com/v1", "claude-opus-4-8"),
    "gemini": (GoogleCodec(), "https://generativelanguage.googleapis.com/v1", "gemini-3.8-flash"),
}
ANSWERS = {
    "openai_responses": "openai_responses/what OpenAI searched and ran",
    "anthropic": "anthropic/what Anthropic searched and ran",
    "gemini": "gemini/what Google searched and ran",
}
"""Answers with hosted calls, whose parts go back in the next request."""

NEAR = UserLocation("Oslo", "Oslo", "NO", "Europe/Oslo")
TOOLS: tuple[AnyTool, ...] = (
    WebSearch(),
    WebSearch(3, "a.test", location=NEAR),
    WebSearch(blocked_domains="a.test"),
    WebSearch(location=NEAR),
    CodeExecution(),
    CodeExecution("container_1"),
    FileSearch("store", 5),
    HostedTool(
        {
            "wire:openai-responses": {"type": "image_generation"},
            "wire:anthropic": {"type": "web_fetch_20250910", "name": "web_fetch"},
            "wire:google": {"urlContext": {}},
        }
    ),
)
OWN = (Tool("f", "does f"), Tool("g"))
CHOICES = (
    "auto",
    "required",
    "none",
    "f",
    ("f", "g"),
    ("auto", "f", "g"),
    ("auto", "f", "{}"),
    "{}",
)
"""What may be called; the braces stand for the hosted tool."""


def requests(history: tuple[Message, ...]) -> Iterator[Request]:
    """Yield a request for each tool alone, and one beside functions for each choice."""
    for tool in TOOLS:
        yield Request((*history, user("hi")), tools=tool)
        for choice in CHOICES:
            named = (
                choice.format(tool.name)
                if isinstance(choice, str)
                else tuple(each.format(tool.name) for each in choice)
            )
            yield Request((*history, user("hi")), tools=[*OWN, tool], tool_choice=named)


def bodies(wire: str) -> list[Any]:
    """Return what is sent for all requests that the wire can say."""
    codec, url, model = WIRES[wire]
    provider = Provider("p", "x", url, codec, token=Secret("k"))
    found = []
    for request in requests(tuple(history(wire))):
        try:
            http = codec.encode(provider, Target("p", model), request)
        except UnsupportedError:
            continue
        found.append(json.loads(bytes(http.body or b"")))
    return found


def history(wire: str) -> Iterator[Message]:
    """Yield a turn in which the provider ran its tools, read from its answer."""
    if wire not in ANSWERS:
        return
    codec, *_ = WIRES[wire]
    decoder, out = codec.decoder(), list[Item]()
    named = isinstance(codec.framing(), NamedSSE)
    for event in tomllib.loads(ODDITIES.read_text())[ANSWERS[wire]]["events"]:
        name = json.loads(event).get("type", "").encode()
        decoder.feed([(name, event.encode()) if named else event.encode()], out)
    if not decoder.finished:
        decoder.close(out)
    total = Accumulator()
    total.add(out)
    yield user("hi")
    yield total.message()


@pytest.mark.parametrize(
    ("wire", "least"), [("openai_chat", 10), *((wire, 30) for wire in ANSWERS)]
)
def test_the_sdks_types_accept_hosted_tools(
    wire: str, least: int, complaints: Callable[[str, list[Any]], list[dict[str, str]]]
) -> None:
    sent = bodies(wire)
    assert len(sent) >= least
    wrong = json.loads(json.dumps(sent[0]))
    if "tools" in wrong:
        wrong["tools"][0]["nonsense"] = {}
    else:
        wrong["web_search_options"]["nonsense"] = 1
    *found, of_wrong = complaints(wire, [*sent, wrong])
    assert found == [{}] * len(sent)
    assert of_wrong, "the types would take anything"
