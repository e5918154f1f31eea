"""Read numbers and durations from headers and messages; None for anything else."""

from __future__ import annotations

import math
import re

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|h|m|s)")
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
    found = _DURATION.findall(text)
    if not found or "".join(figure + unit for figure, unit in found) != text:
        return None
    seconds = sum(float(figure) * _SECONDS[unit] for figure, unit in found)
    return seconds if seconds < math.inf else None
