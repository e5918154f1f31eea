"""What a tally adds up: bounded memory, quantiles within 1 %, and each row once."""

from __future__ import annotations

import math
import tracemalloc

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiollm.bulk.kept import KEPT, MOST_EXCERPT
from aiollm.bulk.record import Failure, Record, Try
from aiollm.bulk.report import Report
from aiollm.bulk.scores import MOST_NAMES, OTHERS
from aiollm.bulk.sketch import (
    ERROR,
    LEAST,
    MOST,
    Sketch,
    even_factors,
    even_steps,
    rank_of,
)
from aiollm.bulk.tally import MOST_TARGETS, Tally
from aiollm.bulk.timeline import MOST_BINS, MOST_SPANS, Timeline
from aiollm.types import Cost, Usage

SIZES = st.floats(LEAST, MOST)
NUMBERS = st.lists(st.one_of(SIZES, SIZES.map(lambda size: -size), st.just(0.0)), min_size=1)
BEGAN = 1_790_000_000.0


def sketch_of(numbers) -> Sketch:
    sketch = Sketch()
    for each in numbers:
        sketch.add(each)
    return sketch


def report_of(*records: Record) -> Report:
    tally = Tally()
    for each in records:
        tally.add(each)
    return tally.report()


def answer(key="k", **facts) -> Record:
    facts = {"text": "Yes.", "target": "a/m", "started": BEGAN, "seconds": 1.0} | facts
    return Record(key, **facts)


def failed(key="k", kind="ServerError", **facts) -> Record:
    facts = {"started": BEGAN, "seconds": 1.0, "attempts": (Try("a/m", "failed", kind),)} | facts
    return Record(key, failure=Failure(kind, "it broke"), **facts)


@given(NUMBERS, st.floats(0, 1))
def test_a_quantile_is_within_the_stated_error(numbers, share) -> None:
    true = sorted(numbers)[rank_of(share, len(numbers))]
    assert abs(sketch_of(numbers).quantile(share) - true) <= abs(true) * ERROR * (1 + 1e-9)


@example([-17179869183.0], [8589934592.0, 8589934591.005], 0.0)
@given(NUMBERS, NUMBERS, st.floats(0, 1))
def test_merging_loses_nothing(one, other, share) -> None:
    merged, both = sketch_of(one), sketch_of([*one, *other])
    merged.update(sketch_of(other))
    assert merged.quantile(share) == both.quantile(share)
    assert (merged.count, merged.least, merged.most) == (both.count, both.least, both.most)
    rounding = 1e-12 * sum(map(abs, [*one, *other]))  # sums in another order, which may cancel out
    assert merged.total == pytest.approx(both.total, abs=rounding)


@given(st.lists(SIZES, min_size=1), st.integers(1, 60))
def test_the_buckets_of_a_distribution_hold_every_number(numbers, bars) -> None:
    sketch = sketch_of(numbers)
    for edges in (
        even_factors(sketch.least, sketch.most, bars),
        even_steps(sketch.least, sketch.most, bars),
    ):
        assert edges == sorted(edges)
        counts = sketch.spread(edges)
        assert sum(counts) == len(numbers)
        assert min(counts) >= 0


def test_a_quantile_is_the_least_number_that_so_many_are_at_or_below() -> None:
    ranks = [rank_of(share, count) for share, count in ((0.5, 2), (0.5, 3), (0.95, 3), (0.07, 100))]
    assert ranks == [0, 1, 2, 6]


def test_rows_add_up() -> None:
    usage = Usage(
        100, 20, cached_tokens=40, reasoning_tokens=5, certainty="exact", web_search_requests=2
    )
    attempts = (Try("a/m", "failed", "RateLimitError"), Try("a/m", "success"))
    report = report_of(
        answer("1", usage=usage, cost=Cost(0.25, "listed", 0.5), attempts=attempts, waited=2.0),
        answer("2", usage=usage, cost=Cost(0.25, "billed"), finish_reason="length"),
        answer("3", target="b/m", cached=True, usage=usage, cost=Cost(0.0, "billed")),
        failed("4", "AuthenticationError"),
    )
    assert (report.rows, report.answered, report.failed, report.cached) == (4, 3, 1, 1)
    assert report.errors == {"AuthenticationError": 1}
    sums = report.usage
    assert (sums.input_tokens, sums.output_tokens, sums.certainty) == (200, 40, "exact")
    assert (sums.cached_tokens, sums.reasoning_tokens) == (80, 10)
    assert sums.web_search_requests == 4
    assert (report.cost, report.lost, report.cost_unknown) == (1.0, 0.5, 0)
    assert report.attempts == {"failed": 2, "success": 1}
    assert report.attempt_errors == {"RateLimitError": 1, "AuthenticationError": 1}
    assert (report.retried, report.waited) == (1, 2.0)
    assert report.finish_reasons == {"length": 1}
    assert [(each.target, each.rows, each.failed, each.attempts) for each in report.targets] == [
        ("a/m", 3, 1, 3),
        ("b/m", 1, 0, 0),
    ]
    assert (report.elapsed, report.rows_per_second, report.tokens_per_second) == (1.0, 4.0, 40.0)


