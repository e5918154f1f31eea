"""Make the ids of a conversation's tool calls unique, and give each result the id of its call.

Some servers number their calls from `call_0` in every answer. Anthropic refuses a history in which
an id repeats (November 2026), and other encoders would put a result under the wrong call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from aiollm.types import Message, Part, ToolCallPart, ToolResultPart


def unique_calls(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with ids that do not repeat, each result with the id of its call.

    A call that repeats an id gets a new one. That depends only on what comes before it, so that a
    conversation that grows is sent with the same beginning every time, as prompt caches require.
    """
    return CallIds().unique(messages)


def _calls(messages: Sequence[Message]) -> Iterator[ToolCallPart]:
    for message in messages:
        if message.role == "assistant":
            yield from (part for part in message.parts if type(part) is ToolCallPart)


class CallIds:
    """Renames calls and results together, one stretch of a conversation after another.

    A result belongs to the first call of the turn before it that has its id and no result yet; of
    parallel calls with one id, to the one with its name.
    """

    __slots__ = ("_answered", "_counts", "_taken", "_waiting")

    def __init__(self, taken: Iterable[str] = (), counts: Mapping[str, int] = {}) -> None:
        """`taken` are the ids before, `counts` how often some of them have come."""
        self._taken: set[str] = set(taken)
        self._counts: dict[str, int] = dict(counts)
        self._waiting: dict[str, list[ToolCallPart]] = {}
        self._answered = False

    def fork(self) -> CallIds:
        """Return a copy for what comes next, which begins with a turn of the assistant."""
        return CallIds(self._taken, self._counts)

    def unique(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the next messages as `unique_calls` does; what follows them begins a turn."""
        ids = [part.id for part in _calls(messages)]
        new = set(ids)
        if len(new) < len(ids) or not new.isdisjoint(self._taken):
            return tuple(map(self._renamed, messages))
        self._taken |= new
        return tuple(messages)

    def _renamed(self, message: Message) -> Message:
        if message.role == "assistant" and self._answered:
            self._waiting.clear()
            self._answered = False
        elif message.role != "assistant":
            self._answered = True
        parts = tuple(map(self._part, message.parts))
        same = all(new is old for new, old in zip(parts, message.parts, strict=True))
        return message if same else Message(message.role, parts)

    def _part(self, part: Part) -> Part:
        match part:
            case ToolCallPart(id=old):
                call = _renamed(part, self._fresh(old))
                self._waiting.setdefault(old, []).append(call)
                return call
            case ToolResultPart(id=old) if waiting := self._waiting.get(old):
                named = (call for call in waiting if part.name and call.name == part.name)
                call = next(named, waiting[0])
                waiting.remove(call)
                return _renamed(part, call.id)
            case _:
                return part

    def _fresh(self, old: str) -> str:
        new = old
        while new in self._taken:
            self._counts[old] = self._counts.get(old, 1) + 1
            new = f"{old or 'call'}_{self._counts[old]}"
        self._taken.add(new)
        return new


_Named = TypeVar("_Named", ToolCallPart, ToolResultPart)


def _renamed(part: _Named, new: str) -> _Named:
    return part if part.id == new else msgspec.structs.replace(part, id=new)
