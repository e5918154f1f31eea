"""What a turn of a long conversation costs besides the network: CPU, the longest stall, memory.

    python benchmarks/histories.py [--turns 200] [--messages 2000] [--images 20] [--wire openai ...]

The network is a stand-in in memory, which reads each body to its end as the transport does, so
that checks, encoding and base64 count, and sockets do not. A stall is the most CPU that one step
of the event loop took. A row: the first turn, the mean of the next twenty, that of the last twenty,
and Python's memory at the end, beside what it was at the start.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import struct
import sys
import time
import tracemalloc
import zlib
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar, Self

sys.path.insert(0, str(Path(__file__).parent.parent))

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
from aiollm.provider import HttpRequest, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.llama_swap.codec import LlamaSwapCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.testing import chat
from benchmarks import replay

CODECS: dict[str, Any] = {
    "openai": ChatCodec,
    "responses": ResponsesCodec,
    "llama-swap": LlamaSwapCodec,
    "anthropic": AnthropicCodec,
    "google": GoogleCodec,
    "ollama": OllamaCodec,
}
FEW = 20
WORDS = "the tool has looked at it and says that all is well in the north and in the south"


class Reply:
    status = 200
    headers: ClassVar[dict[str, str]] = {}
    content_type = "text/event-stream"
    has_body = True

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        pass


class Network:
    """Takes bodies as the transport does, and answers each with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.sent = 0

    async def send(self, request: HttpRequest, _: float | None) -> Reply:
        assert request.body is not None
        self.sent = 0
        for piece in request.body.slices():
            self.sent += len(piece)
            if self.sent > 64 * 1024:
                await asyncio.sleep(0)
        return Reply(self._answer)

    async def aclose(self) -> None:
        pass


class Stall:
    """The most CPU of one step of the loop, while it is entered."""

    def __enter__(self) -> Self:
        self.longest = 0.0
        run = self._run = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            self.longest = max(self.longest, time.thread_time() - began)

        asyncio.Handle._run = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.Handle._run = self._run  # type: ignore[method-assign]


def answer_of(wire: str) -> bytes:
    if wire != "responses":
        name = "openai" if wire == "llama-swap" else wire
        return b"".join(replay.WIRES[name](4))
    done = b'{"type":"response.completed","response":{"status":"completed","output":[]}}'
    delta = b'{"type":"response.output_text.delta","delta":" word","output_index":0}'
    return b"data: %b\n\n" % delta + b"data: %b\n\n" % done


def said(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS.split(), k=words))


def turn(rng: random.Random, number: int) -> list[Message]:
    """Return what a turn adds: a call with some words, and its result."""
    call = ToolCallPart(f"call_{number:05}", "look", '{"where": "north", "depth": 3}')
    return [
        assistant(said(rng, 12), call),
        tool_results(ToolResultPart(call.id, said(rng, 40), "look")),
    ]


