"""What answers cost: the counts of every wire, times prices that can be checked by hand."""

from __future__ import annotations

import pytest

from aiollm import Cost, Price, Registry
from aiollm.testing import Answer, FaultServer, ndjson, sse

PRICE = Price(
    input=2,
    output=10,
    cached=0.2,
    cache_write=2.5,
    cache_write_1h=4,
    input_image=5,
    input_audio=20,
    output_image=40,
    above={200_000: Price(4, 15, cached=0.4)},
    tiers={
        "flex": Price(1, 5, cached=0.1),
        "priority": Price(4, 20),
        "batch": Price(1, 5),
        "fast": Price(12, 60),
    },
)
"""Dollars for a million tokens, so millionths of a dollar for one: the unit of the tables."""


def tokens(given=1000, made=100, **others):
    return {"prompt_tokens": given, "completion_tokens": made, **others}


def read(**details):
    return {"prompt_tokens_details": details}


CHAT = [
    ("plain", tokens(), 3000),
    ("OpenAI: read from a cache", tokens(**read(cached_tokens=400)), 1200 + 80 + 1000),
    ("OpenAI: nothing read", tokens(**read(cached_tokens=0)), 3000),
    (
        "OpenAI: read and written",
        tokens(**read(cached_tokens=200, cache_write_tokens=300)),
        500 * 2 + 40 + 750 + 1000,
    ),
    (
        "OpenAI: written for half a day",
        tokens(
            **read(
                cache_write_tokens=300,
                cache_write_tokens_details={"ttl_30m_tokens": 100, "ttl_12h_tokens": 200},
            )
        ),
        700 * 2 + 250 + 800 + 1000,
    ),
    (
        "DeepSeek",
        tokens(prompt_cache_hit_tokens=800, prompt_cache_miss_tokens=200),
        200 * 2 + 160 + 1000,
    ),
    ("Mistral", tokens(num_cached_tokens=500), 1000 + 100 + 1000),
    ("Moonshot", tokens(cached_tokens=500), 1000 + 100 + 1000),
    (
        "Bedrock",
        tokens(cacheReadInputTokens=300, cacheWriteInputTokens=100),
        600 * 2 + 60 + 250 + 1000,
    ),
    ("llama.cpp", tokens(133, 10, **read(cached_tokens=119)), 14 * 2 + 23.8 + 100),
    (
        "xAI: reasoning beside the answer",
        tokens(total_tokens=1300, completion_tokens_details={"reasoning_tokens": 200}),
        2000 + 3000,
    ),
    ("audio", tokens(**read(audio_tokens=250)), 750 * 2 + 250 * 20 + 1000),
    ("flex", tokens(tier="flex", **read(cached_tokens=400)), 600 + 40 + 500),
    ("priority", tokens(tier="priority"), 4000 + 2000),
    ("the usual tier", tokens(tier="default"), 3000),
    ("long", tokens(200_001), 200_001 * 4 + 1500),
    ("not quite long", tokens(200_000), 200_000 * 2 + 1000),
    ("relay: cached beside the input", tokens(10, 100, cached_tokens=400), 80 + 1000),
]
CHAT_BILLS = [
    ("OpenRouter", tokens(cost=0.00095, **read(cached_tokens=400)), 950),
    (
        "OpenRouter with a key of one's own",
        tokens(cost=0.0005, is_byok=True, cost_details={"upstream_inference_cost": 0.0095}),
        500 + 9500,
    ),
    ("OpenRouter's free models", tokens(cost=0), 0),
    ("xAI", tokens(cost_in_usd_ticks=37_756_000), 3775.6),
    ("Perplexity", tokens(cost={"input_tokens_cost": 0.002, "total_cost": 0.006}), 6000),
    ("LiteLLM", tokens(cost=7.2e-06), 7.2),
    ("DeepInfra", tokens(estimated_cost=2.68e-05), 26.8),
    ("a number as text", tokens(cost="0.002"), 2000),
]
NO_BILLS = [tokens(cost=value) for value in (None, -1, True, "free", {}, [], 1e400, "nan")]
"""A cost that is none: the price list counts."""

