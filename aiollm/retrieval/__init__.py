"""Searching by meaning: requests and results of `Registry.embed` and `Registry.rerank`."""

from aiollm.retrieval.embed import Embeddings, EmbedInput, EmbedKind, EmbedRequest, Vector
from aiollm.retrieval.replies import RawVector, ScoreReply, VectorReply
from aiollm.retrieval.rerank import Ranked, Ranking, RerankRequest
from aiollm.retrieval.vectors import Vectors

__all__ = [
    "EmbedInput",
    "EmbedKind",
    "EmbedRequest",
    "Embeddings",
    "Ranked",
    "Ranking",
    "RawVector",
    "RerankRequest",
    "ScoreReply",
    "Vector",
    "VectorReply",
    "Vectors",
]
