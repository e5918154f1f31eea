"""What a FakeProvider answers, without a script, to calls that embed or rerank."""

from __future__ import annotations

import hashlib
import math
import re
from array import array

from aiollm.retrieval import (
    Embeddings,
    EmbedInput,
    EmbedRequest,
    Ranked,
    Ranking,
    RerankRequest,
    Vector,
)

WIDTH = 8
"""Numbers of a vector where a request does not say how many."""


def embeddings_for(request: EmbedRequest) -> Embeddings:
    """Return a vector of length 1 for each input: equal ones for equal inputs, in any process.

    Texts that share words have vectors that are nearer to each other than those of others.
    """
    width = request.dimensions or WIDTH
    return Embeddings(tuple(_vector(each, width) for each in request.inputs))


def ranking_for(request: RerankRequest) -> Ranking:
    """Return the documents by the share of the query's words that they have."""
    wanted = _words(request.query)
    scores = (
        Ranked(place, len(wanted & _words(document)) / max(1, len(wanted)))
        for place, document in enumerate(request.documents)
    )
    best = sorted(scores, key=lambda each: (-each.score, each.index))
    return Ranking(tuple(best[: request.wanted]))


def checked_result(result: Embeddings | Ranking, own: Embeddings | Ranking) -> Embeddings | Ranking:
    """Return a script's result. Raises: AssertionError if the request asks for another number."""
    match result, own:
        case Embeddings(vectors), Embeddings(asked) if len(vectors) != len(asked):
            reason = f"has {len(vectors)} vectors, and the request {len(asked)} inputs"
            raise AssertionError(f"the script of a call for vectors {reason}")
    return result


def _words(text: str) -> set[str]:
    return {*re.findall(r"\w+", text.lower())}


def _vector(each: EmbedInput, width: int) -> Vector:
    total = [0.0] * width
    for part in _parts(each):
        # Halves between whole numbers: no sum of an odd number of them is zero.
        for place, byte in enumerate(hashlib.shake_256(part).digest(width)):
            total[place] += byte - 127.5
    length = math.hypot(*total) or 1.0
    return array("f", (number / length for number in total))


def _parts(each: EmbedInput) -> list[bytes]:
    """Return what to add the hashes of: words, and the whole to tell their orders apart."""
    if not isinstance(each, str):
        return [each.data or each.url.encode()]
    texts = [each, *sorted(_words(each))]
    return [text.encode("utf-8", "surrogatepass") for text in texts]
