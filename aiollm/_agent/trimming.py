"""Ready-made hooks for `compact`: leave the oldest turns out, or put a summary in their place."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec

from aiollm._agent.compaction import NextTurn
from aiollm._validation import check_count
from aiollm.errors import ConfigError
from aiollm.types import Message, Request, TokenCount, _shown, user

CountHook: TypeAlias = Callable[[Request], Awaitable[TokenCount]]
"""Counts the tokens of a request, such as `functools.partial(reg.count_tokens, spec)`."""

SummaryHook: TypeAlias = Callable[[Sequence[Message]], str | Awaitable[str]]
"""Returns what is to be remembered of the messages that are left out."""

NEAR = 2
"""How many times too low an estimate of tokens may be: nothing is counted further from a budget."""

_SUMMARY = "A summary of the conversation before this:\n\n{}"


class TrimTo(msgspec.Struct, frozen=True):
    """Leave the oldest turns out once a request takes more than `tokens`.

    System messages, the first user message and the newest turns stay; calls and their results go
    together. It leaves `to` tokens, by default three quarters of `tokens`, so that the beginning
    of the prompt stays the same for many turns and caches can keep it. The newest turn stays even
    if it is larger than that, and with it what users said since. `count` counts
    where the estimate is near the budget; without it the estimate decides. Raises: ConfigError.

        reg.run(spec, request, tools=tools, compact=TrimTo(100_000))
    """

    tokens: int
    to: int | None = None
    count: CountHook | None = None

    def __post_init__(self) -> None:
        check_count("tokens", self.tokens)
        if self.to is not None:
            check_count("to", self.to)
            if self.to > self.tokens:
                raise ConfigError(f"to is {self.to}: expected at most tokens ({self.tokens})")

    async def __call__(self, turn: NextTurn) -> tuple[Message, ...] | None:
        """Return the shorter history, None while it fits. Raises: what `count` raises."""
        cut = await self._cut(turn)
        return None if cut is None else (*cut.head, *cut.newest)

    async def _cut(self, turn: NextTurn) -> _Cut | None:
        total = turn.tokens
        if self.count is not None and total * NEAR > self.tokens:
            total = (await self.count(turn.request)).tokens
        if total <= self.tokens:
            return None
        scale = total / max(1, turn.tokens)
        to = self.tokens * 3 // 4 if self.to is None else self.to
        excess = (total - to) / max(scale, 1e-9)
        return _cut(turn, excess)


class Summarize(TrimTo, frozen=True, kw_only=True):
    """Replace the oldest turns by a summary once a request takes more than `tokens`.

    `by` gets the messages that `TrimTo` would leave out, an earlier summary among them, and returns
    the text of their summary, usually written by a model. Raises: ConfigError.

        Summarize(100_000, by=summarize)
    """

    by: SummaryHook

    async def __call__(self, turn: NextTurn) -> tuple[Message, ...] | None:
        """Return the shorter history, None while it fits. Raises: what the hooks raise."""
        cut = await self._cut(turn)
        if cut is None:
            return None
        said = self.by(cut.oldest)
        text: object = await said if inspect.isawaitable(said) else said
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"the summary of the history is {_shown(text)}: expected text")
        return (*cut.head, user(_SUMMARY.format(text)), *cut.newest)


class _Cut(msgspec.Struct, frozen=True):
    """A history in three: what always stays, what goes, and what stays because it is new."""

    head: tuple[Message, ...]
    oldest: tuple[Message, ...]
    newest: tuple[Message, ...]


def _cut(turn: NextTurn, excess: float) -> _Cut | None:
    """Cut off at least `excess` tokens, by the measure of `turn`, as far as complete turns go."""
    first, groups = grouped(turn.messages)
    head, oldest, stay = [*first], list[Message](), _newest(groups)
    while len(groups) > stay and excess > 0:
        group = groups.pop(0)
        if group[0].role == "system":
            head += group
            continue
        oldest += group
        excess -= turn.tokens_of(group)
    newest = tuple(message for group in groups for message in group)
    return _Cut(tuple(head), tuple(oldest), newest) if oldest else None


def _newest(groups: Sequence[Sequence[Message]]) -> int:
    """Return how many groups must stay: the newest turn, and what was said to it since."""
    for said, group in enumerate(reversed(groups)):
        if group[0].role == "assistant":
            return said + 1
    return 1


def grouped(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """Return the system messages and the first user message, then what must stay together.

    Messages of the assistant that follow each other are one turn, to which all results belong.
    """
    start = 0
    while start < len(messages) and messages[start].role == "system":
        start += 1
    start += start < len(messages) and messages[start].role == "user"
    groups: list[list[Message]] = []
    before = ""
    for message in messages[start:]:
        goes_on = message.role == "tool" or message.role == before == "assistant"
        if goes_on and groups:
            groups[-1].append(message)
        else:
            groups.append([message])
        before = message.role
    return [*messages[:start]], groups
