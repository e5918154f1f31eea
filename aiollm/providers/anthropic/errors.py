"""Anthropic's errors: rows from types and codes to the error tree, and its retry hints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from aiollm.errors import (
    AuthenticationError,
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
from aiollm.providers.error_bodies import fault_of, load_error
from aiollm.providers.error_replies import Rule, error_from, error_from_fault
from aiollm.providers.shared_errors import SHARED_CODES, SHARED_TEXTS

_CODES = (
    Rule(
        QuotaError,
        codes=(
            "enforced_spend_limit_reached",
            "contract_spend_limit_reached",
            "linked_organization_spend_limit_reached",
            "linked_organization_billing_unavailable",
            "user_profile_not_billable",
            "user_profile_billing_not_authorized",
        ),
    ),
    Rule(
        AuthenticationError,
        codes=(
            "organization_on_hold",
            "claude_code_key_creator_not_member",
            "cmek_key_disabled",
            "cmek_key_network_blocked",
        ),
    ),
    Rule(
        ServerError,
        codes=("request_body_timeout", "cmek_key_unreachable", "cmek_context_unavailable"),
    ),
    Rule(OverloadedError, codes=("compaction_unavailable",)),
    Rule(RateLimitError, codes=("ramp_limit_exceeded", "concurrency_limit")),
    Rule(
        RequestTooLargeError,
        codes=("image_dimensions_too_large", "request_body_too_large_after_decoding"),
    ),
    Rule(UnsupportedFeatureError, codes=("available_tools_limit_exceeded",)),
)

_TEXTS = (
    Rule(RequestTooLargeError, status=400, texts=("image exceeds",)),
    Rule(
        UnsupportedFeatureError,
        status=400,
        texts=(
            "thinking.type",
            "budget_tokens",
            "output_config.effort",
            "prefill",
            "tool_choice forces",
            "may not be enabled when",
        ),
    ),
)

_TYPES = (
    Rule(QuotaError, codes=("billing_error",)),
    Rule(AuthenticationError, codes=("authentication_error", "permission_error")),
    Rule(OverloadedError, codes=("overloaded_error",)),
    Rule(RateLimitError, codes=("rate_limit_error",)),
    Rule(ModelNotFoundError, codes=("not_found_error",)),
    Rule(RequestTooLargeError, codes=("request_too_large",)),
    Rule(InvalidRequestError, codes=("invalid_request_error",), status=0),
)

RULES = (*_CODES, *SHARED_CODES, *_TEXTS, *SHARED_TEXTS, *_TYPES)
"""Finer codes are from `error.details.error_code`, types from `error.type`; status 0 is an error
inside a stream. Of the types, `api_error` says nothing, so that the status decides. Texts are used
only where Anthropic has no code (November 2026)."""

_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens")


def error(reply: HttpResponse) -> ProviderError:
    """Translate an error reply."""
    value = load_error(reply.body) if reply.body else None
    hint = reset_hint(reply.headers) if reply.status == 429 else None
    code, request_id = _error_code(value), _request_id(value)
    if not code:
        return error_from(reply, RULES, hint=hint, request_id=request_id)
    return error_from_fault(
        msgspec.structs.replace(fault_of(value), code=code),
        RULES,
        status=reply.status,
        headers=reply.headers,
        hint=hint,
        request_id=request_id,
        body=reply.body,
    )


def stream_error(value: Any, frame: bytes) -> ProviderError:
    """Translate an error inside a stream: an envelope, or the bare object of some servers."""
    fault = fault_of(value)
    code = _error_code(value)
    if code:
        fault = msgspec.structs.replace(fault, code=code)
    return error_from_fault(fault, RULES, request_id=_request_id(value), body=frame)


def _error_code(value: Any) -> str:
    match value:
        case {"error": {"details": {"error_code": str(code)}}}:
            return code
        case _:
            return ""


def _request_id(value: Any) -> str:
    match value:
        case {"request_id": str(request_id)}:
            return request_id
        case _:
            return ""


def reset_hint(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds until all exhausted limits are reset; `now` is Unix time."""
    moment = time.time() if now is None else now
    waits = [
        _until(headers.get(f"anthropic-ratelimit-{limit}-reset", ""), moment)
        for limit in _LIMITS
        if headers.get(f"anthropic-ratelimit-{limit}-remaining", "").strip() == "0"
    ]
    return max((wait for wait in waits if wait is not None), default=None)


def _until(text: str, now: float) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - now) if moment.tzinfo else None
