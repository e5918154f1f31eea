"""Errors of OpenAI's wires, chat and Responses, and of the many servers compatible with them.

Sources of codes and texts: the vendors' documentation and recorded replies, November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from aiollm._wire.durations import wait
from aiollm._wire.web_page import check_answer
from aiollm.errors import (
    AuthenticationError,
    ContentFilterError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ProtocolError,
    ProviderError,
    QuotaError,
    RateLimitError,
    RequestTooLargeError,
    ServerError,
    UnsupportedFeatureError,
)
from aiollm.provider import HttpResponse
from aiollm.providers.error_bodies import Fault, fault_of, is_error, load_error
from aiollm.providers.error_replies import Rule, error_from, error_from_fault
from aiollm.providers.retry_hints import retry_after, retry_hint
from aiollm.providers.rpc_status import RPC_RULES, rpc_word
from aiollm.providers.shared_errors import SHARED_CODES, SHARED_TEXTS

_CODES = (
    Rule(
        QuotaError,
        codes=(
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "billing_hard_limit_reached",
            "billing_not_active",
        ),
    ),
    Rule(RateLimitError, codes=("slow_down",), retry_after=15.0),
    Rule(RateLimitError, codes=("concurrency_limit",), retry_after=1.0),
    Rule(
        ContentFilterError,
        codes=(
            "content_policy_violation",
            "moderation_blocked",
            "content_filter",
            "invalid_prompt",
            "cyber_policy",
            "bio_policy",
            "misalignment_policy_violation",
            "image_content_policy_violation",
        ),
    ),
    Rule(
        AuthenticationError,
        codes=(
            "invalid_api_key",
            "account_deactivated",
            "permission_denied",
            "unsupported_country_region_territory",
        ),
    ),
    Rule(UnsupportedFeatureError, codes=("failed_to_download_image", "data_residency_mismatch")),
    Rule(RequestTooLargeError, codes=("image_too_large", "image_file_too_large")),
    Rule(OverloadedError, codes=("server_is_overloaded", "NoCapacity")),  # OpenAI, Azure
    Rule(InvalidRequestError, codes=("invalid_image_url", "previous_response_not_found")),
)
"""OpenAI's codes, which mean the same with any status."""

_TEXTS = (
    Rule(ContentFilterError, texts=("input was flagged", "prompt was flagged")),
    Rule(AuthenticationError, texts=("ip not authorized",)),
)

_TYPES = (
    Rule(RateLimitError, codes=("rate_limit_exceeded", "rate_limit_error")),
    Rule(AuthenticationError, codes=("authentication_error", "permission_error")),
    Rule(ModelNotFoundError, codes=("not_found_error",)),
    Rule(
        OverloadedError,
        codes=("service_unavailable_error", "unavailable_error", "overloaded_error"),
    ),
    Rule(
        InvalidRequestError,
        codes=(
            "invalid_request_error",
            "BadRequestError",
            "invalid_image",
            "invalid_image_format",
            "invalid_base64_image",
            "invalid_image_mode",
            "image_too_small",
            "image_parse_error",
            "unsupported_image_media_type",
            "empty_image_file",
            "image_file_not_found",
        ),
        status=0,
    ),
)
"""General words, after all that is more exact; the last row is for errors inside a stream."""

RULES = (*_CODES, *RPC_RULES, *SHARED_CODES, *_TEXTS, *SHARED_TEXTS, *_TYPES)
"""The first row that matches decides; without one, the HTTP status does."""

_TOKENS_ASKED = re.compile(r"Limit:? (\d{1,18}),[^\n]{0,99} Requested:? (\d{1,18})\b")
_WINDOWS = ("requests", "tokens")
_LEFT, _RESET = "x-ratelimit-remaining-", "x-ratelimit-reset-"
_A_TIME = 1e9
"""A number from which on it is a time, in Unix seconds, and no wait."""


def reply_error(reply: HttpResponse) -> ProviderError:
    """Translate an error reply."""
    fault = _explained(fault_of(load_error(reply.body)))
    hint = _hint(fault, reply.headers, reply.status)
    if not fault.message:
        return error_from(reply, RULES, hint=hint)
    return _error(fault, status=reply.status, headers=reply.headers, hint=hint, body=reply.body)


def stream_error(value: Any, frame: bytes = b"") -> ProviderError:
    """Translate an error inside a stream, decoded to `value`."""
    fault = _explained(fault_of(value))
    return _error(fault, hint=_hint(fault, {}, 0), body=frame)


def status_error(status: str) -> ProviderError:
    """Return the error for a response whose status says that it is not an answer."""
    if status in ("queued", "in_progress"):
        return InvalidRequestError(
            f"the response has status {status!r}: it runs in the background, and is not waited "
            "for; leave `background` out of the request, or stream it"
        )
    return ServerError(f"the response has status {status!r:.200}")


def is_object(body: bytes) -> bool:
    """Return whether a complete body may be a JSON object, as an answer must be."""
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def no_answer(body: bytes) -> ProviderError | ProtocolError:
    """Return the error for a complete body that is not an answer.

    Raises: ServerError if it is empty or a web page.
    """
    value = load_error(body)
    if is_error(value) or isinstance(value, str):
        return stream_error(value, body)
    check_answer(body, 200)
    return ProtocolError("the body contains no answer", frame=body)


def _error(
    fault: Fault,
    *,
    hint: float | None,
    body: bytes,
    status: int = 0,
    headers: Mapping[str, str] | None = None,
) -> ProviderError:
    rules: tuple[Rule, ...] = RULES
    if status == 402 and retry_after(headers or {}) is not None:
        rules = (Rule(RateLimitError), *RULES)
    elif _never_fits(fault.message):
        rules = (Rule(RequestTooLargeError), *RULES)
    return error_from_fault(fault, rules, status=status, headers=headers, hint=hint, body=body)


def _never_fits(message: str) -> bool:
    """Return whether the request alone exceeds the limit per minute, so waiting is useless."""
    found = _TOKENS_ASKED.search(message)
    return found is not None and int(found[2]) > int(found[1])


def _explained(fault: Fault) -> Fault:
    """Name the code that only Google's details reveal."""
    match fault.raw:
        case {"error": {"details": list()}}:
            word = rpc_word(fault.raw, fault.message)
            return msgspec.structs.replace(fault, code=word) if word else fault
        case _:
            return fault


def _hint(fault: Fault, headers: Mapping[str, str], status: int) -> float | None:
    hint = retry_hint(fault.message, fault.raw, headers)
    return _window(fault, headers) if hint is None and status == 429 else hint


def _window(fault: Fault, headers: Mapping[str, str]) -> float | None:
    """Return the seconds until the exhausted window resets; Cerebras has `requests-day` (2026)."""
    lefts = ((name.lower(), left) for name, left in headers.items())
    names = [name[len(_LEFT) :] for name, left in lefts if left == "0" and name.startswith(_LEFT)]
    if fault.type in _WINDOWS:
        names = [fault.type]
    waits = (wait(headers.get(f"{_RESET}{name}", "")) for name in names)
    return max((each for each in waits if each is not None and each < _A_TIME), default=None)
