"""Anthropic's Messages API, which llama.cpp, llama-swap, Ollama and gateways support, too."""

from __future__ import annotations

from aiollm._wire.framing import NamedSSE
from aiollm._wire.lenient import load, mend
from aiollm.errors import LLMError, ProtocolError
from aiollm.provider import Codec, HttpRequest, HttpResponse, Provider
from aiollm.providers.anthropic import encode, errors
from aiollm.providers.anthropic.decode import AnthropicDecoder
from aiollm.providers.anthropic.messages import FAMILY
from aiollm.types import Request, Target


class AnthropicCodec(Codec):
    """Chat over Anthropic's Messages API."""

    family = FAMILY

    def framing(self) -> NamedSSE:
        """Return a new framer for one reply."""
        return NamedSSE()

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
        match load(reply.body):
            case {"data": list(models)}:
                names = [model.get("id") for model in models if isinstance(model, dict)]
                return tuple(mend(name) for name in names if isinstance(name, str) and name)
            case _:
                raise ProtocolError("the reply is not a list of models", frame=reply.body)
