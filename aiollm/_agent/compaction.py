"""Compaction as users see it: what a hook learns of the next turn, and what says that it was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, TypeAlias

import msgspec

from aiollm.types import Message, Request


class NextTurn(msgspec.Struct, frozen=True):
    """The turn that a run is about to ask for: its number, from 1, and its request.

    `tokens` estimates the input tokens of the request: the tokens a byte that the provider counted
    for the last request, or one token for four bytes before that.
    """

    turn: int
    request: Request
    tokens: int
    _count: Callable[[Sequence[Message]], int]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The history."""
        return self.request.messages

    def tokens_of(self, messages: Sequence[Message]) -> int:
        """Return about how many tokens these messages take, by the same measure as `tokens`."""
        return self._count(messages)


CompactHook: TypeAlias = Callable[
    [NextTurn], Sequence[Message] | Awaitable[Sequence[Message] | None] | None
]
"""Returns a shorter history, or None to leave it as it is; a plain function must not block."""


class Compacted(msgspec.Struct, frozen=True):
    """The history of a run was replaced before a turn: what it was, and what it is now."""

    text: ClassVar[str] = ""
    before: tuple[Message, ...]
    after: tuple[Message, ...]
