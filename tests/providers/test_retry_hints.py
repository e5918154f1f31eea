"""How long a server asks to wait, in places other than a `retry-after` header."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aiollm.provider import HttpResponse
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.providers.retry_hints import retry_hint

NOW = 1_800_000_000.0
"""2027-01-15, 08:00 UTC."""


OPENROUTER = {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0"}


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached on tokens. Please try again in 1m2.5s. Need more?", 62.5),
        ("Please try again in 20s.", 20.0),
        ("Please try again in 340ms.", 0.34),
        ("Please retry after 6 seconds.", 6.0),
        ("Please wait 12 seconds", 12.0),
        ("Try again in 3 hours, 17 minutes, and 52 seconds.", 11872.0),
        ("Please retry in 5 minutes", 300.0),
        ("Try again in 2 days.", 172_800.0),
        ("5-hour limit reached, resets at 2027-01-15T08:00:07Z (2056)", 7.0),
        ("You will regain access on 2027-01-15 at 09:00 UTC.", 3600.0),
        ("resets at 2027-01-15T10:01:00+02:00", 60.0),
        ("resets at 2026-01-15T08:00:00Z", 0.0),
        # Without a zone it could be any time; the others are not believed or say nothing.
        ("Your limit will reset at 2027-01-15 09:00:00", None),
        ("regain access on 2028-01-01 at 00:00 UTC", None),
        ("resets at 2027-99-99T00:00:00Z", None),
        ("Please try again in 999999999 hours", None),
        ("try again in a while, or in 5 attempts", None),
        ("Please try again in 5 seasons", None),
        ("", None),
    ],
)
def test_a_wait_is_read_from_the_words_of_a_message(message: str, seconds: float | None) -> None:
    assert retry_hint(message, None, {}, NOW) == seconds


@pytest.mark.parametrize(
    ("passed_on", "seconds"),
    [
        (OPENROUTER | {"X-RateLimit-Reset": "1800000042000"}, 42.0),
        (OPENROUTER | {"X-RateLimit-Reset": 1800000042000}, 42.0),
        (OPENROUTER | {"X-RateLimit-Reset": "1799999999000"}, 0.0),
        (OPENROUTER | {"X-RateLimit-Reset": "30"}, 30.0),
        (OPENROUTER | {"X-RateLimit-Reset": "2m59.5s"}, 179.5),
        ({"X-RateLimit-Remaining": "5", "X-RateLimit-Reset": "1800000042000"}, None),
        (OPENROUTER | {"X-RateLimit-Reset": "18000000420000"}, None),
        (OPENROUTER | {"X-RateLimit-Reset": "-1"}, None),
        (OPENROUTER | {"X-RateLimit-Reset": {}}, None),
        (OPENROUTER, None),
        ({"Retry-After": "7"}, 7.0),
        ({}, None),
    ],
)
def test_a_wait_is_read_from_the_headers_that_a_relay_puts_into_the_body(
    passed_on: dict[str, Any], seconds: float | None
) -> None:
    body = {"error": {"message": "no", "code": 429, "metadata": {"headers": passed_on}}}
    assert retry_hint("no", body, {}, NOW) == seconds
    plain = {key.lower(): str(value) for key, value in passed_on.items()}
    if "retry-after" not in plain:
        assert retry_hint("no", None, plain, NOW) == seconds


def test_the_wait_of_a_body_is_on_every_wires_error_but_a_header_goes_first() -> None:
    body = b'{"error":{"message":"Slow down, please try again in 9s."}}'
    codecs = (ChatCodec(), ResponsesCodec(), AnthropicCodec(), GoogleCodec(), OllamaCodec())
    for codec in codecs:
        assert codec.error(HttpResponse(429, {}, body)).retry_after == 9.0
        assert codec.error(HttpResponse(429, {"retry-after": "2"}, body)).retry_after == 2.0


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (429, {}, 7.0),
        (429, {"x-ratelimit-remaining": "0"}, 7.0),
        (429, {"x-ratelimit-remaining": "3"}, None),
        (429, {"retry-after": "2"}, 2.0),
        (400, {}, None),
        (503, {}, None),
    ],
)
def test_a_reset_without_a_count_is_the_wait_of_a_429(
    status: int, headers: dict[str, str], wait: float | None
) -> None:
    """Together suggests its wait so (docs, November 2026)."""
    reply = HttpResponse(
        status, {"x-ratelimit-reset": "7", **headers}, b'{"error":{"message":"x"}}'
    )
    assert ChatCodec().error(reply).retry_after == wait


def test_googles_retry_info_counts_on_openais_wire() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "38s"}
    body = [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [info]}}]
    reply = HttpResponse(429, {}, json.dumps(body).encode())
    assert ChatCodec().error(reply).retry_after == 38.0


@pytest.mark.parametrize(
    ("seconds", "wait"),
    [(60, 60.0), (0.5, 0.5), (-1, None), ("60", None), (9e9, None), (10**400, None)],
)
def test_a_wait_is_read_from_the_field_of_a_plan(seconds: Any, wait: float | None) -> None:
    body = {"error": {"type": "usage_limit_reached", "resets_in_seconds": seconds}}
    assert retry_hint("no", body, {}, NOW) == wait