def test_a_cached_answer_has_no_time_and_its_tokens_are_not_counted_again() -> None:
    report = report_of(answer(cached=True, usage=Usage(9, 9, certainty="exact"), first_output=0.1))
    assert (report.total, report.first_output, report.usage) == (None, None, Usage())
    assert not report.slowest


@pytest.mark.parametrize(
    ("costs", "known", "unknown"),
    [
        ([], 0.0, 0),
        ([Cost()], None, 1),
        ([Cost(0.0, "listed")], 0.0, 0),
        ([Cost(0.5, "listed"), Cost()], 0.5, 1),
        ([Cost(0.5, "listed", None)], 0.5, 1),
        ([Cost(None, "unknown", 0.25)], 0.25, 1),
    ],
)
def test_an_unknown_cost_is_never_zero(costs, known, unknown) -> None:
    report = report_of(*(answer(str(at), cost=cost) for at, cost in enumerate(costs)))
    assert (report.cost, report.cost_unknown) == (known, unknown)


def test_a_failed_row_costs_what_its_attempts_did() -> None:
    report = report_of(failed("1", cost=Cost(None, "unknown", 0.25)), failed("2"))
    assert (report.cost, report.lost, report.cost_unknown) == (0.25, 0.25, 0)
    assert report_of(failed(cost=Cost(None, "unknown", None))).cost is None


@pytest.mark.parametrize(
    ("certainties", "sum_"),
    [
        (["exact", "exact"], "exact"),
        (["exact", "partial"], "partial"),
        (["exact", "missing"], "partial"),
        (["missing"], "missing"),
    ],
)
def test_the_sum_of_tokens_is_as_certain_as_the_least_certain_count(certainties, sum_) -> None:
    rows = [answer(str(at), usage=Usage(1, 1, certainty=c)) for at, c in enumerate(certainties)]
    report = report_of(*rows)
    assert report.usage.certainty == sum_
    assert report.uncounted == certainties.count("missing")


def test_a_row_that_was_asked_again_counts_once_and_what_was_used_stays() -> None:
    tally = Tally()
    first = failed("1", usage=Usage(10, 2, certainty="partial"), cost=Cost(lost=0.5), waited=3.0)
    tally.add(first)
    tally.add(failed("2"))
    enough = Record("1", failure=Failure("ServerError", ""), target="a/m")
    usage = Usage(10, 20, certainty="exact")
    tally.add(answer("1", usage=usage, cost=Cost(0.25, "listed")), again=enough)
    report = tally.report()
    assert (report.rows, report.answered, report.failed) == (2, 1, 1)
    assert report.errors == {"ServerError": 1}
    assert [row.key for row in report.failures] == ["2"]
    assert (report.usage.output_tokens, report.cost, report.waited) == (22, 0.75, 3.0)
    assert report.attempts == {"failed": 2}
    assert [(each.rows, each.failed) for each in report.targets] == [(2, 1)]


def test_a_row_that_failed_again_counts_by_its_last_error() -> None:
    tally = Tally()
    tally.add(failed("1", "ServerError"))
    tally.add(failed("1", "QuotaError"), again=failed("1", "ServerError"))
    report = tally.report()
    assert (report.rows, report.errors) == (1, {"QuotaError": 1})
    assert [row.error for row in report.failures] == ["QuotaError"]


def test_the_lines_of_a_file_give_the_report_of_the_run() -> None:
    records = [
        *(
            answer(str(at), seconds=at / 7, score={"style": at}, first_output=0.1)
            for at in range(9)
        ),
        failed("x"),
    ]
    lines = [msgspec.json.encode(each) for each in records]
    read = [msgspec.json.decode(line, type=Record) for line in lines]
    assert report_of(*read) == report_of(*records)


def test_the_slowest_answers_are_kept_the_slowest_first() -> None:
    report = report_of(*(answer(str(at), seconds=float(at % 997)) for at in range(2000)))
    times = [row.seconds for row in report.slowest]
    assert len(times) == KEPT
    assert times == sorted((float(at % 997) for at in range(2000)), reverse=True)[:KEPT]


