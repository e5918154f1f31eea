"""What a bulk run has come to: figures, the rows worth a look, and a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from aiollm._wire.printable import one_line
from aiollm.bulk import shown
from aiollm.types import Usage

MOST_SHOWN = 5
"""Failed rows of a report that its text shows."""


class Bucket(msgspec.Struct, frozen=True):
    """How many numbers are from `low` to below `high`; both are the same for a single value."""

    low: float
    high: float
    count: int


class Distribution(msgspec.Struct, frozen=True):
    """What many numbers look like: times are in seconds, quantiles within 1 % of the true ones.

    `count`, `mean`, `min` and `max` are exact.
    """

    count: int
    mean: float
    min: float
    p50: float
    p95: float
    p99: float
    max: float
    buckets: tuple[Bucket, ...] = ()


class Interval(msgspec.Struct, frozen=True):
    """What ended in a stretch of the run; `started` and `seconds` leave out times without rows.

    A row that failed and was asked again counts each time.
    """

    started: float
    seconds: float
    answered: int = 0
    failed: int = 0
    output_tokens: int = 0


class TargetReport(msgspec.Struct, frozen=True):
    """One target's part of a run: the rows that it had last, and all attempts of it.

    Tokens, costs and times have the meaning that they have in `Report`. `scores` are means by the
    score's name, with True as 1 and False as 0.
    """

    target: str
    rows: int
    answered: int
    failed: int
    attempts: int
    failed_attempts: int
    errors: dict[str, int]
    usage: Usage
    cost: float | None
    cost_unknown: int
    first_output: Distribution | None = None
    total: Distribution | None = None
    scores: dict[str, float] = {}


class ScoreReport(msgspec.Struct, frozen=True):
    """The scores of one name, which is empty where a score is a plain value.

    `numbers` has one bucket for each number where few different ones were given. `texts` counts
    strings, the rarer ones together as `(others)`, and `other` what is none of these.
    """

    name: str
    count: int
    numbers: Distribution | None = None
    true: int = 0
    false: int = 0
    texts: dict[str, int] = {}
    other: int = 0


class RowReport(msgspec.Struct, frozen=True):
    """A row worth a look; its texts are cut, and `characters` is the length of its answer.

    `error` is the class of the error that it failed with, empty for an answer.
    """

    key: str
    target: str
    seconds: float
    first_output: float | None = None
    waited: float = 0.0
    attempts: int = 0
    error: str = ""
    message: str = ""
    excerpt: str = ""
    characters: int = 0
    output_tokens: int = 0


class Report(msgspec.Struct, frozen=True):
    """What a bulk run has come to; it can be encoded as JSON, and `str()` is a plain-text table.

    - `rows` have ended, each `answered` or `failed`; `errors` counts the failed ones by the class
      of their error. Of the answered ones, `cached` came from the response cache, and `scored`
      have a score.
    - `usage` adds up the tokens of all rows but cached ones, and `uncounted` is how many answers
      came without a count, so are not in it.
    - `cost` is in US dollars, and includes what was `lost`, that is, what was paid for answers that
      were not used. It is the sum of what is known, None where nothing is; `cost_unknown` is how
      many rows have cost more than is known.
    - `started` is when the first row started, in seconds since 1970. `elapsed` is seconds in which
      rows were under way, without times of a minute or more between them, such as before a run is
      resumed. `waited` adds up the seconds that rows were in line for a target that has room, and
      `tokens_per_second` is about output.
    - `first_output` and `total` are seconds from a row's start, for answers that are not cached.
    - `attempts` counts them by outcome, `attempt_errors` the failed ones by the class of their
      error, and `retried` is rows that took more than one.
    - `finish_reasons` counts answers, `targets` has a part for each target, `scores` one for each
      name of a score, and `throughput` what ended when.
    - `slowest` has the slowest answers, `failures` the latest failed rows of each class.
    """

    rows: int = 0
    answered: int = 0
    failed: int = 0
    errors: dict[str, int] = {}
    cached: int = 0
    scored: int = 0
    usage: Usage = Usage()
    uncounted: int = 0
    cost: float | None = None
    lost: float = 0.0
    cost_unknown: int = 0
    started: float | None = None
    elapsed: float = 0.0
    waited: float = 0.0
    rows_per_second: float = 0.0
    tokens_per_second: float = 0.0
    first_output: Distribution | None = None
    total: Distribution | None = None
    attempts: dict[str, int] = {}
    attempt_errors: dict[str, int] = {}
    retried: int = 0
    finish_reasons: dict[str, int] = {}
    targets: tuple[TargetReport, ...] = ()
    scores: tuple[ScoreReport, ...] = ()
    throughput: tuple[Interval, ...] = ()
    slowest: tuple[RowReport, ...] = ()
    failures: tuple[RowReport, ...] = ()

    @property
    def summary(self) -> str:
        """One line, such as `1,987 of 2,000 answered in 3 min 12 s; 13 failed; $0.42`."""
        if not self.rows:
            return "no row has ended in this run"
        time = f" in {shown.seconds(self.elapsed)}" if self.elapsed else ""
        if not self.failed:  # not "all": a run that was stopped has rows that it did not ask
            return f"{shown.rows(self.rows)} answered{time}; {cost_of(self)}"
        if not self.answered:
            return f"{shown.rows(self.rows)} failed{time}; {cost_of(self)}"
        answered = f"{self.answered:,} of {self.rows:,} answered"
        return f"{answered}{time}; {self.failed:,} failed; {cost_of(self)}"

    def __str__(self) -> str:
        parts = (_figures, _times, _targets, _scores, _failures)
        blocks = ("\n".join(part(self)) for part in parts)
        return "\n\n".join(block for block in blocks if block)


def cost_of(report: Report | TargetReport) -> str:
    """Write what is known of a cost."""
    if report.cost is None:
        return "cost unknown"
    sum_ = shown.money(report.cost)
    return f"at least {sum_}" if report.cost_unknown else sum_


def counts(found: Mapping[str, int]) -> str:
    """Write how often each thing was found, the most frequent first."""
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {one_line(name)}" for name, count in ordered)


def _figures(report: Report) -> Iterator[str]:
    yield report.summary
    if report.rows:
        yield from (f"{name:9}{text}" for name, text in _facts(report) if text)


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    used = report.usage
    rows, tokens = shown.rate(report.rows_per_second), shown.rate(report.tokens_per_second)
    yield "speed", f"{rows} rows/s, {tokens} output tokens/s" if report.elapsed else ""
    read = f"{used.input_tokens:,} in ({used.cached_tokens:,} cached)"
    yield "tokens", f"{read}, {used.output_tokens:,} out ({used.reasoning_tokens:,} reasoning)"
    unknown = {"tokens": report.uncounted, "cost": report.cost_unknown}
    missing = [f"{what} of {shown.rows(count)}" for what, count in unknown.items() if count]
    yield "unknown", ", ".join(missing)
    lost = shown.money(report.lost)
    yield "lost", f"{lost} for answers that were not used" if report.lost else ""
    waited = shown.seconds(report.waited)
    yield "waited", f"{waited} for limits, added up over rows" if report.waited else ""
    yield "cache", f"{shown.rows(report.cached)} answered from it" if report.cached else ""
    attempts = f"{sum(report.attempts.values()):,}, of them failed: {counts(report.attempt_errors)}"
    yield "attempts", attempts if report.retried else ""
    yield "ended", counts(report.finish_reasons) if set(report.finish_reasons) - {"stop"} else ""


def _times(report: Report) -> Iterator[str]:
    found = {"first output": report.first_output, "answer": report.total}
    rows = [(name, *_of(times)) for name, times in found.items() if times]
    if rows:
        yield from _table(("", "p50", "p95", "p99", "mean", "max"), rows)


def _of(times: Distribution) -> Iterator[str]:
    figures = (times.p50, times.p95, times.p99, times.mean, times.max)
    yield from map(shown.seconds, figures)


def _targets(report: Report) -> Iterator[str]:
    head = ("target", "rows", "failed", "attempts", "tokens in", "out", "cost", "p50", "p95")
    rows = [
        (
            one_line(each.target) or "(none)",
            *(f"{count:,}" for count in (each.rows, each.failed, each.attempts)),
            f"{each.usage.input_tokens:,}",
            f"{each.usage.output_tokens:,}",
            cost_of(each).removeprefix("cost "),
            shown.seconds(each.total.p50 if each.total else None),
            shown.seconds(each.total.p95 if each.total else None),
        )
        for each in report.targets
    ]
    if rows:
        yield from _table(head, rows)


def _scores(report: Report) -> Iterator[str]:
    for each in report.scores:
        yield f"{one_line(each.name) or 'score':9}{', '.join(score_facts(each))}"


def score_facts(score: ScoreReport) -> Iterator[str]:
    """Say in a few words how a score turned out."""
    if found := score.numbers:
        mean, middle = shown.number(found.mean), shown.number(found.p50)
        ends = f"{shown.number(found.min)} to {shown.number(found.max)}"
        yield f"mean {mean}, p50 {middle}, {ends} in {shown.rows(found.count)}"
    if told := score.true + score.false:
        yield f"true in {score.true:,} of {told:,} ({shown.share(score.true, told)})"
    if score.texts:
        yield counts(score.texts)
    if score.other:
        yield f"{score.other:,} neither number, bool nor string"


def _failures(report: Report) -> Iterator[str]:
    if report.errors:
        yield f"failed   {counts(report.errors)}"
    for row in report.failures[:MOST_SHOWN]:
        yield f"  {one_line(row.key)}  {one_line(row.error)}: {one_line(row.message)}"
    if report.failures and report.failed > (told := len(report.failures[:MOST_SHOWN])):
        yield f"  and {report.failed - told:,} more"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lay out columns, the first one to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for first, *others in (head, *rows):
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        yield "  ".join(cells).rstrip()
