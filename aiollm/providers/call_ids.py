"""Make the ids of a conversation's tool calls unique, and give each result the id of its call.

Some servers number their calls from `call_0` in every answer. Anthropic refuses a history in which
an id repeats (November 2026), and other encoders would put a result under the wrong call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from aiollm.types import Message, Part, ToolCallPart, ToolResultPart


def unique_calls(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with ids that do not repeat, each result with the id of its call.

    A call that repeats an id gets a new one. That depends only on what comes before it, so that a
    conversation that grows is sent with the same beginning every time, as prompt caches require.
    """
    ids = [part.id for part in _calls(messages)]
    if len(set(ids)) == len(ids):
        return tuple(messages)
    pairs = _Pairs()
    return tuple(pairs.renamed(message) for message in messages)


def _calls(messages: Sequence[Message]) -> Iterator[ToolCallPart]:
    for message in messages:
        if message.role == "assistant":
            yield from (part for part in message.parts if type(part) is ToolCallPart)


class _Pairs:
    """Renames calls and results together.

    A result belongs to the first call of the turn before it that has its id and no result yet; of
    parallel calls with one id, to the one with its name.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}
        self._waiting: dict[str, list[ToolCallPart]] = {}
        self._answered = False

    def renamed(self, message: Message) -> Message:
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
