"""A content block of Anthropic's while it is open, and what becomes of it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from aiollm._user_types.density import readable
from aiollm._wire.kept import Kept
from aiollm.providers.anthropic.messages import FAMILY
from aiollm.types import Item, OpaquePart, PartChunk, ProviderData, ReasoningDelta, ReasoningPart


class Block(msgspec.Struct):
    """An open content block: its kind, and the state that is not emitted yet."""

    kind: str
    raw: dict[str, Any]
    call: int = 0
    said: bool = False
    signature: str = ""
    partial: list[str] = []
    grown: dict[str, list[str]] = {}
    """The pieces of texts in `raw` that deltas add to."""
    kept: Kept | None = None
    """What fields deltas have added."""


def seal(block: Block, out: list[Item]) -> None:
    """Emit the signature of a thinking block, unless it is empty, as some servers send it."""
    if not block.signature:
        return
    data = ProviderData(FAMILY, {"signature": block.signature})
    if block.said:
        out.append(ReasoningDelta("", data))
    else:
        out.append(PartChunk(ReasoningPart("", data)))


def grow(block: Block, delta: dict[str, Any]) -> None:
    """Merge an unknown delta into its block: text is appended, anything else replaces.

    Raises: ProtocolError if there is too much.
    """
    raw, size = block.raw, len(block.raw)
    for key, value in delta.items():
        if key == "type":
            continue
        if isinstance(value, str) and isinstance(raw.get(key), str):
            block.grown.setdefault(key, [raw[key]]).append(value)
        else:
            raw[key] = value
            block.grown.pop(key, None)
    if len(raw) > size:
        block.kept = block.kept or Kept()
        block.kept.add(delta)
        block.kept.check()


def opaque_part(block: Block) -> OpaquePart:
    """Return a block as a part that only its provider reads."""
    if block.partial:
        data = readable("".join(block.partial))
        block.raw["input"] = {}
        if data is not None:
            with suppress(ValueError, RecursionError):
                block.raw["input"] = msgspec.json.decode(data)
    return OpaquePart(ProviderData(FAMILY, {"block": block.raw}))
