"""Ollama's embeddings, by its own API."""

from __future__ import annotations

from typing import Any

import msgspec

from aiollm._wire.body import json_body
from aiollm.errors import LLMError, UnsupportedError
from aiollm.provider import HttpRequest, HttpResponse, Provider, UnaryCodec
from aiollm.providers.encoding import Warnings, bearer_headers, merge
from aiollm.providers.error_bodies import fault_of
from aiollm.providers.error_replies import error_from, error_from_fault
from aiollm.providers.ollama.errors import RULES
from aiollm.providers.vector_replies import decode_strictly, no_answer, usage_of
from aiollm.retrieval import EmbedRequest, RawVector, VectorReply
from aiollm.types import Target


class _Reply(msgspec.Struct):
    embeddings: list[RawVector] | None = None
    prompt_eval_count: Any = None


_REPLY = msgspec.json.Decoder(_Reply)


class OllamaEmbeddings(UnaryCodec[EmbedRequest, VectorReply]):
    """Embeds at `/api/embed`, which cuts inputs that are too long unless it is told not to."""

    def encode(self, provider: Provider, target: Target, request: EmbedRequest) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError."""
        warnings = Warnings()
        if not all(isinstance(each, str) for each in request.inputs):
            raise UnsupportedError("Ollama embeds only texts, not images")
        body: dict[str, Any] = {
            "model": target.model,
            "input": [*request.inputs],
            "truncate": request.truncate,
        }
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        if request.kind is not None:
            warnings.add("Ollama has no field for kind: it is dropped")
        return HttpRequest(
            f"{provider.base_url}/api/embed",
            bearer_headers(provider),
            json_body(merge(body, request.extra)),
            warnings=tuple(warnings),
        )

    def decode(self, reply: HttpResponse) -> VectorReply:
        """Read a reply. Raises: LLMError."""
        found = decode_strictly(reply, _REPLY, _failed)
        if found.embeddings is None:
            raise no_answer(reply, _failed, "it has no embeddings")
        usage = usage_of({"tokens": found.prompt_eval_count}, "tokens")
        return VectorReply(found.embeddings, usage)

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""
        return error_from(reply, RULES)


def _failed(value: Any, body: bytes) -> LLMError:
    return error_from_fault(fault_of(value), RULES, body=body)
