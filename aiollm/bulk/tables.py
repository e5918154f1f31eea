"""Tables of a report's page: its targets, and the rows worth a look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aiollm.bulk import shown
from aiollm.bulk.markup import Markup, tag
from aiollm.bulk.report import RowReport, TargetReport, cost_of


def targets(found: Sequence[TargetReport]) -> Markup:
    """Return a row of figures for each target."""
    names = sorted({name for each in found for name in each.scores})
    head = ["Target", "Rows", "Failed", "Attempts (failed)", "Tokens in", "Tokens out", "Cost"]
    head += ["Median", "p95", "First output", *(_mean_of(name) for name in names)]
    rows = [
        (
            _cell(each.target or "(none)", "words name key"),
            f"{each.rows:,}",
            f"{each.failed:,}",
            f"{each.attempts:,} ({each.failed_attempts:,})",
            *_tokens(each),
            cost_of(each).removeprefix("cost "),
            shown.seconds(each.total.p50 if each.total else None),
            shown.seconds(each.total.p95 if each.total else None),
            shown.seconds(each.first_output.p50 if each.first_output else None),
            *(shown.number(each.scores.get(name)) for name in names),
        )
        for each in found
    ]
    return _table("Targets", head, rows)


def _mean_of(name: str) -> str:
    return f"{name}, mean" if name else "Mean score"


def _tokens(target: TargetReport) -> tuple[str, str]:
    used = target.usage
    if used.certainty == "missing":
        return shown.DASH, shown.DASH
    return f"{used.input_tokens:,}", f"{used.output_tokens:,}"


def slowest_rows(rows: Iterable[RowReport]) -> Markup:
    """Return a table of answers."""
    head = ("Key", "Target", "Total", "First output", "Waited", "Attempts", "Tokens out", "Answer")
    cells = [
        (
            _cell(row.key, "words name key"),
            _cell(row.target, "words name"),
            shown.seconds(row.seconds),
            shown.seconds(row.first_output),
            shown.seconds(row.waited) if row.waited else shown.DASH,
            f"{row.attempts:,}",
            f"{row.output_tokens:,}",
            _cell(_excerpt(row), "words long"),
        )
        for row in rows
    ]
    return _table("Slowest answers", head, cells)


def failed_rows(rows: Iterable[RowReport]) -> Markup:
    """Return a table of failed rows."""
    head = ("Key", "Error", "Message", "Target", "Attempts", "Total", "Waited")
    cells = [
        (
            _cell(row.key, "words name key"),
            _cell(row.error, "words"),
            _cell(_message(row), "words long"),
            _cell(row.target or "(none)", "words name"),
            f"{row.attempts:,}",
            shown.seconds(row.seconds),
            shown.seconds(row.waited) if row.waited else shown.DASH,
        )
        for row in rows
    ]
    return _table("Failed rows", head, cells)


def _message(row: RowReport) -> Markup:
    if not row.excerpt:
        return tag("bdi", row.message)
    title = f"what had come: {row.characters:,} characters"
    more = tag("details", tag("summary", title), tag("pre", tag("bdi", row.excerpt)))
    return tag("div", tag("bdi", row.message), more)


MOST_TITLE = 120
"""Characters of an answer that are seen before it is opened."""


def _excerpt(row: RowReport) -> Markup:
    if not row.excerpt:
        return tag("span", shown.DASH)
    title = " ".join(row.excerpt[:MOST_TITLE].split())
    return tag("details", tag("summary", tag("bdi", title)), tag("pre", tag("bdi", row.excerpt)))


def _cell(content: str, kind: str) -> Markup:
    inner = content if isinstance(content, Markup) else tag("bdi", content)
    return tag("td", inner, class_=kind)


def _table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Return a table in a box of its own that scrolls; what is not a cell yet becomes one."""
    words = [isinstance(cell, Markup) for cell in rows[0]]
    titles = [
        tag("th", title, scope="col", **({"class_": "words"} if left else {}))
        for title, left in zip(head, words, strict=True)
    ]
    lines = [
        tag("tr", *(cell if isinstance(cell, Markup) else tag("td", cell) for cell in cells))
        for cells in rows
    ]
    body = tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *lines))
    return tag("div", body, class_="scroll", role="region", aria_label=name, tabindex="0")
