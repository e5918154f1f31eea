"""Searching by meaning: requests and results of `Registry.embed` and `Registry.rerank`."""

from aiollm.retrieval.embed import Embeddings, EmbedInput, EmbedKind, EmbedRequest, Vector
from aiollm.retrieval.replies import RawVector, ScoreReply, VectorReply
from aiollm.retrieval.rerank import Ranked, Ranking, RerankRequest

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
]
