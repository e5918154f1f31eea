"""What becomes of a row that failed: it has its error, is asked again later, or ends the run."""

from __future__ import annotations

from typing import Literal, TypeAlias

from aiollm._bulk.source import RowToAsk
from aiollm._failover.breaker import is_connection_failure
from aiollm.errors import (
    BudgetError,
    BusyError,
    ClosedError,
    FailoverError,
    LLMError,
    RateLimitError,
    StoppedError,
    classify,
)

Fate: TypeAlias = Literal["failed", "later", "unasked"]
"""Of a row that failed: it has its error, or is asked again later, or the run ends before it."""

TIMES = 3
"""Times that a row is asked again later, if others are answered meanwhile."""

MISCONFIGURED = 3
"""Rows in a row that fail as misconfigured before the run ends, two where none was answered yet:
what one row asks may be refused as if the key were wrong, by a firewall for one."""


class Fates:
    """Tells failures of rows from those of targets, and ends a run that has no target left.

    A row that fails while no other one is answered fails for its targets, so it is asked again
    later: a server that restarts loses no row. After `max_wait` seconds of that the run ends.
    """

    def __init__(self, spec: str, max_wait: float) -> None:
        self._spec = spec
        self._max_wait = max_wait
        self._answers = 0
        self._sick_since: float | None = None
        self._misconfigured = 0
        self.stopped: LLMError | None = None
        """What the run ends with before its last row."""

    @property
    def is_hopeless(self) -> bool:
        """Whether the run ends, and what is under way would only fail; not for want of money."""
        stopped = self.stopped
        return stopped is not None and not isinstance(stopped.__cause__, BudgetError)

    def asks(self, row: RowToAsk, *, is_first: bool) -> None:
        """Note that a row is asked: answers from now on come meanwhile."""
        # They are counted, for some loops' clocks stand still between an answer and the next row.
        row.answers_before = self._answers
        if is_first:
            row.answers_at_first = self._answers

    def answered(self) -> None:
        """Note an answer: a target is well."""
        self._answers += 1
        self._sick_since = None
        self._misconfigured = 0

    def is_well_since(self, row: RowToAsk) -> bool:
        """Return whether a target has answered since a row was asked last."""
        return self._answers > row.answers_before

    def of(self, error: Exception, row: RowToAsk, asked_at: float, now: float) -> Fate:
        """Return what becomes of a row that was asked from `asked_at` to `now`."""
        match error:
            case BudgetError():
                self._stop("no row that is left fits into the budget", error)
                return "unasked"
            case ClosedError():
                self.stopped = self.stopped or error
                return "unasked"
            case FailoverError() if _is_of_targets(error):
                return self._of_targets(error, row, asked_at, now)
            case _:
                return "failed"

    def _of_targets(self, error: FailoverError, row: RowToAsk, asked_at: float, now: float) -> Fate:
        if error.attempts and self._answers > row.answers_before:
            return "failed"  # others were answered meanwhile
        row.put_off += 1
        if row.put_off > TIMES and self._answers > row.answers_at_first:
            return "failed"
        if self._sick_since is None:
            self._sick_since = asked_at
        if all(classify(each).harms == "long" for each in error.exceptions):
            self._misconfigured += bool(error.attempts)
            if self._misconfigured >= MISCONFIGURED - (not self._answers):
                self._stop(f"every target of {self._spec} is misconfigured", error)
            return "failed" if error.attempts else self._later()
        if now - self._sick_since > self._max_wait:
            reason = f"no target of {self._spec} has answered for {now - self._sick_since:.0f} s"
            self._stop(reason, error)
        return self._later()

    def _later(self) -> Fate:
        return "later" if self.stopped is None else "unasked"

    def _stop(self, reason: str, error: LLMError) -> None:
        if self.stopped is None:
            error.__traceback__ = None
            self.stopped = StoppedError(
                f"the run ended before its last row: {reason}. Resume it to ask the rows that "
                f"are left. {error}"
            )
            self.stopped.__cause__ = error


def _is_of_targets(error: FailoverError) -> bool:
    """Return whether all targets failed for what has nothing to do with the row."""
    return all(
        classify(each).harms != "no"
        or is_connection_failure(each)
        or isinstance(each, RateLimitError)
        or (isinstance(each, BusyError) and each.kind != "limit")
        for each in error.exceptions
    )
