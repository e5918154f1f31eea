"""The page of a report: well-formed, without a network, and nothing in it is what a row says."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiollm import Report
from aiollm.bulk.markup import Markup, tag
from aiollm.bulk.page import page
from aiollm.bulk.record import Failure, Record, Try
from aiollm.bulk.tally import Tally
from aiollm.types import Cost, Usage

VOID = {"meta"}
KNOWN = re.compile(
    "html|head|meta|title|style|body|header|main|footer|section|h1|h2|p|time|dl|dt|dd|div|ul|li|"
    "span|b|strong|figure|figcaption|table|thead|tbody|tr|th|td|details|summary|pre|bdi|"
    "svg|rect|line|text"
)
ATTRIBUTES = re.compile(
    "lang|charset|http-equiv|content|name|class|role|aria-label|aria-hidden|tabindex|scope|"
    "x|y|dx|x1|x2|y1|y2|width|height"
)
HOSTILE = (
    "</script></title></style><script>alert(1)</script><img src=https://evil.test onerror=x>"
    "\"'&amp;\u202e\u2066\x1b[31m\x00\ud800\u2028<!--]]>"
)


class Checker(HTMLParser):
    """Reads a page, and fails where it is not well-formed or has what such a page never has."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[str] = []
        self.seen: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        assert KNOWN.fullmatch(tag), tag
        self.seen.append(tag)
        for name, value in attrs:
            assert ATTRIBUTES.fullmatch(name), name
            assert value is not None
            assert not re.search(r"\b(nan|inf)\b", value), (name, value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    def handle_comment(self, data) -> None:
        pytest.fail(f"a comment: {data}")

    def handle_pi(self, data) -> None:
        pytest.fail(f"an instruction: {data}")


def report_of(*records: Record) -> Report:
    tally = Tally()
    for each in records:
        tally.add(each)
    return tally.report()


def answer(at: int, **facts) -> Record:
    facts = {
        "text": f"answer {at}",
        "target": f"cloud/{'big' if at % 3 else 'small'}",
        "usage": Usage(100, 20 + at, certainty="exact"),
        "cost": Cost(0.001 * at, "listed"),
        "attempts": (Try("cloud/big", "success"),),
        "started": 1.79e9 + at,
        "seconds": 1 + (at % 17) / 3,
        "first_output": 0.1 + (at % 7) / 10,
        "score": {"right": at % 2 == 0, "style": at / 300, "grade": "ABC"[at % 3], "stars": at % 5},
    } | facts
    return Record(f"row-{at}", **facts)


def failed(at: int, **facts) -> Record:
    failure = Failure("RateLimitError" if at % 2 else "ServerError", f"broken {at}")
    facts = {
        "attempts": (Try("cloud/big", "failed", "ServerError"),),
        "started": 1.79e9 + at,
    } | facts
    return Record(f"row-{at}", failure=failure, **facts)


def mixed(rows: int) -> list[Record]:
    return [failed(at) if at % 29 == 7 else answer(at) for at in range(rows)]


UNKNOWN = {"cost": Cost(), "usage": Usage()}
CASES = {
    "none": [],
    "one": [answer(1)],
    "one that failed": [failed(1)],
    "a few": mixed(3),
    "many": mixed(300),
    "all failed": [failed(at) for at in range(80)],
    "all cached": [answer(at, cached=True, cost=Cost(0.0, "billed")) for at in range(9)],
    "nothing known": [answer(at, **UNKNOWN) for at in range(9)],
    "no times": [answer(at, started=0.0, seconds=0.0, first_output=None) for at in range(9)],
    "all at once": [answer(0, seconds=0.0), answer(0, seconds=0.0)],
    "all alike": [answer(0), answer(0)],
    "most different": [answer(1, seconds=1e-9), answer(2, seconds=1e300, started=1e10)],
}


@pytest.mark.parametrize("name", CASES)
def test_a_page_is_well_formed_and_begins_with_the_summary(name) -> None:
    report = report_of(*CASES[name])
    checker = Checker(page(report, "My run"))
    texts = "\n".join(checker.texts).replace("\u00a0", " ")
    summary = report.summary[1:]
    assert re.search(f"My run: .{re.escape(summary)}", texts)
    assert texts.count(summary) == 2  # the title of the window, and the first line
    assert "script" not in checker.seen


def test_a_page_has_a_chart_or_a_table_for_each_part_of_the_report() -> None:
    report = report_of(*mixed(300))
    html = page(report)
    checker = Checker(html)
    for text in (
        *("Over time", "Answered", "Output", "Failed", "rows a second", "tokens a second"),
        *("How long answers took", "Complete answer", "First output", "What went wrong"),
        *("ServerError", "RateLimitError", "Targets", "cloud/big", "cloud/small", "Cost"),
        *("Scores", "right", "style", "grade", "stars", "Failed rows", "row-7", "broken 7"),
        *("Slowest answers", "answer 16", "true in 50.2 %"),
    ):
        assert any(text in each for each in checker.texts), text
    assert checker.seen.count("svg") > 15
    assert all(f'aria-label="{name}"' in html for name in ("Targets", "Failed rows"))


def test_only_the_style_of_the_page_is_allowed_and_nothing_is_loaded() -> None:
    html = page(report_of(*mixed(60)))
    style = re.search("<style>(.*?)</style>", html, re.DOTALL)
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert style
    assert policy
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    rules = policy[1].replace("&#x27;", "'").split("; ")
    assert rules[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    assert "@import" not in style[1]
    assert not re.search(r"https?:|url\(|src=|href=|<link|<script", html)


def test_what_rows_say_is_shown_and_never_becomes_a_part_of_the_page() -> None:
    attempts = (Try(HOSTILE, HOSTILE, HOSTILE),)
    facts = {"target": HOSTILE, "score": {HOSTILE: HOSTILE}, "attempts": attempts, "started": 1e9}
    html = page(
        report_of(
            Record(HOSTILE, text=HOSTILE, finish_reason=HOSTILE, **facts),
            Record(HOSTILE, text=HOSTILE, failure=Failure(HOSTILE, HOSTILE), **facts),
            Record("other", text="", target=f"other{HOSTILE}", score=HOSTILE),
        ),
        title=HOSTILE,
    )
    checker = Checker(html)
    assert any("<script>alert(1)" in each for each in checker.texts)
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", html
    )
    assert html.encode()  # no half surrogates


def test_a_report_that_was_not_cleaned_is_no_danger_to_the_page() -> None:
    html = page(Report(rows=1, failed=1, errors={HOSTILE: 1}, attempt_errors={HOSTILE: 2}))
    assert "<script" not in html
    Checker(html)


def test_long_texts_do_not_make_a_long_page() -> None:
    long = "<&\n" * 400_000
    rows = [answer(at, text=long, score=long) for at in range(60)]
    rows += [
        Record(f"{long}{at}", text=long, target=long, failure=Failure(long, long))
        for at in range(60)
    ]
    assert len(page(report_of(*rows), title=long)) < 1_500_000


TEXTS = st.text(max_size=20) | st.just(HOSTILE)
TIMES = st.floats() | st.floats(0, 100)
RECORDS = st.builds(
    Record,
    key=TEXTS,
    text=TEXTS | st.none(),
    score=st.none() | st.booleans() | st.floats() | TEXTS | st.dictionaries(TEXTS, st.floats()),
    failure=st.none() | st.builds(Failure, TEXTS, TEXTS),
    target=TEXTS,
    usage=st.builds(
        Usage, st.integers(0, 10**12), st.integers(0, 10**12), certainty=st.just("exact")
    ),
    cost=st.builds(Cost, st.none() | st.floats(0, 1e9), st.just("listed"), st.floats(0, 9)),
    attempts=st.lists(st.builds(Try, TEXTS, TEXTS, TEXTS), max_size=3).map(tuple),
    started=TIMES,
    seconds=TIMES,
    first_output=TIMES | st.none(),
    waited=TIMES,
    cached=st.booleans(),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(RECORDS, max_size=6))
def test_any_records_give_a_page_and_a_text(records) -> None:
    report = report_of(*records)
    Checker(page(report))
    assert str(report).startswith(report.summary)


def test_markup_escapes_whatever_is_not_markup() -> None:
    made = tag("p", "<b>", Markup("<i>"), class_='"x"', aria_label="&", width=1 / 3)
    assert made == '<p class="&quot;x&quot;" aria-label="&amp;" width="0.33">&lt;b&gt;<i></p>'
