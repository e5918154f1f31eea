"""Charts of a report as SVG of any width: places are shares of it, letters keep their size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from aiollm.bulk import shown
from aiollm.bulk.markup import Markup, tag
from aiollm.bulk.report import Distribution, Interval
from aiollm.bulk.sketch import round_step

HEIGHT, TOP, MARKS = 150, 12, 46
"""Pixels of the plot, above it, and above one that names quantiles."""
MOST_INTERVALS = 80
"""Bars of a chart over time."""
MOST_TICKS = 7


class Bar(msgspec.Struct, frozen=True):
    """A bar from `left` to `right`, which are shares of the width, and what it says when asked."""

    left: float
    right: float
    value: float
    hint: str


class Tick(msgspec.Struct, frozen=True):
    """A place on the axis below, as a share of the width, and its label."""

    at: float
    label: str


def figure(title: str, unit: str, chart: Markup) -> Markup:
    """Return a chart with its title and the unit of its upright axis."""
    caption = tag("figcaption", tag("strong", title), " ", tag("span", unit))
    return tag("figure", caption, chart)


def histogram(found: Distribution, name: str) -> Markup:
    """Draw times on a logarithmic axis, with their quantiles."""
    place = _logarithmic(found.min, found.max)
    bars = [
        Bar(
            place(each.low),
            place(each.high),
            each.count,
            f"{shown.seconds(each.low)} to {shown.seconds(each.high)}: {shown.rows(each.count)}",
        )
        for each in found.buckets
    ]
    if found.max <= found.min:
        bars = [Bar(0.4, 0.6, found.count, f"{shown.seconds(found.max)}: {found.count:,}")]
    quantiles = {"p50": found.p50, "p95": found.p95, "p99": found.p99}
    marks = [Tick(place(at), f"{label} {shown.seconds(at)}") for label, at in quantiles.items()]
    ticks = [Tick(place(at), shown.round_seconds(at)) for at in _decades(found.min, found.max)]
    says = f"{name}: {', '.join(mark.label for mark in marks)}"
    return plot(bars, ticks, says, marks=marks)


def numbers(found: Distribution, name: str) -> Markup:
    """Draw scores: on a linear axis or, where few are different, a bar for each."""
    says = f"{name}: mean {shown.number(found.mean)}, p50 {shown.number(found.p50)}"
    if all(each.low == each.high for each in found.buckets):
        return bars_of({shown.number(each.low): each.count for each in found.buckets}, whole)
    low, high = found.buckets[0].low, found.buckets[-1].high
    bars = [
        Bar(
            (each.low - low) / (high - low),
            (each.high - low) / (high - low),
            each.count,
            f"{shown.number(each.low)} to {shown.number(each.high)}: {shown.rows(each.count)}",
        )
        for each in found.buckets
    ]
    return plot(bars, _even_ticks(low, high, shown.number), says)


def over_time(
    intervals: Sequence[Interval],
    count: Callable[[Interval], int],
    unit: str,
    *,
    tone: str = "good",
) -> Markup:
    """Draw how many of something there were in a second."""
    bars: list[Bar] = []
    merged = _merged(intervals)
    length = merged[-1].started + merged[-1].seconds
    for each in merged:
        value = count(each) / each.seconds if each.seconds else 0.0
        end = each.started + each.seconds
        when = f"{shown.seconds(each.started)} to {shown.seconds(end)}"
        hint = f"{when}: {shown.rate(value)} {unit}, {count(each):,} in all"
        bars.append(Bar(each.started / length, end / length, value, hint))
    most = max(bar.value for bar in bars)
    says = f"at most {shown.rate(most)} {unit}, over {shown.seconds(length)}"
    return plot(bars, _time_ticks(length), says, tone=tone)


def _merged(intervals: Sequence[Interval]) -> list[Interval]:
    """Join intervals to few enough for bars that can be seen; none is much shorter than others."""
    length = intervals[-1].started + intervals[-1].seconds
    least = max(length / MOST_INTERVALS, 0.75 * max(each.seconds for each in intervals))
    merged: list[Interval] = []
    for each in intervals:
        last = merged[-1] if merged else None
        is_rest = length - each.started < least
        if last is not None and (last.seconds < least or is_rest):
            merged[-1] = Interval(
                last.started,
                each.started + each.seconds - last.started,
                last.answered + each.answered,
                last.failed + each.failed,
                last.output_tokens + each.output_tokens,
            )
        else:
            merged.append(each)
    return merged


def plot(
    bars: Sequence[Bar],
    ticks: Iterable[Tick],
    says: str,
    *,
    marks: Sequence[Tick] = (),
    tone: str = "good",
) -> Markup:
    """Draw upright bars with their axes; `marks` are named lines."""
    top = MARKS if marks else TOP
    most = max(bar.value for bar in bars)
    step = round_step(most, 5) if most != round(most) else max(1.0, round_step(most, 5))
    highest = max(most, step)
    shape = [
        *_grid(step, highest, top),
        *_bars(bars, highest, top, tone),
        *_marks(marks, top),
        *_axis(ticks, top + HEIGHT),
    ]
    height = top + HEIGHT + 22
    return tag("svg", *shape, class_="plot", height=height, role="img", aria_label=says)


def _grid(step: float, highest: float, top: int) -> Iterator[Markup]:
    for at in range(int(highest / step + 1e-9) + 1):
        y = top + HEIGHT * (1 - at * step / highest)
        kind = "base" if at == 0 else "grid"
        yield tag("line", x1="0", x2="100%", y1=round(y) + 0.5, y2=round(y) + 0.5, class_=kind)
        yield tag("text", shown.number(at * step), x="-8", y=y + 4, class_="end")


def _bars(bars: Sequence[Bar], highest: float, top: int, tone: str) -> Iterator[Markup]:
    for bar in bars:
        if not bar.value:
            continue
        height = max(1.5, HEIGHT * bar.value / highest)
        width = bar.right - bar.left
        yield tag(
            "rect",
            tag("title", bar.hint),
            x=_percent(bar.left + width * 0.05),
            width=_percent(width * 0.9),
            y=top + HEIGHT - height,
            height=height,
            class_=tone,
        )


def _marks(marks: Sequence[Tick], top: int) -> Iterator[Markup]:
    for at, mark in enumerate(marks):
        y = 12 + 14 * at
        side, gap = ("", 5) if mark.at < 0.6 else ("end", -5)
        x = _percent(mark.at)
        yield tag("line", x1=x, x2=x, y1=y - 9, y2=top + HEIGHT, class_="mark")
        yield tag("text", mark.label, x=x, y=y, dx=gap, class_=f"marked {side}".strip())


def _axis(ticks: Iterable[Tick], y: int) -> Iterator[Markup]:
    for at, tick in enumerate(ticks):
        x = _percent(tick.at)
        few = " minor" if at % 2 else ""
        yield tag("line", x1=x, x2=x, y1=y, y2=y + 4, class_="base")
        yield tag("text", tick.label, x=x, y=y + 18, class_=f"middle{few}")


def bars_of(
    values: Mapping[str, float], says: Callable[[float], str], *, tone: str = "good"
) -> Markup:
    """Draw a lying bar for each name, from the same zero."""
    most = max(values.values(), default=0) or 1
    return tag("ul", *(_lying(*item, most, says, tone) for item in values.items()), class_="bars")


def whole(count: float) -> str:
    """Write a count."""
    return f"{count:,.0f}"


def _lying(name: str, value: float, most: float, says: Callable[[float], str], tone: str) -> Markup:
    rect = tag("rect", width=_percent(value / most), height="100%", class_=tone) if value else ""
    bar = tag("svg", rect, class_="bar", height=10, aria_hidden="true")
    return tag("li", tag("bdi", name), tag("span", says(value)), bar)


def shares(parts: Sequence[tuple[str, float, str]]) -> Markup:
    """Draw one bar of parts of all; each has a name, a size and a tone."""
    total = sum(size for _, size, _ in parts) or 1
    shape: list[Markup] = []
    at = 0.0
    for name, size, tone in parts:
        width = size / total
        if size:
            title = tag("title", f"{name}: {size:,.0f}")
            box = {"x": _percent(at), "width": _percent(width), "height": "100%"}
            shape.append(tag("rect", title, **box, class_=tone))
        at += width
    says = ", ".join(f"{size:,.0f} {name}" for name, size, _ in parts)
    return tag("svg", *shape, class_="shares", height=12, role="img", aria_label=says)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _logarithmic(least: float, most: float) -> Callable[[float], float]:
    width = math.log(most / least) if most > least else 0.0
    return lambda value: math.log(value / least) / width if width else 0.5


_FEW = (*(10.0**power for power in range(-6, 2)), 60, 600, 3600, 36000, 864000, 8640000)
_MORE = (
    *(10.0**power * by for power in range(-6, 1) for by in (1, 2, 5)),
    *(10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000, 36000),
    *(86400, 172800, 432000, 864000),
)
"""Seconds that people count in, for a logarithmic axis."""


def _decades(least: float, most: float) -> list[float]:
    """Return round times between two, few enough for an axis."""
    more, few = ([each for each in times if least <= each <= most] for times in (_MORE, _FEW))
    found = more if len(more) <= MOST_TICKS else few
    while len(found) > MOST_TICKS:
        found = found[::2]
    if len(found) > 1:
        return found
    return [least, most] if most > least * 1.005 else [least]


def _even_ticks(low: float, high: float, write: Callable[[float], str]) -> list[Tick]:
    step = round_step(high - low, MOST_TICKS - 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [
        Tick((at * step - low) / (high - low), write(at * step)) for at in range(first, last + 1)
    ]


_TIMES = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30),
    *(60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400),
)
"""Seconds between ticks of a time axis that people count in."""


def _time_ticks(length: float) -> list[Tick]:
    fitting = [each for each in _TIMES if length / each <= MOST_TICKS - 1]
    step = fitting[0] if fitting else 86400 * round_step(length / 86400, MOST_TICKS - 1)
    labels = (at * step for at in range(int(length / step + 1e-9) + 1))
    return [Tick(at / length, shown.round_seconds(at) if at else "0") for at in labels]


def legend(parts: Iterable[tuple[str, float, str]]) -> Markup:
    """Name the colours of `shares`."""
    items = (
        tag(
            "li",
            tag("svg", tag("rect", width="100%", height="100%", class_=tone)),
            f"{name} ",
            tag("b", f"{size:,.0f}"),
        )
        for name, size, tone in parts
    )
    return tag("ul", *items, class_="legend")