RESPONSES = [
    (
        "OpenAI",
        {
            "input_tokens": 1000,
            "input_tokens_details": {"cached_tokens": 400, "cache_write_tokens": 100},
            "output_tokens": 100,
        },
        500 * 2 + 80 + 250 + 1000,
    ),
    ("flex", {"input_tokens": 1000, "output_tokens": 100, "tier": "flex"}, 1000 + 500),
]
RESPONSES_BILLS = [
    ("LiteLLM", {"input_tokens": 1000, "output_tokens": 100, "cost": 0.002}, 2000),
]
ANTHROPIC = [
    ("plain", {"input_tokens": 500, "output_tokens": 100}, 1000 + 1000),
    (
        "written for 5 minutes and for an hour",
        {
            "input_tokens": 100,
            "cache_read_input_tokens": 1000,
            "cache_creation_input_tokens": 2000,
            "cache_creation": {
                "ephemeral_5m_input_tokens": 1500,
                "ephemeral_1h_input_tokens": 500,
            },
            "output_tokens": 100,
        },
        200 + 200 + 3750 + 2000 + 1000,
    ),
    (
        "written, and not said for how long",
        {"input_tokens": 100, "cache_creation_input_tokens": 2000, "output_tokens": 100},
        200 + 5000 + 1000,
    ),
    (
        "written, by its parts alone",
        {
            "input_tokens": 100,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
            "output_tokens": 100,
        },
        200 + 50 + 40 + 1000,
    ),
    ("batch", {"input_tokens": 500, "output_tokens": 100, "service_tier": "batch"}, 500 + 500),
    ("fast", {"input_tokens": 500, "output_tokens": 100, "speed": "fast"}, 6000 + 6000),
]
ANTHROPIC_BILLS = [("LiteLLM", {"input_tokens": 12, "output_tokens": 16, "cost": 5.52e-05}, 55.2)]


def gemini(given=1000, made=100, **others):
    return {"promptTokenCount": given, "candidatesTokenCount": made, **others}


def kinds(**counts):
    return [{"modality": kind, "tokenCount": count} for kind, count in counts.items()]


GEMINI = [
    (
        "cached, and thoughts beside the answer",
        gemini(cachedContentTokenCount=400, thoughtsTokenCount=50),
        1200 + 80 + 1500,
    ),
    ("text alone", gemini(promptTokensDetails=kinds(TEXT=1000)), 3000),
    (
        "audio and images read",
        gemini(promptTokensDetails=kinds(TEXT=700, AUDIO=200, IMAGE=100)),
        1400 + 4000 + 500 + 1000,
    ),
    (
        "an image made",
        gemini(made=1390, candidatesTokensDetails=kinds(TEXT=100, IMAGE=1290)),
        2000 + 1000 + 1290 * 40,
    ),
    ("Vertex: flex", gemini(trafficType="ON_DEMAND_FLEX"), 1000 + 500),
    ("Vertex: the usual", gemini(trafficType="ON_DEMAND"), 3000),
    ("priority", gemini(serviceTier="priority"), 4000 + 2000),
]
OLLAMA = [("plain", {"prompt_eval_count": 1000, "eval_count": 100}, 3000)]


def chat(usage, *, streamed):
    usage = dict(usage)
    beside = {"service_tier": usage.pop("tier")} if "tier" in usage else {}
    if not streamed:
        message = {"role": "assistant", "content": "Hi"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return Answer(200, {}, {"choices": [choice], "usage": usage, **beside})
    said = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}
    ended = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return sse(said | beside, ended | beside, {"choices": [], "usage": usage, **beside}, "[DONE]")


def responses(usage, *, streamed):
    usage = dict(usage)
    text = {"type": "output_text", "text": "Hi", "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    response = {
        "id": "r",
        "status": "completed",
        "service_tier": usage.pop("tier", None),
        "output": [message | {"content": [text]}],
        "usage": usage,
    }
    if not streamed:
        return Answer(200, {}, response)
    delta = {"type": "response.output_text.delta", "output_index": 0, "item_id": "m", "delta": "Hi"}
    return sse(delta, {"type": "response.completed", "response": response})


