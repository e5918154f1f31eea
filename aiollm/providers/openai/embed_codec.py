"""OpenAI's embeddings, also of the many servers that are compatible with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from aiollm._settings.wildcards import matches
from aiollm._wire.body import Blob, json_body
from aiollm.errors import LLMError, UnsupportedError
from aiollm.provider import HttpRequest, HttpResponse, Provider, UnaryCodec
from aiollm.providers.encoding import Warnings, bearer_headers, merge
from aiollm.providers.openai.errors import reply_error, stream_error
from aiollm.providers.vector_replies import decode_strictly, in_order, no_answer, usage_of
from aiollm.retrieval import EmbedRequest, RawVector, VectorReply
from aiollm.types import ImagePart, Target


class EmbedDialect(msgspec.Struct, frozen=True):
    """How matching hosts name what is asked for, "" where they have no field for it.

    `truncates`: whether the host cuts inputs that are too long unless it is told not to.
    `int8`: whether its vectors are bytes, each a number from -128 to 127.
    """

    host: str
    dimensions: str = "dimensions"
    base64: str = "encoding_format"
    kind: str = ""
    kinds: Mapping[str, str] = {}
    truncate: str = ""
    truncates: bool = False
    images: Literal["", "objects"] = ""
    int8: bool = False


_DIALECTS = (
    EmbedDialect(
        "api.voyageai.com",
        dimensions="output_dimension",
        kind="input_type",
        kinds={"query": "query", "document": "document"},
        truncate="truncation",
        truncates=True,
    ),
    EmbedDialect(
        "api.jina.ai",
        base64="embedding_type",
        kind="task",
        kinds={"query": "retrieval.query", "document": "retrieval.passage"},
        truncate="truncate",
        images="objects",
    ),
    EmbedDialect("api.mistral.ai", dimensions="output_dimension"),
    EmbedDialect("api.perplexity.ai", int8=True),
    EmbedDialect("*"),
)
"""The first match applies (the services' own pages, November 2026)."""


class _Vector(msgspec.Struct):
    embedding: RawVector = b""
    index: int | None = None


class _Reply(msgspec.Struct):
    data: list[_Vector] | None = None
    usage: Any = None


_REPLY = msgspec.json.Decoder(_Reply)


class OpenAIEmbeddings(UnaryCodec[EmbedRequest, VectorReply]):
    """Asks for base64, which is a quarter of the bytes; takes numbers, too."""

    asks_for_base64 = True

    def encode(self, provider: Provider, target: Target, request: EmbedRequest) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError."""
        warnings = Warnings()
        dialect = _dialect(provider.host)
        body = {"model": target.model, "input": _inputs(request, dialect)}
        if self.asks_for_base64:
            body[dialect.base64] = "base64_int8" if dialect.int8 else "base64"
        body |= _settings(provider.host, request, dialect, warnings)
        return HttpRequest(
            f"{provider.base_url}/embeddings",
            bearer_headers(provider),
            json_body(merge(body, request.extra)),
            warnings=tuple(warnings),
        )

    def decode(self, reply: HttpResponse) -> VectorReply:
        """Read a reply. Raises: LLMError."""
        found = decode_strictly(reply, _REPLY, stream_error)
        if found.data is None:
            raise no_answer(reply, stream_error, "it has no data")
        usage = usage_of(found.usage, "prompt_tokens", "total_tokens")  # Voyage: the total alone
        vectors = [each.embedding for each in in_order(found.data)]
        return VectorReply(vectors, usage, _dialect(urlsplit(reply.url).netloc).int8)

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""
        return reply_error(reply)

    def gives_way(self, reply: HttpResponse) -> bool:
        """Return whether the host refuses the field that asks for base64."""
        named = b"encoding_format" in reply.body or b"embedding_type" in reply.body
        return reply.status in (400, 422) and named


class PlainEmbeddings(OpenAIEmbeddings):
    """For hosts that refuse to be asked for base64."""

    asks_for_base64 = False


def _dialect(host: str) -> EmbedDialect:
    return next(row for row in _DIALECTS if matches(host, row.host))


def _settings(
    host: str, request: EmbedRequest, dialect: EmbedDialect, warnings: Warnings
) -> dict[str, Any]:
    """Return the fields for what is asked beside the inputs. Raises: UnsupportedError."""
    fields: dict[str, Any] = {}
    if request.dimensions is not None:
        if dialect.int8 and request.dimensions % 4:  # bytes of other lengths are no vectors to us
            raise UnsupportedError(f"aiollm reads vectors of {host} whose width is divisible by 4")
        fields[dialect.dimensions] = request.dimensions
    if request.kind is not None and dialect.kind:
        fields[dialect.kind] = dialect.kinds[request.kind]
    elif request.kind is not None:
        warnings.add(f"{host} has no field for kind: it is dropped")
    if request.truncate and not dialect.truncate:
        raise UnsupportedError(
            f"{host} has no known way to cut inputs that are too long: cut them yourself, or "
            "name its field in extra"
        )
    if dialect.truncate and request.truncate != dialect.truncates:
        fields[dialect.truncate] = request.truncate
    return fields


def _inputs(request: EmbedRequest, dialect: EmbedDialect) -> list[Any]:
    has_images = any(isinstance(each, ImagePart) for each in request.inputs)
    if not has_images:
        return [*request.inputs]
    if not dialect.images:
        raise UnsupportedError("this wire takes only texts as inputs of embeddings, not images")
    return [_object(each) for each in request.inputs]


def _object(each: str | ImagePart) -> dict[str, Any]:
    if isinstance(each, str):
        return {"text": each}
    return {"image": Blob(each.data) if each.data else each.url}
