"""Embedding and reranking over loopback servers: what is sent, and what answers become."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
from array import array
from base64 import b64encode

import pytest

from aiollm._http.retrieving import _embeddings, _ranking
from aiollm._wire import vectors
from aiollm.dsn import Secret
from aiollm.errors import (
    ConfigError,
    ContextLengthError,
    FailoverError,
    ProtocolError,
    UnsupportedError,
    UnsupportedFeatureError,
)
from aiollm.provider import HttpResponse, Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.embed_codec import OpenAIEmbeddings, PlainEmbeddings
from aiollm.providers.openai.rerank_codec import CohereRerank
from aiollm.retrieval import EmbedRequest, RerankRequest, ScoreReply
from aiollm.testing import Answer
from aiollm.testing.fake_script import PIXEL
from aiollm.types import Target

BASES = {"openai": "/v1", "llama-swap": "", "google": "/v1beta", "ollama": ""}


def reply(body, status=200):
    return Answer(status, {"content-type": "application/json"}, json.dumps(body).encode())


def packed(*numbers):
    return b64encode(array("f", numbers).tobytes()).decode()


def dsn(server, scheme, **options):
    return server.dsn(scheme, path=BASES[scheme], **options)


def lists(found):
    return [each.tolist() for each in found.vectors]


ITEMS = [{"index": 1, "embedding": packed(3, 4)}, {"index": 0, "embedding": packed(1, 2)}]
MADE = reply({"data": ITEMS, "usage": {"prompt_tokens": 7, "total_tokens": 7}})


@pytest.mark.parametrize("scheme", ["openai", "llama-swap"])
async def test_openais_wire_asks_for_base64_and_puts_vectors_in_order(serve, registry, scheme):
    server = await serve(MADE)
    reg = registry({"a": dsn(server, scheme)})
    found = await reg.embed("a/m", ["x", "y"], dimensions=2, extra={"*": {"user": "u"}})
    assert lists(found) == [[1, 2], [3, 4]]
    assert (found.usage.input_tokens, found.usage.certainty) == (7, "exact")
    (sent,) = server.requests
    assert sent.path == "/v1/embeddings"
    assert sent.headers["authorization"] == "Bearer test-key"
    assert sent.json() == {
        "model": "m",
        "input": ["x", "y"],
        "encoding_format": "base64",
        "dimensions": 2,
        "user": "u",
    }


@pytest.mark.parametrize("scheme", ["openai", "llama-swap"])
@pytest.mark.parametrize("status", [400, 422])
async def test_a_host_that_refuses_base64_is_asked_for_numbers(serve, registry, scheme, status):
    refusal = reply({"error": {"message": "unknown field encoding_format"}}, status)
    server = await serve(refusal, reply({"data": [{"embedding": [1, 2]}]}))
    reg = registry({"a": dsn(server, scheme)})
    assert lists(await reg.embed("a/m", "x")) == [[1, 2]]
    assert [each.json().get("encoding_format") for each in server.requests] == ["base64", None]


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [(None, None), ({}, None), ({"total_tokens": 3}, 3), ({"prompt_tokens": -1}, None)],
)
async def test_counts_that_a_reply_lacks_are_missing(serve, registry, usage, tokens):
    server = await serve(reply({"data": [{"embedding": [1.5]}], "usage": usage}))
    found = await registry({"a": dsn(server, "openai")}).embed("a/m", "x")
    assert found.usage.input_tokens == (tokens or 0)
    assert found.usage.certainty == ("missing" if tokens is None else "exact")


@pytest.mark.parametrize(
    ("usage", "tokens", "usd"),
    [
        ([1], None, None),
        ({"prompt_tokens": "many"}, None, None),
        ({"prompt_tokens": True}, None, None),
        ({"prompt_tokens": 10**400}, None, None),
        ({"prompt_tokens": 3, "cost": -5}, 3, None),
        ({"prompt_tokens": 3, "cost": "0.5"}, 3, 0.5),
        ({"prompt_tokens": 3, "cost": {"total_cost": 0.5, "currency": "USD"}}, 3, 0.5),
    ],
)
@pytest.mark.parametrize("operation", ["embed", "rerank"])
async def test_counts_that_make_no_sense_cost_no_result(
    serve, registry, operation, usage, tokens, usd
):
    """The vectors or scores have come, and are paid for; a price below zero would fill a budget."""
    rows = {"data": [{"embedding": [1.5], "index": 0, "score": 0.5}], "usage": usage}
    reg = registry({"a": dsn(await serve(reply(rows)), "openai")})
    call = reg.embed("a/m", "x") if operation == "embed" else reg.rerank("a/m", "q", ["x"])
    found = await call
    assert found.usage.input_tokens == (tokens or 0)
    assert found.usage.certainty == ("missing" if tokens is None else "exact")
    assert found.usage.billed_usd == usd


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [
        ("ollama", {"embeddings": [[1.5]], "prompt_eval_count": "many"}),
        ("google", {"embeddings": [{"values": [1.5]}], "usageMetadata": [1]}),
        ("google", {"embeddings": [{"values": [1.5]}], "usageMetadata": {"promptTokenCount": {}}}),
    ],
)
async def test_other_wires_counts_cost_no_vectors_either(serve, registry, scheme, answer):
    found = await registry({"a": dsn(await serve(reply(answer)), scheme)}).embed("a/m", "x")
    assert [*found.vectors[0]] == [1.5]
    assert found.usage.certainty == "missing"


@pytest.mark.parametrize("truncate", [False, True])
async def test_ollama_is_told_whether_to_cut(serve, registry, truncate):
    server = await serve(reply({"embeddings": [[1, 2]], "prompt_eval_count": 5}))
    reg = registry({"a": dsn(server, "ollama")})
    found = await reg.embed("a/m", "x", dimensions=2, kind="query", truncate=truncate)
    assert (lists(found), found.usage.input_tokens) == ([[1, 2]], 5)
    assert found.warnings
    (sent,) = server.requests
    assert sent.path == "/api/embed"
    expected = {"model": "m", "input": ["x"], "truncate": truncate, "dimensions": 2}
    assert sent.json() == expected


async def test_gemini_gets_a_batch_of_requests(serve, registry):
    counts = {"promptTokenCount": 4}
    answer = {"embeddings": [{"values": [1]}, {"values": [2]}], "usageMetadata": counts}
    server = await serve(reply(answer))
    reg = registry({"a": dsn(server, "google")})
    found = await reg.embed("a/gemini-embedding-001", ["x", "y"], dimensions=1, kind="document")
    assert (lists(found), found.usage.input_tokens) == ([[1], [2]], 4)
    (sent,) = server.requests
    assert sent.path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    assert sent.headers["x-goog-api-key"] == "test-key"
    settings = {
        "model": "models/gemini-embedding-001",
        "outputDimensionality": 1,
        "taskType": "RETRIEVAL_DOCUMENT",
    }
    asked = [{**settings, "content": {"parts": [{"text": text}]}} for text in ("x", "y")]
    assert sent.json() == {"requests": asked}


@pytest.mark.parametrize(
    ("model", "longest"), [("gemini-embedding-001", 8192), ("gemini-embedding-2", 32_768)]
)
async def test_a_text_that_gemini_will_probably_cut_is_warned_of_once(
    serve, registry, model, longest
):
    """Gemini's API has no field to forbid it, and does not say that it did."""
    server = await serve(default=reply({"embeddings": [{"values": [1]}]}))
    reg = registry({"a": server.dsn("google")})
    assert not (await reg.embed(f"a/{model}", ["x" * longest], batch=1)).warnings
    long = ["é" * (longest // 2 + 1), "x" * (longest + 1), "x"]
    (warning,) = (await reg.embed(f"a/{model}", long, batch=1)).warnings
    assert f"more than {longest} bytes" in warning


def body_at(host, codec, request):
    provider = Provider("p", "openai", f"https://{host}/v1", ChatCodec(), token=Secret("k"))
    return json.loads(bytes(codec.encode(provider, Target("p", "m"), request).body))


DIALECTS = {
    "api.voyageai.com": {
        "output_dimension": 8,
        "input_type": "query",
        "truncation": False,
        "encoding_format": "base64",
    },
    "api.jina.ai": {"dimensions": 8, "task": "retrieval.query", "embedding_type": "base64"},
    "api.mistral.ai": {"output_dimension": 8, "encoding_format": "base64"},
    "api.perplexity.ai": {"dimensions": 8, "encoding_format": "base64_int8"},
    "api.openai.com": {"dimensions": 8, "encoding_format": "base64"},
}


@pytest.mark.parametrize("host", DIALECTS)
def test_services_get_their_own_names_of_fields(host):
    body = body_at(host, OpenAIEmbeddings(), EmbedRequest("x", dimensions=8, kind="query"))
    assert body == {"model": "m", "input": ["x"]} | DIALECTS[host]


def test_a_width_that_cannot_be_read_is_refused_before_any_byte():
    with pytest.raises(UnsupportedError, match="divisible by 4"):
        body_at("api.perplexity.ai", OpenAIEmbeddings(), EmbedRequest("x", dimensions=130))


@pytest.mark.parametrize("codec", [OpenAIEmbeddings(), PlainEmbeddings()])
@pytest.mark.parametrize("large", [False, True])
async def test_perplexitys_bytes_are_numbers(codec, large, monkeypatch):
    if large:
        monkeypatch.setattr(vectors, "LARGE", 64)
    numbers = [[-128, -1, 0, 127] * 64, [5, 0, 0, -7] * 64]
    sent = [b64encode(array("b", each).tobytes()).decode() for each in numbers]
    items = [{"index": place, "embedding": each} for place, each in enumerate(sent)]
    body = json.dumps({"data": items, "usage": {"prompt_tokens": 7}}).encode()
    url = "https://api.perplexity.ai/v1/embeddings"
    request = EmbedRequest(["x", "y"], dimensions=256)
    found = await _embeddings(codec, HttpResponse(200, {}, body, url), request)
    assert lists(found) == numbers
    assert found.usage.input_tokens == 7


@pytest.mark.parametrize(
    ("host", "fields"),
    [
        ("api.voyageai.com", {"input_type": "document", "encoding_format": "base64"}),
        (
            "api.jina.ai",
            {"task": "retrieval.passage", "embedding_type": "base64", "truncate": True},
        ),
    ],
)
def test_services_are_told_to_cut_and_what_documents_are(host, fields):
    """Voyage cuts unless it is told not to."""
    body = body_at(host, OpenAIEmbeddings(), EmbedRequest("x", kind="document", truncate=True))
    assert body == {"model": "m", "input": ["x"]} | fields


@pytest.mark.parametrize(
    ("scheme", "asked", "reason"),
    [
        ("openai", {"truncate": True}, "no known way to cut"),
        ("google", {"truncate": True}, "no field for truncate"),
        ("openai", {"inputs": [PIXEL]}, "takes only texts"),
        ("ollama", {"inputs": [PIXEL]}, "embeds only texts"),
        ("google", {"inputs": [PIXEL], "spec": "a/gemini-embedding-001"}, "embeds only texts"),
    ],
)
async def test_what_a_wire_cannot_say_is_refused_before_any_byte(
    serve, registry, scheme, asked, reason
):
    server = await serve(MADE)
    asked = {"spec": "a/m", "inputs": "x"} | asked
    with pytest.raises(FailoverError) as raised:
        await registry({"a": dsn(server, scheme)}).embed(
            asked.pop("spec"), asked.pop("inputs"), **asked
        )
    assert isinstance(raised.value.last, UnsupportedError)
    assert reason in str(raised.value.last)
    assert not server.requests


@pytest.mark.parametrize(
    ("host", "fields"),
    [
        ("api.voyageai.com", {"top_k": 1, "truncation": False}),
        ("api.jina.ai", {"top_n": 1, "truncation": False}),
        ("api.cohere.com", {"top_n": 1}),
    ],
)
def test_rerankers_get_their_own_names_of_fields(host, fields):
    body = body_at(host, CohereRerank(), RerankRequest("q", ["d"], top=3))
    assert body == {"model": "m", "query": "q", "documents": ["d"]} | fields


SCORES = [(0, 0.5), (2, 0.9), (1, 0.5)]
RELEVANT = [{"index": n, "relevance_score": score} for n, score in SCORES]


@pytest.mark.parametrize("scheme", ["openai", "llama-swap"])
@pytest.mark.parametrize(
    "answer",
    [
        {"results": RELEVANT},
        {"data": RELEVANT},
        [{"index": n, "score": score} for n, score in SCORES],
    ],
)
@pytest.mark.parametrize("top", [None, 2])
async def test_documents_come_best_first_and_ties_by_place(serve, registry, scheme, answer, top):
    server = await serve(reply(answer))
    reg = registry({"a": dsn(server, scheme)})
    found = await reg.rerank("a/m", "q", ["x", "y", "z"], top=top)
    assert [(each.index, each.score) for each in found] == [(2, 0.9), (0, 0.5), (1, 0.5)][:top]
    assert server.requests[0].path == "/v1/rerank"


@pytest.mark.parametrize(
    "scores",
    [
        [(0, 1.0)],
        [(0, 1.0), (0, 0.5)],
        [(0, 1.0), (2, 0.5)],
        [(0, 1.0), (-1, 0.5)],
        [(0, None), (1, 1.0)],
        [(0, "1"), (1, 1.0)],
        [(None, 1.0), (1, 1.0)],
    ],
)
async def test_scores_that_do_not_fit_the_documents_are_an_error(serve, registry, scores):
    rows = [{"index": n, "relevance_score": score} for n, score in scores]
    reg = registry({"a": dsn(await serve(reply({"results": rows})), "openai")})
    with pytest.raises(FailoverError) as raised:
        await reg.rerank("a/m", "q", ["x", "y"])
    assert isinstance(raised.value.last, ProtocolError)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([(0, 1.0), (0, 0.5)], "two scores"),
        ([(1, math.nan)], "finite"),
        ([(0, math.inf)], "finite"),
    ],
)
async def test_scores_of_any_codec_are_checked(scores, reason):
    """JSON has no NaN, but a wire of one's own may; one document is enough here."""
    with pytest.raises(ProtocolError, match=reason):
        await _ranking(ScoreReply(scores), RerankRequest("q", ["x", "y"], top=1))


