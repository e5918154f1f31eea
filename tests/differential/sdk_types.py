"""Whether each official SDK's own request types take a body.

The types are made strict first: a key they do not know is a complaint, and what they would read
lazily is read at once. Where a value is outside of an enum an SDK warns; that is a complaint, too.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator


def complaints(api: str, body: dict[str, Any]) -> dict[str, str]:
    """Return what the SDK's types say against the body: the place and the cause."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            CHECKS[api](body)
    except ValidationError as error:
        return {".".join(map(str, each["loc"])): each["type"] for each in error.errors()}
    except UserWarning as warning:
        return {"": str(warning)}
    return {}


def _check(kind: Any, body: Any) -> None:
    """Check a body against a strict form of a type. Raises: ValidationError."""
    schema = _strict(dict(TypeAdapter(kind).core_schema))
    # From JSON, so that bytes are read from base64; prebuilt parts would not be strict.
    SchemaValidator(schema, _use_prebuilt=False).validate_json(json.dumps(body))


def _strict(schema: Any) -> Any:
    match schema:
        case {"type": "generator"}:
            return {key: _strict(value) for key, value in schema.items()} | {"type": "list"}
        case {"type": "typed-dict" | "model-fields"}:
            changed = {key: _strict(value) for key, value in schema.items()}
            return changed | {"extra_behavior": "forbid"}
        case dict():
            return {key: _strict(value) for key, value in schema.items()}
        case list():
            return [_strict(item) for item in schema]
        case _:
            return schema


def openai_chat(body: dict[str, Any]) -> None:
    from openai.types.chat import completion_create_params

    _check(completion_create_params.CompletionCreateParamsStreaming, body)


def openai_responses(body: dict[str, Any]) -> None:
    from openai.types.responses import response_create_params

    _check(response_create_params.ResponseCreateParamsStreaming, body)


def anthropic_messages(body: dict[str, Any]) -> None:
    from anthropic.types import message_create_params

    _check(message_create_params.MessageCreateParamsStreaming, body)


def openai_responses_count(body: dict[str, Any]) -> None:
    from openai.types.responses import input_token_count_params

    _check(input_token_count_params.InputTokenCountParams, body)


def anthropic_count(body: dict[str, Any]) -> None:
    from anthropic.types import message_count_tokens_params

    _check(message_count_tokens_params.MessageCountTokensParams, body)


def google_content(body: dict[str, Any]) -> None:
    from google.genai import _common, types

    class Body(_common.BaseModel):
        """The body, which the SDK builds of these but has no type for."""

        contents: list[types.Content]
        system_instruction: types.Content | None = None
        tools: list[types.Tool] | None = None
        tool_config: types.ToolConfig | None = None
        safety_settings: list[types.SafetySetting] | None = None
        generation_config: types.GenerationConfig | None = None

    Body.model_rebuild(_types_namespace={"types": types})
    _check(Body, body)


def ollama_chat(body: dict[str, Any]) -> None:
    from ollama import _types

    class Body(_types.ChatRequest):
        """The request, whose own type takes any mapping as a message or as options."""

        messages: list[_types.Message]
        options: _types.Options | None = None

    Body.model_rebuild(_types_namespace={"_types": _types})
    for message in body["messages"]:
        if "images" in message:  # the SDK, too, wraps them before it checks
            message["images"] = [{"value": image} for image in message["images"]]
    _check(Body, body)


CHECKS = {
    "openai_chat": openai_chat,
    "openai_responses": openai_responses,
    "anthropic": anthropic_messages,
    "gemini": google_content,
    "openai_responses_count": openai_responses_count,
    "anthropic_count": anthropic_count,
    "gemini_count": google_content,
    "ollama": ollama_chat,
}
