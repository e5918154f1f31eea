"""A report in words: its one line, its table for a terminal, and its JSON."""

from __future__ import annotations

import msgspec
import pytest

from aiollm import Report
from aiollm.bulk import shown
from aiollm.bulk.record import Failure, Record, Try
from aiollm.bulk.tally import Tally
from aiollm.types import Cost, Usage


@pytest.mark.parametrize(
    ("report", "summary"),
    [
        (Report(), "no row has ended in this run"),
        (
            Report(rows=2000, answered=1987, failed=13, elapsed=192.4, cost=0.42),
            "1,987 of 2,000 answered in 3 min 12 s; 13 failed; $0.42",
        ),
        (Report(rows=3, answered=3, elapsed=2.0, cost=0.0), "3 rows answered in 2.00 s; $0.00"),
        (Report(rows=1, answered=1, elapsed=2.0), "1 row answered in 2.00 s; cost unknown"),
        (Report(rows=3, failed=3, cost=0.0), "3 rows failed; $0.00"),
        (
            Report(rows=2, answered=2, cost=0.42, cost_unknown=1),
            "2 rows answered; at least $0.42",
        ),
    ],
)
def test_the_summary_says_in_one_line_how_it_went(report, summary) -> None:
    assert report.summary == summary


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\u2013"),
        (0, "0 s"),
        (0.00004, "0.04 ms"),
        (0.0004, "0.40 ms"),
        (0.412, "412 ms"),
        (0.9996, "1.00 s"),
        (9.996, "10.0 s"),
        (59.96, "1 min"),
        (192.4, "3 min 12 s"),
        (3599.7, "1 h"),
        (7140, "1 h 59 min"),
        (7199, "2 h"),
        (90000, "1 d 1 h"),
        (1e11, "1,157,407 d 10 h"),
    ],
)
def test_times_are_short_and_have_a_unit(seconds, text) -> None:
    assert shown.seconds(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "\u2013"),
        (0, "$0.00"),
        (1234.567, "$1,234.57"),
        (0.42, "$0.42"),
        (0.0996, "$0.10"),
        (0.0312, "$0.031"),
        (0.0000042, "$0.0000042"),
        (1e-12, "<$0.000000001"),
        (-0.5, "-$0.50"),
    ],
)
def test_small_sums_keep_two_digits_and_unknown_is_not_zero(usd, text) -> None:
    assert shown.money(usd) == text


@pytest.mark.parametrize(
    ("part", "of", "text"),
    [(0, 0, "\u2013"), (0, 5, "0 %"), (5, 5, "100 %"), (9999, 10000, "99.9 %"), (1, 9999, "0.1 %")],
)
def test_a_share_is_all_only_where_it_is_all(part, of, text) -> None:
    assert shown.share(part, of) == text


@pytest.fixture
def report() -> Report:
    tally = Tally()
    usage = Usage(1000, 100, cached_tokens=400, reasoning_tokens=30, certainty="exact")
    attempts = (Try("cloud/big", "failed", "RateLimitError"), Try("cloud/big", "success"))
    facts = {"target": "cloud/big", "started": 1e9, "usage": usage, "finish_reason": "stop"}
    for at in range(9):
        tally.add(
            Record(
                f"row-{at}",
                text="Yes.",
                score=at % 3 > 0,
                cost=Cost(0.01, "listed"),
                attempts=attempts if at == 4 else attempts[1:],
                seconds=1.0 + at,
                first_output=0.5,
                waited=0.25 if at == 8 else 0.0,
                **facts,
            )
        )
    failure = Failure("QuotaError", "the account has no money left\x1b[2J")
    tally.add(
        Record("row-9\u202e", failure=failure, attempts=attempts[:1], started=1e9, seconds=0.5)
    )
    return tally.report()


def test_the_text_has_what_a_person_asks_for(report) -> None:
    assert str(report).splitlines() == [
        "9 of 10 answered in 9.00 s; 1 failed; $0.090",
        "speed    1.11 rows/s, 100 output tokens/s",
        "tokens   9,000 in (3,600 cached), 900 out (270 reasoning)",
        "waited   250 ms for limits, added up over rows",
        "attempts 11, of them failed: 2 RateLimitError",
        "",
        "                 p50     p95     p99    mean     max",
        "first output  500 ms  500 ms  500 ms  500 ms  500 ms",
        "answer        5.00 s  9.00 s  9.00 s  5.00 s  9.00 s",
        "",
        "target     rows  failed  attempts  tokens in  out    cost     p50     p95",
        "cloud/big    10       1        11      9,000  900  $0.090  5.00 s  9.00 s",
        "",
        "score    true in 6 of 9 (66.7 %)",
        "",
        "failed   1 QuotaError",
        "  row-9  QuotaError: the account has no money left[2J",
    ]


def test_a_report_can_be_written_as_json_and_read_again(report) -> None:
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_texts_that_json_cannot_hold_are_mended() -> None:
    tally = Tally()
    odd = "\ud800\x00"
    failure = Failure(odd, odd)
    attempts = (Try(odd, odd, odd),)
    tally.add(
        Record(odd, text=odd, score={odd: odd}, target=odd, attempts=attempts, finish_reason=odd)
    )
    tally.add(Record(odd, failure=failure, score=odd, attempts=attempts))
    report = tally.report()
    assert b"\\u0000" not in msgspec.json.encode(report)
    assert "\x00" not in str(report)
