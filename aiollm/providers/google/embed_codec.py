"""Gemini's embeddings: each input is a request of its own in a batch."""

from __future__ import annotations

from typing import Any

import msgspec

from aiollm._settings.wildcards import matches
from aiollm._wire.body import json_body
from aiollm.errors import LLMError, UnsupportedError
from aiollm.provider import HttpRequest, HttpResponse, Provider, UnaryCodec
from aiollm.providers.encoding import Warnings, merge
from aiollm.providers.google.encode import image_part
from aiollm.providers.google.errors import body_error, reply_error
from aiollm.providers.google.models import resource
from aiollm.providers.google.places import key_headers, method_url
from aiollm.providers.vector_replies import decode_strictly, no_answer, usage_of
from aiollm.retrieval import EmbedInput, EmbedRequest, RawVector, VectorReply
from aiollm.retrieval.embed import size_of_input
from aiollm.types import Target

_KINDS = {"query": "RETRIEVAL_QUERY", "document": "RETRIEVAL_DOCUMENT"}
_TEXT_MODELS = ("*gemini-embedding-001*", "*gemini-embedding-exp*", "*text-embedding-*")
"""Models that take texts alone (Google's SDK 3.4, November 2026)."""

_READS = (("*gemini-embedding-2*", 8192), ("*", 2048))
"""Tokens of an input that models read (Google's pages, November 2026). What follows is left out
without a word, and no field of Gemini's API stops it: `autoTruncate` is Vertex's alone."""

_TOKEN = 4
"""Roughly the bytes of a token: only a warning depends on it."""


class _Vector(msgspec.Struct):
    values: RawVector = b""


class _Reply(msgspec.Struct):
    embeddings: list[_Vector] | None = None
    usageMetadata: Any = None  # noqa: N815 - the wire's name


_REPLY = msgspec.json.Decoder(_Reply)


class GoogleEmbeddings(UnaryCodec[EmbedRequest, VectorReply]):
    """Embeds at `:batchEmbedContents`."""

    def encode(self, provider: Provider, target: Target, request: EmbedRequest) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError."""
        only_texts = all(isinstance(each, str) for each in request.inputs)
        if not only_texts and any(matches(target.model, each) for each in _TEXT_MODELS):
            raise UnsupportedError(f"{target.model} embeds only texts, not images")
        settings = merge(_settings(target, request), request.extra)
        warnings = Warnings()
        _warn_of_cuts(target, request, warnings)
        asked = [{**settings, "content": {"parts": [_part(each)]}} for each in request.inputs]
        return HttpRequest(
            method_url(provider, target.model, "batchEmbedContents"),
            key_headers(provider),
            json_body({"requests": asked}),
            warnings=tuple(warnings),
        )

    def decode(self, reply: HttpResponse) -> VectorReply:
        """Read a reply. Raises: LLMError."""
        found = decode_strictly(reply, _REPLY, _failed)
        if found.embeddings is None:
            raise no_answer(reply, _failed, "it has no embeddings")
        usage = usage_of(found.usageMetadata, "promptTokenCount")
        return VectorReply([each.values for each in found.embeddings], usage)

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""
        return reply_error(reply)


def _settings(target: Target, request: EmbedRequest) -> dict[str, Any]:
    """Return the fields of each input. Raises: UnsupportedError."""
    if request.truncate:
        raise UnsupportedError("Gemini has no field for truncate: cut the inputs yourself")
    fields: dict[str, Any] = {"model": resource(target.model)}
    if request.dimensions is not None:
        fields["outputDimensionality"] = request.dimensions
    if request.kind is not None:
        fields["taskType"] = _KINDS[request.kind]
    return fields


def _warn_of_cuts(target: Target, request: EmbedRequest, warnings: Warnings) -> None:
    tokens = next(tokens for name, tokens in _READS if matches(target.model, name))
    longest = tokens * _TOKEN
    if any(isinstance(each, str) and size_of_input(each) > longest for each in request.inputs):
        warnings.add(
            f"inputs of more than {longest} bytes are probably longer than the {tokens} tokens "
            f"that {target.model} reads: Gemini leaves out the rest without saying so"
        )


def _part(each: EmbedInput) -> dict[str, Any]:
    return {"text": each} if isinstance(each, str) else image_part(each)


def _failed(value: Any, body: bytes) -> LLMError:
    return body_error(value, body=body)
