"""Gemini's generateContent: the codec that joins requests, answers and errors."""

from __future__ import annotations

from typing import Any

import msgspec

from aiollm._wire.body import json_body
from aiollm._wire.framing import SSE
from aiollm._wire.lenient import decode, mend
from aiollm.errors import LLMError, ProtocolError
from aiollm.provider import Codec, HttpRequest, HttpResponse, Provider, TokenCodec
from aiollm.providers.encoding import Warnings
from aiollm.providers.google.decode import GoogleDecoder
from aiollm.providers.google.encode import encode_body
from aiollm.providers.google.errors import reply_error
from aiollm.providers.google.places import key_headers, method_url
from aiollm.providers.google.wire import FAMILY
from aiollm.types import Request, Target

MAX_PAGE = 1000
"""Models per page; one page is enough to list all."""


class _Model(msgspec.Struct):
    name: str = ""


class _Models(msgspec.Struct):
    models: list[_Model] = []
    error: Any = None


_MODELS = msgspec.json.Decoder(_Models)


class GoogleCodec(Codec):
    """Chat over generateContent; the key is sent in a header, never in the URL."""

    family = FAMILY

    def framing(self) -> SSE:
        """Return a new framer for one reply."""
        return SSE()

    def encode(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError, ConfigError."""
        warnings = Warnings()
        return HttpRequest(
            f"{method_url(provider, target.model, 'streamGenerateContent')}?alt=sse",
            key_headers(provider),
            json_body(encode_body(provider, target.model, request, warnings)),
            warnings=tuple(warnings),
        )

    def decoder(self) -> GoogleDecoder:
        """Return a new decoder for one reply."""
        return GoogleDecoder()

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""
        return reply_error(reply)

    def models(self, provider: Provider) -> HttpRequest:
        """Return the request that lists the models."""
        url = f"{provider.base_url}/models?pageSize={MAX_PAGE}"
        return HttpRequest(url, key_headers(provider), method="GET")

    def model_names(self, reply: HttpResponse) -> tuple[str, ...]:
        """Read the reply to `models`, without the `models/` of every name.

        Raises: ProtocolError.
        """
        found: Any = decode(reply.body, _MODELS)
        if found.error:
            raise ProtocolError("the reply is not a list of models", frame=reply.body)
        names = (mend(model.name) for model in found.models if model.name)
        return tuple(name.removeprefix("models/") for name in names)

    def counters(self, provider: Provider) -> tuple[TokenCodec, ...]:  # noqa: ARG002
        """Return the codecs that count at `:countTokens`."""
        from aiollm.providers.google.counting import GoogleCounts  # few programs count

        return (GoogleCounts(),)
