"""Error replies: any body becomes one bounded error, and no hint makes anyone wait wrongly."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import errors
from aiollm._wire.redaction import redacted
from aiollm.dsn import Secret
from aiollm.errors import (
    AuthenticationError,
    ConnectError,
    ContentFilterError,
    ContextLengthError,
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
from aiollm.providers.error_bodies import MAX_WORD, Fault, fault_of
from aiollm.providers.error_replies import (
    _CONTEXT_TEXTS,
    BY_STATUS,
    MAX_MESSAGE,
    Rule,
    _says,
    error_from,
    error_from_fault,
)
from aiollm.providers.retry_hints import retry_after
from aiollm.types import LLMError

KEY = "sk-proj-Ab0_cd-Ef1"
NOW = 1_800_000_000.0


def reply(body: object, status: int = 400, **headers: str) -> HttpResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status, named, data)


@pytest.mark.parametrize(
    ("value", "message", "code", "kind"),
    [
        pytest.param({"error": {"message": "m", "type": "t", "param": None, "code": "c"}},
                     "m", "c", "t", id="openai"),
        pytest.param({"error": {"message": "m", "type": "t", "code": None}}, "m", "", "t",
                     id="no code"),
        pytest.param({"error": {"code": 400, "message": "m", "type": "t"}}, "m", "400", "t",
                     id="llama.cpp: a code that is a number"),
        pytest.param({"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}},
                     "m", "429", "RESOURCE_EXHAUSTED", id="google"),
        pytest.param([{"error": {"code": 400, "message": "m", "status": "X"}}], "m", "400", "X",
                     id="google: in a list"),
        pytest.param({"type": "error", "error": {"type": "t", "message": "m"}, "request_id": "r"},
                     "m", "", "t", id="anthropic"),
        pytest.param({"error": {"message": "m", "code": "400", "param": "It must be sent."}},
                     "m: It must be sent.", "400", "", id="a sentence in the place of a name"),
        pytest.param({"error": {"message": "m", "code": "c", "param": "messages[0].content"}},
                     "m", "c", "", id="the name of a field"),
        pytest.param({"error": "m"}, "m", "", "", id="ollama"),
        pytest.param({"error": "m", "code": 7}, "m", "7", "", id="a text and a code"),
        pytest.param({"src": "llama-swap", "error": {"message": "m", "code": "c"}}, "m", "c", "",
                     id="llama-swap"),
        pytest.param({"object": "error", "message": "m", "type": "t", "code": 404}, "m", "404", "t",
                     id="vllm"),
        pytest.param({"detail": "m"}, "m", "", "", id="fastapi"),
        pytest.param({"detail": [{"loc": ["body"], "msg": "field required"}]},
                     "body: field required", "", "", id="fastapi, a list"),
        pytest.param({"message": "m", "code": "c"}, "m", "c", "", id="flat"),
        pytest.param({"detail": {"msg": "m", "type": "t"}}, "m", "", "t", id="koboldcpp"),
        pytest.param({"code": 500, "msg": "m", "success": False}, "m", "500", "", id="z.ai"),
        pytest.param({"base_resp": {"status_code": 1004, "status_msg": "m"}}, "m", "1004",
                     "base_resp", id="minimax"),
        pytest.param({"error": {"message": "m", "code": "None", "type": "None"}}, "m", "", "",
                     id="litellm"),
        pytest.param({"base_resp": {"status_code": 0, "status_msg": ""}, "message": "m"}, "m", "",
                     "", id="minimax, nothing wrong"),
        pytest.param({"base_resp": {"status_code": 1004, "status_msg": ["x"]}}, "['x']", "1004",
                     "base_resp", id="minimax, of a wrong type"),
        pytest.param({"error_code": 17, "error_msg": "m"}, "m", "17", "", id="baidu"),
        pytest.param({"Message": "m"}, "m", "", "", id="aws"),
        pytest.param({"error": "m", "error_type": "t"}, "m", "", "t", id="tgi"),
        pytest.param({"error": '{"error":{"code":400,"message":"m","type":"t"}}'}, "m", "400", "t",
                     id="a body within a text"),
        pytest.param({"error": "{not json"}, "{not json", "", "", id="a text that looks like one"),
        pytest.param({"error": {"message": "m", "code": 400, "metadata": {"raw": "why"}}},
                     "m: why", "400", "", id="openrouter, a text"),
        pytest.param({"error": {"message": "m", "code": 400, "metadata": {
                         "raw": '{"error":{"message":"why","code":"c"}}'}}},
                     "m: why", "c", "", id="openrouter, a body"),
        pytest.param({"detail": [{"loc": ["body", 0], "msg": "a", "input": "x"}, {"msg": "b"}, 3]},
                     "body.0: a; b; 3", "", "", id="fastapi, several"),
        pytest.param({"message": {"detail": [{"loc": ["x"], "msg": "a", "input": "y"}]}}, "x: a",
                     "", "", id="mistral"),
        pytest.param({"success": False, "errors": [{"code": 7003, "message": "m"}]}, "m", "7003",
                     "", id="a list of errors"),
        pytest.param({"error": True, "message": "m"}, "m", "", "", id="a flag"),
        pytest.param({"error": None, "message": "m"}, "m", "", "", id="a null"),
        pytest.param({"error_description": "m", "code": True}, "m", "", "", id="oauth"),
        pytest.param({"error": {"error": {"message": "m"}}}, "m", "", "", id="wrapped twice"),
        pytest.param("m", "m", "", "", id="a bare text"),
        pytest.param({"message": "a\ud83eb", "code": "c\uddea", "type": 1.5}, "a\ufffdb",
                     "c\ufffd", "", id="lone surrogates"),
        pytest.param({}, "", "", "", id="empty object"),
        pytest.param([], "", "", "", id="empty list"),
        pytest.param({"errors": []}, "", "", "", id="no errors"),
        pytest.param(7, "", "", "", id="a number"),
        pytest.param(None, "", "", "", id="null"),
        pytest.param({"error": {"message": {"a": 1}, "code": [1], "type": {}}}, "{'a': 1}", "", "",
                     id="wrong types"),
        pytest.param({"error": {"error": {"error": {"error": {"error": {"message": "m"}}}}}}, "",
                     "", "", id="wrapped too often"),
    ],
)  # fmt: skip
def test_every_shape_of_body_is_read(value, message, code, kind) -> None:
    fault = fault_of(value)
    assert (fault.message, fault.code, fault.type) == (message, code, kind)
    assert fault.raw == (value[0] if isinstance(value, list) and value else value)


def test_a_body_that_nests_deeper_than_it_can_be_walked_has_no_message() -> None:
    deep: object = "m"
    for _ in range(200_000):  # newer Pythons walk some 10,000
        deep = [deep]
    assert fault_of({"message": deep}).message == ""
    assert fault_of(deep).message == ""


STATUSES = [
    (0, ServerError), (300, ProviderError), (302, ProviderError), (308, ProviderError),
    (400, InvalidRequestError), (401, AuthenticationError), (402, QuotaError),
    (403, AuthenticationError), (404, ModelNotFoundError), (405, ModelNotFoundError),
    (406, InvalidRequestError), (407, AuthenticationError), (408, ServerError), (409, ServerError),
    (410, ModelNotFoundError), (413, RequestTooLargeError), (415, UnsupportedFeatureError),
    (418, InvalidRequestError), (421, ServerError), (422, InvalidRequestError), (423, ServerError),
    (424, ServerError), (425, ServerError), (426, ServerError), (428, InvalidRequestError),
    (429, RateLimitError),
    (431, InvalidRequestError), (451, InvalidRequestError), (498, InvalidRequestError),
    (499, ServerError), (500, ServerError), (501, UnsupportedFeatureError),
    (502, ServerError), (503, OverloadedError), (504, ServerError), (520, ServerError),
    (524, ServerError), (529, OverloadedError), (530, ServerError), (599, ServerError),
]  # fmt: skip


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_what_no_row_knows_goes_by_status(status, kind) -> None:
    error = error_from(reply({"error": {"message": "m"}}, status))
    assert type(error) is kind
    assert error.status == status


def test_the_table_of_statuses_is_tested_whole() -> None:
    assert set(BY_STATUS) <= {status for status, _ in STATUSES}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (429, RateLimitError), ("401", AuthenticationError), (503, OverloadedError),
        (400, InvalidRequestError), (399, ServerError), (600, ServerError), ("4290", ServerError),
        ("\u00b2", ServerError), ("\u0664\u0660\u0661", ServerError), ("x", ServerError),
    ],
)  # fmt: skip
def test_inside_a_stream_a_code_that_is_a_status_counts_as_one(code, kind) -> None:
    assert type(error_from_fault(fault_of({"code": code}))) is kind
    assert type(error_from_fault(fault_of({"code": code}), status=500)) is ServerError


class TestRows:
    ROWS = (
        Rule(QuotaError, codes=("spent",), status=429),
        Rule(ContentFilterError, codes=("policy", "filter")),
        Rule(OverloadedError, texts=("server busy", "try later"), retry_after=2.0),
        Rule(InvalidRequestError, codes=("bad",)),
    )

    @pytest.mark.parametrize(
        ("body", "status", "kind"),
        [
            ({"code": "spent"}, 429, QuotaError),
            ({"code": "spent"}, 400, InvalidRequestError),
            ({"type": "spent"}, 429, QuotaError),
            ({"code": "filter"}, 500, ContentFilterError),
            ({"code": "filters"}, 500, ServerError),
            ({"code": "FILTER"}, 500, ServerError),
            ({"message": "The Server BUSY now"}, 500, OverloadedError),
            ({"code": "policy", "message": "server busy"}, 500, ContentFilterError),
            ({"code": "bad"}, 500, InvalidRequestError),
            ({"code": "bad", "message": "the prompt is too long"}, 500, ContextLengthError),
            ({"code": "policy", "message": "prompt is too long"}, 400, ContentFilterError),
        ],
    )
    def test_the_first_row_that_matches_decides(self, body, status, kind) -> None:
        assert type(error_from(reply({"error": body}, status), self.ROWS)) is kind

    def test_a_row_brings_a_wait_only_where_nothing_else_does(self) -> None:
        busy = Fault("server busy")
        assert error_from_fault(busy, self.ROWS).retry_after == 2.0
        assert error_from_fault(busy, self.ROWS, hint=7.0).retry_after == 7.0
        assert error_from_fault(busy, self.ROWS, hint=0.0).retry_after == 0.0
        assert (
            error_from_fault(busy, self.ROWS, hint=7.0, headers={"retry-after": "3"}).retry_after
            == 3.0
        )
        assert error_from_fault(Fault("other"), self.ROWS).retry_after is None

    @pytest.mark.parametrize(
        ("rule", "fault", "status", "matches"),
        [
            (Rule(QuotaError, status=(0, 400)), Fault("x"), 400, True),
            (Rule(QuotaError, status=(0, 400)), Fault("x"), 422, False),
            (Rule(QuotaError, status=400), Fault("x", code="400"), 0, True),
            (Rule(QuotaError, status=400), Fault("x", status=400), 0, True),
            (Rule(QuotaError, status=0), Fault("x", status=400), 0, False),
            (Rule(QuotaError, params=("model",)), Fault("x", param="model"), 400, True),
            (Rule(QuotaError, params=("model",)), Fault("x", param="models"), 400, False),
            (Rule(QuotaError, codes=("7",), types=("t",)), Fault(code="7", type="t"), 400, True),
            (Rule(QuotaError, codes=("7",), types=("t",)), Fault(code="7"), 400, False),
            (Rule(QuotaError, texts=("model '*' is gone",)), Fault("Model 'a b' is gone"), 400,
             True),
            (Rule(QuotaError, texts=("model '*' is gone",)), Fault("Model 'a': tool 'b' is gone"),
             400, False),
            (Rule(QuotaError, texts=("a.b*",)), Fault("axb"), 400, False),
            (Rule(QuotaError, texts=("a b*c d",)), Fault(f"a b{'x' * 200}c d"), 400, True),
            (Rule(QuotaError, texts=("a b*c d",)), Fault(f"a b{'x' * 201}c d"), 400, False),
        ],
    )  # fmt: skip
    def test_all_that_a_row_gives_must_match(self, rule, fault, status, matches) -> None:
        error = error_from_fault(fault, (rule,), status=status)
        assert isinstance(error, QuotaError) is matches

    def test_words_beyond_the_shown_ones_count_and_a_flood_of_them_does_not(self) -> None:
        rules = (Rule(QuotaError, texts=("no credit",)),)
        late = Fault("x" * MAX_MESSAGE + "no credit")
        assert type(error_from_fault(late, rules, status=400)) is QuotaError
        flood = Fault("x" * 100_000 + "no credit")
        assert type(error_from_fault(flood, rules, status=400)) is InvalidRequestError

    @pytest.mark.parametrize("hint", [math.nan, math.inf, -1.0])
    def test_a_hint_that_is_no_wait_is_ignored(self, hint) -> None:
        assert error_from_fault(Fault("x"), hint=hint).retry_after is None


REFUSALS = Path(__file__).parents[1] / "fixtures/refusals"
CONTEXT_TEXTS = [
    "This model's maximum context length is 128000 tokens. However, your messages resulted in",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "the request exceeds the available context size, try increasing it",
    "Context size has been exceeded.",
    "the prompt is longer than the context length currently available to the model",
    "input (9001 tokens) is too large to process. increase the physical batch size (current: 512)",
    "the input length exceeds the context length",
    "Your input exceeds the context window of this model",
    "This model's maximum prompt length is 131072",
    "Please reduce the length of the messages or completion.",
    "Token limit exceeded",
    "invalid params, context window exceeds limit (2013)",
    "Unable to submit request because the input token count is 9 but model only supports up to 8.",
    "input is larger than the max context size. skipped",
    "prompt too long; exceeded max context length by 4 tokens",
    "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
    "The input (61709 tokens) is longer than the model\u2019s context length (40960 tokens).",
    "Input length (700001 tokens) exceeds the maximum allowed length (536826 tokens).",
    "Input length 131393 exceeds the maximum allowed input length of 131040 tokens.",
    "The decoder prompt (length 9) is longer than the maximum model length of 8.",
    "You passed 9 input tokens. However, the model's context length is only 8 tokens.",
    "max_tokens must be at least 1, got -512.",
    "max_completion_tokens must be at least 1, got -512.",
    "litellm.ContextWindowExceededError: litellm.BadRequestError: OpenAIException - too much",
    "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000",
    "Input prompt is too big compared to KV size. Please try increasing KV size.",
    "The number of tokens to keep from the initial prompt is greater than the context length.",
    "Trying to keep the first 9 tokens when context the overflows.",
    "Reached context length of 4096 tokens, but this model does not support going on.",
    "Input is too long for requested model.",
    "Too many input tokens. Max input tokens: 8",
    "Input Tokens Exceeded: Number of input tokens exceeds maximum length.",
    "Invalid request: Your request exceeded model token limit: 131072 (requested: 138720)",
    "Prompt exceeds max length",
    "prompt token count of 90001 exceeds the limit of 64000",
    "Range of input length should be [1, 129024]",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000",
    "inputs must have less than 1024 tokens. Given: 2000",
    "length of prompt_tokens (163280) must be less than max_seq_len (32768).",
    "Prompt length 9000 is greater than max_seq_len 8192",
    "total number of tokens in the prompt cannot exceed 4081",
    "Prompt has 9000 tokens, but the configured context size is 8192 tokens",
    "Prompt tokens (9) exceeds context size (8)",
]


class TestContextLength:
    @pytest.mark.parametrize("text", CONTEXT_TEXTS)
    @pytest.mark.parametrize("status", [0, 400, 413, 422, 500])
    def test_is_told_by_its_texts(self, text, status) -> None:
        assert type(error_from_fault(Fault(text), status=status)) is ContextLengthError

    @pytest.mark.parametrize("text", [*CONTEXT_TEXTS, "too many tokens"])
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (401, AuthenticationError), (402, QuotaError), (403, AuthenticationError),
            (404, ModelNotFoundError), (429, RateLimitError),
        ],
    )  # fmt: skip
    def test_is_never_read_into_a_status_that_means_something_else(self, text, status, kind):
        assert type(error_from_fault(Fault(text), status=status)) is kind

    def test_every_text_is_some_servers(self) -> None:
        recorded = [each.read_text() for each in REFUSALS.glob("*.toml")]
        lines = [*CONTEXT_TEXTS, *"\n".join(recorded).splitlines()]
        texts = [text.lower().replace("\u2019", "'") for text in lines]
        for pattern in _CONTEXT_TEXTS:
            assert any(_says(text, pattern) for text in texts), pattern

    @pytest.mark.parametrize("text", [
        "max_tokens must be at most 8192",
        "max_tokens must be at least 1, got 0",
        "string too long. Expected a string with maximum length 10485760",
        "the model exceeds the memory; a smaller context is a way out",
        'the context "window" may exceed nothing',
        "[{'msg': 'bad', 'input': 'prompt is too long'}]",
        "bad [type=string_type, input_value='prompt is too long']",
    ])  # fmt: skip
    def test_is_not_read_into_other_words(self, text) -> None:
        assert type(error_from_fault(Fault(text), status=400)) is InvalidRequestError

    @pytest.mark.parametrize("code", ["context_length_exceeded", "exceed_context_size_error"])
    def test_is_told_by_its_codes(self, code) -> None:
        assert self._is_it(Fault(code=code), 400)
        assert self._is_it(Fault(type=code), 0)
        assert not self._is_it(Fault(code=code), 429)

    def test_too_many_tokens_means_it_only_where_it_cannot_be_a_rate(self) -> None:
        assert self._is_it(Fault("Too many tokens"), 400)
        assert self._is_it(Fault("Too many tokens"), 413)
        assert not self._is_it(Fault("Too many tokens"), 500)
        assert not self._is_it(Fault("the context window is fine"), 400)

    def _is_it(self, fault: Fault, status: int) -> bool:
        return isinstance(error_from_fault(fault, status=status), ContextLengthError)


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "status", "kind", "message"),
        [
            (b"", 502, "", "HTTP 502 with an empty body"),
            (b" \r\n", 502, "", "HTTP 502 with an empty body"),
            (b"<html>x</html>", 404, "text/html; charset=utf-8",
             "HTTP 404 with an HTML page: a proxy answers, or the base URL is wrong"),
            (b"\n <!DOCTYPE html>", 403, "",
             "HTTP 403 with an HTML page: a proxy answers, or the base URL is wrong"),
            (b"x", 403, "TEXT/HTML", "HTTP 403 with an HTML page: a proxy answers"),
            (b"", 301, "", "the server redirects, and redirects are not followed"),
            (b"404 page not found\n", 404, "text/plain", "404 page not found"),
            (b"caf\xe9", 500, "text/plain", "caf\ufffd"),
            (b"{}", 500, "application/json", "{}"),
            (b"[]", 500, "application/json", "[]"),
            (b'{"error":', 500, "application/json", '{"error":'),
            (b"[" * 10_000, 500, "application/json", "[" * MAX_MESSAGE),
            (b'data: {"error": {"message": "m"}}\n\n', 400, "text/event-stream", "m"),
            (b'event: error\ndata: {"error": "m"}', 400, "text/event-stream", "m"),
            (b'data: x\n\ndata: {"message": "m"}', 400, "", "m"),
            (b"data: x", 400, "", "data: x"),
        ],
    )  # fmt: skip
    def test_what_is_no_json_is_told(self, body, status, kind, message) -> None:
        error = error_from(HttpResponse(status, {"content-type": kind}, body))
        assert error.message.startswith(message)
        assert len(error.message) < len(message) + 50
        assert error.body == body

    def test_everything_is_bounded(self) -> None:
        long = "x" * 100_000
        error = error_from(
            reply({"error": {"message": long, "code": long, "type": long}}, x_request_id=long)
        )
        assert (len(error.message), len(error.code)) == (MAX_MESSAGE, MAX_WORD)
        assert len(error.request_id) == MAX_WORD
        assert len(error.body) == errors.MAX_BODY
        assert len(error_from(reply(long.encode())).message) == MAX_MESSAGE

    def test_an_error_without_a_message_says_so(self) -> None:
        assert error_from_fault(Fault()).message == "the provider sent no message"

    def test_the_code_is_the_type_where_there_is_none(self) -> None:
        assert error_from_fault(Fault(code="c", type="t")).code == "c"
        assert error_from_fault(Fault(type="t")).code == "t"

    def test_the_id_of_the_request_is_kept(self) -> None:
        assert error_from(reply({}, x_request_id="r1")).request_id == "r1"
        assert error_from(reply({}, request_id="r2")).request_id == "r2"
        assert error_from(reply({}, request_id="r2"), request_id="r3").request_id == "r3"
        assert error_from(reply({})).request_id == ""

    def test_a_server_may_forbid_to_retry(self) -> None:
        assert not error_from(reply({}, x_should_retry="False")).may_retry
        assert error_from(reply({}, x_should_retry="true")).may_retry
        assert error_from(reply({})).may_retry

    @given(body=st.binary() | st.text().map(str.encode), status=st.integers(0, 700))
    def test_any_body_becomes_an_error(self, body, status) -> None:
        error = error_from(HttpResponse(status, {}, body))
        assert isinstance(error, ProviderError)
        assert 0 < len(error.message) <= MAX_MESSAGE
        str(error).encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([
            "error", "errors", "message", "code", "type", "detail", "status", "x", "base_resp",
            "status_code", "status_msg", "msg", "metadata", "raw", "param", "error_code",
        ]),
        inner,
    ),
)  # fmt: skip


@given(value=JSON, status=st.sampled_from([0, 200, 302, 400, 401, 413, 429, 500, 529]))
def test_any_json_becomes_an_error_that_can_be_printed(value, status) -> None:
    error = error_from(reply(value, status))
    assert isinstance(error, ProviderError)
    assert len(error.message) <= MAX_MESSAGE
    assert len(error.code) <= MAX_WORD
    str(error).encode()


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({}, None),
            ({"retry-after": "3"}, 3.0),
            ({"retry-after": " 3 "}, 3.0),
            ({"retry-after": "0"}, 0.0),
            ({"retry-after": "1.5"}, 1.5),
            ({"retry-after": ".5"}, 0.5),
            ({"retry-after": "1e2"}, 100.0),
            ({"retry-after-ms": "1500"}, 1.5),
            ({"retry-after-ms": "0.5"}, 0.0005),
            ({"retry-after-ms": "1500", "retry-after": "60"}, 1.5),
            ({"retry-after-ms": "x", "retry-after": "60"}, 60.0),
            ({"retry-after-ms": "-1", "retry-after": "60"}, 60.0),
            ({"retry-after-ms": "nan", "retry-after": "60"}, 60.0),
            ({"retry-after": ""}, None),
            ({"retry-after": "-3"}, None),
            ({"retry-after": "+-3"}, None),
            ({"retry-after": "nan"}, None),
            ({"retry-after": "NaN"}, None),
            ({"retry-after": "inf"}, None),
            ({"retry-after": "-Infinity"}, None),
            ({"retry-after": "1e400"}, None),
            ({"retry-after": "9" * 400}, None),
            ({"retry-after": "1_000"}, None),
            ({"retry-after": "\u0663"}, None),
            ({"retry-after": "3 seconds"}, None),
            ({"retry-after": "3, 4"}, None),
            ({"retry-after": "soon"}, None),
            ({"retry-after": "2027-01-15T08:00:30Z"}, None),
            ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
            ({"retry-after": "Fri, 15 Jan 2027 09:00:30 +0100"}, 30.0),
            ({"retry-after": "Fri, 15 Jan 2027 08:00:30 -0000"}, 30.0),
            ({"retry-after": "Friday, 15-Jan-27 08:00:30 GMT"}, 30.0),
            ({"retry-after": "Fri Jan 15 08:00:30 2027"}, 30.0),
            ({"retry-after": "Fri, 15 Jan 2027 07:59:00 GMT"}, 0.0),
            ({"retry-after": "Fri, 99 Jan 2027 07:59:00 GMT"}, None),
            ({"retry-after": "Fri, 15 Jan 99999 07:59:00 GMT"}, None),
        ],
    )
    def test_is_read_from_headers(self, headers, seconds, monkeypatch) -> None:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            assert retry_after(headers, NOW) == seconds
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_counts_from_the_clock(self) -> None:
        then = datetime.now(UTC) + timedelta(seconds=100)
        assert 0 < retry_after({"retry-after": format_datetime(then, usegmt=True)}) <= 100

    @given(at=st.integers(10**5, 2 * 10**11), minutes=st.integers(-720, 720))
    def test_any_date_is_a_wait_from_now(self, at, minutes) -> None:
        moment = datetime.fromtimestamp(at, timezone(timedelta(minutes=minutes)))
        seconds = retry_after({"retry-after": format_datetime(moment)}, NOW)
        assert seconds == max(0.0, at - NOW)

    @given(
        first=st.text() | st.floats().map(str) | st.integers().map(str),
        second=st.text() | st.floats().map(str) | st.text("0123456789 :,-+GMTFriJan"),
    )
    def test_is_never_negative_nor_endless(self, first, second) -> None:
        seconds = retry_after({"retry-after-ms": first, "retry-after": second}, NOW)
        assert seconds is None or 0 <= seconds < math.inf


class TestRedaction:
    def test_takes_the_key_out_of_all_that_a_provider_said(self) -> None:
        error = error_from(
            reply(
                {"error": {"message": f"Incorrect key: {KEY}.", "code": f"bad {KEY}"}},
                401,
                x_request_id=f"r-{KEY}",
            )
        )
        assert redacted(error, [Secret(KEY)]) is error
        assert KEY not in f"{error} {error!r} {error.args} {vars(error)}"
        assert str(error) == "Incorrect key: ***. (HTTP 401, bad ***, request r-***)"
        assert error.body == b'{"error": {"message": "Incorrect key: ***.", "code": "bad ***"}}'

    def test_takes_it_out_where_a_bound_has_cut_it(self) -> None:
        for length in range(len(KEY) + 1):
            text = "x" * (MAX_MESSAGE - length) + KEY + "y" * 100
            error = redacted(error_from(reply({"message": text})), [Secret(KEY)])
            assert KEY[:8] not in error.message

    def test_takes_it_out_of_frames_and_other_errors(self) -> None:
        error = redacted(ProtocolError(f"bad {KEY}", frame=b"\xff" + KEY.encode()), [Secret(KEY)])
        assert (str(error), error.frame) == ("bad ***", b"\xff***")
        assert str(redacted(ConnectError(f"no {KEY}"), [Secret(KEY)])) == "no ***"
        assert str(redacted(LLMError(5), [Secret(KEY)])) == "5"

    def test_without_a_key_there_is_nothing_to_take_out(self) -> None:
        error = ConnectError("x")
        assert redacted(error, ()) is error
