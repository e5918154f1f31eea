"""How a stream of batches hands over the body that it reads, so that others read it without it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from aiollm.types import Item


class Body(Protocol):
    """The rest of an answer, as batches."""

    goes_on: bool

    def take(self) -> list[Item] | Awaitable[None]:
        """Return the items of what has arrived, or what to await, at once, before there are any.

        What is awaited raises nothing: the next `take` does.
        """


class Handover(list[Item]):
    """A batch without items, after which `body` may be read in place of the stream.

    Whoever does so goes on with the stream once the body does not go on. Whoever does not, gets
    the same batches from the stream.
    """

    __slots__ = ("body",)

    body: Body
