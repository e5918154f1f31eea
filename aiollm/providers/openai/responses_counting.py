"""OpenAI Responses, counting: the body of a call without what is not part of the prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiollm._wire.body import json_body
from aiollm.provider import HttpRequest, HttpResponse, Provider
from aiollm.providers.encoding import Warnings, bearer_headers
from aiollm.providers.token_counts import count_from, without
from aiollm.types import Request, Target

UNCOUNTED = frozenset(
    {
        "background",
        "context_management",
        "include",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "moderation",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "top_logprobs",
        "top_p",
        "user",
    }
)
"""Fields of a response that counting does not take (OpenAI's SDK 3.54, November 2026)."""


class ResponsesCounts:
    """Counts at `/responses/input_tokens`, which OpenAI and llama.cpp have (November 2026)."""

    def __init__(
        self,
        encode_body: Callable[
            [Provider, Target, Request, dict[str, str], Warnings], dict[str, Any]
        ],
    ) -> None:
        self._encode_body = encode_body

    def encode_count(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError, ConfigError."""
        body = self._encode_body(provider, target, request, {}, Warnings())
        return HttpRequest(
            f"{provider.base_url}/responses/input_tokens",
            bearer_headers(provider),
            json_body(without(UNCOUNTED, body)),
        )

    def decode_count(self, reply: HttpResponse) -> int:
        """Read a reply. Raises: ProtocolError."""
        return count_from(reply, "input_tokens")
