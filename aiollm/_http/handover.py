"""How a stream of batches hands over the answer that it reads, so that others can read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiollm.types import Item

if TYPE_CHECKING:
    from aiollm._http.answer import Answer


class Handover(list[Item]):
    """A batch without items, after which `answer` may be read in place of the stream.

    Whoever does so goes on with the stream once the answer has ended. Whoever does not gets
    the same batches from the stream.
    """

    __slots__ = ("answer",)

    def __init__(self, answer: Answer) -> None:
        self.answer: Answer = answer
