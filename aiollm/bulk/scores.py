"""The scores of a run in bounded memory: numbers, yes and no, words, or several by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aiollm._wire.printable import one_line
from aiollm.bulk.report import Bucket, Distribution, ScoreReport
from aiollm.bulk.sketch import MOST, Sketch, distribution, even_steps, rank_of

MOST_NAMES, MOST_TEXTS, MOST_NUMBERS = 20, 50, 20
"""Names of scores, different strings, and different numbers that are counted one by one."""
MOST_LETTERS = 100
"""Characters of a name or a string that is counted."""
OTHERS = "(others)"
BARS = 20


class Numbers:
    """Numbers, each for itself while few are different."""

    __slots__ = ("_exact", "sketch")

    def __init__(self) -> None:
        self._exact: dict[float, int] | None = {}
        self.sketch: Sketch = Sketch()

    def add(self, value: float) -> None:
        """Count a number."""
        self.sketch.add(value)
        exact = self._exact
        if exact is not None:
            exact[value] = exact.get(value, 0) + 1
            if len(exact) > MOST_NUMBERS:
                self._exact = None

    def distribution(self) -> Distribution | None:
        """Describe the numbers, None where there are none."""
        sketch = self.sketch
        if not sketch.count:
            return None
        if self._exact is not None:
            return _exactly(sketch, dict(sorted(self._exact.items())))
        return distribution(sketch, even_steps(sketch.least, sketch.most, BARS))


def _exactly(sketch: Sketch, times: Mapping[float, int]) -> Distribution:
    def quantile(share: float) -> float:
        rank = rank_of(share, sketch.count)
        for value, count in times.items():
            rank -= count
            if rank < 0:
                return value
        raise ValueError("nothing was counted")

    return Distribution(
        count=sketch.count,
        mean=sketch.total / sketch.count,
        min=sketch.least,
        p50=quantile(0.5),
        p95=quantile(0.95),
        p99=quantile(0.99),
        max=sketch.most,
        buckets=tuple(Bucket(value, value, count) for value, count in times.items()),
    )


class _Score:
    __slots__ = ("false", "numbers", "other", "texts", "true")

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.true = self.false = self.other = 0
        self.texts: dict[str, int] = {}

    def add(self, value: object) -> None:
        match value:
            case True:
                self.true += 1
            case False:
                self.false += 1
            case int() | float() if abs(value) <= MOST:  # not so for NaN
                self.numbers.add(float(value))
            case str():
                count(self.texts, value, MOST_TEXTS)
            case _:
                self.other += 1

    def report(self, name: str) -> ScoreReport:
        numbers = self.numbers.distribution()
        found = self.true + self.false + self.other + sum(self.texts.values())
        return ScoreReport(
            name=one_line(name),
            count=found + (numbers.count if numbers else 0),
            numbers=numbers,
            true=self.true,
            false=self.false,
            texts=cleaned(self.texts),
            other=self.other,
        )


class Scores:
    """All scores of a run by name; the name of a plain value is empty."""

    __slots__ = ("_scores", "rows")

    def __init__(self) -> None:
        self._scores: dict[str, _Score] = {}
        self.rows: int = 0

    def add(self, score: object) -> None:
        """Count the score of one row, None for a row without one."""
        if score is None:
            return
        self.rows += 1
        for name, value in named(score):
            found = self._scores.get(name)
            if found is None:
                if len(self._scores) >= MOST_NAMES:
                    name = OTHERS  # noqa: PLW2901 - names beyond the bound share this one
                found = self._scores.setdefault(name, _Score())
            found.add(value)

    def report(self) -> tuple[ScoreReport, ...]:
        """Describe the scores, in the order in which their names came."""
        return tuple(score.report(name) for name, score in self._scores.items())


def named(score: object) -> Iterator[tuple[str, object]]:
    """Yield the parts of a score: one without a name, or those of a mapping."""
    if not isinstance(score, dict):
        yield "", score
        return
    for name, value in score.items():
        if value is not None:
            yield str(name)[:MOST_LETTERS], value


def count(found: dict[str, int], name: str, most: int) -> None:
    """Count a name; beyond so many different ones they share the name `(others)`."""
    if name not in found:
        name = name[:MOST_LETTERS]
        if name not in found and len(found) >= most:
            name = OTHERS
    found[name] = found.get(name, 0) + 1


def cleaned(found: Mapping[str, int]) -> dict[str, int]:
    """Return counts with names that can be shown, the most frequent first."""
    clean: dict[str, int] = {}
    for name, times in sorted(found.items(), key=lambda item: -item[1]):
        shown = one_line(name)
        clean[shown] = clean.get(shown, 0) + times
    return clean
