"""Error replies of OpenAI and the servers that speak its wires: class, verdict and delay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aiollm import errors
from aiollm.errors import ProviderError, classify
from aiollm.provider import HttpResponse
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec

TESTS = Path(__file__).parents[2]
RATE_TEXT = "Rate limit reached for m on tokens per min (TPM): Limit 200, Used 190, Requested 50."


def reply(status: int, body: Any = b"", **headers: str) -> HttpResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status, names, data)


def mapped(status: int, body: Any = b"", **headers: str) -> ProviderError:
    error = ChatCodec().error(reply(status, body, **headers))
    same = ResponsesCodec().error(reply(status, body, **headers))
    assert (type(error), str(error)) == (type(same), str(same))
    assert isinstance(error, ProviderError)
    assert error.status == status
    return error


def inner(message: str = "m", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message} | fields}


CODES: list[tuple[int, Any, str]] = [
    (400, inner(code="context_length_exceeded"), "ContextLengthError"),
    (400, inner("This model's maximum context length is 8 tokens."), "ContextLengthError"),
    (400, inner("Your input exceeds the context window of this model"), "ContextLengthError"),
    (400, inner(code=400, type="exceed_context_size_error"), "ContextLengthError"),
    (500, inner("Context size has been exceeded.", code=500), "ContextLengthError"),
    (400, inner(code="unsupported_parameter"), "UnsupportedFeatureError"),
    (400, inner(code="unsupported_value"), "UnsupportedFeatureError"),
    (400, inner(code="invalid_value"), "InvalidRequestError"),
    (400, inner(code="string_above_max_length"), "InvalidRequestError"),
    (400, inner(code="content_policy_violation"), "ContentFilterError"),
    (400, inner(code="content_filter", innererror={"code": "x"}), "ContentFilterError"),
    (400, inner(code="moderation_blocked", type="image_generation_user_error"),
     "ContentFilterError"),
    (400, inner(code="invalid_prompt"), "ContentFilterError"),
    (400, inner(code="invalid_image_format"), "InvalidRequestError"),
    (400, inner(code="image_file_too_large"), "RequestTooLargeError"),
    (400, inner(code="failed_to_download_image"), "UnsupportedFeatureError"),
    (400, inner("The `reasoning_content` in the thinking mode must be passed back to the API."),
     "InvalidRequestError"),
    (400, inner("registry.ollama.ai/x does not support tools"), "UnsupportedFeatureError"),
    (400, inner('"auto" tool choice requires --enable-auto-tool-choice'),
     "UnsupportedFeatureError"),
    (401, inner(code="invalid_api_key", type="invalid_request_error"), "AuthenticationError"),
    (402, inner("Insufficient Balance"), "QuotaError"),
    (403, inner(code="unsupported_country_region_territory"), "AuthenticationError"),
    (403, inner("Project p does not have access to model gpt-6"), "ModelNotFoundError"),
    (403, inner("x requires moderation. Your input was flagged for violence", code=403),
     "ContentFilterError"),
    (403, b"<html>cloudflare</html>", "AuthenticationError"),
    (404, inner(code="model_not_found"), "ModelNotFoundError"),
    (404, inner(code="DeploymentNotFound"), "ModelNotFoundError"),
    (404, inner("No endpoints found that support tool use.", code=404), "UnsupportedFeatureError"),
    (404, b"404 page not found", "ModelNotFoundError"),
    (408, b"", "ServerError"),
    (409, b"", "ServerError"),
    (413, b"", "RequestTooLargeError"),
    (413, inner("Request too large for model `m` on TPM: Limit 6000, Requested 7000"),
     "RequestTooLargeError"),
    (422, {"detail": [{"loc": ["body", "x"], "msg": "Extra inputs are not permitted"}]},
     "UnsupportedFeatureError"),
    (422, {"object": "error", "message": {"detail": []}, "type": "x", "code": None},
     "InvalidRequestError"),
    (429, inner(type="tokens", code="rate_limit_exceeded"), "RateLimitError"),
    (429, inner(type="rate_limit_error", code="slow_down"), "RateLimitError"),
    (429, inner(type="insufficient_quota", code="insufficient_quota"), "QuotaError"),
    (429, inner(code="organization_spend_limit_exceeded"), "QuotaError"),
    (429, inner("Request too large for gpt-4o on TPM: Limit 30000, Requested 41000."),
     "RequestTooLargeError"),
    (429, inner("Rate limit reached for m: Limit 100, Used 0, Requested 101."),
     "RequestTooLargeError"),
    (429, inner(RATE_TEXT), "RateLimitError"),
    (429, inner("maximum context length is mentioned"), "RateLimitError"),
    (500, inner(type="server_error"), "ServerError"),
    (500, inner("image input is not supported - hint: provide the mmproj", code=500),
     "UnsupportedFeatureError"),
    (500, inner("tools param requires --jinja flag", code=500), "UnsupportedFeatureError"),
    (501, inner(code=501, type="not_supported_error"), "UnsupportedFeatureError"),
    (502, b"", "ServerError"),
    (503, inner(code=503, type="unavailable_error"), "OverloadedError"),
    (503, inner(code="server_is_overloaded"), "OverloadedError"),
    (424, inner(code="NoCapacity"), "OverloadedError"),
    (429, [inner("quota", code=429, status="RESOURCE_EXHAUSTED")], "RateLimitError"),
    (400, {"object": "error", "message": "m", "type": "BadRequestError", "code": 400},
     "InvalidRequestError"),
    (301, b"", "ProviderError"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), CODES, ids=lambda value: str(value)[:60])
def test_an_error_reply_is_mapped_by_code_text_and_status(status, body, kind) -> None:
    assert type(mapped(status, body)) is getattr(errors, kind)


def test_a_request_no_window_can_hold_moves_on_without_harm() -> None:
    verdict = classify(mapped(429, inner("Request too large for gpt-4o on TPM: Limit 1")))
    assert (verdict.moves_on, verdict.harms) == (True, "no")


def test_what_a_target_does_not_support_moves_on_without_harm() -> None:
    verdict = classify(mapped(400, inner("Function tools with reasoning_effort are not supported "
                                         "for gpt-6-sol in /v1/chat/completions.")))  # fmt: skip
    assert (verdict.moves_on, verdict.harms) == (True, "no")


@pytest.mark.parametrize(
    ("headers", "body", "delay"),
    [
        ({"retry_after_ms": "900", "retry_after": "7"}, inner("try again in 3s"), 0.9),
        ({"retry_after": "7", "x_ratelimit_reset_tokens": "9s"}, inner("try again in 3s"), 7.0),
        ({}, inner("Please try again in 1.2s."), 1.2),
        ({}, inner("Please try again in 340ms. Visit"), 0.34),
        ({}, inner("Please try again in 1m3s"), 63.0),
        ({}, inner("Please retry after 26 seconds."), 26.0),
        ({}, inner("Try again in 20 seconds"), 20.0),
        ({}, inner("Rate limit of 9 per 60s exceeded. Please wait 12 seconds"), 12.0),
        ({"x_ratelimit_reset_tokens": "6m0s"}, inner(type="tokens"), 360.0),
        ({"x_ratelimit_reset_requests": "12ms", "x_ratelimit_reset_tokens": "1m2.5s"},
         inner(type="requests"), 0.012),
        ({"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "2s",
          "x_ratelimit_remaining_tokens": "5", "x_ratelimit_reset_tokens": "9s"}, inner(), 2.0),
        ({"x_ratelimit_remaining_requests": "5", "x_ratelimit_reset_requests": "2s"}, inner(),
         None),
        ({"x_ratelimit_remaining_requests_day": "0", "x_ratelimit_reset_requests_day": "3301.5",
          "x_ratelimit_remaining_tokens_minute": "9"}, inner(), 3301.5),
        ({"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "1800000000"},
         inner(), None),
        ({}, inner(code="slow_down"), 15.0),
        ({"retry_after": "1"}, inner(code="slow_down"), 1.0),
        ({}, inner(code="concurrency_limit"), 1.0),
        ({"retry_after": "nan"}, inner(), None),
    ],
)  # fmt: skip
def test_the_delay_is_taken_from_the_first_place_that_tells(headers, body, delay) -> None:
    assert mapped(429, body, **headers).retry_after == delay


def test_windows_are_no_delay_for_other_errors() -> None:
    assert mapped(500, inner(type="tokens"), x_ratelimit_reset_tokens="9s").retry_after is None


def test_a_402_that_says_when_to_come_back_is_a_rate_limit() -> None:
    """OpenRouter's, for in-flight spending."""
    error = mapped(402, inner(code=402), retry_after="5")
    assert (type(error), error.retry_after) == (errors.RateLimitError, 5.0)


