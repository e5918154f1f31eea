"""Splitting inputs into batches that every target of a call takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from aiollm.capabilities import Capabilities
from aiollm.retrieval.embed import EmbedInput, size_of_input

MOST = 256
"""Inputs of a batch at most: enough that requests cost nothing beside their tokens, few enough
that a failure costs little and that a reply stays below 64 MiB."""

UNKNOWN = 32
"""Inputs of a batch where no limit is known: a server of one's own makes one after another, and
must be done before its deadline."""

TOKEN = 2.0
"""Bytes of a token at least, for limits of a request: of texts in other scripts one has three."""


def room(facts: Iterable[Capabilities], batch: int | None) -> tuple[int, float]:
    """Return how many inputs, and bytes of them, a batch may have for all of these targets."""
    inputs, size = MOST if batch is None else batch, float("inf")
    for each in facts:
        known = each.max_embed_inputs
        inputs = min(inputs, known or (UNKNOWN if batch is None else batch))
        if each.max_embed_tokens is not None:
            size = min(size, each.max_embed_tokens * TOKEN)
    return inputs, size


def split(inputs: Sequence[EmbedInput], most: int, most_size: float) -> Iterator[range]:
    """Yield the places of the inputs of each batch; one that is too large alone is alone."""
    count = len(inputs)
    if most_size == float("inf"):
        yield from (range(at, min(at + most, count)) for at in range(0, count, most))
        return
    start, size = 0, 0.0
    for place, each in enumerate(inputs):
        own = size_of_input(each)
        if place > start and (place - start >= most or size + own > most_size):
            yield range(start, place)
            start, size = place, 0.0
        size += own
    yield range(start, count)
