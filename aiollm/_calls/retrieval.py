"""Searching by meaning: embedding and reranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from aiollm._calls.base import RegistryBase

if TYPE_CHECKING:
    from aiollm._failover.keywords import CallOptions
    from aiollm._retrieval.calls import Calls
    from aiollm.retrieval import Embeddings, EmbedInput, EmbedKind, Ranking
    from aiollm.spec import Plan


class Retrieval(RegistryBase):
    """The calls of a registry to models that make vectors and scores."""

    async def embed(
        self,
        spec: str | Plan,
        inputs: EmbedInput | Sequence[EmbedInput],
        *,
        dimensions: int | None = None,
        kind: EmbedKind | None = None,
        truncate: bool = False,
        mixed: bool = False,
        batch: int | None = None,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Unpack[CallOptions],
    ) -> Embeddings:
        """Return a vector for each text or image, in order; all are of one model and width.

        Inputs are split into batches by the targets' limits, at most `batch` in each, and up to
        eight batches run at once. `dimensions`: the width of the vectors, None for the model's own.
        `kind`: "query" or "document", for models that embed them differently. `truncate`: cut
        inputs that are too long instead of failing. `mixed`: allow a spec of several models; when
        one has failed, the next starts again from the first input. `extra`: fields for the wire
        body by scope, as in `Request`. `options`: see `CallOptions`; they apply to each batch, but
        `timeouts.total` to the whole call. Raises: SpecError, ConfigError, TypeError; LLMError and
        FailoverError, whose `vectors` are what had arrived.

            found = await reg.embed("ls/nomic,box/nomic", texts, kind="document")
        """
        await self._resources.load("aiollm._retrieval.embed")
        from aiollm._retrieval.embed import embed  # few programs embed
        from aiollm._validation import check_count
        from aiollm.retrieval import EmbedRequest

        if batch is not None:
            check_count("batch", batch)
        scopes = extra or {}
        request = EmbedRequest(inputs, dimensions, kind, truncate, scopes)
        self._catalog.check_extra(scopes)
        return await embed(self._to_retrieve(), spec, request, batch, options, mixed=mixed)

    async def rerank(
        self,
        spec: str | Plan,
        query: str,
        documents: Sequence[str],
        *,
        top: int | None = None,
        truncate: bool = False,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Unpack[CallOptions],
    ) -> Ranking:
        """Return documents by how well they answer `query`, best first; `top` of them, or all.

        `truncate`: cut documents that are too long instead of failing. `extra` and `options` are
        those of `embed`. Raises: SpecError, ConfigError, TypeError; LLMError, FailoverError.

            for each in await reg.rerank("ls/bge-reranker", "panda?", documents, top=5): ...
        """
        await self._resources.load("aiollm._retrieval.rerank")
        from aiollm._retrieval.rerank import rerank  # few programs rerank
        from aiollm.retrieval import RerankRequest

        scopes = extra or {}
        request = RerankRequest(query, documents, top, truncate, scopes)
        self._catalog.check_extra(scopes)
        return await rerank(self._to_retrieve(), spec, request, options)

    def _to_retrieve(self) -> Calls:
        from aiollm._retrieval.calls import Calls  # as above

        parts = self._catalog, self._resources, self._gate, self._policy
        return Calls(*parts, self._starter.start)
