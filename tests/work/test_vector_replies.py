"""How much work a reply of vectors is, in bytecode instructions a vector."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from array import array
from base64 import b64encode
from pathlib import Path

import pytest

from aiollm._http.retrieving import _embeddings
from aiollm.provider import HttpResponse
from aiollm.providers.openai.embed_codec import OpenAIEmbeddings
from aiollm.retrieval import EmbedRequest

spec = importlib.util.spec_from_file_location("streams", Path(__file__).parent / "test_work.py")
streams = importlib.util.module_from_spec(spec)
spec.loader.exec_module(streams)

A_VECTOR = 125
"""Instructions that a vector takes: most of them to find its braces and commas."""


def reply(count: int, width: int = 1536) -> bytes:
    vector = b64encode(array("f", [n / 7 for n in range(width)]).tobytes()).decode()
    items = [{"object": "embedding", "index": n, "embedding": vector} for n in range(count)]
    return json.dumps({"object": "list", "data": items, "usage": {"prompt_tokens": 1}}).encode()


def work(count: int) -> int:
    """Return the instructions that it takes to read a reply."""
    request = EmbedRequest(["x"] * count)
    response = HttpResponse(200, {}, reply(count), "")
    codec = OpenAIEmbeddings()
    asyncio.run(_embeddings(codec, response, request))
    reading = _embeddings(codec, response, request)
    with streams.Counter() as counter, pytest.raises(StopIteration):
        while True:
            reading.send(None)
    return counter.count


def test_a_vector_costs_few_instructions():
    assert (work(100) - work(20)) / 80 <= A_VECTOR
