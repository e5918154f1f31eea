"""Calls a run's `compact` hook, and takes the shorter history that it returns."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from aiollm._agent.compaction import CompactHook, NextTurn
from aiollm._failover.estimate import LEAST, MOST, TOKEN, size_of, size_of_message
from aiollm.errors import ConfigError
from aiollm.types import Message, Request, Response, Usage

T = TypeVar("T")


class Compactor:
    """Calls a run's `compact` hook once before each turn, with what the turn takes."""

    def __init__(self, hook: CompactHook) -> None:
        self._hook = hook
        self._rate = 1 / TOKEN
        self._sizes: dict[int, tuple[Message, float]] = {}
        self._turn = 0
        self._asked = 0.0

    async def shorter(
        self, turn: int, request: Request, last: Response | None
    ) -> tuple[Message, ...] | None:
        """Return the new history, None to keep the one there is. Raises: ConfigError."""
        if turn == self._turn:
            return None
        self._turn = turn
        if last is not None:
            self._learn(last.usage)
        size = self._size(request)
        next_turn = NextTurn(turn, request, math.ceil(size * self._rate), self._tokens_of)
        returned = self._hook(next_turn)
        if inspect.isawaitable(returned):
            returned = await returned
        self._asked = size
        if returned is None:
            return None
        messages = _checked(returned)
        self._asked = self._size(msgspec.structs.replace(request, messages=messages))
        return messages

    @staticmethod
    def asked(ask: Callable[[Request], T], request: Request) -> T:
        """Ask with the history that a hook returned. Raises: ConfigError if it cannot be sent."""
        reason = ""
        try:
            return ask(request)
        except ConfigError as error:
            reason = error.message
        raise ConfigError(f"the compact hook returned a history that cannot be sent: {reason}")

    def _learn(self, usage: Usage) -> None:
        """Take what the last request was counted as for the measure of the next one.

        They have nearly all in common, so that is nearer than any mean of earlier counts.
        """
        if self._asked and usage.input_tokens > 0 and usage.certainty == "exact":
            self._rate = min(MOST, max(LEAST, usage.input_tokens / self._asked))

    def _size(self, request: Request) -> float:
        """Return the size of a request; a message of the last turn is not measured again."""
        known = self._sizes
        self._sizes = {
            id(message): known.get(id(message)) or (message, size_of_message(message))
            for message in request.messages
        }
        rest = size_of(msgspec.structs.replace(request, messages=()))
        return rest + sum(self._sizes[id(message)][1] for message in request.messages)

    def _tokens_of(self, messages: Sequence[Message]) -> int:
        return math.ceil(sum(map(self._message_size, messages)) * self._rate)

    def _message_size(self, message: Message) -> float:
        known = self._sizes.get(id(message))
        return size_of_message(message) if known is None else known[1]


def _checked(returned: object) -> tuple[Message, ...]:
    if isinstance(returned, Sequence) and all(isinstance(each, Message) for each in returned):
        return tuple(returned)
    raise ConfigError(
        f"the compact hook returned a {type(returned).__name__}: expected a list of messages, "
        "or None to keep the history"
    )
