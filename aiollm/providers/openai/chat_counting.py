"""OpenAI chat completions, counting: the routes of llama.cpp and of vLLM."""

from __future__ import annotations

from typing import Any, Protocol

from aiollm._wire.body import json_body
from aiollm._wire.lenient import load
from aiollm.provider import HttpRequest, HttpResponse, Provider
from aiollm.providers.encoding import Warnings, bearer_headers
from aiollm.providers.openai.dialects import COMPATIBLE, Dialect, suited
from aiollm.providers.token_counts import count_from, without
from aiollm.types import AudioPart, DocumentPart, ImagePart, Request, Target, ToolResultPart

_STREAMED = frozenset({"stream", "stream_options"})
_TEMPLATE = (
    "model",
    "messages",
    "tools",
    "chat_template",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "mm_processor_kwargs",
)
"""What vLLM makes a prompt from (its `serve/tokenize/protocol.py`, 2026)."""


class EncodeBody(Protocol):
    """Makes the body of a call."""

    def __call__(
        self,
        provider: Provider,
        target: Target,
        request: Request,
        dialect: Dialect,
        headers: dict[str, str],
        warnings: Warnings,
    ) -> dict[str, Any]:
        """Return the body, and add to the headers. Raises: UnsupportedError, ConfigError."""


class ChatCounts:
    """Counts at `/chat/completions/input_tokens`, which llama.cpp has (November 2026)."""

    def __init__(self, encode_body: EncodeBody) -> None:
        self._encode_body = encode_body

    def encode_count(
        self, provider: Provider, target: Target, request: Request
    ) -> HttpRequest | None:
        """Translate a request. Raises: UnsupportedError, ConfigError."""
        return HttpRequest(
            f"{self.base_url(provider, target)}/chat/completions/input_tokens",
            bearer_headers(provider),
            json_body(without(_STREAMED, self._body(provider, target, request))),
        )

    def base_url(self, provider: Provider, target: Target) -> str:  # noqa: ARG002 - llama-swap's has
        """Return the base URL of the server that runs the model. Raises: ConfigError."""
        return provider.base_url

    def decode_count(self, reply: HttpResponse) -> int | None:
        """Read a reply. Raises: ProtocolError."""
        return count_from(reply, "input_tokens")

    def _body(self, provider: Provider, target: Target, request: Request) -> dict[str, Any]:
        dialect = suited(COMPATIBLE, target.model)
        return self._encode_body(provider, target, request, dialect, {}, Warnings())


class TokenizeCounts(ChatCounts):
    """Counts at vLLM's `/tokenize`, which is beside `/v1`."""

    def encode_count(
        self, provider: Provider, target: Target, request: Request
    ) -> HttpRequest | None:
        """Translate a request without files, which stand in the prompt as one token each.

        Raises: UnsupportedError, ConfigError.
        """
        if _has_files(request):
            return None
        body = self._body(provider, target, request)
        return HttpRequest(
            f"{self.base_url(provider, target).removesuffix('/v1')}/tokenize",
            bearer_headers(provider),
            json_body({name: body[name] for name in _TEMPLATE if name in body}),
        )

    def decode_count(self, reply: HttpResponse) -> int | None:
        """Read a reply; llama.cpp's `/tokenize` reads texts alone. Raises: ProtocolError."""
        match load(reply.body):
            case {"tokens": list()} as found if "count" not in found:
                return None
            case _:
                return count_from(reply, "count")


def _has_files(request: Request) -> bool:
    parts = [part for message in request.messages for part in message.parts]
    parts += [each for part in parts if isinstance(part, ToolResultPart) for each in part.content]
    return any(isinstance(part, ImagePart | AudioPart | DocumentPart) for part in parts)
