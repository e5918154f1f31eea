"""Reranking as Cohere began it: also Jina, Voyage, vLLM, llama.cpp and llama-swap have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import msgspec

from aiollm._settings.wildcards import matches
from aiollm._wire.body import json_body
from aiollm.errors import LLMError, ProtocolError, UnsupportedError
from aiollm.provider import HttpRequest, HttpResponse, Provider, UnaryCodec
from aiollm.providers.encoding import bearer_headers, merge
from aiollm.providers.openai.errors import reply_error, stream_error
from aiollm.providers.vector_replies import decode_strictly, no_answer, usage_of
from aiollm.retrieval import RerankRequest, ScoreReply
from aiollm.types import Target


class RerankDialect(msgspec.Struct, frozen=True):
    """How matching hosts name what is asked for, "" where they have no field for it."""

    host: str
    top: str = "top_n"
    truncate: str = ""
    truncates: bool = False


_DIALECTS = (
    RerankDialect("api.voyageai.com", top="top_k", truncate="truncation", truncates=True),
    RerankDialect("api.jina.ai", truncate="truncation", truncates=True),
    RerankDialect("*"),
)
"""The first match applies (the services' own pages, November 2026)."""


class _Score(msgspec.Struct, gc=False):
    index: int
    relevance_score: float | None = None
    score: float | None = None

    @property
    def value(self) -> float:
        """The score. Raises: ProtocolError where there is none."""
        found = self.score if self.relevance_score is None else self.relevance_score
        if found is None:
            raise ProtocolError(f"the reply has no score for document {self.index}")
        return found


class _Reply(msgspec.Struct):
    results: list[_Score] | None = None
    data: list[_Score] | None = None
    usage: Any = None


_REPLY = msgspec.json.Decoder(
    _Reply | list[_Score]
)  # the list is that of text-embeddings-inference


class CohereRerank(UnaryCodec[RerankRequest, ScoreReply]):
    """Scores at `/rerank`, beside the chat of the same server."""

    def encode(self, provider: Provider, target: Target, request: RerankRequest) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError."""
        dialect = next(row for row in _DIALECTS if matches(provider.host, row.host))
        body = {
            "model": target.model,
            "query": request.query,
            "documents": [*request.documents],
            **_settings(provider.host, request, dialect),
        }
        return HttpRequest(
            f"{provider.base_url}/rerank",
            bearer_headers(provider),
            json_body(merge(body, request.extra)),
        )

    def decode(self, reply: HttpResponse) -> ScoreReply:
        """Read a reply. Raises: LLMError."""
        found = decode_strictly(reply, _REPLY, stream_error)
        if isinstance(found, list):
            return ScoreReply(_Scores(found))
        scores = found.data if found.results is None else found.results
        if scores is None:
            raise no_answer(reply, stream_error, "it has no results")
        # Some have the total alone, and a zero beside it.
        counts = found.usage if isinstance(found.usage, dict) else {}
        counted = {name: value for name, value in counts.items() if value != 0}
        return ScoreReply(_Scores(scores), usage_of(counted, "prompt_tokens", "total_tokens"))

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""
        return reply_error(reply)


def _settings(host: str, request: RerankRequest, dialect: RerankDialect) -> dict[str, Any]:
    """Return the fields for what is asked beside the texts. Raises: UnsupportedError."""
    fields: dict[str, Any] = {}
    if request.top is not None:
        fields[dialect.top] = request.wanted
    if request.truncate and not dialect.truncate:
        raise UnsupportedError(
            f"{host} has no known way to cut documents that are too long: cut them yourself, or "
            "name its field in extra"
        )
    if dialect.truncate and request.truncate != dialect.truncates:
        fields[dialect.truncate] = request.truncate
    return fields


class _Scores(Sequence[tuple[int, float]]):
    """Places and their scores, which are looked at a few at a time: there may be thousands."""

    def __init__(self, found: list[_Score]) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, place: int) -> tuple[int, float]: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[tuple[int, float]]: ...

    def __getitem__(self, place: int | slice) -> Any:
        """Return one pair, or some. Raises: ProtocolError for a place without a score."""
        if isinstance(place, slice):
            return [(each.index, each.value) for each in self._found[place]]
        return self._found[place].index, self._found[place].value
