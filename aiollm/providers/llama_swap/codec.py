"""llama-swap: OpenAI's chat wire under /v1, with its own errors besides the upstream's."""

from __future__ import annotations

import msgspec

from aiollm._wire.lenient import load
from aiollm.errors import (
    AuthenticationError,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    OverloadedError,
    RateLimitError,
    ServerError,
)
from aiollm.provider import HttpRequest, HttpResponse, Provider, TokenCodec
from aiollm.providers.error_replies import Rule, error_from
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.types import Request, Target

RULES = (
    Rule(RateLimitError, codes=("concurrency_limit", "rate_limit_exceeded"), retry_after=1.0),
    Rule(ModelNotFoundError, codes=("not_found",)),
    Rule(AuthenticationError, codes=("unauthorized",)),
    Rule(InvalidRequestError, codes=("bad_request",)),
    Rule(OverloadedError, codes=("service_unavailable",)),
    Rule(ServerError, codes=("internal_error", "bad_gateway", "gateway_timeout", "conflict")),
)
"""llama-swap's own codes; for `concurrency_limit` its header asks for one second, too."""


class LlamaSwapCodec(ChatCodec):
    """Chat through llama-swap, which passes on OpenAI's wire, and so its opaque state."""

    def encode(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError, ConfigError."""
        return super().encode(openai_wire(provider), target, request)

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply: by llama-swap's own codes, or as the upstream's."""
        match load(reply.body):
            case {"src": "llama-swap"}:
                return error_from(reply, RULES)
            case _:
                return super().error(reply)

    def models(self, provider: Provider) -> HttpRequest:
        """Return the request that lists the models."""
        return super().models(openai_wire(provider))

    def counters(self, provider: Provider) -> tuple[TokenCodec, ...]:  # noqa: ARG002
        """Return the codecs that count at the upstreams, which load models for it."""
        from aiollm.providers.llama_swap.counting import UpstreamCounts, UpstreamTokenizeCounts

        return UpstreamCounts(self.encode_body), UpstreamTokenizeCounts(self.encode_body)


def openai_wire(provider: Provider) -> Provider:
    """Return the provider with the base URL of its OpenAI wire, under /v1."""
    base = provider.base_url.removesuffix("/v1")
    return msgspec.structs.replace(provider, base_url=f"{base}/v1")
