"""How a report writes its figures for people: counts, times, money, shares."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise

DASH = "\u2013"
"""What is shown for a figure that there is none of."""

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def seconds(value: float | None) -> str:
    """Write a time: `412 ms`, `1.20 s`, `3 min 12 s`, `2 d 4 h`."""
    if value is None:
        return DASH
    if value == 0:
        return "0 s"
    if value < 0.9995:
        return f"{_digits(value * 1000)} ms"
    if value < 59.95:
        return f"{_digits(value)} s"
    rest = round(min(value, 1e15))
    for (large, size), (small, part) in pairwise(_UNITS):
        if rest >= size:
            parts = round(rest % size / part)
            whole = rest // size
            if parts * part == size:
                return f"{whole + 1:,} {large}"
            return f"{whole:,} {large} {parts} {small}" if parts else f"{whole:,} {large}"
    return f"{rest} s"


def moment(since_1970: float) -> str:
    """Write a date and time, in UTC: `2026-11-29 14:05 UTC`."""
    try:
        return f"{datetime.fromtimestamp(since_1970, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):  # beyond the years that dates have
        return DASH


def round_seconds(value: float) -> str:
    """Write a round time, for an axis: `1 s` where others have `1.00 s`."""
    figure, _, unit = seconds(value).partition(" ")
    return f"{figure.rstrip('0').rstrip('.') if '.' in figure else figure} {unit}"


def _digits(value: float) -> str:
    """Write a number below 1,000 with three digits or, where it is small, two."""
    if value < 0.0995:
        return f"{value:.2g}" if value >= 1e-4 else "0"
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def money(usd: float | None) -> str:
    """Write US dollars, small sums with two digits that count: `$0.42`, `$0.0031`."""
    if usd is None:
        return DASH
    if usd < 0:
        return f"-{money(-usd)}"
    if usd == 0 or usd >= 0.0995:
        return f"${usd:,.2f}"
    return f"${usd:.{1 - math.floor(math.log10(usd))}f}" if usd >= 1e-9 else "<$0.000000001"


def share(part: float, of: float) -> str:
    """Write a part of all; only all of it is 100 %, and only nothing is 0 %."""
    if not of:
        return DASH
    percent = 100 * part / of
    if part in (0, of):
        return f"{percent:.0f} %"
    return f"{min(max(percent, 0.1), 99.9):.1f} %"


def number(value: float | None) -> str:
    """Write any number with about four digits that count."""
    if value is None:
        return DASH
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def rate(value: float) -> str:
    """Write how many there are of something in a second."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def rows(count: int) -> str:
    """Write how many rows."""
    return f"{count:,} row" if count == 1 else f"{count:,} rows"
