"""Canonical messages to those of chat completions."""

from __future__ import annotations

from typing import Any

from aiollm.encoding import Warnings, conversation, system_text
from aiollm.providers.openai_dialects import Dialect
from aiollm.types import Request


def messages(
    request: Request, dialect: Dialect, family: str, warnings: Warnings
) -> list[dict[str, Any]]:
    """Translate the system prompt and the conversation. Raises: UnsupportedError, ConfigError."""
    out: list[dict[str, Any]] = []
    if text := system_text(request):
        out.append({"role": dialect.system, "content": text})
    out += [{"role": message.role, "content": message.text} for message in conversation(request)]
    return out
