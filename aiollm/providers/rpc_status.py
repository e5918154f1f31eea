"""google.rpc.Status, as Gemini and Google's OpenAI wire send it: the telling word."""

from __future__ import annotations

import re
from typing import Any

from aiollm.errors import AuthenticationError, QuotaError
from aiollm.providers.error_replies import Rule

PER_DAY = "QUOTA_PER_DAY"
NO_QUOTA = "QUOTA_ZERO"
"""Our own codes for what only the details of RESOURCE_EXHAUSTED reveal."""

RPC_RULES = (
    Rule(AuthenticationError, codes=("API_KEY_INVALID", "API_KEY_EXPIRED")),
    Rule(QuotaError, codes=(PER_DAY, NO_QUOTA, "BILLING_DISABLED")),
)
"""Rows for the words that `rpc_word` finds."""

_LIMIT_ZERO = re.compile(r"limit: 0(?![\d.])")

_DAY = 86_400
_MIDNIGHT = 8 * 3600
"""Midnight in California, when daily quotas reset, in seconds of a UTC day; in summer this is an
hour too late rather than too early."""


def rpc_error(value: Any) -> dict[str, Any]:
    """Return the error object of a body, which may be a list of one, else an empty one."""
    while isinstance(value, list) and value:  # a list may nest deeper than calls may
        value = value[0]
    match value:
        case {"error": dict() as inner}:
            return inner
        case _:
            return {}


def rpc_word(value: Any, message: str) -> str:
    """Return the most specific code in the details of a body, "" if there is none.

    Google's text about a quota is the same for a minute and for a day; only `quotaId` tells.
    """
    details = _details(value)
    violations = [
        violation
        for detail in details
        if isinstance(detail.get("violations"), list)
        for violation in detail["violations"]
        if isinstance(violation, dict)
    ]
    nothing = any(str(item.get("quotaValue")) == "0" for item in violations)
    if nothing or _LIMIT_ZERO.search(message):
        return NO_QUOTA
    if any("PerDay" in str(item.get("quotaId")) for item in violations):
        return PER_DAY
    reasons = (detail["reason"] for detail in details if isinstance(detail.get("reason"), str))
    return next(reasons, "")


def until_midnight(now: float) -> float:
    """Return the seconds until daily quotas reset; `now` is Unix time."""
    return (_MIDNIGHT - now) % _DAY


def _details(value: Any) -> list[dict[str, Any]]:
    details = rpc_error(value).get("details")
    return [item for item in details if isinstance(item, dict)] if isinstance(details, list) else []
