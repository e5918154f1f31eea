"""Error replies: shapes of bodies, retry hints, and rows that map codes to the error tree.

Every codec has its own rows; an error that no row matches is mapped by its HTTP status.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

import msgspec

from aiollm._wire.durations import number
from aiollm._wire.framing import SSE
from aiollm._wire.lenient import load, mend
from aiollm._wire.web_page import WEB_PAGE, is_web_page
from aiollm.errors import (
    AuthenticationError,
    ContextLengthError,
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

MAX_MESSAGE = 1000
"""Characters of a provider's message that an error shows."""

MAX_WORD = 200
"""Characters of a provider's code or request id that an error shows."""


class Fault(msgspec.Struct, frozen=True):
    """The contents of an error body of any shape; all texts may be empty."""

    message: str = ""
    code: str = ""
    type: str = ""
    raw: Any = None


class Rule(msgspec.Struct, frozen=True):
    """A row: every given field must match. `codes` are compared with code and type."""

    error: type[ProviderError]
    codes: tuple[str, ...] = ()
    status: int | None = None
    texts: tuple[str, ...] = ()
    """Lower-case substrings of the message, for providers without codes."""
    retry_after: float | None = None
    """Seconds to wait if the provider does not give a hint."""


BY_STATUS: dict[int, type[ProviderError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    402: QuotaError,
    403: AuthenticationError,
    404: ModelNotFoundError,
    405: ModelNotFoundError,
    410: ModelNotFoundError,
    413: RequestTooLargeError,
    415: ModelNotFoundError,
    422: InvalidRequestError,
    429: RateLimitError,
    501: UnsupportedFeatureError,
    503: OverloadedError,
    529: OverloadedError,
}
"""Status to error, as measured in November 2026; any other 4xx or 5xx is a ServerError."""

_CONTEXT_CODES = ("context_length_exceeded", "exceed_context_size_error")
_CONTEXT_TEXTS = (
    "maximum context length",
    "prompt is too long",
    "exceed context limit",
    "exceeds the available context size",
    "context size has been exceeded",
    "longer than the context length",
    "input length exceeds the context length",
    "maximum prompt length is",
    "reduce the length of the messages",
    "token limit exceeded",
)
_CONTEXT_PAIRS = (
    ("input token count", "exceeds the maximum number of tokens"),
    ("context window", "exceed"),
)
_NO_CONTEXT_STATUS = (401, 402, 403, 404, 429)


_STATUS = re.compile("[45][0-9][0-9]")


def fault_of(value: Any, depth: int = 4) -> Fault:
    """Find message, code and type in a decoded error body of any known shape.

    It looks `depth` levels deep, because a decoder may return a deeper nesting than can be walked.
    """
    match value:
        case [first, *_] if depth:
            return fault_of(first, depth - 1)
        case {"error": dict() as inner} if depth:
            return msgspec.structs.replace(fault_of(inner, depth - 1), raw=value)
        case {"errors": [_, *_] as errors} if depth:
            return msgspec.structs.replace(fault_of(errors, depth - 1), raw=value)
        case {"error": str() as message}:
            return Fault(mend(message), code=_word(value.get("code")), raw=value)
        case dict():
            text = value.get("message") or value.get("detail") or value.get("error_description")
            return Fault(
                mend(_text(text)),
                _word(value.get("code")),
                _word(value.get("type") or value.get("status")),
                value,
            )
        case str():
            return Fault(mend(value), raw=value)
        case _:
            return Fault(raw=value)


def _text(value: Any) -> str:
    try:
        return "" if value is None else str(value)
    except RecursionError:
        return ""


def _word(value: Any) -> str:
    match value:
        case bool():
            return ""
        case str() | int():
            return mend(str(value))[:MAX_WORD]
        case _:
            return ""


def error_from(
    reply: HttpResponse,
    rules: Sequence[Rule] = (),
    *,
    hint: float | None = None,
    request_id: str = "",
) -> ProviderError:
    """Map an error reply to the tree: rows first, then context length, then status.

    `hint` is a retry delay in seconds found in the body, used if no header has one.
    """
    fault = fault_of(_value(reply.body))
    message = fault.message or _unstructured(reply)
    return error_from_fault(
        fault,
        rules,
        status=reply.status,
        message=message,
        headers=reply.headers,
        hint=hint,
        request_id=request_id,
        body=reply.body,
    )


def _value(body: bytes) -> Any:
    """Decode a body of JSON or of events, which some servers send with any status."""
    if not body.startswith((b"data:", b"event:")):
        return load(body) if body else None
    framer = SSE()
    frames = framer.feed(body + b"\n\n")
    return next((value for frame in frames if (value := load(frame)) is not None), None)


def error_from_fault(
    fault: Fault,
    rules: Sequence[Rule] = (),
    *,
    status: int = 0,
    message: str = "",
    headers: Mapping[str, str] | None = None,
    hint: float | None = None,
    request_id: str = "",
    body: bytes = b"",
) -> ProviderError:
    """Make the error for a fault; `status` is 0 for an error inside a stream."""
    headers = headers or {}
    message = (message or fault.message or "the provider sent no message")[:MAX_MESSAGE]
    rule = next((rule for rule in rules if _matches(rule, fault, status, message)), None)
    kind = rule.error if rule else _by_fault(fault, status, message)
    if kind is InvalidRequestError and is_context_length(fault, status, message):
        kind = ContextLengthError
    delay = retry_after(headers)
    if delay is None and hint is not None and 0 <= hint < math.inf:
        delay = hint
    if delay is None and rule is not None:
        delay = rule.retry_after
    named = request_id or headers.get("x-request-id", "") or headers.get("request-id", "")
    return kind(
        message,
        status=status,
        code=fault.code or fault.type,
        request_id=_word(named),
        retry_after=delay,
        may_retry=headers.get("x-should-retry", "").lower() != "false",
        body=body,
    )


def _matches(rule: Rule, fault: Fault, status: int, message: str) -> bool:
    text = message.lower()
    return (
        (rule.status is None or rule.status == status)
        and (not rule.codes or fault.code in rule.codes or fault.type in rule.codes)
        and (not rule.texts or any(part in text for part in rule.texts))
    )


def _by_fault(fault: Fault, status: int, message: str) -> type[ProviderError]:
    if is_context_length(fault, status, message):
        return ContextLengthError
    if not status and _STATUS.fullmatch(fault.code):
        status = int(fault.code)
    if status in BY_STATUS:
        return BY_STATUS[status]
    return ProviderError if 300 <= status < 400 else ServerError


def is_context_length(fault: Fault, status: int, message: str) -> bool:
    """Return whether an error means that the prompt exceeds the target's context."""
    if status in _NO_CONTEXT_STATUS:
        return False
    if fault.code in _CONTEXT_CODES or fault.type in _CONTEXT_CODES:
        return True
    text = message.lower()
    if "too many tokens" in text:
        return status in (400, 413)
    return any(part in text for part in _CONTEXT_TEXTS) or any(
        first in text and second in text for first, second in _CONTEXT_PAIRS
    )


def _unstructured(reply: HttpResponse) -> str:
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if 300 <= reply.status < 400:
        return "the server redirects, and redirects are not followed: check the base URL"
    if not reply.body.strip():
        return f"HTTP {reply.status} with an empty body"
    if is_web_page(reply.body, kind):
        return f"HTTP {reply.status} with {WEB_PAGE}"
    return mend(reply.body[:MAX_MESSAGE].decode("utf-8", "replace")).strip()


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
        moment = parsedate_to_datetime(text)
        # A date without a time zone is GMT, not local time.
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, seconds - (time.time() if now is None else now))
