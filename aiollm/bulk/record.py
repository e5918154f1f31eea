"""The line of an output file: what became of one row."""

from __future__ import annotations

from typing import Any

import msgspec

from aiollm.types import Cost, FinishReason, Message, Usage


class Try(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt of a row: the target, how it ended, and the class of its error."""

    target: str
    outcome: str
    error: str = ""
    seconds: float = 0.0


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a row has no answer: the class of the error, as `RateLimitError`, and its text."""

    kind: str
    message: str


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one row: an answer or a failure.

    Times are seconds: `started` since 1970, `seconds` from then to the row's end, `first_output`
    from then to the first output, None without one, and `waited` in line for a target that has
    room. `cached`: the answer came from the response cache. `message` has all of an answer that is
    more than plain text. `run` and `asked` are hashes: of what all rows of the run have in common,
    and of what this one asks.
    """

    key: str
    text: str | None = None
    value: Any = None
    score: Any = None
    failure: Failure | None = None
    target: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage = Usage()
    cost: Cost = Cost()
    attempts: tuple[Try, ...] = ()
    started: float = 0.0
    seconds: float = 0.0
    first_output: float | None = None
    waited: float = 0.0
    cached: bool = False
    message: Message | None = None
    warnings: tuple[str, ...] = ()
    run: str = ""
    asked: str = ""
