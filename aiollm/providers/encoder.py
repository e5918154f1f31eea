"""The base of the encoders of conversations: what earlier turns had is not encoded again."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from copy import copy
from typing import Any, Self

from aiollm._validation import TOOL_NAME
from aiollm._wire.body import JsonItems
from aiollm._wire.conversations import Encoded, Ongoing
from aiollm.providers.cache_points import CacheMarks, without_points
from aiollm.providers.call_ids import CallIds
from aiollm.providers.encoding import Warnings, after_system
from aiollm.providers.turns import one_turn_for_its_results
from aiollm.types import Message, Request

_is_name = re.compile(TOOL_NAME).fullmatch


class ReachesBack(Exception):
    """Says that a request cannot be encoded without the messages that were encoded before."""


class Encoder(ABC):
    """Encodes the messages of one request, stretch by stretch; each wire has its own.

    What a stretch needs to know of those before it is its only state, which `fork` copies.
    """

    def __init__(self, warnings: Warnings, marks: CacheMarks | None = None) -> None:
        """Take marks to put at the cache points; None leaves these out."""
        self.warnings: Warnings = warnings
        self.marks: CacheMarks | None = marks
        self.call_ids: CallIds = CallIds()
        self.out: list[dict[str, Any]] = []
        """What the wire has so far of the stretch that is being encoded."""

    @abstractmethod
    def items(self, messages: tuple[Message, ...], *, is_first: bool) -> list[Any]:
        """Return what the wire has for a stretch of messages. Raises: UnsupportedError."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing that comes later changes what it has encoded."""
        return True

    def ends(self, messages: Sequence[Message]) -> bool:  # noqa: ARG002 - most wires need not look
        """Return whether nothing that follows changes what is sent of messages."""
        return True

    def separate(self) -> None:  # noqa: B027 - most wires keep nothing
        """Copy the state that a wire keeps from stretch to stretch, after a copy of the encoder."""

    def fork(self, warnings: Warnings, marks: CacheMarks | None) -> Self:
        """Return a copy that goes on by itself, for a request with these warnings and marks."""
        made = copy(self)
        made.warnings, made.marks, made.call_ids = warnings, marks, self.call_ids.fork()
        made.separate()
        return made

    def call_name(self, name: str) -> str:
        """Return the name of a call as services take it back, for no tool has another.

        A model may make one up, such as `browser.open`. It would be refused with every turn that
        follows (reports of 2026 about Anthropic, Bedrock and OpenAI).
        """
        if _is_name(name):
            return name
        made = re.sub("[^A-Za-z0-9_-]", "_", name)
        made = (made if _is_name(made[:1]) else f"_{made}")[:64]
        self.warnings.add(f"no tool can have the name {name!r:.100} of a call: sent as {made!r}")
        return made

    def stretch(self, messages: tuple[Message, ...], *, is_first: bool) -> list[Any]:
        """Return the items of the messages that come next; `is_first`: none came before."""
        if self.marks is None:
            messages = tuple(without_points(messages))
        unique = self.call_ids.unique(one_turn_for_its_results(messages))
        self.out = []
        items = self.items(unique, is_first=is_first)
        self.out = []  # not kept: what was encoded is kept as bytes
        return items

    def encode(self, request: Request, *key: Hashable) -> list[Any]:
        """Return the items of a conversation, after the messages that `system_text` includes.

        `key` is all that they depend on besides the messages. What was encoded in earlier turns
        is one item. Raises: UnsupportedError.
        """
        messages = request.messages
        start = after_system(messages)
        if type(request) is Ongoing and request.goes_on:
            is_marked = self.marks is not None
            begin = max(start, request.conversation.unmarked) if is_marked else start
            if begin < request.conversation.cut and self.ends(messages[start:begin]):
                return self._go_on(request, start, begin, (type(self), is_marked, *key))
        return self.stretch(messages[start:], is_first=True)

    def _go_on(self, request: Ongoing, start: int, begin: int, key: Hashable) -> list[Any]:
        conversation, messages = request.conversation, request.messages
        out = self.stretch(messages[start:begin], is_first=True) if begin > start else []
        known = conversation.known(key, begin, request) or Encoded(begin, begin, JsonItems(), self)
        if known.until < conversation.cut:
            known = self._extended(known, request, start, key)
        encoder: Encoder = known.encoder.fork(self.warnings, self.marks)
        for warning in known.warnings:
            self.warnings.add(warning)
        if known.until > begin:
            out.append(known.items)
        return out + encoder.stretch(messages[known.until :], is_first=known.until == start)

    def _extended(self, known: Encoded, request: Ongoing, start: int, key: Hashable) -> Encoded:
        """Return what is known with all up to the cut, if nothing changes that later."""
        until = request.conversation.cut
        encoder = known.encoder.fork(Warnings(), self.marks)
        stretch = request.messages[known.until : until]
        items = encoder.stretch(stretch, is_first=known.until == start)
        if not encoder.is_closed:
            return known
        encoder.marks = None  # they hold what they marked
        made = Encoded(
            known.begin,
            until,
            known.items.followed_by(items),
            encoder,
            (*known.warnings, *encoder.warnings),
            None if request.as_given else request.messages[:until],
        )
        request.conversation.keep(key, made)
        return made