def test_x_should_retry_is_obeyed() -> None:
    assert not mapped(500, inner(), x_should_retry="false").may_retry
    assert mapped(500, inner(), x_should_retry="true").may_retry


def test_the_request_id_and_code_are_kept() -> None:
    error = mapped(401, inner(code="invalid_api_key"), x_request_id="req_1")
    assert (error.code, error.request_id, error.message) == ("invalid_api_key", "req_1", "m")


def test_a_router_tells_of_the_provider_behind_it() -> None:
    raw = {"raw": "prompt is too long: 9 tokens > 8", "provider_name": "P"}
    error = mapped(400, inner("Provider returned error", code=400, metadata=raw))
    assert type(error) is errors.ContextLengthError
    assert "prompt is too long" in error.message


FIXTURES = {
    "openai_errors/400_tools_reasoning_chat": ("UnsupportedFeatureError", None),
    "openai_errors/401_invalid_key": ("AuthenticationError", None),
    "openai_errors/404_model": ("ModelNotFoundError", None),
    "openai_errors/429_insufficient_quota": ("QuotaError", None),
    "openai_errors/429_rate_limit": ("RateLimitError", 0.9),
    "openai_errors/500_retry_header_false": ("ServerError", None),
    "openai_errors/503_overloaded": ("OverloadedError", None),
    "llamacpp_errors/401_key": ("AuthenticationError", None),
    "llamacpp_errors/501_unsupported": ("UnsupportedFeatureError", None),
    "llamacpp_errors/503_loading": ("OverloadedError", None),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_a_recorded_error_has_its_class_and_delay(name) -> None:
    index = json.loads((TESTS / "fixtures" / "index.json").read_text())
    record = next(each for each in index if each["path"] == f"{name}.json")
    body = (TESTS / "fixtures" / f"{name}.json").read_bytes()
    error = ChatCodec().error(HttpResponse(record["status"], record["headers"], body))
    assert isinstance(error, ProviderError)
    assert (type(error).__name__, error.retry_after) == FIXTURES[name]


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("llama-native/auth-missing", 401, "AuthenticationError"),
        ("llama-native/loading-chat", 503, "OverloadedError"),
        ("llama-xllama-tools/err-404", 404, "ModelNotFoundError"),
        ("llama-xllama-tools/err-bad-json", 400, "InvalidRequestError"),
        ("llama-xllama-tools/err-context-exceeded", 400, "ContextLengthError"),
        ("ollama/v1-unknown", 404, "ModelNotFoundError"),
        ("llama-swap/broken", 500, "ServerError"),
    ],
)
def test_a_captured_error_has_its_class(name, status, kind) -> None:
    body = (TESTS / "captures" / f"{name}.body").read_bytes()
    error = ChatCodec().error(HttpResponse(status, {}, body))
    assert type(error) is getattr(errors, kind)
    assert error.message
