"""How long a server asks to wait: in headers, in words, and in what a relay passes on."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from aiollm._wire.durations import duration, moment, number, wait

_SEARCHED = 4096
"""Characters of a message in which a wait is looked for."""

_LONGEST = 31 * 86_400.0
"""Seconds; a longer wait is not believed. Limits are counted over a month at most."""

_UNITS = {"mil": 0.001, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
"""Seconds of a unit, by how its name begins; the first that fits counts."""

_AMOUNT = (
    r"(\d{1,9}(?:\.\d{1,9})?) ?"
    r"(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
)
_AGAIN = re.compile(
    rf"(?:(?:try again|retry) (?:in|after)|please wait) ((?:{_AMOUNT}(?:,? and |, | )?)+)"
)
"""OpenAI, Groq: `try again in 1m2.5s`; Azure: `retry after 6 seconds`; Google: `retry in 38s`."""

_UNTIL = re.compile(
    r"(?:resets? at|regain access on) (\d{4}-\d\d-\d\d)(?:t| at | )"
    r"(\d\d:\d\d(?::\d\d)?) ?(z|utc|[+-]\d\d:\d\d)"
)
"""MiniMax: `resets at 2026-05-15T15:00:00Z`; Anthropic: `regain access on 2027-01-01 at 00:00 UTC`
(2026). z.ai writes `reset at 2026-09-09 05:38:28` without a zone, which could mean any time."""


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Read the wait in seconds from headers; None if there is none, or it is invalid.

    Order: `retry-after-ms`, `retry-after` in seconds, `retry-after` as a date (past = 0).
    `now` is Unix time.
    """
    milliseconds = number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after", "").strip()
    seconds = number(text)
    if seconds is not None or not text or text[:1] in "+-.0123456789":
        return seconds
    from email.utils import parsedate_to_datetime  # slow to import, and dates are rare here

    try:
        date = parsedate_to_datetime(text)
        # A date without a time zone is GMT, not local time.
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, seconds - _now(now))


def retry_hint(
    message: str, value: Any, headers: Mapping[str, str], now: float | None = None, left: str = ""
) -> float | None:
    """Return the wait in seconds that an error gives elsewhere than in `retry-after`.

    `value` is the decoded body, `now` Unix time, `left` what is left of a window of which headers
    do not say that. Order: what the body says, the message, headers that OpenRouter puts into the
    body of a 429 (2026), the reset of an empty window in headers.
    """
    passed_on = _passed_on(value)
    waits = (
        _retry_info(value),
        _resets_in(value),
        _in_words(message[:_SEARCHED].lower(), now),
        retry_after(passed_on, now),
        _reset(passed_on, now),
        _reset(headers, now, left),
    )
    return next((each for each in waits if each is not None and each <= _LONGEST), None)


def _retry_info(value: Any) -> float | None:
    match value:
        case {"error": {"details": list() as details}}:
            delays = (each.get("retryDelay") for each in details if isinstance(each, dict))
            texts = (delay for delay in delays if isinstance(delay, str))
            return next((each for each in map(duration, texts) if each is not None), None)
        case _:
            return None


def _resets_in(value: Any) -> float | None:
    """Return the seconds until a plan's limit is reset, as ChatGPT's backend sends it (2026)."""
    match value:
        case {"error": {"resets_in_seconds": int() | float() as seconds}}:
            return float(seconds) if 0 <= seconds <= _LONGEST else None  # or it is too large
        case _:
            return None


def _in_words(text: str, now: float | None) -> float | None:
    if found := _AGAIN.search(text):
        amounts = re.findall(_AMOUNT, found[1])
        return sum(float(figure) * _seconds_of(unit) for figure, unit in amounts)
    if found := _UNTIL.search(text):
        zone = "+00:00" if found[3] in ("z", "utc") else found[3]
        return _until(f"{found[1]}T{found[2]}{zone}", now)
    return None


def _seconds_of(unit: str) -> float:
    return next(seconds for name, seconds in _UNITS.items() if unit.startswith(name))


def _passed_on(value: Any) -> dict[str, str]:
    """Return the headers inside a body, with names in lower case."""
    match value:
        case {"error": {"metadata": {"headers": dict() as headers}}}:
            return {key.lower(): str(text) for key, text in headers.items()}
        case _:
            return {}


def _reset(headers: Mapping[str, str], now: float | None, left: str = "") -> float | None:
    """Return the wait until a window is reset that has nothing left; `left` if that is not said."""
    if headers.get("x-ratelimit-remaining", left).strip() != "0":
        return None
    text = headers.get("x-ratelimit-reset", "")
    seconds = _until(text, now)
    return wait(text) if seconds is None else seconds


def _until(text: str, now: float | None) -> float | None:
    at = moment(text)
    return None if at is None else max(0.0, at - _now(now))


def _now(now: float | None) -> float:
    return time.time() if now is None else now
