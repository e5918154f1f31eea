"""Steering: messages that are put into a run between its turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from aiollm._validation import check
from aiollm.errors import BusyError
from aiollm.types import Message, Part, Request, user

MAX_STEERED = 64
"""Messages that may wait for the next turn of a run."""


class Steered(msgspec.Struct, frozen=True):
    """A message of `run.steer` is now part of the history, and goes to the model next."""

    text: ClassVar[str] = ""
    message: Message


class Steering:
    """The messages that wait for a run's next turn."""

    def __init__(self, waiting: Sequence[Message] = ()) -> None:
        self._waiting = deque(waiting)

    def add(self, parts: Sequence[str | Part]) -> None:
        """Add a user message of these parts. Raises: ConfigError, BusyError."""
        message = user(*parts)
        check(Request(message))
        if len(self._waiting) >= MAX_STEERED:
            raise BusyError(
                f"{MAX_STEERED} messages wait for the next turn of the run already: put what they "
                "say into one",
                kind="slots",
            )
        self._waiting.append(message)

    def take(self) -> Message | None:
        """Return the message that has waited longest, None if none waits."""
        return self._waiting.popleft() if self._waiting else None

    @property
    def waiting(self) -> tuple[Message, ...]:
        """The messages that wait, in order."""
        return tuple(self._waiting)
