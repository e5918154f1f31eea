"""Chat through llama-swap: its wire, its loading notes, its own errors and those it passes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aiollm.dsn import Secret
from aiollm.errors import (
    AuthenticationError,
    ContextLengthError,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    OverloadedError,
    RateLimitError,
    ServerError,
    StreamInterrupted,
)
from aiollm.provider import HttpResponse, Provider
from aiollm.providers.llama_swap.codec import LlamaSwapCodec, openai_wire
from aiollm.types import Finish, Item, ReasoningDelta, Request, Status, Target, TextDelta, Usage

TESTS = Path(__file__).parents[2]
CAPTURES = TESTS / "captures/llama-swap"
FIXTURES = TESTS / "fixtures"
CODEC = LlamaSwapCodec()
PROVIDER = Provider("ls", "llama-swap", "http://box:8080", CODEC, token=Secret("sk-swap"))


def read(body: bytes) -> tuple[list[Item], LLMError | None]:
    framer, decoder = CODEC.framing(), CODEC.decoder()
    items: list[Item] = []
    try:
        decoder.feed(framer.feed(body), items)
        if not decoder.finished:
            decoder.feed(framer.close(), items)
        if not decoder.finished:
            decoder.close(items)
    except LLMError as error:
        return items, error
    return items, None


def text(items: list[Item]) -> str:
    return "".join(item.text for item in items if isinstance(item, TextDelta))


def recorded(name: str) -> HttpResponse:
    head = CAPTURES.joinpath(f"{name}.raw").read_bytes().partition(b"\r\n\r\n")[0].decode()
    first, *rest = head.split("\r\n")
    headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in rest)}
    return HttpResponse(
        int(first.split()[1]), headers, CAPTURES.joinpath(f"{name}.body").read_bytes()
    )


def own(status: int, message: str, code: str) -> HttpResponse:
    body = {"src": "llama-swap", "error": {"message": message, "type": "x", "code": code}}
    return HttpResponse(status, {"content-type": "application/json"}, json.dumps(body).encode())


def test_chat_goes_under_v1_with_the_token() -> None:
    http = CODEC.encode(PROVIDER, Target("ls", "org/qwen:8b"), Request("hi", max_output_tokens=5))
    assert http.url == "http://box:8080/v1/chat/completions"
    assert http.headers["Authorization"] == "Bearer sk-swap"
    assert http.headers["Content-Type"] == "application/json"
    sent = json.loads(bytes(http.body))
    assert sent["model"] == "org/qwen:8b"
    assert sent["max_tokens"] == 5
    assert CODEC.models(PROVIDER).url == "http://box:8080/v1/models"


def test_a_base_that_ends_in_v1_gets_no_second_one() -> None:
    assert openai_wire(openai_wire(PROVIDER)).base_url == "http://box:8080/v1"


def test_loading_notes_of_a_real_server_are_status_and_no_output() -> None:
    items, error = read(CAPTURES.joinpath("chat-loading-state-stream.body").read_bytes())
    assert error is None
    assert not any(isinstance(item, ReasoningDelta) for item in items)
    notes = "".join(item.message for item in items if isinstance(item, Status))
    assert "llama-swap loading model: smol-loading" in notes
    first_text = next(i for i, item in enumerate(items) if isinstance(item, TextDelta))
    assert all(isinstance(item, Status) for item in items[:first_text])
    assert isinstance(items[-1], Finish)


def test_a_cold_start_of_a_real_server_answers_whole() -> None:
    items, error = read(CAPTURES.joinpath("chat-stream-cold.body").read_bytes())
    assert error is None
    assert text(items).startswith("hi there")
    assert isinstance(items[-1], Finish)
    assert items[-1].usage.certainty == "exact"


def test_a_stream_of_an_unloaded_model_ends_cleanly_and_is_interrupted() -> None:
    """Unloading in mid-stream ends the body without finish_reason and [DONE]."""
    body = CAPTURES.joinpath("swap-during-a.body").read_bytes()
    events = body.split(b"\n\n")
    cut = b"\n\n".join(event for event in events[:5]) + b"\n\n"
    items, error = read(cut)
    assert text(items)
    assert type(error) is StreamInterrupted


def test_a_failure_after_loading_notes_comes_as_raw_json_and_is_raised() -> None:
    loading = b'data: {"choices":[{"delta":{"reasoning_content":"loading\\n"}}]}\n\n'
    failure = recorded("broken").body
    items, error = read(loading + failure)
    assert items == [Status("loading")]
    assert type(error) is ServerError
    assert "exited prematurely" in str(error)


def test_a_whole_reply_is_decoded() -> None:
    items: list[Item] = []
    CODEC.decoder().whole(CAPTURES.joinpath("chat-warm.body").read_bytes(), items)
    assert text(items) == "Hello! How can"
    assert items[-1] == Finish("length", "length", Usage(31, 4, certainty="exact"))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("auth-missing", AuthenticationError, "missing API key"),
        ("auth-wrong", AuthenticationError, "invalid or missing"),
        ("bad-json", ModelNotFoundError, "no model id could be identified"),
        ("404", ModelNotFoundError, "404 page not found"),
        ("broken", ServerError, "upstream command exited prematurely"),
        ("broken-stream", ServerError, "upstream command exited prematurely"),
        ("never-ready", ServerError, "health check timed out"),
        ("limit-c-429-anthropic", RateLimitError, "Too many requests"),
    ],
)
def test_a_recorded_error_has_its_class(name: str, kind: type[LLMError], message: str) -> None:
    error = CODEC.error(recorded(name))
    assert type(error) is kind
    assert message in str(error)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (own(404, "no router for requested model", "not_found"), ModelNotFoundError),
        (own(429, "Too many requests", "concurrency_limit"), RateLimitError),
        (own(429, "slow", "rate_limit_exceeded"), RateLimitError),
        (own(400, "could not read body", "bad_request"), InvalidRequestError),
        (own(503, "[qwen] process is not ready", "service_unavailable"), OverloadedError),
        (own(500, "unspecific error: shutting down", "internal_error"), ServerError),
        (own(502, "peer failed", "bad_gateway"), ServerError),
        (own(504, "peer is slow", "gateway_timeout"), ServerError),
        (HttpResponse(502, {}, b""), ServerError),
        (HttpResponse(503, {"content-type": "text/plain"}, b"not ready"), OverloadedError),
    ],
)
def test_an_error_of_its_own_has_its_class(reply: HttpResponse, kind: type[LLMError]) -> None:
    assert type(CODEC.error(reply)) is kind


def test_its_concurrency_limit_asks_for_a_second_even_without_the_header() -> None:
    assert CODEC.error(own(429, "Too many requests", "concurrency_limit")).retry_after == 1.0
    assert CODEC.error(recorded("limit-c-429-anthropic")).retry_after == 1.0


def test_its_own_code_counts_more_than_the_words_it_quotes() -> None:
    quoted = "unspecific error: prompt is too long, said the upstream command"
    assert type(CODEC.error(own(500, quoted, "internal_error"))) is ServerError


def test_an_upstreams_error_keeps_its_own_meaning() -> None:
    """llama-swap passes statuses and bodies on unchanged; `src` tells the two apart."""
    body = {
        "error": {
            "code": 400,
            "message": "the request exceeds the available context size",
            "type": "exceed_context_size_error",
        }
    }
    error = CODEC.error(HttpResponse(400, {}, json.dumps(body).encode()))
    assert type(error) is ContextLengthError
    loading = FIXTURES.joinpath("llamacpp_errors/503_loading.json").read_bytes()
    assert type(CODEC.error(HttpResponse(503, {}, loading))) is OverloadedError


def test_models_of_a_real_server_are_listed_by_id() -> None:
    names = CODEC.model_names(recorded("auth-ok"))
    assert names[:4] == ("broken", "gemma", "never-ready", "smol")
