"""Counts of tokens that cannot be: negative ones, and more than anyone can count, are left out."""

from __future__ import annotations

import json

import pytest

from aiollm import Price, Registry, Response, from_json, to_json
from aiollm.testing import End, FaultServer, Raw

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nConnection: close\r\n\r\n"


def chat(count):
    yield '{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}],'
    yield f'"usage":{{"prompt_tokens":{count},"completion_tokens":3}}}}\n'


def responses(count):
    yield '{"type":"response.output_text.delta","item_id":"m","output_index":0,'
    yield '"content_index":0,"delta":"a"}\n'
    yield '{"type":"response.completed","response":{"id":"r","status":"completed","output":'
    yield '[{"type":"message","id":"m","content":[{"type":"output_text","text":"a"}]}],'
    yield f'"usage":{{"input_tokens":{count},"output_tokens":3}}}}}}\n'


def anthropic(count):
    yield '{"type":"message_start","message":{"usage":'
    yield f'{{"input_tokens":{count},"output_tokens":1}}}}}}\n'
    yield '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}\n'
    yield '{"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    yield '"usage":{"output_tokens":3}}\n{"type":"message_stop"}\n'


def google(count):
    yield '{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}],'
    yield f'"usageMetadata":{{"promptTokenCount":{count},"candidatesTokenCount":3}}}}\n'


def ollama(count):
    yield '{"message":{"content":"a"},"done":true,"done_reason":"stop",'
    yield f'"prompt_eval_count":{count},"eval_count":3}}\n'


DSN = {
    chat: "openai+http://k@127.0.0.1:{}?tpm=100000",
    responses: "openai+http://k@127.0.0.1:{}?tpm=100000&api=responses",
    anthropic: "anthropic+http://k@127.0.0.1:{}?tpm=100000",
    google: "google+http://k@127.0.0.1:{}?tpm=100000",
    ollama: "ollama+http://127.0.0.1:{}?tpm=100000",
}


def reply(wire, count):
    lines = "".join(wire(count)).splitlines()
    if wire is ollama:
        return HEAD % b"application/x-ndjson" + b"".join(line.encode() + b"\n" for line in lines)
    kinds = (json.loads(line).get("type", "message") for line in lines)
    events = (f"event: {kind}\ndata: {line}\n\n" for kind, line in zip(kinds, lines, strict=True))
    return HEAD % b"text/event-stream" + "".join(events).encode()


@pytest.mark.parametrize("count", ["-1", str(2**53 + 1), str(2**70), "1" + "0" * 400, "1e300"])
@pytest.mark.parametrize("wire", DSN, ids=lambda wire: wire.__name__)
async def test_a_count_that_cannot_be_is_left_out(wire, count):
    async with (
        FaultServer(default=Raw((reply(wire, count), End("close")))) as server,
        Registry(
            env={"LLM_A": DSN[wire].format(server.port)}, retries=0, prices={"a/m": Price(1, 1)}
        ) as reg,
    ):
        response = await reg.generate("a/m", "hi")
    assert (response.text, response.usage.output_tokens) == ("a", 3)
    assert response.usage.input_tokens == 0
    assert from_json(to_json(response), Response).usage == response.usage


@pytest.mark.parametrize("wire", DSN, ids=lambda wire: wire.__name__)
async def test_the_largest_count_is_believed(wire):
    async with (
        FaultServer(default=Raw((reply(wire, 2**53), End("close")))) as server,
        Registry(env={"LLM_A": DSN[wire].format(server.port)}, retries=0) as reg,
    ):
        usage = (await reg.generate("a/m", "hi")).usage
    assert (usage.input_tokens, usage.certainty) == (2**53, "exact")
