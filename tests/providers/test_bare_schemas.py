"""Parameters of tools that a caller gives without the keys that servers require."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import pytest

from aiollm.dsn import Secret
from aiollm.provider import Provider
from aiollm.types import Request, Target, Tool, user

CODECS = (
    "openai.chat_codec:ChatCodec",
    "openai.responses_codec:ResponsesCodec",
    "ollama.codec:OllamaCodec",
)


def sent(codec: str, parameters: dict[str, Any]) -> Any:
    module, _, name = codec.partition(":")
    made = getattr(import_module(f"aiollm.providers.{module}"), name)()
    provider = Provider("p", "x", "https://h.invalid/v1", made, token=Secret("k"))
    request = Request((user("hi"),), tools=(Tool("f", "", parameters),))
    body = json.loads(bytes(made.encode(provider, Target("p", "m"), request).body))
    (tool,) = body["tools"]
    return tool.get("function", tool)["parameters"]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "parameters", [{}, {"type": "object"}, {"type": "object", "additionalProperties": False}]
)
def test_parameters_without_properties_get_an_empty_list_of_them(
    codec: str, parameters: dict[str, Any]
) -> None:
    """OpenAI refuses the schema that many MCP servers give a tool without parameters."""
    assert sent(codec, parameters) == parameters | {"type": "object", "properties": {}}


@pytest.mark.parametrize("codec", CODECS)
def test_parameters_without_a_type_are_an_object(codec: str) -> None:
    given = {"properties": {"a": {"type": "string"}}}
    assert sent(codec, given) == given | {"type": "object"}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("key", ["$ref", "anyOf", "oneOf", "allOf"])
def test_parameters_that_are_defined_elsewhere_are_sent_as_they_are(codec: str, key: str) -> None:
    given = {key: "#/$defs/A" if key == "$ref" else [{}], "$defs": {"A": {}}}
    assert sent(codec, given) == given
