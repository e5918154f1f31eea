"""Anthropic's error replies: types, finer codes, texts, and how long to wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aiollm import errors
from aiollm.errors import ProviderError, RateLimitError
from aiollm.provider import HttpResponse
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.anthropic.errors import reset_hint

CODEC = AnthropicCodec()
CAPTURES = Path(__file__).parents[2] / "captures"
NOON = 1_795_348_800.0
"""2026-11-22T12:00:00Z as Unix time."""


def reply(
    status: int, kind: str, message: str = "M", code: str = "", **headers: str
) -> HttpResponse:
    error: dict[str, Any] = {"type": kind, "message": message}
    if code:
        error["details"] = {"error_code": code}
    body = {"type": "error", "error": error, "request_id": "req_body"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status, named, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("status", "kind", "message", "code", "expected"),
    [
        (400, "invalid_request_error", "messages: too short", "", "InvalidRequestError"),
        (400, "invalid_request_error", "prompt is too long: 9 > 8", "", "ContextLengthError"),
        (
            400,
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 9 + 1 > 8",
            "",
            "ContextLengthError",
        ),
        (400, "invalid_request_error", "Your credit balance is too low", "", "QuotaError"),
        (
            400,
            "invalid_request_error",
            "image exceeds 5 MB maximum: 9 > 8",
            "",
            "RequestTooLargeError",
        ),
        (400, "invalid_request_error", "Could not process image", "", "InvalidRequestError"),
        (
            400,
            "invalid_request_error",
            "thinking.type.disabled is not supported",
            "",
            "UnsupportedFeatureError",
        ),
        (400, "invalid_request_error", "M", "organization_on_hold", "AuthenticationError"),
        (400, "invalid_request_error", "M", "request_body_timeout", "ServerError"),
        (
            400,
            "invalid_request_error",
            "M",
            "available_tools_limit_exceeded",
            "UnsupportedFeatureError",
        ),
        (400, "invalid_request_error", "M", "tool_name_conflict", "InvalidRequestError"),
        (401, "authentication_error", "M", "", "AuthenticationError"),
        (402, "billing_error", "M", "", "QuotaError"),
        (402, "billing_error", "M", "linked_organization_spend_limit_reached", "QuotaError"),
        (403, "permission_error", "M", "", "AuthenticationError"),
        (404, "not_found_error", "model: x", "", "ModelNotFoundError"),
        (409, "conflict_error", "M", "", "ServerError"),
        (413, "request_too_large", "M", "", "RequestTooLargeError"),
        (
            413,
            "request_too_large",
            "M",
            "request_body_too_large_after_decoding",
            "RequestTooLargeError",
        ),
        (429, "rate_limit_error", "M", "", "RateLimitError"),
        (429, "rate_limit_error", "M", "ramp_limit_exceeded", "RateLimitError"),
        (429, "rate_limit_error", "M", "enforced_spend_limit_reached", "QuotaError"),
        (429, "rate_limit_error", "M", "contract_spend_limit_reached", "QuotaError"),
        (500, "api_error", "M", "", "ServerError"),
        (503, "api_error", "M", "cmek_key_unreachable", "ServerError"),
        (504, "timeout_error", "M", "", "ServerError"),
        (529, "overloaded_error", "M", "", "OverloadedError"),
    ],
)
def test_types_codes_and_texts(
    status: int, kind: str, message: str, code: str, expected: str
) -> None:
    error = CODEC.error(reply(status, kind, message, code))
    assert type(error) is getattr(errors, expected)
    assert isinstance(error, ProviderError)
    assert (error.status, error.message) == (status, message)
    assert error.code == (code or kind)
    assert error.request_id == "req_body"


def test_the_header_names_the_wait_before_the_limits_do() -> None:
    limits = {
        "anthropic_ratelimit_tokens_remaining": "0",
        "anthropic_ratelimit_tokens_reset": "2026-11-22T12:00:30Z",
    }
    error = CODEC.error(reply(429, "rate_limit_error", retry_after="17", **limits))
    assert isinstance(error, RateLimitError)
    assert error.retry_after == 17
    assert CODEC.error(reply(429, "rate_limit_error", **limits)).retry_after is not None  # type: ignore[attr-defined]


def test_without_it_the_last_reset_of_a_spent_limit_does() -> None:
    headers = {
        "anthropic-ratelimit-requests-remaining": "9",
        "anthropic-ratelimit-requests-reset": "2026-11-22T13:00:00Z",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-22T12:00:17Z",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-22T12:00:05+00:00",
    }
    assert reset_hint(headers, NOON) == 17
    assert reset_hint(headers, NOON + 60) == 0


@pytest.mark.parametrize("reset", ["", "soon", "2026-11-22T12:00:17", "17"])
def test_a_reset_that_is_no_moment_is_ignored(reset: str) -> None:
    headers = {
        "anthropic-ratelimit-tokens-remaining": "0",
        "anthropic-ratelimit-tokens-reset": reset,
    }
    assert reset_hint(headers, NOON) is None


def test_errors_of_llama_swap_behind_this_wire() -> None:
    raw = (CAPTURES / "llama-swap" / "limit-c-429-anthropic.body").read_bytes()
    error = CODEC.error(HttpResponse(429, {"retry-after": "1"}, raw))
    assert isinstance(error, RateLimitError)
    assert (error.retry_after, error.code) == (1, "concurrency_limit")


@pytest.mark.parametrize("body", [b"", b"<html>gateway</html>", b"[]", b"null", b'{"detail":"x"}'])
def test_odd_bodies_go_by_status(body: bytes) -> None:
    error = CODEC.error(HttpResponse(502, {"content-type": "text/html"}, body))
    assert type(error) is errors.ServerError
