"""Gemini, counting: the body of generateContent as one field of countTokens."""

from __future__ import annotations

from aiollm._wire.body import json_body
from aiollm.provider import HttpRequest, HttpResponse, Provider
from aiollm.providers.encoding import Warnings
from aiollm.providers.google.encode import encode_body
from aiollm.providers.google.models import resource
from aiollm.providers.google.places import key_headers, method_url
from aiollm.providers.token_counts import count_from
from aiollm.types import Request, Target


class GoogleCounts:
    """Counts at `:countTokens`, which is free."""

    def encode_count(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError, ConfigError."""
        # `contents` alone would leave out the system prompt and tools, for which the SDK refuses to
        # count; the request inside has to name its model (Google's reference, November 2026).
        body = encode_body(provider, target.model, request, Warnings())
        asked = {"model": resource(target.model), **body}
        return HttpRequest(
            method_url(provider, target.model, "countTokens"),
            key_headers(provider),
            json_body({"generateContentRequest": asked}),
        )

    def decode_count(self, reply: HttpResponse) -> int:
        """Read a reply. Raises: ProtocolError."""
        return count_from(reply, "totalTokens")