def anthropic(usage, *, streamed):
    block = {"type": "text", "text": "Hi"}
    message = {"type": "message", "role": "assistant", "content": [block]}
    if not streamed:
        return Answer(200, {}, message | {"stop_reason": "end_turn", "usage": usage})
    # The input is counted at the start, the output and the bill at the end.
    late = {name: usage[name] for name in ("output_tokens", "cost") if name in usage}
    early = {name: value for name, value in usage.items() if name not in late}
    start = message | {"content": [], "usage": early | {"output_tokens": 1}}
    return sse(
        ("message_start", {"type": "message_start", "message": start}),
        _block("content_block_start", content_block={"type": "text", "text": ""}),
        _block("content_block_delta", delta={"type": "text_delta", "text": "Hi"}),
        _block("content_block_stop"),
        (
            "message_delta",
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": late},
        ),
        ("message_stop", {"type": "message_stop"}),
    )


def _block(kind, **fields):
    return kind, {"type": kind, "index": 0, **fields}


def google(usage, *, streamed):
    def chunk(text, counts, **more):
        content = {"role": "model", "parts": [{"text": text}]}
        return {"candidates": [{"content": content, **more}], "usageMetadata": counts}

    if not streamed:
        return Answer(200, {}, chunk("Hi", usage, finishReason="STOP"))
    return sse(chunk("H", {"promptTokenCount": 7}), chunk("i", usage, finishReason="STOP"))


def ollama(usage, *, streamed):
    message = {"role": "assistant", "content": "Hi"}
    last = {"message": message, "done": True, "done_reason": "stop", **usage}
    if not streamed:
        return Answer(200, {}, last)
    return ndjson({"message": message, "done": False}, last | {"message": {"content": ""}})


WIRES = {
    "chat": ("openai+http://k@127.0.0.1:{}/v1?api=chat", chat),
    "responses": ("openai+http://k@127.0.0.1:{}/v1?api=responses", responses),
    "anthropic": ("anthropic+http://k@127.0.0.1:{}", anthropic),
    "google": ("google+http://k@127.0.0.1:{}", google),
    "ollama": ("ollama+http://127.0.0.1:{}", ollama),
}
LISTED = {
    "chat": CHAT,
    "responses": RESPONSES,
    "anthropic": ANTHROPIC,
    "google": GEMINI,
    "ollama": OLLAMA,
}
BILLED = {"chat": CHAT_BILLS, "responses": RESPONSES_BILLS, "anthropic": ANTHROPIC_BILLS}


async def cost(wire, usage, *, streamed, prices=None):
    """Return what an answer with this usage costs."""
    dsn, reply = WIRES[wire]
    async with FaultServer(default=reply(usage, streamed=streamed)) as server:
        env = {"LLM_BOX": dsn.format(server.port)}
        async with Registry(env=env, prices={"box/*": PRICE} if prices is None else prices) as reg:
            response = await reg.generate("box/m", "hi")
    assert response.text == "Hi"
    return response.cost


def rows(tables):
    return [
        pytest.param(wire, usage, expected, id=f"{wire}: {name}")
        for wire, table in tables.items()
        for name, usage, expected in table
    ]


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(("wire", "usage", "expected"), rows(LISTED))
async def test_a_listed_cost_is_that_of_the_hand_checked_table(wire, usage, expected, streamed):
    found = await cost(wire, usage, streamed=streamed)
    assert (found.source, found.lost) == ("listed", 0.0)
    assert found.usd == pytest.approx(expected / 1e6, rel=1e-9)
    assert found.total == found.usd


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(("wire", "usage", "expected"), rows(BILLED))
async def test_what_the_service_bills_beats_the_list(wire, usage, expected, streamed):
    for prices in (None, False):
        found = await cost(wire, usage, streamed=streamed, prices=prices)
        assert found.source == "billed"
        assert found.usd == pytest.approx(expected / 1e6, rel=1e-9)


@pytest.mark.parametrize("usage", NO_BILLS, ids=lambda usage: repr(usage["cost"]))
async def test_a_bill_that_is_no_amount_of_money_is_ignored(usage):
    found = await cost("chat", usage, streamed=True)
    assert found == Cost(0.003, "listed")


@pytest.mark.parametrize(
    ("usage", "prices"),
    [
        (tokens(), False),
        (tokens(), {"other/*": PRICE}),
        ({}, None),
        ({"completion_tokens": 9}, None),
    ],
    ids=["no prices", "none for this target", "no counts", "no count of the input"],
)
async def test_what_is_not_known_is_not_0(usage, prices):
    found = await cost("chat", usage, streamed=True, prices=prices)
    assert found == Cost(None, "unknown", 0.0)
    assert found.total is None
