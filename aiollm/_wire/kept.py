"""How much of an answer is kept: bounded, because all of it is looked at in one go at its end."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from aiollm._user_types.density import KEPT, Weight
from aiollm.errors import ProtocolError

MAX_KEPT = 32 * 1024
"""The most parts, sources and warnings of one answer. To make a message of them, and to let go of
it, takes up to half a microsecond for each. Speech comes in the shortest parts: half an hour of it
has so many."""


class Kept:
    """Counts what an answer has beside its parts: sources, and state for its provider."""

    __slots__ = ("_weight", "sources")

    def __init__(self) -> None:
        self.sources: int = 0
        self._weight = Weight(KEPT)

    def add(self, state: dict[str, Any]) -> None:
        """Count the objects of Python that the state for a provider holds."""
        with suppress(TypeError, ValueError, RecursionError):  # an adapter may keep anything
            self._weight.add(msgspec.json.encode(state))

    def check(self, others: int = 0) -> None:
        """Raise ProtocolError if there is too much; `others` counts the parts and warnings."""
        excess = self._weight.excess
        if others + self.sources > MAX_KEPT:
            excess = f"more than {MAX_KEPT} parts, sources and warnings"
        if excess:
            raise ProtocolError(f"the answer holds {excess}")


class Merged(dict[str, Any]):
    """Fields of an answer as a whole, which its chunks may repeat or add to."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        super().__init__()
        self._kept = Kept()

    def add(self, given: dict[str, Any]) -> None:
        """Merge fields: objects key by key, anything else replaces. Raises: ProtocolError."""
        if _add_to(self, given):
            self._kept.add(given)
            self._kept.check()


def _add_to(kept: dict[str, Any], given: dict[str, Any]) -> bool:
    """Merge fields in place; return whether there are more of them now.

    A copy for each chunk that adds to an object would take the square of its size.
    """
    more = False
    for key, value in given.items():
        old = kept.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            more = _add_to(old, value) or more
        else:
            more = more or key not in kept
            kept[key] = value
    return more
