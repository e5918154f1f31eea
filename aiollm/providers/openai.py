"""OpenAI's chat completions, the wire that most servers and routers speak."""

from __future__ import annotations

from typing import Any

from aiollm.encoding import Warnings, bearer_headers, merge
from aiollm.errors import LLMError, ProtocolError
from aiollm.framing import SSE
from aiollm.provider import HttpReply, HttpRequest, Provider, json_body
from aiollm.providers.openai_decoder import ChatDecoder
from aiollm.providers.openai_dialects import Dialect, dialect_of
from aiollm.providers.openai_errors import reply_error
from aiollm.providers.openai_messages import messages
from aiollm.tolerant import load
from aiollm.types import Request, Target


class ChatCodec:
    """Chat completions; `dialect` stands in for the one that the provider's host implies."""

    family = "openai"

    def __init__(self, dialect: Dialect | None = None) -> None:
        self._dialect = dialect

    def framing(self) -> SSE:
        """Return a new framer for one reply."""
        return SSE()

    def encode(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError, ConfigError."""
        dialect = self._dialect or dialect_of(provider.host)
        warnings = Warnings()
        body: dict[str, Any] = {
            "model": target.model,
            "messages": messages(request, dialect, self.family, warnings),
            "stream": True,
        }
        body["stream_options"] = _stream_options(dialect)
        body |= _limits(request, dialect)
        return HttpRequest(
            f"{provider.base_url}/chat/completions",
            bearer_headers(provider),
            json_body(merge(body, request.extra)),
            warnings=tuple(warnings),
        )

    def decoder(self) -> ChatDecoder:
        """Return a new decoder for one reply."""
        return ChatDecoder(self.family)

    def error(self, reply: HttpReply) -> LLMError:
        """Translate an error reply."""
        return reply_error(reply)

    def models(self, provider: Provider) -> HttpRequest:
        """Return the request that lists the models."""
        return models_request(provider)

    def model_names(self, reply: HttpReply) -> tuple[str, ...]:
        """Read the reply to `models`. Raises: ProtocolError."""
        return model_names(reply)


def models_request(provider: Provider) -> HttpRequest:
    """Return the request that lists an OpenAI-compatible server's models."""
    return HttpRequest(f"{provider.base_url}/models", bearer_headers(provider), method="GET")


def model_names(reply: HttpReply) -> tuple[str, ...]:
    """Read a list of models, bare or under `data`. Raises: ProtocolError."""
    match load(reply.body):
        case {"data": list() as models} | {"models": list() as models} | (list() as models):
            return tuple(
                model["id"]
                for model in models
                if isinstance(model, dict) and isinstance(model.get("id"), str)
            )
        case _:
            raise ProtocolError("the reply is not a list of models", frame=reply.body)


def _stream_options(dialect: Dialect) -> dict[str, bool]:
    options = {"include_usage": True}
    # The padding against traffic analysis costs bytes in every chunk.
    return options if dialect.pads is None else options | {"include_obfuscation": dialect.pads}


def _limits(request: Request, dialect: Dialect) -> dict[str, Any]:
    fields = {
        dialect.max_tokens: request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop) or None,
        dialect.seed: request.seed,
    }
    return {name: value for name, value in fields.items() if value is not None}
