"""A row of a bulk run with its answer or its error, and the line that it becomes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from aiollm._agent.totals import total_usage
from aiollm._serialization import described
from aiollm._user_types.hooks import plain
from aiollm._wire.lenient import encode
from aiollm.bulk.record import Failure, Record, Try
from aiollm.errors import FailoverError, LLMError
from aiollm.types import Attempt, Cost, Request, Response, TextPart, Usage

T = TypeVar("T")


class Row(msgspec.Struct, Generic[T], frozen=True):
    """One row with its answer or its error; `number` is its place among all rows, from 1.

    `value` is the answer as the `output` of the run, `score` what the run's `score` returned. Both
    `error` and `response` are there where a reply did not fit the type, or the score failed.
    """

    key: str
    number: int
    request: Request
    response: Response | None = None
    value: T | None = None
    error: Exception | None = None
    score: object = None
    attempts: tuple[Attempt, ...] = ()
    """All attempts, also of earlier times that the row was asked, each with its own times."""
    cost: Cost = Cost()

    @property
    def text(self) -> str:
        """The answer's text, "" where there is none."""
        return "" if self.response is None else self.response.text

    @property
    def cached(self) -> bool:
        """Whether the answer came from the response cache."""
        return self.response is not None and self.response.cached


class Asks(msgspec.Struct):
    """The calls that a row took: replies and attempts, in order."""

    responses: list[Response]
    attempts: list[Attempt]

    def usage(self) -> Usage:
        """Return the tokens of all replies."""
        responses = self.responses
        if len(responses) == 1:
            return responses[0].usage
        return total_usage([each.usage for each in responses]) if responses else Usage()

    def cost(self) -> Cost:
        """Return what all replies cost, and what was lost on other attempts."""
        responses = self.responses
        cost = functools.reduce(
            operator.add, (each.cost for each in responses), Cost(0.0, "billed")
        )
        if not responses:
            cost = Cost()
        elif len(responses) == 1:
            cost = responses[0].cost
        known = sum(len(each.attempts) for each in responses)
        if known == len(self.attempts):
            return cost
        used = {id(attempt) for each in responses for attempt in each.attempts}
        lost = [each.usd for each in self.attempts if id(each) not in used]
        more = None if None in lost or cost.lost is None else sum(filter(None, lost)) + cost.lost
        return msgspec.structs.replace(cost, lost=more)


def root_of(error: Exception) -> Exception:
    """Return what an error is about: of a group the last one."""
    return error.last if isinstance(error, FailoverError) else error


def record_of(
    row: Row[object],
    usage: Usage,
    times: tuple[float, float, float | None],
    prints: tuple[str, str],
) -> Record:
    """Return what became of a row; `times`: its start, its seconds, and its first output.

    `prints` are the hashes of the run and of what the row asks.
    """
    response, error = row.response, row.error
    began, seconds, first_output = times
    target = response.target if response is not None else getattr(error, "target", None)
    if target is None and row.attempts:
        target = row.attempts[-1].target
    return Record(
        row.key,
        None if response is None else response.text,
        row.value,
        row.score,
        None if error is None else _failure(error),
        str(target or ""),
        None if response is None else response.finish_reason,
        usage,
        row.cost,
        tuple(map(_try, row.attempts)),
        began,
        seconds,
        first_output,
        sum(each.queued for each in row.attempts),
        row.cached,
        None if response is None or _is_plain(response) else response.message,
        () if response is None else response.warnings,
        *prints,
    )


def line_of(record: Record) -> bytes:
    """Return a record as a line of the output file.

    A value or a score that JSON cannot hold is kept as text, for the answer must not be lost.
    """
    try:
        return encode(record, _for_json) + b"\n"
    except Exception:  # noqa: BLE001 - a value's own code may raise anything
        shown = {name: _text(getattr(record, name)) for name in ("value", "score")}
        return encode(msgspec.structs.replace(record, **shown), described) + b"\n"


def _text(value: object) -> object:
    try:
        encode(value, _for_json)
    except Exception:  # noqa: BLE001 - a value's own code may raise anything
        return _shown(value, repr)[:1000]
    return value


def _shown(value: object, as_text: Callable[[object], str]) -> str:
    try:
        return as_text(value)
    except Exception:  # noqa: BLE001 - as above
        return f"<{type(value).__name__}>"


def _for_json(value: object) -> object:
    try:
        return plain(value)
    except TypeError:
        return described(value)


def _failure(error: Exception) -> Failure:
    root = root_of(error)
    text = _shown(error, str)
    if not isinstance(error, LLMError):
        text = f"{type(error).__name__}: {text}"
    return Failure(type(root).__name__, text[:_MOST])


_MOST = 4000
"""Characters of an error that a line keeps."""


def _try(attempt: Attempt) -> Try:
    error = attempt.error
    ended = attempt.started if attempt.ended is None else attempt.ended
    name = "" if error is None else type(error).__name__
    return Try(str(attempt.target), attempt.outcome, name, ended - attempt.started)


def _is_plain(response: Response) -> bool:
    return all(
        type(part) is TextPart and not part.citations and part.provider_data is None
        for part in response.message.parts
    )
