"""Names of calls that a model made up: services refuse them in a history, with every turn."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import pytest

from aiollm.dsn import Secret
from aiollm.provider import Provider
from aiollm.types import (
    ProviderData,
    Request,
    Target,
    ToolCallPart,
    ToolResultPart,
    assistant,
    tool_results,
    user,
)

CODECS = (
    "openai.chat_codec:ChatCodec",
    "openai.responses_codec:ResponsesCodec",
    "anthropic.codec:AnthropicCodec",
    "google.codec:GoogleCodec",
)


def encoded(codec: str, call: ToolCallPart) -> tuple[str, str, tuple[str, ...]]:
    """Return the name that is sent for a call, all that is sent, and the warnings."""
    module, _, name = codec.partition(":")
    made = getattr(import_module(f"aiollm.providers.{module}"), name)()
    provider = Provider("p", "x", "https://h.invalid/v1", made, token=Secret("k"))
    result = tool_results(ToolResultPart(call.id, "there is no such tool", is_error=True))
    request = Request((user("hi"), assistant(call), result))
    sent = made.encode(provider, Target("p", "m"), request)
    (found,) = set(_names(json.loads(bytes(sent.body))))
    return found, bytes(sent.body).decode(), sent.warnings


def _names(value: Any) -> list[str]:
    """Return the names of calls and of their results in a body."""
    if isinstance(value, list):
        return [name for item in value for name in _names(item)]
    if not isinstance(value, dict):
        return []
    own = [value["name"]] if isinstance(value.get("name"), str) else []
    return own + [name for item in value.values() for name in _names(item)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("made_up", "sent_as"),
    [
        ("$lookup", "_lookup"),
        ("read<|channel|>commentary", "read__channel__commentary"),
        ('view" path="a.php', "view__path__a_php"),
        ("łódź", "__d_"),
        ("3d/render", "_3d_render"),
        ("", "_"),
        ("psql " * 100, ("psql_" * 100)[:64]),
    ],
)
def test_a_name_that_no_tool_can_have_is_spelled_so_that_it_is_taken_back(
    codec: str, made_up: str, sent_as: str
) -> None:
    name, _, warnings = encoded(codec, ToolCallPart("c1", made_up))
    assert name == sent_as
    assert any(repr(sent_as) in warning for warning in warnings)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", ["look_up-2", "_", "A" * 64])
def test_a_name_that_a_tool_can_have_is_sent_as_it_is(codec: str, name: str) -> None:
    found, _, warnings = encoded(codec, ToolCallPart("c1", name))
    assert (found, warnings) == (name, ())


def test_gemini_gets_its_own_names_back_as_they_came() -> None:
    signed = ProviderData("google", {"thoughtSignature": "c2ln"})
    call = ToolCallPart("c1", "default_api.look:up", provider_data=signed)
    name, body, warnings = encoded("google.codec:GoogleCodec", call)
    assert (name, warnings) == ("default_api.look:up", ())
    assert '"thoughtSignature":"c2ln"' in body
