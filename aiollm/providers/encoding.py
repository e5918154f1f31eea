"""Shared by all encoders: warnings, foreign state, system text, extra fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aiollm._settings.hidden import HiddenValues
from aiollm._wire.body import json_body
from aiollm._wire.schema import json_schema
from aiollm.provider import Provider
from aiollm.providers.cache_points import without_points
from aiollm.providers.call_ids import unique_calls
from aiollm.providers.turns import one_turn_for_its_results
from aiollm.types import Message, ProviderData, Request, TextPart


class Warnings(dict[str, None]):
    """Collects warnings about what an encoder had to leave out, each message once."""

    def add(self, message: str) -> None:
        """Add a warning, which becomes part of `response.warnings`."""
        self[message] = None

    def own(self, data: ProviderData | None, family: str, what: str) -> dict[str, Any] | None:
        """Return the state if it belongs to `family`, else None; foreign state causes a warning."""
        if data is None:
            return None
        if data.family == family:
            return data.data
        self.add(f"{what} of {data.family} cannot be replayed to {family}: dropped")
        return None


def system_text(request: Request) -> str:
    """Join the system prompt and the system messages at the start of the conversation."""
    if not request.messages or request.messages[0].role != "system":
        return request.system
    leading = request.messages[: after_system(request.messages)]
    texts = [request.system, *(message.text for message in leading)]
    return "\n\n".join(text for text in texts if text)


def after_system(messages: Sequence[Message]) -> int:
    """Return how many system messages come at the start."""
    places = (at for at, message in enumerate(messages) if message.role != "system")
    return next(places, len(messages))


def conversation(request: Request, *, points: bool = False) -> tuple[Message, ...]:
    """Return the messages after those that `system_text` includes.

    Each call stands beside its results, and no tool-call id occurs twice. Cache points are left
    out, unless the encoder asks for `points`.
    """
    messages = request.messages[after_system(request.messages) :]
    if not points:
        messages = tuple(without_points(messages))
    return unique_calls(one_turn_for_its_results(messages))


_DEFINED_ELSEWHERE = frozenset({"$ref", "anyOf", "oneOf", "allOf"})


def object_schema(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a tool's parameters as an object with properties, which OpenAI requires.

    Many MCP servers give a tool without parameters a type alone (2026).
    """
    if "properties" in parameters and "type" in parameters:
        return parameters
    if not _DEFINED_ELSEWHERE.isdisjoint(parameters):
        return parameters
    return {"type": "object", "properties": {}} | parameters


def asks_for_tools(request: Request) -> bool:
    """Return whether there are tools, given as such or in the provider's own form in `extra`."""
    return bool(request.tools or request.extra.get("tools"))


def tools_on_offer(request: Request) -> bool:
    """Return whether the model may call tools of the request."""
    return bool(request.tools) and request.tool_choice != "none"


def output_note(request: Request) -> str:
    """Return how a prompt asks for the structured answer of a request. Raises: ConfigError."""
    schema = bytes(json_body(json_schema(request.output))).decode()
    note = f"Answer with one JSON object and nothing else; it must fit this JSON schema:\n{schema}"
    if tools_on_offer(request):
        return f"Call tools as you need them. When you know enough: {note}"
    return note


def with_output_in_prompt(request: Request, reason: str, warnings: Warnings) -> Request:
    """Return the request with its output in the system prompt, in place of what enforces it.

    Raises: ConfigError.
    """
    warnings.add(f"{reason}: the schema goes into the prompt")
    note = output_note(request)
    system = f"{request.system}\n\n{note}" if request.system else note
    return msgspec.structs.replace(request, system=system, output=None)


def sole_text(request: Request) -> str:
    """Return the text of a conversation that is just one user's plain text, "" for any other."""
    match request.messages:
        case (Message(role="user", parts=(TextPart(text=text, provider_data=None),)),):
            return "" if text.isspace() else text
        case _:
            return ""


def merge(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `extra` into a wire body: objects key by key, anything else replaces."""
    for key, value in extra.items():
        old = body.get(key)
        body[key] = (
            merge(dict(old), value)
            if isinstance(old, dict) and isinstance(value, Mapping)
            else value
        )
    return body


def bearer_headers(provider: Provider) -> dict[str, str]:
    """Return the headers of a JSON request, with the provider's token as Bearer."""
    headers = HiddenValues({"Content-Type": "application/json", "Accept": "application/json"})
    if provider.token is not None:
        headers["Authorization"] = f"Bearer {provider.token.reveal().removeprefix('Bearer ')}"
    if provider.headers:
        headers.update(provider.headers)
    return headers
