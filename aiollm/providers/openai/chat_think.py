"""Think blocks: split reasoning that a server writes at the start of its text, between tags."""

from __future__ import annotations

from typing import NamedTuple

from aiollm.types import ReasoningDelta, TextDelta


class ThinkTags(NamedTuple):
    """The tags around reasoning."""

    begin: str = "<think>"
    end: str = "</think>"


class ThinkBlock:
    """Splits one answer's text, whose tags may be cut anywhere.

    Only a block at the very start is reasoning: further on, a tag may be what the text is about.
    White space around the block is dropped.
    """

    __slots__ = ("_held", "_state", "_tags")

    def __init__(self, tags: ThinkTags) -> None:
        self._tags = tags
        self._held: list[str] = []
        self._state = "before"

    @property
    def done(self) -> bool:
        """Whether all that follows is text."""
        return self._state == "text"

    def feed(self, piece: str) -> list[ReasoningDelta | TextDelta]:
        """Return what a piece of text brings; what may be part of a tag waits."""
        if piece.isspace() and self._state in ("before", "inside") and self._holds_space():
            # It is joined once, when it is known what follows: a model may send much of it.
            self._held.append(piece)
            return []
        text = self._take() + piece
        out: list[ReasoningDelta | TextDelta] = []
        if self._state == "before":
            text = self._begin(text)
        if self._state == "opening" and (text := text.lstrip()):
            self._state = "inside"
        if self._state == "inside" and text:
            text = self._inside(text, out)
        if self._state == "after" and (text := text.lstrip()):
            self._state = "text"
        if self._state == "text" and text:
            out.append(TextDelta(text))
        return out

    def close(self) -> list[ReasoningDelta | TextDelta]:
        """Return what still waits, as it turned out not to be a tag."""
        held = self._take()
        if not held:
            return []
        return [ReasoningDelta(held) if self._state == "inside" else TextDelta(held)]

    def _holds_space(self) -> bool:
        """Return whether nothing but white space waits."""
        return not self._held or not self._held[-1] or self._held[-1].isspace()

    def _take(self) -> str:
        """Return and forget what waits."""
        held = "".join(self._held)
        self._held.clear()
        return held

    def _begin(self, text: str) -> str:
        """Decide whether the answer begins with a block; hold the text while that is open."""
        begin = self._tags.begin
        start = text.lstrip()
        if start.startswith(begin):
            self._state = "opening"
            return start[len(begin) :]
        if begin.startswith(start):
            self._held = [text]
            return ""
        self._state = "text"
        return text

    def _inside(self, text: str, out: list[ReasoningDelta | TextDelta]) -> str:
        """Emit reasoning up to the end of the block; return the text after it."""
        end = self._tags.end
        thought, tag, rest = text.partition(end)
        if tag:
            self._state = "after"
            thought = thought.rstrip()
        else:
            # White space waits, too: it is dropped before the end of the block.
            kept = thought[: len(thought) - _overlap(thought, end)].rstrip()
            self._held = [thought[len(kept) :]]
            thought = kept
        if thought:
            out.append(ReasoningDelta(thought))
        return rest


def _overlap(text: str, tag: str) -> int:
    """Return how many characters at the end of a text may begin a tag."""
    sizes = range(min(len(text), len(tag) - 1), 0, -1)
    return next((size for size in sizes if tag.startswith(text[-size:])), 0)
