"""Whether the official SDKs' own request types take what is sent for prompt caching."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from aiollm import CachePoint, Request, Tool, ToolCallPart, ToolResultPart, system, tool_results
from aiollm.dsn import Secret
from aiollm.provider import Codec, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.types import DocumentPart, ImagePart, Target, assistant, user

POINT = CachePoint()
WIRES: dict[str, tuple[Codec, str, str]] = {
    "openai_chat": (ChatCodec(), "https://api.openai.com/v1", "gpt-5.6"),
    "openai_responses": (ResponsesCodec(), "https://api.openai.com/v1", "gpt-6"),
    "anthropic": (AnthropicCodec(), "https://api.anthropic.com/v1", "claude-x-5-5"),
    "gemini": (GoogleCodec(), "https://generativelanguage.googleapis.com/v1", "g-3"),
}


def bodies(wire: str) -> list[Any]:
    """Return the bodies of one request for each wish, with every kind of part marked."""
    codec, url, model = WIRES[wire]
    provider = Provider("p", "x", url, codec, token=Secret("k"))
    image, pdf = ImagePart(b"\x89PNG\r\n\x1a\n-", mime="image/png"), DocumentPart(b"%PDF-1.7")
    messages = [
        system("rules", POINT, "today"),
        user("text", POINT),
        user(image, POINT, pdf, POINT, "what is it?"),
        assistant(ToolCallPart("call_1", "look")),
        tool_results(ToolResultPart("call_1", ["seen", POINT])),
        user("and now?", POINT),
    ]
    found = []
    for wish in (None, "off", "auto", "5m", "30m", "1h", "12h"):
        request = Request(
            messages,
            tools=Tool("look", cache_point=True),
            prompt_cache=wish,  # type: ignore[arg-type]
            cache_key="key",
        )
        http = codec.encode(provider, Target("p", model), request)
        found.append(json.loads(bytes(http.body or b"")))
    return found


@pytest.mark.parametrize("wire", WIRES)
def test_the_sdks_types_accept_what_is_sent_for_caching(
    wire: str, complaints: Callable[[str, list[Any]], list[dict[str, str]]]
) -> None:
    sent = bodies(wire)
    wrong = sent[0] | {"prompt_cache_wrong": 1}
    *found, of_wrong = complaints(wire, [*sent, wrong])
    assert found == [{}] * len(sent)
    assert of_wrong, "the types would take anything"
