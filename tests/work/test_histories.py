"""How much work a turn of a long conversation is, in bytecode instructions: it does not grow.

All that comes before the transport is counted, and the answer: checks, limits, encoding, decoding.
"""

from __future__ import annotations

import asyncio
import importlib.util
import struct
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import pytest

from aiollm import (
    ImagePart,
    Message,
    Registry,
    Request,
    Tool,
    ToolCallPart,
    ToolResultPart,
    assistant,
    tool_results,
    user,
)
from aiollm.dsn import DsnOptions
from aiollm.provider import Provider
from aiollm.providers.openai.responses_codec import ResponsesCodec

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("test_work", HERE / "test_work.py")
streams = importlib.util.module_from_spec(spec)
spec.loader.exec_module(streams)

CODECS = streams.CODECS | {"responses": ResponsesCodec}

# Instructions of a turn that adds a call and its result, however long the history is.
BOUNDS = {
    "openai": 12300,
    "responses": 11400,
    "anthropic": 13100,
    "google": 12800,
    "ollama": 11300,
}


class Memory:
    """A transport that reads each body to its end, and whose replies are there already."""

    def __init__(self, reads: list[bytes]) -> None:
        self.reads = reads

    async def send(self, request: Any, connect: float | None) -> Any:
        for _ in request.body.slices():
            pass
        return streams.Reply(self.reads)

    async def aclose(self) -> None:
        pass


def turn(number: int) -> list[Message]:
    call = ToolCallPart(f"call_{number}", "look")
    return [assistant("I look.", call), tool_results(ToolResultPart(call.id, "seen", "look"))]


async def last_turn(wire: str, turns: int, *first: Any, **limits: Any) -> int:
    """Return the instructions of the last of three turns, after so many that were before."""
    history = [user("The task.", *first)]
    for number in range(turns):
        history += turn(number)
    row = Provider(
        "mem", wire, "http://mem.invalid/v1", CODECS[wire](), options=DsnOptions(**limits)
    )
    known = wire if wire in streams.CODECS else "openai"
    reads = streams.reads_of(known, 8, 1000)
    if known != wire:
        reads = [b'data: {"type":"response.completed","response":{"status":"completed"}}\n\n']
    async with Registry(env={}) as reg:
        reg.register("mem", row)
        await reg._resources.open_pool()
        reg._resources._transport = Memory(reads)
        for number in range(3):
            history += turn(9000 + number)
            with streams.Counter() as counter:
                await reg.stream("mem/m", Request(history, tools=(Tool("look"),))).collect()
    return counter.count


def turn_of(wire: str, turns: int, *first: Any, **limits: Any) -> int:
    return asyncio.run(last_turn(wire, turns, *first, **limits))


@pytest.mark.parametrize("wire", CODECS)
def test_a_turn_costs_few_instructions_and_the_same_on_any_history(wire):
    short, long = turn_of(wire, 50), turn_of(wire, 1000)
    assert long <= 1.01 * short
    assert long <= BOUNDS[wire]


def test_a_turn_costs_the_same_under_limits_of_tokens():
    short, long = (turn_of("openai", turns, tpm=10**9) for turns in (50, 1000))
    assert long <= 1.01 * short


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", compress(bytes(8 * 25)))
    return b"\x89PNG\r\n\x1a\n" + head + pixels + chunk(b"IEND", b"")


def test_a_turn_costs_the_same_with_images():
    short, long = (turn_of("anthropic", turns, ImagePart(png())) for turns in (50, 1000))
    assert long <= 1.01 * short
