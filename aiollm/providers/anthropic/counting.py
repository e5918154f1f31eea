"""Anthropic, counting: the body of a message without what is not part of the prompt."""

from __future__ import annotations

from aiollm._wire.body import json_body
from aiollm.provider import HttpRequest, HttpResponse, Provider
from aiollm.providers.anthropic.encode import encode_body, headers
from aiollm.providers.encoding import Warnings
from aiollm.providers.token_counts import count_from, without
from aiollm.types import Request, Target

UNCOUNTED = frozenset(
    {
        "container",
        "diagnostics",
        "inference_geo",
        "max_tokens",
        "metadata",
        "service_tier",
        "stop_sequences",
        "stream",
        "temperature",
        "top_k",
        "top_p",
    }
)
"""Fields of a message that counting does not take (Anthropic's SDK 2.12, November 2026)."""


class AnthropicCounts:
    """Counts at `/messages/count_tokens`, which is free and has limits of its own.

    Anthropic says that a message may take a few tokens more or fewer (its page, November 2026).
    """

    def encode_count(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError, ConfigError."""
        body = encode_body(provider, target, request, Warnings())
        return HttpRequest(
            f"{provider.base_url}/messages/count_tokens",
            headers(provider, body),
            json_body(without(UNCOUNTED, body)),
        )

    def decode_count(self, reply: HttpResponse) -> int:
        """Read a reply. Raises: ProtocolError."""
        return count_from(reply, "input_tokens")
