"""Error replies to the tree: words, reasons, retry hints, quotas."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aiollm.errors import (
    AuthenticationError,
    ContextLengthError,
    InvalidRequestError,
    LLMError,
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
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.google.errors import body_error


def fault(code: int, status: str, message: str, *details: object) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": [*details]}}


def error(code: int, status: str, message: str, *details: object, **headers: str) -> LLMError:
    value = fault(code, status, message, *details)
    body = json.dumps([value] if code == 403 else value).encode()
    return GoogleCodec().error(HttpResponse(code, headers, body))


def retry_info(delay: object) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def quota(**violation: str) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}


def reason(word: str) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": word}


TOO_LONG = "The input token count (9) exceeds the maximum number of tokens allowed (8)."
NOT_BOTH = "Function calling with a response mime type: 'application/json' is unsupported"


@pytest.mark.parametrize(("code", "status", "message", "details", "kind"), [
    (400, "INVALID_ARGUMENT", "bad field", (), InvalidRequestError),
    (400, "INVALID_ARGUMENT", "API key not valid", (reason("API_KEY_INVALID"),),
     AuthenticationError),
    (400, "INVALID_ARGUMENT", "API key expired", (reason("API_KEY_EXPIRED"),),
     AuthenticationError),
    (400, "FAILED_PRECONDITION", "User location is not supported for the API use.", (),
     AuthenticationError),
    (400, "INVALID_ARGUMENT", TOO_LONG, (), ContextLengthError),
    (400, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes.", (),
     RequestTooLargeError),
    (400, "INVALID_ARGUMENT", NOT_BOTH, (), UnsupportedFeatureError),
    (400, "INVALID_ARGUMENT", "Developer instruction is not enabled for models/gemma-3-27b-it", (),
     UnsupportedFeatureError),
    (400, "INVALID_ARGUMENT", "Thinking level is not supported for this model.", (),
     UnsupportedFeatureError),
    (400, "INVALID_ARGUMENT", "Thinking is not supported by this model", (),
     UnsupportedFeatureError),
    (400, "INVALID_ARGUMENT", "Budget 0 is invalid. This model only works in thinking mode.", (),
     UnsupportedFeatureError),
    (400, "INVALID_ARGUMENT", "Model does not support the requested response modalities: image",
     (), UnsupportedFeatureError),
    (400, "INVALID_ARGUMENT", "Unsupported MIME type: image/gif", (), UnsupportedFeatureError),
    (401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", (),
     AuthenticationError),
    (402, "RESOURCE_EXHAUSTED", "Payment required.", (), QuotaError),
    (403, "PERMISSION_DENIED", "Your API key was reported as leaked.", (), AuthenticationError),
    (404, "NOT_FOUND", "models/x is not found", (), ModelNotFoundError),
    (429, "RESOURCE_EXHAUSTED", "You have exceeded the spending cap.", (), QuotaError),
    (429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted.", (), QuotaError),
    (429, "RESOURCE_EXHAUSTED", "Resource exhausted, please try again later.", (), RateLimitError),
    (499, "CANCELLED", "The operation was cancelled.", (), ServerError),
    (500, "INTERNAL", "An internal error has occurred.", (), ServerError),
    (501, "UNIMPLEMENTED", "no", (), UnsupportedFeatureError),
    (503, "UNAVAILABLE", "The model is overloaded.", (), OverloadedError),
    (504, "DEADLINE_EXCEEDED", "Deadline expired.", (), ServerError),
])  # fmt: skip
def test_an_error_has_its_class(
    code: int, status: str, message: str, details: tuple[object, ...], kind: type
) -> None:
    found = error(code, status, message, *details)
    assert type(found) is kind
    assert isinstance(found, ProviderError)
    assert found.status == code
    assert found.message == message


def test_the_most_telling_word_is_the_code() -> None:
    found = error(400, "INVALID_ARGUMENT", "no", reason("API_KEY_INVALID"))
    assert isinstance(found, ProviderError)
    assert found.code == "API_KEY_INVALID"


@pytest.mark.parametrize("word", ["KEY\ud83e", "K" * 10_000])
def test_the_code_is_short_and_can_be_printed(word: str) -> None:
    found = error(400, "INVALID_ARGUMENT", "no", reason(word))
    assert isinstance(found, ProviderError)
    assert found.code.startswith("K")
    assert len(str(found).encode()) < 500


@pytest.mark.parametrize(("details", "message", "wait"), [
    ((retry_info("38s"),), "", 38.0),
    ((retry_info("38.281s"),), "", 38.281),
    ((retry_info("0s"),), "", 0.0),
    ((retry_info("soon"),), "", None),
    ((retry_info(5),), "", None),
    ((), "Quota exceeded. Please retry in 38.281s.", 38.281),
    ((), "Please retry in 1h2m3s, or pay", 3723.0),
    ((), "Please retry in a while.", None),
    ((), "", None),
])  # fmt: skip
def test_the_wait_is_found(details: tuple[object, ...], message: str, wait: float | None) -> None:
    found = error(429, "RESOURCE_EXHAUSTED", message or "slow down", *details)
    assert isinstance(found, RateLimitError)
    assert found.retry_after == wait


def test_a_header_goes_before_the_body() -> None:
    found = error(429, "RESOURCE_EXHAUSTED", "x", retry_info("38s"), **{"retry-after": "2"})
    assert isinstance(found, RateLimitError)
    assert found.retry_after == 2


PER_DAY = quota(quotaId="GenerateRequestsPerDayPerProjectPerModel-FreeTier", quotaValue="50")


@pytest.mark.parametrize(("clock", "hours"), [("07:00", 1), ("08:00", 0), ("20:00", 12)])
def test_a_daily_quota_waits_for_midnight_in_california(clock: str, hours: int) -> None:
    hour = int(clock[:2])
    value = fault(429, "RESOURCE_EXHAUSTED", "You exceeded", PER_DAY, retry_info("17s"))
    found = body_error(value, status=429, now=86_400 * 20_000 + hour * 3600)
    assert isinstance(found, QuotaError)
    assert found.retry_after == hours * 3600


def test_a_quota_of_nothing_is_no_rate_limit() -> None:
    text = "Quota exceeded for metric: free_tier_requests, limit: 0, model: gemini-3-pro"
    minute = quota(quotaId="GenerateRequestsPerMinute", quotaValue="0")
    assert isinstance(error(429, "RESOURCE_EXHAUSTED", text), QuotaError)
    assert isinstance(error(429, "RESOURCE_EXHAUSTED", "You exceeded", minute), QuotaError)
    some = error(429, "RESOURCE_EXHAUSTED", "limit: 0.5 of it", retry_info("1s"))
    assert isinstance(some, RateLimitError)


def test_credit_that_runs_out_amid_the_stream_is_a_quota_error() -> None:
    assert isinstance(body_error(fault(402, "RESOURCE_EXHAUSTED", "pay")), QuotaError)


@pytest.mark.parametrize("details", [None, 5, ["x"], [{"violations": 3}], [{"violations": [1]}],
                                     [{"reason": 7}]])  # fmt: skip
def test_odd_details_are_no_obstacle(details: object) -> None:
    value = {"error": {"code": 503, "message": "m", "status": "UNAVAILABLE", "details": details}}
    assert isinstance(body_error(value, status=503), OverloadedError)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', b'{"error":"down"}', b"null"])
def test_a_body_of_another_shape_goes_by_its_status(body: bytes) -> None:
    assert isinstance(GoogleCodec().error(HttpResponse(503, {}, body)), OverloadedError)
