"""Sums over the rows of one target, or of all of them."""

from __future__ import annotations

from operator import add, attrgetter

import msgspec

from aiollm._wire.printable import one_line
from aiollm.bulk.record import Record
from aiollm.bulk.report import Distribution, TargetReport
from aiollm.bulk.scores import MOST_LETTERS, MOST_NAMES, OTHERS, cleaned, count, named
from aiollm.bulk.sketch import MOST, Sketch, distribution, even_factors
from aiollm.types import Usage

MOST_ERRORS = 50
"""Classes of errors that are counted one by one."""
SHORTEST, LONGEST = 1e-6, 1e9
"""Seconds between which all times are taken to be."""
BARS = 40

_TOKENS = tuple(name for name in Usage.__struct_fields__ if name.endswith(("_tokens", "_requests")))
_counts_of = attrgetter(*_TOKENS)
_SUMS = (
    *("answered", "failed", "cached", "attempts", "failed_attempts", "uncounted", "exact"),
    *("counted", "known_costs", "cost_unknown", "spent", "lost", "waited"),
)


class Subtotal:
    """Counts, tokens, money and times of rows.

    `counted` is answers whose tokens a provider counted, `exact` those with a certain count, and
    `known_costs` answers of which it is known what they cost.
    """

    def __init__(self) -> None:
        self.answered: int = 0
        self.failed: int = 0
        self.cached: int = 0
        self.attempts: int = 0
        self.failed_attempts: int = 0
        self.uncounted: int = 0
        self.exact: int = 0
        self.counted: int = 0
        self.known_costs: int = 0
        self.cost_unknown: int = 0
        self.spent: float = 0.0
        self.lost: float = 0.0
        self.waited: float = 0.0
        self.errors: dict[str, int] = {}
        self._tokens = [0] * len(_TOKENS)
        self._scores: dict[str, tuple[int, float]] = {}
        self._first_output = Sketch()
        self._total = Sketch()

    def add(self, record: Record) -> None:
        """Add a row."""
        self.waited += min(max(0.0, record.waited), LONGEST)
        self._add_cost(record)
        if not record.cached:  # the tokens of a cached answer were counted when it was made
            self._add_tokens(record)
        if record.failure is not None:
            self.failed += 1
            count(self.errors, record.failure.kind, MOST_ERRORS)
            return
        self.answered += 1
        if record.cached:
            self.cached += 1
        else:
            self._total.add(bounded(record.seconds))
            if record.first_output is not None:
                self._first_output.add(bounded(record.first_output))
        if record.score is not None:
            self._add_score(record.score)

    def _add_cost(self, record: Record) -> None:
        cost = record.cost
        if cost.usd is not None:
            self.spent += cost.usd
        if cost.lost is not None:
            self.spent += cost.lost
            self.lost += cost.lost
        # A failed row has no answer to pay for: what its attempts cost is `lost`.
        is_known = cost.usd is not None or record.failure is not None
        if not is_known or cost.lost is None:
            self.cost_unknown += 1
        elif record.failure is None:
            self.known_costs += 1

    def _add_tokens(self, record: Record) -> None:
        usage = record.usage
        if usage.certainty == "missing":
            self.uncounted += record.failure is None
            return
        self.counted += 1
        self.exact += usage.certainty == "exact"
        self._tokens = [*map(add, self._tokens, _counts_of(usage))]

    def _add_score(self, score: object) -> None:
        for name, value in named(score):
            if not isinstance(value, int | float) or not abs(value) <= MOST:
                continue
            known = name in self._scores or len(self._scores) < MOST_NAMES
            place = name if known else OTHERS
            times, total = self._scores.get(place, (0, 0.0))
            self._scores[place] = (times + 1, total + value)

    def take_back(self, record: Record) -> None:
        """Take back the outcome of a row that was added; what it used stays."""
        if record.failure is None:
            self.answered = max(0, self.answered - 1)
            return
        self.failed = max(0, self.failed - 1)
        kind = record.failure.kind[:MOST_LETTERS]
        if kind not in self.errors:
            kind = OTHERS
        if self.errors.get(kind, 0) > 1:
            self.errors[kind] -= 1
        else:
            self.errors.pop(kind, None)

    def update(self, other: Subtotal) -> None:
        """Add all that another one has."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._tokens = [*map(sum, zip(self._tokens, other._tokens, strict=True))]
        for kind, times in other.errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + times
        self._first_output.update(other._first_output)
        self._total.update(other._total)

    @property
    def usage(self) -> Usage:
        """All tokens; the sum is exact where all counts are."""
        if not self.counted:
            return Usage()
        is_exact = self.exact == self.counted and not self.uncounted
        sums = dict(zip(_TOKENS, self._tokens, strict=True))
        return msgspec.structs.replace(Usage(certainty="exact" if is_exact else "partial"), **sums)

    @property
    def cost(self) -> float | None:
        """Dollars as far as they are known, None where nothing is."""
        nothing_known = self.cost_unknown and not self.known_costs and not self.spent
        return None if nothing_known else self.spent

    @property
    def first_output(self) -> Distribution | None:
        """Seconds to the first output."""
        return _times(self._first_output)

    @property
    def total(self) -> Distribution | None:
        """Seconds to the end of an answer."""
        return _times(self._total)

    def report(self, target: str) -> TargetReport:
        """Describe the rows as those of a target."""
        means = {one_line(name): total / times for name, (times, total) in self._scores.items()}
        return TargetReport(
            target=one_line(target),
            rows=self.answered + self.failed,
            answered=self.answered,
            failed=self.failed,
            attempts=self.attempts,
            failed_attempts=self.failed_attempts,
            errors=cleaned(self.errors),
            usage=self.usage,
            cost=self.cost,
            cost_unknown=self.cost_unknown,
            first_output=self.first_output,
            total=self.total,
            scores=means,
        )


def bounded(seconds: float) -> float:
    """Return a time that can be counted, also where a damaged line has none."""
    return min(max(SHORTEST, seconds), LONGEST)  # in this order, NaN is the shortest


def _times(sketch: Sketch) -> Distribution | None:
    if not sketch.count:
        return None
    edges = even_factors(sketch.least, sketch.most, sketch.bars(BARS))
    return distribution(sketch, edges)
