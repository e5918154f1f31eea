"""What one read of an answer brings: its items, and the texts among them that are known."""

from __future__ import annotations

from collections.abc import Sequence

from aiollm.types import Item, TextDelta


class Batch(list[Item]):
    """The items of one read, the first of which are plain texts: those in `texts`.

    Whoever joins texts need not look at each of these items.
    """

    texts: Sequence[str] = ()


def add_texts(texts: Sequence[str], out: list[Item]) -> None:
    """Add texts as chunks, made all at once."""
    if not out and type(out) is Batch:
        out.texts = texts
    out += map(TextDelta, texts)
