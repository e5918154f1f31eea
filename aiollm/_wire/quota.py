"""Quotas: what the headers of an answer say about the limits it counts against.

Each dialect is a row of header names, as of November 2026, from the vendors' pages and from answers
that users have published. A header that is wrong or garbled is ignored or clamped; it never raises.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal, TypeAlias

import msgspec

from aiollm._settings.wildcards import matches
from aiollm._wire.durations import moment, number, wait

Kind: TypeAlias = Literal["requests", "tokens", "input_tokens", "output_tokens"]

SECOND, MINUTE, HOUR, DAY = 1.0, 60.0, 3600.0, 86400.0

MOST = 1e12
"""A limit above this is ignored."""


class Quota(msgspec.Struct, frozen=True):
    """One limit, as an answer's headers state it.

    `per_minute` is how many units may go within a minute: 60 times a limit per second, but all of a
    limit per hour or day, because such a limit does not set a pace. `remaining` units may go now.
    `full_in` is the time in seconds until all of the limit is free again, at most a day.
    """

    kind: Kind
    per_minute: float
    remaining: float | None = None
    full_in: float | None = None


class _Row(msgspec.Struct, frozen=True):
    """The headers of one limit, and the seconds that it counts over."""

    kind: Kind
    limit: str
    remaining: str
    reset: str
    seconds: float = MINUTE
    has_window: bool = False
    """Whether the limit may name its seconds, as in `10, 10;w=1`."""


def _x(kind: Kind, suffix: str, seconds: float = MINUTE, prefix: str = "x-ratelimit") -> _Row:
    limit, remaining, reset = (
        f"{prefix}-{each}{suffix}" for each in ("limit", "remaining", "reset")
    )
    return _Row(kind, limit, remaining, reset, seconds)


def _anthropic(kind: Kind) -> _Row:
    prefix = f"anthropic-ratelimit-{kind.replace('_', '-')}"
    return _Row(kind, f"{prefix}-limit", f"{prefix}-remaining", f"{prefix}-reset")


def _plain(prefix: str, seconds: float) -> _Row:
    return msgspec.structs.replace(_x("requests", "", seconds, prefix), has_window=True)


_OPENAI = (_x("requests", "-requests"), _x("tokens", "-tokens"))
_MISTRAL = (_x("requests", "-req-minute"), _x("tokens", "-tokens-minute"))
_ANTHROPIC = (
    _anthropic("requests"),
    _anthropic("input_tokens"),
    _anthropic("output_tokens"),
    _anthropic("tokens"),
)
_PLAIN = (_plain("x-ratelimit", DAY), _plain("ratelimit", DAY))


class _Dialect(msgspec.Struct, frozen=True):
    """How one kind of host announces its limits; `always` if in every answer, not only a 429."""

    hosts: tuple[str, ...]
    rows: tuple[_Row, ...]
    always: bool = True


_DIALECTS = (
    _Dialect(("api.openai.com", "*.api.openai.com"), (*_OPENAI, _x("tokens", "-project-tokens"))),
    _Dialect(("api.anthropic.com",), _ANTHROPIC),
    # Requests are counted over 10 s here, but the limit is the one of a minute all the same.
    _Dialect(
        (
            "*.openai.azure.com",
            "*.cognitiveservices.azure.com",
            "*.services.ai.azure.com",
            "models.github.ai",
        ),
        _OPENAI,
    ),
    # Groq's requests are those of a day.
    _Dialect(("api.groq.com", "api.x.ai", "*.x.ai", "api.scaleway.ai"), _OPENAI),
    _Dialect(("api.mistral.ai",), _MISTRAL),
    _Dialect(
        ("api.cerebras.ai",),
        (
            _x("requests", "-requests-minute"),
            _x("tokens", "-tokens-minute"),
            _x("requests", "-requests-hour", HOUR),
            _x("tokens", "-tokens-hour", HOUR),
            _x("requests", "-requests-day", DAY),
            _x("tokens", "-tokens-day", DAY),
        ),
    ),
    _Dialect(
        ("api.fireworks.ai",),
        (
            _x("requests", "-requests"),
            _x("input_tokens", "-tokens-prompt", SECOND),
            _x("output_tokens", "-tokens-generated", SECOND),
        ),
    ),
    _Dialect(
        ("api.together.xyz", "api.together.ai"),
        (_x("requests", "", SECOND), _x("tokens", "", SECOND, "x-tokenlimit")),
        always=False,
    ),
    _Dialect(
        ("api.sambanova.ai",),
        (_x("requests", "-requests"), _x("requests", "-requests-day", DAY)),
    ),
    _Dialect(("openrouter.ai", "*.openrouter.ai"), (_plain("x-ratelimit", DAY),), always=False),
)
_UNKNOWN = _Dialect(("*",), (*_OPENAI, *_ANTHROPIC, *_MISTRAL, *_PLAIN), always=False)


@lru_cache(maxsize=256)
def _dialect_of(host: str) -> _Dialect:
    name = host.rpartition(":")[0] or host
    known = (row for row in _DIALECTS if any(matches(name, own) for own in row.hosts))
    return next(known, _UNKNOWN)


def announces_limits(host: str) -> bool:
    """Return whether all answers of a `host[:port]` are known to state its limits in headers."""
    return _dialect_of(host).always


_MARK = "ratelimit"
"""Part of the name of every such header."""


def quotas(
    headers: Mapping[str, str], host: str = "", *, unix_time: float | None = None
) -> tuple[Quota, ...]:
    """Return what headers say about limits: one quota of each kind, the lowest of several.

    Header names must be in lower case. `host` may have a port.
    """
    if _MARK not in "".join(headers):  # as in most answers; one search costs less than one per row
        return ()
    found: dict[Kind, Quota] = {}
    for row in _dialect_of(host).rows:
        text = headers.get(row.limit)
        if text is None:
            continue
        quota = _read(row, text, headers.get, unix_time)
        if quota is not None:
            other = found.get(row.kind)
            found[row.kind] = quota if other is None else _lower(quota, other)
    return tuple(found.values()) if found else ()


def _read(
    row: _Row, text: str, get: Callable[[str], str | None], unix_time: float | None
) -> Quota | None:
    seconds = row.seconds
    if row.has_window:
        text, seconds = _window(text, seconds)
    limit = number(text)
    # Azure says -1 and 0 where it does not know, Mistral 0 where the plan lacks the model.
    if limit is None or not 0 < limit <= MOST:
        return None
    remaining = number(get(row.remaining) or "")
    return Quota(
        row.kind,
        limit * max(1.0, MINUTE / seconds),
        None if remaining is None else min(limit, remaining),
        _full_in(get(row.reset) or "", seconds, unix_time),
    )


def _lower(one: Quota, other: Quota) -> Quota:
    """Return the lower limit, with the remaining units of the one that has fewer."""
    left = [each for each in (one, other) if each.remaining is not None]
    scarce = min(left, key=lambda each: each.remaining or 0.0, default=one)
    return msgspec.structs.replace(scarce, per_minute=min(one.per_minute, other.per_minute))


_WINDOW = re.compile(r"(?<![0-9.])([0-9.]++)\s*+;\s*+w=([0-9]{1,6})(?![0-9])")
"""A figure and its window. It takes a long row of digits once, and not from each of them again."""


def _window(text: str, seconds: float) -> tuple[str, float]:
    """Return the limit of `10, 10;w=1, 100;w=60` and its seconds, which may be unknown."""
    limit = re.split("[,;]", text, maxsplit=1)[0].strip()
    for figure, window in _WINDOW.findall(text):
        if figure == limit and int(window):
            return limit, float(window)
    return limit, seconds


def _full_in(text: str, seconds: float, unix_time: float | None) -> float | None:
    """Read seconds from now, `12` or `1.5s`, or a time: RFC 3339, Unix seconds or milliseconds."""
    value: float | None
    at = moment(text)
    if at is not None:
        # Clocks differ, so never wait longer than the period that the limit counts over.
        value = min(seconds, at - (time.time() if unix_time is None else unix_time))
    else:
        value = wait(text)
    return None if value is None else max(0.0, min(DAY, value))