async def test_more_scores_than_documents_are_not_looked_at():
    """There may be tens of thousands, of a microsecond each."""
    rows = [{"index": 0}] * 3  # without a score
    found = CohereRerank().decode(HttpResponse(200, {}, json.dumps(rows).encode()))
    with pytest.raises(ProtocolError, match="3 scores for 2 documents"):
        await _ranking(found, RerankRequest("q", ["x", "y"]))


async def test_others_run_between_some_of_many_scores():
    turns = []

    class Noting(list):
        def __getitem__(self, some):
            turns.append(1)
            asyncio.get_running_loop().call_soon(turns.append, 0)
            return super().__getitem__(some)

    scores = Noting((place, 0.5) for place in range(1000))
    ranking = await _ranking(ScoreReply(scores), RerankRequest("q", ["x"] * 1000))
    assert len(ranking) == 1000
    assert turns == [1, 0] * (len(turns) // 2)
    assert len(turns) >= 8


async def test_a_ranking_may_not_have_many_parts_beside_its_scores(serve, registry):
    """It is decoded in one go, before anything else can run."""
    rows = [{"index": 0, "relevance_score": 0.5}]
    for beside, is_fine in ((1000, True), (60_000, False)):
        server = await serve(reply({"results": rows, "usage": {"x": [{}] * beside}}))
        call = registry({"a": dsn(server, "openai")}).rerank("a/m", "q", ["x"])
        if is_fine:
            assert len(await call) == 1
            continue
        with pytest.raises(FailoverError) as raised:
            await call
        assert isinstance(raised.value.last, ProtocolError)


async def test_a_document_without_a_score_is_told(serve, registry):
    """So it is where a server has only embeddings, and answers with them."""
    rows = [{"index": 0, "embedding": [1.5]}]
    reg = registry({"a": dsn(await serve(reply({"data": rows})), "openai")})
    with pytest.raises(FailoverError) as raised:
        await reg.rerank("a/m", "q", ["x"])
    assert "no score for document 0" in str(raised.value.last)


@pytest.mark.parametrize("scheme", ["openai", "llama-swap"])
async def test_llama_cpps_500_for_long_input_is_told_and_harms_nobody(serve, registry, scheme):
    text = "input is too large to process. increase the physical batch size"
    server = await serve(reply({"error": {"code": 500, "message": text}}, 500))
    reg = registry({"a": dsn(server, scheme)}, retries=2)
    for count in (1, 2, 3, 4):
        with pytest.raises(FailoverError) as raised:
            await reg.embed("a/m", "x")
        assert isinstance(raised.value.last, ContextLengthError)
        assert len(server.requests) == count


async def test_a_server_that_does_not_rank_is_unsupported(serve, registry):
    error = {"code": 501, "message": "This server does not support reranking", "type": "x"}
    server = await serve(reply({"error": error}, 501))
    with pytest.raises(FailoverError) as raised:
        await registry({"a": dsn(server, "openai")}).rerank("a/m", "q", ["x"])
    assert isinstance(raised.value.last, UnsupportedFeatureError)


async def test_gzip_that_nobody_asked_for_is_told(serve, registry):
    body = gzip.compress(json.dumps({"data": [{"embedding": [1, 2]}]}).encode())
    server = await serve(Answer(200, {"content-encoding": "gzip"}, body))
    with pytest.raises(FailoverError) as raised:
        await registry({"a": dsn(server, "openai")}).embed("a/m", "x")
    assert isinstance(raised.value.last, ProtocolError)
    assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_a_reply_without_an_end_is_broken_off(serve, registry, monkeypatch):
    monkeypatch.setattr("aiollm._http.retrieving.MAX_VECTORS_REPLY", 300_000)
    pieces = [b'{"data":[{"embedding":[1', *[b",1.5" * 10_000] * 100]
    server = await serve(Answer(200, {}, pieces))
    with pytest.raises(FailoverError) as raised:
        await registry({"a": dsn(server, "openai")}).embed("a/m", "x")
    assert "larger than 300000 bytes" in str(raised.value.last)


@pytest.mark.parametrize(
    "wrong",
    [
        {"inputs": []}, {"inputs": ""}, {"inputs": ["x", " "]}, {"inputs": None},
        {"inputs": b"x"}, {"inputs": [1]}, {"inputs": {"x": 1}}, {"dimensions": 0},
        {"dimensions": True}, {"dimensions": 1.5}, {"kind": "x"}, {"truncate": 1}, {"batch": 0},
        {"extra": {"user": "x"}}, {"spec": "a/m,a/n"}, {"spec": "a/m&a/n"},
    ],
)  # fmt: skip
async def test_mistakes_are_told_before_any_byte(serve, registry, wrong):
    server = await serve(MADE)
    reg = registry({"a": dsn(server, "openai")})
    asked = {"spec": "a/m", "inputs": "x"} | wrong
    with pytest.raises(ConfigError):
        await reg.embed(asked.pop("spec"), asked.pop("inputs"), **asked)
    assert not server.requests
