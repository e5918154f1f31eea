"""Cache points: their places in a prompt, and the marks by which a wire names such places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from aiollm._wire.conversations import POINT, to_look_at
from aiollm.types import CachePoint, Message, PromptCache, Request, TextPart, ToolResultPart

SECONDS = {"5m": 300, "30m": 1800, "1h": 3600, "12h": 43200}
"""The lifetimes that a request may wish for, in seconds."""


def has_points(request: Request) -> bool:
    """Return whether a request has a cache point anywhere."""
    if request.tools and any(tool.cache_point for tool in request.tools):
        return True
    return _any_in(to_look_at(request, POINT))


def _any_in(messages: Iterable[Message]) -> bool:
    for message in messages:
        for part in message.parts:
            kind = type(part)
            if kind is TextPart:
                continue
            if kind is CachePoint or (type(part) is ToolResultPart and is_marked(part)):
                return True
    return False


def is_marked(result: ToolResultPart) -> bool:
    """Return whether a tool's result has a cache point."""
    return any(type(part) is CachePoint for part in result.content)


def without_points(messages: Sequence[Message]) -> Sequence[Message]:
    """Return messages without cache points, and without those that hold nothing else."""
    if not _any_in(messages):
        return messages
    kept = (Message(each.role, tuple(_plain(each.parts))) for each in messages)
    return [new for new, old in zip(kept, messages, strict=True) if new.parts or not old.parts]


def _plain(parts: Iterable[Any]) -> Iterable[Any]:
    for part in parts:
        if type(part) is ToolResultPart and is_marked(part):
            yield msgspec.structs.replace(part, content=tuple(_plain(part.content)))
        elif type(part) is not CachePoint:
            yield part


def segments(request: Request) -> list[str]:
    """Return the system prompt in pieces, each but the last of which ends at a cache point.

    Joined they are the text that `system_text` returns.
    """
    pieces, gap = [request.system], "\n\n" if request.system else ""
    for message in request.messages:
        if message.role != "system":
            break
        for part in message.parts:
            if type(part) is CachePoint:
                pieces.append("")
            elif text := getattr(part, "text", ""):
                pieces[-1] += gap + text
                gap = ""
        if message.text:
            gap = "\n\n"
    return pieces


def system_blocks(
    request: Request, marks: CacheMarks, kind: str, before: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Return the system prompt as text blocks of type `kind`, marked at its cache points.

    One at the very start marks the end of the blocks `before`.
    """
    blocks: list[dict[str, Any]] = []
    pieces = segments(request)
    for at, text in enumerate(pieces):
        if text.strip():  # Anthropic refuses a block of white space
            blocks.append({"type": kind, "text": text})
        if at < len(pieces) - 1:
            marks.end(blocks or before or [])
    return blocks


def nearest(wish: PromptCache | None, lifetimes: Sequence[str]) -> str:
    """Return the lifetime nearest to a wish, "" for a wish without one.

    Nearest is by ratio: an hour is nearer to half an hour than five minutes are, in which a
    conversation that pauses for twenty would have lost its cache.
    """
    wanted = SECONDS.get(wish or "")
    if wanted is None:
        return ""
    return min(lifetimes, key=lambda each: max(SECONDS[each] / wanted, wanted / SECONDS[each]))


class CacheMarks:
    """The marks of one request.

    `mark` holds the fields that a marked block gets. Of more than `most` marks the first ones are
    taken off again, or left where `keeps`, because the server itself takes the last.
    """

    __slots__ = ("_keeps", "_mark", "_marked", "_most")

    def __init__(self, mark: dict[str, Any], most: int, *, keeps: bool = False) -> None:
        self._mark = mark
        self._most = most
        self._keeps = keeps
        self._marked: list[dict[str, Any]] = []

    def note(self, block: dict[str, Any]) -> dict[str, Any]:
        """Return a block that may have a mark of its own, which counts among the others."""
        if not self._mark.keys().isdisjoint(block):
            self._marked.append(block)
        return block

    def end(self, blocks: list[dict[str, Any]], excluded: Sequence[str] = ()) -> bool:
        """Mark the last block whose type is not excluded; return whether there is one."""
        for at in range(len(blocks) - 1, -1, -1):
            block = blocks[at]
            if block.get("type") in excluded:
                continue
            if self._mark.keys().isdisjoint(block):
                blocks[at] = marked = block | self._mark
                self._marked.append(marked)
            return True
        return False

    def begin(self, blocks: Iterable[dict[str, Any]]) -> None:
        """Mark blocks that come before all others."""
        marked = [*blocks]
        for block in marked:
            block.update(self._mark)
        self._marked[:0] = marked

    def settle(self) -> str:
        """Take off what is too much; return a warning about that, "" for none."""
        count = len(self._marked)
        if count <= self._most:
            return ""
        if not self._keeps:
            for block in self._marked[: count - self._most]:
                for name in self._mark:
                    del block[name]
        return f"this model caches only the last {self._most} of {count} cache points"
