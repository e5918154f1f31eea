"""Ollama's error replies, recorded and as its sources word them, and its list of models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aiollm.errors import (
    AuthenticationError,
    ContextLengthError,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    OverloadedError,
    ProtocolError,
    QuotaError,
    RateLimitError,
    ServerError,
    UnsupportedFeatureError,
    classify,
)
from aiollm.provider import HttpResponse, Provider
from aiollm.providers.ollama.codec import OllamaCodec

CAPTURES = Path(__file__).parents[2] / "captures/ollama"
CODEC = OllamaCodec()


def recorded(name: str) -> HttpResponse:
    head = CAPTURES.joinpath(f"{name}.raw").read_bytes().partition(b"\r\n\r\n")[0].decode()
    first, *rest = head.split("\r\n")
    headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in rest)}
    return HttpResponse(
        int(first.split()[1]), headers, CAPTURES.joinpath(f"{name}.body").read_bytes()
    )


def worded(status: int, text: str) -> HttpResponse:
    body = json.dumps({"error": text}).encode()
    return HttpResponse(status, {"content-type": "application/json"}, body)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("err-unknown", ModelNotFoundError),
        ("err-no-tools", UnsupportedFeatureError),
        ("err-no-think", UnsupportedFeatureError),
        ("err-bad-json", InvalidRequestError),
        ("err-bad-option", InvalidRequestError),
        ("err-405", ModelNotFoundError),
        ("show-unknown", ModelNotFoundError),
        ("embed", UnsupportedFeatureError),
    ],
)
def test_a_recorded_error_has_its_class(name: str, kind: type[LLMError]) -> None:
    reply = recorded(name)
    error = CODEC.error(reply)
    assert type(error) is kind
    assert error.status == reply.status
    assert error.body == reply.body


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, '"x" does not support chat', UnsupportedFeatureError),
        (400, "registry.ollama.ai/library/x does not support vision", UnsupportedFeatureError),
        (500, "this model is missing data required for image input", UnsupportedFeatureError),
        (400, "the prompt is longer than the context length currently", ContextLengthError),
        (400, "the input length exceeds the context length", ContextLengthError),
        (400, 'invalid think value: "max"', UnsupportedFeatureError),
        (401, "unauthorized", AuthenticationError),
        (403, "ollama cloud is disabled: remote inference is unavailable", AuthenticationError),
        (429, "too many concurrent requests", RateLimitError),
        (429, "you've reached your hourly usage limit, please upgrade to continue", QuotaError),
        (500, "llama-server process has terminated: exit status 2", ServerError),
        (500, "timed out waiting for llama-server to start", ServerError),
        (
            500,
            "model requires more system memory (9.9 GiB) than is available (7.6 GiB)",
            OverloadedError,
        ),
        (502, "cloud unreachable", ServerError),
    ],
)
def test_a_worded_error_has_its_class(status: int, text: str, kind: type[LLMError]) -> None:
    error = CODEC.error(worded(status, text))
    assert type(error) is kind
    assert text in str(error)


def test_a_full_queue_and_a_full_memory_name_their_own_wait() -> None:
    """Ollama sends no Retry-After."""
    busy = worded(503, "server busy, please try again.  maximum pending requests exceeded")
    full = worded(500, "model requires more system memory (9 GiB) than is available (7 GiB)")
    assert [CODEC.error(reply).retry_after for reply in (busy, full)] == [2.0, 60.0]


def test_what_a_model_cannot_do_moves_a_chain_on_without_harm() -> None:
    verdict = classify(CODEC.error(recorded("err-no-tools")))
    assert verdict.moves_on
    assert verdict.harms == "no"


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ({"content-type": "text/html"}, b"<html>bad gateway</html>", "HTML page"),
        ({}, b"", "empty body"),
        ({"content-type": "text/plain"}, b"404 page not found", "404 page not found"),
    ],
)
def test_a_proxy_in_between_is_told_apart(headers: dict, body: bytes, message: str) -> None:
    assert message in str(CODEC.error(HttpResponse(502, headers, body)))


def test_models_are_listed_by_name() -> None:
    provider = Provider("box", "ollama", "http://gpu1:11434", CODEC)
    http = CODEC.models(provider)
    assert (http.method, http.url, http.body) == ("GET", "http://gpu1:11434/api/tags", None)
    assert CODEC.model_names(recorded("tags")) == ("smol-tools:latest", "smol:latest")
    with pytest.raises(ProtocolError):
        CODEC.model_names(HttpResponse(200, {}, b"Ollama is running"))
