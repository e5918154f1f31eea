"""Gemini, errors: bodies, retry hints, and endings that are errors in disguise."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from aiollm._wire.durations import duration
from aiollm._wire.lenient import load
from aiollm.errors import (
    AuthenticationError,
    ContentFilterError,
    ContextLengthError,
    GenerationError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    QuotaError,
    RateLimitError,
    RequestTooLargeError,
    ServerError,
    UnsupportedFeatureError,
)
from aiollm.provider import HttpResponse
from aiollm.providers.error_replies import Rule, error_from, error_from_fault, fault_of

_PER_DAY = "QUOTA_PER_DAY"
_NO_QUOTA = "QUOTA_ZERO"
"""Our own codes for what only the details of RESOURCE_EXHAUSTED reveal."""

RULES = (
    Rule(AuthenticationError, codes=("API_KEY_INVALID", "API_KEY_EXPIRED")),
    Rule(QuotaError, codes=(_PER_DAY, _NO_QUOTA)),
    Rule(QuotaError, texts=("credits are depleted", "spending cap")),
    Rule(QuotaError, status=402),
    Rule(
        AuthenticationError,
        codes=("UNAUTHENTICATED", "PERMISSION_DENIED", "FAILED_PRECONDITION"),
    ),
    Rule(ModelNotFoundError, codes=("NOT_FOUND",)),
    Rule(RateLimitError, codes=("RESOURCE_EXHAUSTED",)),
    Rule(OverloadedError, codes=("UNAVAILABLE",)),
    Rule(UnsupportedFeatureError, codes=("UNIMPLEMENTED",)),
    Rule(ContextLengthError, texts=("exceeds the maximum number of tokens",)),
    Rule(RequestTooLargeError, texts=("request payload size exceeds",)),
    Rule(
        UnsupportedFeatureError,
        codes=("INVALID_ARGUMENT",),
        texts=(
            "is not enabled for",
            "not supported for this model",
            "is not supported by this model",
            "does not support",
            "is unsupported",
            "only works in thinking mode",
            "unsupported mime type",
        ),
    ),
    Rule(InvalidRequestError, codes=("INVALID_ARGUMENT", "OUT_OF_RANGE")),
)
"""Statuses of google.rpc.Code and reasons of ErrorInfo; without a match, the HTTP status decides.
"""

ENDINGS: dict[str, type[ProviderError]] = {
    "MALFORMED_FUNCTION_CALL": GenerationError,
    "MALFORMED_RESPONSE": GenerationError,
    "UNEXPECTED_TOOL_CALL": GenerationError,
    "TOO_MANY_TOOL_CALLS": GenerationError,
    "NO_IMAGE": GenerationError,
    "IMAGE_OTHER": GenerationError,
    "OTHER": ServerError,
    "MISSING_THOUGHT_SIGNATURE": InvalidRequestError,
    "PUP_LIMITED_DISABLED": AuthenticationError,
}
"""Finish reasons that are errors when nothing was answered."""

BLOCKED: tuple[str, ...] = (
    "SAFETY",
    "RECITATION",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MODEL_ARMOR",
    "ESCALATION",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
)
"""Finish reasons of Google's filters."""

_RETRY_TEXT = re.compile(r"retry in (\d[\d.hms]*[hms])")
_LIMIT_ZERO = re.compile(r"limit: 0(?![\d.])")

_DAY = 86_400
_MIDNIGHT = 8 * 3600
"""Midnight in California, when daily quotas reset, in seconds of a UTC day; in summer this is an
hour too late rather than too early."""


def reply_error(reply: HttpResponse) -> ProviderError:
    """Translate an error reply."""
    value = load(reply.body) if reply.body else None
    if not _inner(value):
        return error_from(reply, RULES)
    return body_error(value, status=reply.status, headers=reply.headers, body=reply.body)


def body_error(
    value: Any,
    *,
    status: int = 0,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    now: float | None = None,
) -> ProviderError:
    """Translate a decoded error body; `status` is 0 inside a stream, `now` is Unix time."""
    fault = fault_of(value)
    details = _details(value)
    word = _word(details, fault.message) or fault.type or fault.code
    if fault.code == "402" and not status:
        word = _NO_QUOTA
    hint = _hint(details, fault.message)
    if word == _PER_DAY:
        hint = (_MIDNIGHT - (time.time() if now is None else now)) % _DAY
    fault = msgspec.structs.replace(fault, code=word)
    return error_from_fault(fault, RULES, status=status, headers=headers, hint=hint, body=body)


def ending_error(raw: str, message: str) -> ProviderError | None:
    """Return the error for a finish reason under which nothing was answered, if it is one."""
    kind = ENDINGS.get(raw)
    return (
        None
        if kind is None
        else kind(_with_message(f"the answer ended with {raw}", message), code=raw)
    )


def block_error(raw: str, message: str) -> ContentFilterError:
    """Return the error for a prompt or an image that Google's filters block."""
    return ContentFilterError(_with_message(f"Google blocked it: {raw}", message), code=raw)


def _with_message(what: str, message: str) -> str:
    return f"{what}: {message[:1000]}" if message else what


def _inner(value: Any) -> dict[str, Any]:
    while isinstance(value, list) and value:  # a list may nest deeper than calls may
        value = value[0]
    match value:
        case {"error": dict() as inner}:
            return inner
        case _:
            return {}


def _details(value: Any) -> list[dict[str, Any]]:
    details = _inner(value).get("details")
    return [item for item in details if isinstance(item, dict)] if isinstance(details, list) else []


def _word(details: list[dict[str, Any]], message: str) -> str:
    """Return the most specific code in the details, "" if there is none."""
    violations = [
        violation
        for detail in details
        if isinstance(detail.get("violations"), list)
        for violation in detail["violations"]
        if isinstance(violation, dict)
    ]
    nothing = any(str(item.get("quotaValue")) == "0" for item in violations)
    if nothing or _LIMIT_ZERO.search(message):
        return _NO_QUOTA
    if any("PerDay" in str(item.get("quotaId")) for item in violations):
        return _PER_DAY
    reasons = (detail["reason"] for detail in details if isinstance(detail.get("reason"), str))
    return next(reasons, "")


def _hint(details: list[dict[str, Any]], message: str) -> float | None:
    for detail in details:
        delay = detail.get("retryDelay")
        if isinstance(delay, str):
            return duration(delay)
    found = _RETRY_TEXT.search(message)
    return duration(found[1]) if found else None
