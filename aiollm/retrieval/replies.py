"""What a codec reads from a reply with vectors or scores, before it is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from aiollm.types import Usage

RawVector: TypeAlias = bytes | list[float]
"""A vector as a reply has it: base64 of 32-bit numbers, or a list of numbers. In large replies,
bytes of another length are a placeholder for a vector that was taken out: codecs pass them on."""


class VectorReply(msgspec.Struct, frozen=True):
    """The vectors as the reply has them, in the order of the inputs.

    `int8`: whether those that are bytes have a number from -128 to 127 in each byte.
    """

    values: Sequence[RawVector]
    usage: Usage = Usage()
    int8: bool = False


class ScoreReply(msgspec.Struct, frozen=True):
    """Indices of documents, from 0, each with its score, in any order."""

    scores: Sequence[tuple[int, float]]
    usage: Usage = Usage()
