"""A report as one HTML page that needs nothing else: no network, no script, no font."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator

from aiollm.bulk import charts, shown
from aiollm.bulk.markup import Markup, join, tag
from aiollm.bulk.page_style import STYLE
from aiollm.bulk.report import (
    Distribution,
    Report,
    ScoreReport,
    cost_of,
)
from aiollm.bulk.tables import failed_rows, slowest_rows, targets

__all__ = ["page"]

MOST_TITLE = 200
"""Characters of a title."""

_TIME = re.compile(r"(?<=\d) (?=(?:ms|s|min|h|d)\b)|(?<= [dh]) (?=\d)|(?<=min) (?=\d)")


def page(report: Report, title: str = "Bulk run") -> str:
    """Return a report as a complete HTML document.

    It can be opened from a disk or sent by mail: it loads nothing, has no script, and is readable
    in light and dark. All text of others in it is escaped.
    """
    title = title[:MOST_TITLE]
    body = tag("body", _header(report, title), tag("main", *_sections(report)), _footer())
    return f"<!doctype html>\n{tag('html', _head(report, title), body, lang='en')}\n"


def _head(report: Report, title: str) -> Markup:
    # The page's own style is named by its hash, so that nothing that slipped in can add another.
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title}: {report.summary}"),
        tag("style", Markup(STYLE)),
    )


def _header(report: Report, title: str) -> Markup:
    # The parts of a time stay together where the line is broken.
    summary = _TIME.sub("\u00a0", report.summary)
    when = tag("time", shown.moment(report.started)) if report.started is not None else ""
    parts: list[Markup] = [
        tag("h1", tag("bdi", title), when),
        tag("p", f"{summary[:1].upper()}{summary[1:]}", class_="summary"),
    ]
    if report.rows:
        answered = report.answered - report.cached
        outcome = [("answered", answered, "good"), ("failed", report.failed, "bad")]
        if report.cached:
            outcome.insert(1, ("from the cache", report.cached, "kept"))
        parts += [charts.shares(outcome), charts.legend(outcome)]
        parts.append(tag("dl", *_tiles(report), class_="tiles"))
    return tag("header", *parts)


def _tiles(report: Report) -> Iterator[Markup]:
    used = report.usage
    yield _tile("Cost", cost_of(report).removeprefix("cost "), *_cost_notes(report))
    speed = f"{shown.rate(report.rows_per_second)} rows/s" if report.elapsed else shown.DASH
    yield _tile("Speed", speed, f"{shown.rate(report.tokens_per_second)} output tokens/s")
    if found := report.total:
        yield _tile("Time of an answer", shown.seconds(found.p50), *_quantiles(found))
    if found := report.first_output:
        yield _tile("First output", shown.seconds(found.p50), *_quantiles(found))
    uncounted = [f"unknown for {shown.rows(report.uncounted)}"] if report.uncounted else []
    cached = [f"{used.cached_tokens:,} from prompt caches"] if used.cached_tokens else []
    yield _tile("Input tokens", _tokens(report, used.input_tokens), *cached, *uncounted)
    reasoning = [f"{used.reasoning_tokens:,} reasoning"] if used.reasoning_tokens else []
    yield _tile("Output tokens", _tokens(report, used.output_tokens), *reasoning, *uncounted)
    attempts = sum(report.attempts.values())
    yield _tile("Attempts", f"{attempts:,}", f"{shown.rows(report.retried)} took more than one")
    yield _tile("Waited for limits", shown.seconds(report.waited), "added up over all rows")


def _tokens(report: Report, count: int) -> str:
    if report.usage.certainty != "missing":
        return f"{count:,}"
    return "unknown" if report.uncounted else shown.DASH


def _cost_notes(report: Report) -> Iterator[str]:
    if report.cost_unknown:
        yield f"not known for {shown.rows(report.cost_unknown)}"
    if report.lost:
        yield f"{shown.money(report.lost)} for answers not used"


def _quantiles(found: Distribution) -> Iterator[str]:
    yield f"median; p95 {shown.seconds(found.p95)}"


def _tile(name: str, value: str, *notes: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value), *(tag("dd", note) for note in notes))


def _section(title: str, says: str, *content: str) -> Markup:
    about = [tag("p", says)] if says else []
    return tag("section", tag("h2", title), *about, *content)


def _sections(report: Report) -> Iterator[Markup]:
    if any(each.seconds for each in report.throughput):
        failed = sum(each.failed for each in report.throughput)
        again = "A row that failed and was asked again counts each time."
        says = again if failed > report.failed else ""
        yield _section("Over time", says, tag("div", *_over_time(report), class_="figures"))
    if report.total:
        yield _section(
            "How long answers took",
            "From the row's start, waiting for limits included. The axis is logarithmic.",
            tag("div", *_latencies(report), class_="figures"),
        )
    if report.errors or report.attempt_errors:
        yield _section("What went wrong", "", tag("div", *_errors(report), class_="figures"))
    if report.targets:
        yield _section("Targets", "", *_targets(report))
    if report.scores:
        says = f"{report.scored:,} of {report.answered:,} answers have a score."
        figures = [each for score in report.scores for each in _score(score)]
        yield _section("Scores", says, tag("div", *figures, class_="figures"))
    if report.failures:
        says = _of_all(
            len(report.failures), report.failed, "failed rows", "the latest of each class"
        )
        yield _section("Failed rows", says, failed_rows(report.failures))
    if report.slowest:
        asked = report.answered - report.cached
        says = _of_all(len(report.slowest), asked, "answers", "the slowest ones")
        yield _section("Slowest answers", says, slowest_rows(report.slowest))


def _of_all(count: int, total: int, what: str, which: str) -> str:
    return f"{count:,} of {total:,} {what}: {which}." if count < total else ""


def _over_time(report: Report) -> Iterator[Markup]:
    found = report.throughput

    if any(each.answered for each in found):
        chart = charts.over_time(found, lambda each: each.answered, "rows/s")
        yield charts.figure("Answered", "rows a second", chart)
    if any(each.output_tokens for each in found):
        chart = charts.over_time(found, lambda each: each.output_tokens, "tokens/s")
        yield charts.figure("Output", "tokens a second", chart)
    if any(each.failed for each in found):
        chart = charts.over_time(found, lambda each: each.failed, "rows/s", tone="bad")
        yield charts.figure("Failed", "rows a second", chart)


def _latencies(report: Report) -> Iterator[Markup]:
    for title, found in (("Complete answer", report.total), ("First output", report.first_output)):
        if found:
            yield charts.figure(title, "rows", charts.histogram(found, title))


def _errors(report: Report) -> Iterator[Markup]:
    for title, unit, errors in (
        ("Failed rows", "by the class of their error", report.errors),
        ("Failed attempts", "also of rows that were answered in the end", report.attempt_errors),
    ):
        if errors:
            bars = charts.bars_of(errors, charts.whole, tone="bad")
            yield charts.figure(title, unit, bars)


def _targets(report: Report) -> Iterator[Markup]:
    yield targets(report.targets)
    names = {each.target or "(none)": each for each in report.targets}
    costs = {name: each.cost for name, each in names.items() if each.cost is not None}
    figures: list[Markup] = []
    if len(names) > 1:
        rows = {name: each.rows for name, each in names.items() if each.rows}
        figures.append(charts.figure("Rows", "by target", charts.bars_of(rows, charts.whole)))
    if len(names) > 1 and any(costs.values()):
        bars = charts.bars_of(costs, shown.money)
        figures.append(charts.figure("Cost", "by target, US dollars", bars))
    yield tag("div", *figures, class_="figures")


def _score(score: ScoreReport) -> Iterator[Markup]:
    title = score.name or "Score"
    if found := score.numbers:
        says = f"rows; mean {shown.number(found.mean)}, median {shown.number(found.p50)}"
        yield charts.figure(title, says, charts.numbers(found, title))
    if score.true or score.false:
        yes_no = [("true", score.true, "good"), ("false", score.false, "bad")]
        chart = join(charts.shares(yes_no), charts.legend(yes_no))
        says = f"true in {shown.share(score.true, score.true + score.false)}"
        yield charts.figure(title, says, chart)
    if score.texts:
        yield charts.figure(title, "rows", charts.bars_of(score.texts, charts.whole))


def _footer() -> Markup:
    return tag(
        "footer",
        tag(
            "p",
            "Quantiles are within 1 % of the true ones. Times of a minute or more in which no row "
            "was under way are left out. Answers from the response cache have no times, and their "
            "tokens are not counted again.",
        ),
    )
