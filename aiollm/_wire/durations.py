"""Read numbers, durations and times from headers and messages; None for anything else."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|h|m|s)")
_LONGEST = 100
"""Characters of a duration: of many more digits, each would be tried as its first."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def number(text: str) -> float | None:
    """Read a finite number from 0 up."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def duration(text: str) -> float | None:
    """Read a duration such as `38.2s`, `6m0s`, `1h2m3.5s` or `340ms`, in seconds."""
    found = _DURATION.findall(text) if len(text) <= _LONGEST else ()
    if not found or "".join(figure + unit for figure, unit in found) != text:
        return None
    seconds = sum(float(figure) * _SECONDS[unit] for figure, unit in found)
    return seconds if seconds < math.inf else None


def wait(text: str) -> float | None:
    """Read a wait in seconds: `12` or a duration."""
    seconds = number(text)
    return duration(text) if seconds is None else seconds


def moment(text: str) -> float | None:
    """Read a time, as Unix seconds: RFC 3339 (UTC if it has no zone), Unix seconds or milliseconds.

    A number that is too small for a time is a wait: 1e9 s is in 2001, and 1e11 ms in 1973.
    """
    value = number(text)
    if value is not None:
        return value / 1000 if value >= 1e11 else value if value >= 1e9 else None
    try:
        date = datetime.fromisoformat(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
