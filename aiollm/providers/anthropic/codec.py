"""Anthropic's Messages API, which llama.cpp, llama-swap, Ollama and gateways support, too."""

from __future__ import annotations

from aiollm._wire.runs import EventRuns
from aiollm.errors import LLMError
from aiollm.provider import Codec, HttpRequest, HttpResponse, Provider, TokenCodec
from aiollm.providers.anthropic import encode, errors
from aiollm.providers.anthropic.decode import AnthropicDecoder
from aiollm.providers.anthropic.messages import FAMILY
from aiollm.providers.model_lists import listed_names
from aiollm.types import Request, Target


class AnthropicCodec(Codec):
    """Chat over Anthropic's Messages API."""

    family = FAMILY

    def framing(self) -> EventRuns:
        """Return a new framer for one reply."""
        return EventRuns()

    def encode(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError, ConfigError."""
        return encode.encode(provider, target, request)

    def decoder(self) -> AnthropicDecoder:
        """Return a new decoder for one reply."""
        return AnthropicDecoder()

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""
        return errors.error(reply)

    def models(self, provider: Provider) -> HttpRequest:
        """Return the request that lists the models, all on one page."""
        url = f"{provider.base_url}/models?limit=1000"
        return HttpRequest(url, encode.headers(provider), method="GET")

    def model_names(self, reply: HttpResponse) -> tuple[str, ...]:
        """Read the reply to `models`. Raises: ProtocolError."""
        return listed_names(reply.body)

    def counters(self, provider: Provider) -> tuple[TokenCodec, ...]:  # noqa: ARG002
        """Return the codecs that count at `/messages/count_tokens`."""
        from aiollm.providers.anthropic.counting import AnthropicCounts  # few programs count

        return (AnthropicCounts(),)
