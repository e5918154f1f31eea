"""Every wire as a provider, for tests of tools that providers run themselves."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiollm._streams.accumulator import Accumulator
from aiollm._wire.framing import NamedSSE
from aiollm.provider import Codec, HttpRequest, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.llama_swap.codec import LlamaSwapCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.types import Item, Message, Request, Target


class Wire(msgspec.Struct, frozen=True):
    """A codec at its vendor's host, or at another."""

    codec: Codec
    host: str
    model: str

    def encode(self, request: Request, host: str = "", model: str = "") -> HttpRequest:
        provider = Provider("p", "x", f"https://{host or self.host}/v1", self.codec)
        return self.codec.encode(provider, Target("p", model or self.model), request)

    def body(self, request: Request, host: str = "", model: str = "") -> dict[str, Any]:
        body: dict[str, Any] = json.loads(bytes(self.encode(request, host, model).body or b""))
        return body


WIRES = {
    "chat": Wire(ChatCodec(), "api.openai.com", "gpt-4.1"),
    "responses": Wire(ResponsesCodec(), "api.openai.com", "gpt-6-sol"),
    "anthropic": Wire(AnthropicCodec(), "api.anthropic.com", "claude-opus-4-8"),
    "google": Wire(GoogleCodec(), "generativelanguage.googleapis.com", "gemini-3.8-flash"),
    "ollama": Wire(OllamaCodec(), "127.0.0.1:11434", "qwen3:8b"),
    "llama-swap": Wire(LlamaSwapCodec(), "127.0.0.1:8080", "qwen"),
}


@pytest.fixture(params=WIRES, scope="session")
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each wire in turn."""
    return WIRES[request.param]


@pytest.fixture(scope="session")
def wire_of() -> Callable[[str], Wire]:
    """Return the wire of a name."""
    return WIRES.__getitem__


RECORDED = {
    "responses": "openai_responses/what OpenAI searched and ran",
    "anthropic": "anthropic/what Anthropic searched and ran",
    "google": "gemini/what Google searched and ran",
}
"""Answers with hosted calls, among those of the contract's tests."""


@pytest.fixture(scope="session")
def answers() -> dict[str, Message]:
    """Return an answer with hosted calls of each wire that has them, as its decoder reads it."""
    file = Path(__file__).parents[1] / "contract" / "oddities.toml"
    rows = tomllib.loads(file.read_text())
    return {name: _read(WIRES[name].codec, rows[row]["events"]) for name, row in RECORDED.items()}


def _read(codec: Codec, events: list[str]) -> Message:
    decoder, out = codec.decoder(), list[Item]()
    named = isinstance(codec.framing(), NamedSSE)
    for event in events:
        name = json.loads(event).get("type", "").encode()
        decoder.feed([(name, event.encode()) if named else event.encode()], out)
    if not decoder.finished:
        decoder.close(out)
    total = Accumulator()
    total.add(out)
    return total.message()
