"""What the encoders of all codecs share: warnings, foreign state, system text, extra fields."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from aiollm.types import Message, ProviderData, Request, TextPart


class Warnings:
    """Collects what an encoder had to leave out, each message once."""

    def __init__(self) -> None:
        self._messages: dict[str, None] = {}

    def add(self, message: str) -> None:
        """Note a drop; it ends up in `response.warnings`."""
        self._messages[message] = None

    def __iter__(self) -> Any:
        return iter(self._messages)

    def own(self, data: ProviderData | None, family: str, what: str) -> dict[str, Any] | None:
        """Return the state of `family`, or None; foreign state is dropped with a warning."""
        if data is None:
            return None
        if data.family == family:
            return data.data
        self.add(f"{what} of {data.family} cannot be replayed to {family}: dropped")
        return None


def system_text(request: Request) -> str:
    """Join the system prompt and the system messages at the head of the conversation."""
    texts = [request.system]
    for message in request.messages:
        if message.role != "system":
            break
        texts.append(message.text)
    return "\n\n".join(text for text in texts if text)


def conversation(request: Request) -> tuple[Message, ...]:
    """Return the messages after those that `system_text` took."""
    start = 0
    while start < len(request.messages) and request.messages[start].role == "system":
        start += 1
    return request.messages[start:]


def merge(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `extra` into a wire body, objects key by key, anything else replacing."""
    for key, value in extra.items():
        old = body.get(key)
        body[key] = (
            merge(dict(old), value)
            if isinstance(old, dict) and isinstance(value, Mapping)
            else value
        )
    return body


def only_text(message: Message) -> str | None:
    """Return the message's text where it holds nothing but text parts, else None."""
    if all(type(part) is TextPart for part in message.parts):
        return message.text
    return None


def new_call_id() -> str:
    """Return an id for a tool call that came without one."""
    return f"call_{secrets.token_hex(8)}"
