"""Adds up the rows of a run in bounded memory, and makes its report."""

from __future__ import annotations

from aiollm.bulk.kept import KeptRows
from aiollm.bulk.record import Record
from aiollm.bulk.report import Report, TargetReport
from aiollm.bulk.scores import OTHERS, Scores, cleaned, count
from aiollm.bulk.subtotal import LONGEST, Subtotal
from aiollm.bulk.timeline import Timeline

MOST_TARGETS, MOST_WORDS = 50, 50
"""Targets, and words for outcomes and reasons, that are counted one by one."""
MOST_NAME = 200
"""Characters of a target's name."""
LATEST = 1e11
"""Seconds since 1970 that can be a time; a record without one has 0."""


class Tally:
    """The sum of a run's rows: of those that have just ended, and of the lines of an output file.

        tally = Tally()
        for line in open("out.jsonl", "rb"):
            tally.add(msgspec.json.decode(line, type=Record))
        print(tally.report())

    Its memory does not grow with the number of rows.
    """

    def __init__(self) -> None:
        self._subtotals: dict[str, Subtotal] = {}
        self._scores = Scores()
        self._timeline = Timeline()
        self._kept = KeptRows()
        self._attempts: dict[str, int] = {}
        self._attempt_errors: dict[str, int] = {}
        self._finish_reasons: dict[str, int] = {}
        self._retried = 0

    def add(self, record: Record, again: Record | None = None) -> None:
        """Add what became of a row.

        `again` is an earlier record of the same key, which has been added: the row counts once, as
        this record has it. What the earlier one used stays in the sums: tokens, money, attempts.
        Of a failed one, `key`, `failure` and the target are enough.
        """
        if again is not None:
            self._subtotal(_target_of(again)).take_back(again)
            self._kept.take_back(again)
        self._subtotal(_target_of(record)).add(record)
        self._scores.add(record.score)
        self._kept.add(record)
        self._add_tries(record)
        if record.finish_reason is not None and record.failure is None:
            count(self._finish_reasons, record.finish_reason, MOST_WORDS)
        if 0 < record.started < LATEST:
            self._timeline.add(
                record.started,
                record.started + min(max(0.0, record.seconds), LONGEST),
                failed=record.failure is not None,
                tokens=0 if record.cached else record.usage.output_tokens,
            )

    def _add_tries(self, record: Record) -> None:
        for each in record.attempts:
            count(self._attempts, each.outcome, MOST_WORDS)
            subtotal = self._subtotal(each.target)
            subtotal.attempts += 1
            if each.error:
                count(self._attempt_errors, each.error, MOST_WORDS)
            if each.outcome == "failed":
                subtotal.failed_attempts += 1
        if len(record.attempts) > 1:
            self._retried += 1

    def _subtotal(self, target: str) -> Subtotal:
        found = self._subtotals.get(target)
        if found is not None:
            return found
        target = target[:MOST_NAME]
        if target not in self._subtotals and len(self._subtotals) >= MOST_TARGETS:
            target = OTHERS
        return self._subtotals.setdefault(target, Subtotal())

    def report(self) -> Report:
        """Return what has been added so far."""
        overall = Subtotal()
        for subtotal in self._subtotals.values():
            overall.update(subtotal)
        seconds = self._timeline.seconds
        return Report(
            rows=overall.answered + overall.failed,
            answered=overall.answered,
            failed=overall.failed,
            errors=cleaned(overall.errors),
            cached=overall.cached,
            scored=self._scores.rows,
            usage=overall.usage,
            uncounted=overall.uncounted,
            cost=overall.cost,
            lost=overall.lost,
            cost_unknown=overall.cost_unknown,
            started=self._timeline.started,
            elapsed=seconds,
            waited=overall.waited,
            rows_per_second=(overall.answered + overall.failed) / seconds if seconds else 0.0,
            tokens_per_second=overall.usage.output_tokens / seconds if seconds else 0.0,
            first_output=overall.first_output,
            total=overall.total,
            attempts=cleaned(self._attempts),
            attempt_errors=cleaned(self._attempt_errors),
            retried=self._retried,
            finish_reasons=cleaned(self._finish_reasons),
            targets=tuple(self._targets()),
            scores=self._scores.report(),
            throughput=self._timeline.intervals(),
            slowest=self._kept.slowest(),
            failures=self._kept.failures(),
        )

    def _targets(self) -> list[TargetReport]:
        reports = [subtotal.report(target) for target, subtotal in self._subtotals.items()]
        return sorted(reports, key=lambda each: (-each.rows, each.target))


def _target_of(record: Record) -> str:
    """Return the target that answered or, where none did, the one that was tried last."""
    if record.target or not record.attempts:
        return record.target
    return record.attempts[-1].target