def test_a_rare_failure_is_not_lost_among_many() -> None:
    records = [failed(str(at), "RateLimitError") for at in range(500)]
    records[0] = failed("0", "OutputError")
    report = report_of(*records)
    assert len(report.failures) == KEPT
    assert [row.key for row in report.failures] == ["0", *map(str, range(451, 500))]
    many = report_of(*(failed(str(at), f"Error{at}") for at in range(500)))
    assert (len(many.failures), sum(many.errors.values())) == (KEPT, 500)


def test_kept_texts_are_cut_and_say_how_long_they_were() -> None:
    row = report_of(answer("k" * 5000, text="a" * 1_000_000)).slowest[0]
    assert len(row.key) < 300
    assert len(row.excerpt) < MOST_EXCERPT + 50
    assert row.characters == 1_000_000
    assert "1,000,000 characters" in row.excerpt
    assert report_of(answer(text=None, value={"a": 1})).slowest[0].excerpt == '{"a":1}'


def test_scores_are_summed_up_by_what_they_are() -> None:
    scores = [0.5, 1, True, False, True, "good", "good", "bad", [1], math.nan, 10**400, None]
    report = report_of(*(answer(str(at), score=score) for at, score in enumerate(scores)))
    (score,) = report.scores
    assert (score.name, score.count, report.scored) == ("", 11, 11)
    assert score.numbers is not None
    assert (score.numbers.count, score.numbers.mean, score.numbers.p50) == (2, 0.75, 0.5)
    assert [(each.low, each.count) for each in score.numbers.buckets] == [(0.5, 1), (1.0, 1)]
    assert (score.true, score.false, score.other) == (2, 1, 3)
    assert score.texts == {"good": 2, "bad": 1}


def test_a_mapping_is_several_scores_by_name() -> None:
    rows = [answer(str(at), score={"right": at > 0, "style": at / 100}) for at in range(100)]
    right, style = report_of(*rows).scores
    assert (right.name, right.true, right.false) == ("right", 99, 1)
    assert style.numbers is not None
    assert style.numbers.mean == pytest.approx(0.495)
    assert sum(each.count for each in style.numbers.buckets) == 100
    (target,) = report_of(*rows).targets
    assert target.scores == {"right": 0.99, "style": pytest.approx(0.495)}


def test_times_in_which_nothing_ran_are_left_out() -> None:
    day = 86400
    rows = [answer(str(at), started=BEGAN + at, seconds=2.0) for at in range(10)]
    later = [answer(str(at), started=BEGAN + day + at, seconds=2.0) for at in range(10, 20)]
    report = report_of(*rows, *later)
    assert (report.started, report.elapsed) == (BEGAN, 22.0)
    assert sum(each.seconds for each in report.throughput) == pytest.approx(22.0)
    assert sum(each.answered for each in report.throughput) == 20


@given(st.lists(st.tuples(st.floats(1, 1e11), st.floats(0, 1e9), st.booleans()), max_size=80))
def test_intervals_are_few_and_count_every_row(rows) -> None:
    timeline = Timeline()
    for started, seconds, is_failed in rows:
        timeline.add(started, started + seconds, failed=is_failed, tokens=3)
    found = timeline.intervals()
    assert len(found) <= MOST_BINS + 2 * MOST_SPANS + 1
    assert sum(each.answered + each.failed for each in found) == len(rows)
    assert sum(each.failed for each in found) == sum(is_failed for *_, is_failed in rows)
    assert sum(each.output_tokens for each in found) == 3 * len(rows)
    assert sum(each.seconds for each in found) == pytest.approx(timeline.seconds, abs=1e-3)


def hostile(at: int) -> Record:
    """Return a record that differs from all others in whatever can differ."""
    name = f"{at}-{'x' * 2000}"
    record = Record(
        name,
        text=name * 3,
        score={name: name, f"n{at}": at * 1.37, "same": at * 0.77},
        failure=Failure(name, name) if at % 2 else None,
        target=name,
        finish_reason=name,
        attempts=(Try(name, name, name), Try(name, "failed", name)),
        started=1.0 + at * 1000,
        seconds=at * 1.1,
        first_output=at * 0.9,
    )
    return msgspec.structs.replace(record, usage=Usage(at, at, certainty="exact"))


def test_memory_does_not_grow_with_the_rows() -> None:
    tally = Tally()
    for at in range(3000):
        tally.add(hostile(at))
    tracemalloc.start()
    for at in range(3000, 9000):
        tally.add(hostile(at))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # What was kept before the trace began and has been replaced since is all that is new.
    assert grown < 600_000
    report = tally.report()
    assert len(report.targets) == MOST_TARGETS + 1
    assert OTHERS in {each.target for each in report.targets}
    assert len(report.scores) == MOST_NAMES + 1
    assert len(msgspec.json.encode(report)) < 1_000_000