def png(rng: random.Random, size: int) -> bytes:
    """Return a PNG of about `size` bytes that no target has to have changed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    width = height = 600
    rows = b"".join(b"\0" + rng.randbytes(width * 3) for _ in range(height))
    rows = rows[:size] + bytes(max(0, len(rows) - size))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows, 0)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


async def measure(wire: str, turns: int, messages: int, images: int) -> dict[str, float]:
    rng = random.Random(7)
    begun = [user("Look north, and say what is there.")]
    if images:
        begun = [user("What are these?", *(ImagePart(png(rng, 1_000_000)) for _ in range(images)))]
    history = begun
    while len(history) < messages:
        history = [*history, *turn(rng, len(history))]
    tools = (Tool("look", "Look somewhere."),)
    row = Provider("mem", wire, "http://mem.invalid/v1", CODECS[wire]())
    async with Registry(env={}) as reg:
        reg.register("mem", row)
        reg._resources._transport = network = Network(answer_of(wire))  # type: ignore[assignment]
        gc.collect()
        gc.freeze()
        costs, stalls = [], []
        for number in range(turns):
            request = Request(history, tools=tools)
            with Stall() as stall:
                began = time.process_time()
                await asyncio.create_task(reg.stream("mem/m", request).collect())
                costs.append(time.process_time() - began)
            stalls.append(stall.longest)
            history = [*history, *turn(rng, 100_000 + number)]
        tracemalloc.start()  # only what is made from here on is seen: one turn more
        before = tracemalloc.get_traced_memory()[0]
        await reg.stream("mem/m", Request(history, tools=tools)).collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    return {
        "first": costs[0],
        "second": costs[1],
        "early": mean(sorted(costs[1 : FEW + 1])[: FEW // 2]),
        "late": mean(sorted(costs[-FEW:])[: FEW // 2]),
        "stall": max(stalls[:1]),
        "later": sorted(stalls[1:])[-2],
        "body": network.sent,
        "grown": grown,
    }


class Model(Network):
    """Answers with a call of a tool, and notes the CPU so far at each request."""

    def __init__(self, turns: int) -> None:
        super().__init__(b"")
        self.turns = turns
        self.at: list[float] = []

    async def send(self, request: HttpRequest, connect: float | None) -> Reply:
        await super().send(request, connect)
        self.at.append(time.process_time())
        call = {"name": "look", "arguments": "{}"}
        wire = {"index": 0, "id": f"run_{len(self.at)}", "type": "function", "function": call}
        is_last = len(self.at) == self.turns
        said = chat("Done.") if is_last else chat({"tool_calls": [wire]}, finish="tool_calls")
        return Reply(b"".join(each for each in said.body if isinstance(each, bytes)))


async def measure_run(turns: int, messages: int) -> dict[str, float]:
    """Measure a run of an agent over chat completions, its loop and its tool included."""
    rng = random.Random(7)
    history = [user("Look north, and say what is there.")]
    while len(history) < messages:
        history += turn(rng, len(history))

    async def look() -> str:
        return said(rng, 40)

    async with Registry(env={}) as reg:
        reg.register("mem", Provider("mem", "openai", "http://mem.invalid/v1", ChatCodec()))
        reg._resources._transport = model = Model(turns)  # type: ignore[assignment]
        tools = [Tool("look", function=look)]
        run = reg.run("mem/m", Request(history), tools=tools, max_turns=turns)
        with Stall() as stall:
            began = time.process_time()
            await asyncio.create_task(run.collect())
    costs = [after - before for before, after in pairwise([began, *model.at])]
    early, late = (mean(sorted(each)[: FEW // 2]) for each in (costs[1 : FEW + 1], costs[-FEW:]))
    return {"first": costs[0], "second": costs[1], "early": early, "late": late} | {
        "stall": stall.longest, "later": stall.longest, "body": model.sent, "grown": 0.0,
    }  # fmt: skip


def shown(wire: str, found: dict[str, float]) -> str:
    ms = [f"{found[name] * 1e3:8.2f}" for name in ("first", "second", "early", "late")]
    ms += [f"{found[name] * 1e3:8.2f}" for name in ("stall", "later")]
    return f"{wire:11}{''.join(ms)} {found['body'] / 1e6:8.2f} {found['grown'] / 1e3:8.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--wire", nargs="*", default=[*CODECS])
    asked = parser.parse_args()
    head = "ms CPU:       first  second   early    late  stall 1 stall 2+  MB sent  KB/turn"
    print(f"{asked.turns} turns on {asked.messages} messages\n{head}")
    for wire in asked.wire:
        print(shown(wire, asyncio.run(measure(wire, asked.turns, asked.messages, 0))), flush=True)
    print(shown("a run", asyncio.run(measure_run(asked.turns, asked.messages))), flush=True)
    print(f"{asked.images} images of 1 MB\n{head}")
    for wire in asked.wire:
        found = asyncio.run(measure(wire, 2 * FEW, 2, asked.images))
        print(shown(wire, found), flush=True)


if __name__ == "__main__":
    main()
