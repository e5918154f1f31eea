"""Gemini, errors: bodies, retry hints, and endings that are errors in disguise."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

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
from aiollm.providers.error_bodies import MAX_WORD, fault_of, load_error
from aiollm.providers.error_replies import Rule, error_from, error_from_fault
from aiollm.providers.rpc_status import (
    NO_QUOTA,
    PER_DAY,
    RPC_RULES,
    rpc_error,
    rpc_word,
    until_midnight,
)

RULES = (
    *RPC_RULES,
    Rule(QuotaError, texts=("credits are depleted", "spending cap")),
    Rule(QuotaError, status=402),
    Rule(
        InvalidRequestError,  # about a file or an address in the request, not about the target
        status=(0, 400, 403, 404),
        texts=(
            "permission to access the file",
            "is not in an active state",
            "cannot fetch content from",
            "cachedcontent not found",
        ),
    ),
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
            "is not a supported thinking level",
            "has too many states for serving",  # of a schema
            "cannot find field",  # a field that this version of the API does not know
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


def reply_error(reply: HttpResponse) -> ProviderError:
    """Translate an error reply."""
    value = load_error(reply.body) if reply.body else None
    if not rpc_error(value):
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
    word = rpc_word(value, fault.message) or fault.type or fault.code
    if fault.code == "402" and not status:
        word = NO_QUOTA
    # RetryInfo is there, too, but says when the limit of a minute is reset.
    hint = until_midnight(time.time() if now is None else now) if word == PER_DAY else None
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
    raw = raw[:MAX_WORD]
    return ContentFilterError(_with_message(f"Google blocked it: {raw}", message), code=raw)


def _with_message(what: str, message: str) -> str:
    return f"{what}: {message[:1000]}" if message else what
