"""How much work hostile answers are, in bytecode instructions a byte: bounded, and linear.

The shapes are those of `benchmarks/hostile.py`, which measures time, stalls and memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from aiollm import FailoverError, LLMError, Registry
from aiollm._http import streaming
from aiollm.provider import Operation, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec

HERE = Path(__file__).parent


def loaded(path: Path) -> Any:
    """Return a module that is no package's."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hostile = loaded(HERE.parents[1] / "benchmarks/hostile.py")
streams = loaded(HERE / "test_work.py")

CODECS = {
    "chat": ChatCodec,
    "responses": ResponsesCodec,
    "anthropic": AnthropicCodec,
    "google": GoogleCodec,
    "ollama": OllamaCodec,
}
SIZE = 4 * 1024
READ = 2048
ONCE = 20_000
"""Instructions that a call takes whatever comes: encoding, failover, errors, the first modules."""

A_BYTE = 27
"""Instructions a byte: a blank line takes 14, an odd value of a dozen bytes some 250."""


LARGE = 128 * 1024
"""Bytes of a read that is cut into pieces."""

A_PART = 600
"""Instructions that one part of a frame takes, such as a choice or a call."""


async def work(name: str, size: int, read: int = READ) -> int:
    """Return the instructions that it takes to read one answer to whatever end."""
    wire, make = hostile.SHAPES[name]
    body = make(size)
    reads = [body[at : at + read] for at in range(0, len(body), read)]

    def adapter(provider, _, target, request, timeouts):
        return streaming.stream(provider, streams.Memory(reads), target, request, timeouts)

    chat = {"chat": Operation(adapter=adapter)}
    row = Provider("mem", wire, "http://mem.invalid/v1", CODECS[wire](), operations=chat)
    async with Registry(env={}, retries=0) as reg:
        reg.register("mem", row)
        with streams.Counter() as counter:
            with contextlib.suppress(LLMError, FailoverError):
                await reg.stream("mem/model", "hi").collect()
    return counter.count


@pytest.mark.parametrize("name", hostile.SHAPES)
def test_a_hostile_byte_costs_few_instructions_and_many_cost_no_more(name):
    asyncio.run(work(name, SIZE))  # all is imported
    small, large = asyncio.run(work(name, SIZE)), asyncio.run(work(name, 4 * SIZE))
    assert large <= ONCE + A_BYTE * 4 * SIZE
    assert large <= 4.4 * small + 2 * ONCE


@pytest.mark.parametrize("wire", CODECS)
def test_reads_that_are_too_large_cost_no_more_the_more_there_are(wire):
    few, many = (asyncio.run(work(f"{wire}: one text", size * LARGE, LARGE)) for size in (8, 32))
    assert many <= 4.4 * few


@pytest.mark.parametrize("name", [name for name in hostile.SHAPES if "many values" in name])
def test_one_large_frame_has_few_parts_or_is_refused(name):
    """Its parts are read without a turn of the loop between two of them."""
    size = 8 * LARGE
    asyncio.run(work(name, SIZE))
    assert asyncio.run(work(name, size, size)) <= ONCE + A_PART * 1024
