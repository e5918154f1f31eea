"""CPU of `reg.stream` beside the limit: aiohttp, split, typed msgspec and one generator.

Both read the same bytes from one server, in interleaved rounds of one run; what counts is the
ratio of the minima. The short form of `make bench`, without peers.
Usage: python benchmarks/stream.py [--rounds 15] [--wire openai ...]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import msgspec

from aiollm import Registry

BLAST = 2000
SHORT = 8
BARS = {"blast": 1.4, "short": 1.2}
SCHEMES = {"openai": "", "anthropic": "/v1", "google": "/v1beta", "ollama": ""}
MODELS = {
    "openai": "gpt-6.1-sol",
    "anthropic": "claude-opus-5-5",
    "google": "gemini-3.8-flash",
    "ollama": "qwen3:8b",
}


class OpenAIDelta(msgspec.Struct):
    content: str | None = None


class OpenAIChoice(msgspec.Struct):
    delta: OpenAIDelta


class OpenAIChunk(msgspec.Struct):
    choices: list[OpenAIChoice]


class AnthropicDelta(msgspec.Struct):
    text: str = ""


class AnthropicEvent(msgspec.Struct):
    type: str
    delta: AnthropicDelta | None = None


class GooglePart(msgspec.Struct):
    text: str = ""


class GoogleContent(msgspec.Struct):
    parts: list[GooglePart] = []


class GoogleCandidate(msgspec.Struct):
    content: GoogleContent | None = None


class GoogleChunk(msgspec.Struct):
    candidates: list[GoogleCandidate]


class OllamaMessage(msgspec.Struct):
    content: str = ""


class OllamaLine(msgspec.Struct):
    message: OllamaMessage


def _texts(wire: str) -> Callable[[bytes], str | None]:
    """Return the cheapest frame-to-text function of a wire, None for what is no JSON."""
    match wire:
        case "openai":
            openai = msgspec.json.Decoder(OpenAIChunk).decode

            def text(event: bytes) -> str | None:
                if event[6:12] == b"[DONE]":
                    return None
                choices = openai(event[6:]).choices
                return choices[0].delta.content if choices else None
        case "anthropic":
            anthropic = msgspec.json.Decoder(AnthropicEvent).decode

            def text(event: bytes) -> str | None:
                found = anthropic(event[event.index(b"data: ") + 6 :])
                return found.delta.text if found.delta is not None else None
        case "google":
            google = msgspec.json.Decoder(GoogleChunk).decode

            def text(event: bytes) -> str | None:
                content = google(event[6:]).candidates[0].content
                return content.parts[0].text if content is not None else None
        case _:
            ollama = msgspec.json.Decoder(OllamaLine).decode

            def text(event: bytes) -> str | None:
                return ollama(event).message.content

    return text


async def limit(
    session: aiohttp.ClientSession, url: str, wire: str, body: bytes
) -> AsyncIterator[str]:
    """The least that can be done with aiohttp and still be a stream of typed text."""
    text = _texts(wire)
    separator = {"google": b"\r\n\r\n", "ollama": b"\n"}.get(wire, b"\n\n")
    headers = {"Content-Type": "application/json", "Authorization": "Bearer k"}
    async with session.post(url, data=body, headers=headers) as response:
        rest = b""
        async for data in response.content.iter_any():
            *events, rest = (rest + data).split(separator)
            for event in events:
                found = text(event)
                if found:
                    yield found


async def _run_limit(session: aiohttp.ClientSession, url: str, wire: str) -> int:
    body = msgspec.json.encode(
        {"model": MODELS[wire], "messages": [{"role": "user", "content": "hi"}], "stream": True}
    )
    return len([text async for text in limit(session, url, wire, body)])


async def _run_aiollm(registry: Registry, spec: str) -> int:
    count = 0
    async for chunk in registry.stream(spec, "hi"):
        if chunk.text:
            count += 1
    return count


class Server:
    """The replay server in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("replay.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.port = json.loads(self._process.stdout.readline())["plain"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


async def _cpu(work: Callable[[], Awaitable[int]], times: int, expected: int) -> float:
    """Return CPU seconds of `times` runs, each checked for its count of texts."""
    began = time.process_time()
    for _ in range(times):
        got = await work()
        assert got == expected, f"{got} texts instead of {expected}"
    return time.process_time() - began


async def measure(wire: str, layout: str, count: int, port: int, rounds: int) -> dict[str, float]:
    """Return minima and medians in microseconds a unit: a chunk, or a request if short."""
    base = f"http://127.0.0.1:{port}/{wire}/{layout}/{count}"
    dsn = f"{wire}+http://k@127.0.0.1:{port}/{wire}/{layout}/{count}{SCHEMES[wire]}"
    times = 4 if count == BLAST else 200
    unit = times * (count if count == BLAST else 1)
    found: dict[str, list[float]] = {"limit": [], "aiollm": []}
    options = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        Registry(env={f"LLM_{wire.upper()}": dsn}) as registry,
        aiohttp.ClientSession(timeout=options, connector=connector) as session,
    ):
        work = {
            "limit": lambda: _run_limit(session, base + "/x", wire),
            "aiollm": lambda: _run_aiollm(registry, f"{wire}/{MODELS[wire]}"),
        }
        for run in work.values():
            await _cpu(run, 2, count)
        for turn in range(rounds):
            for name in sorted(work, reverse=bool(turn % 2)):
                found[name].append(await _cpu(work[name], times, count) / unit * 1e6)
    ratios = [ours / least for ours, least in zip(found["aiollm"], found["limit"], strict=True)]
    return {
        "limit_us": min(found["limit"]),
        "aiollm_us": min(found["aiollm"]),
        "ratio": min(found["aiollm"]) / min(found["limit"]),
        "paired_median": statistics.median(ratios),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--wire", nargs="*", default=list(MODELS))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    server = Server()
    rows = []
    try:
        for wire in given.wire:
            for layout, count in (("events", BLAST), ("events", SHORT)):
                kind = "blast" if count == BLAST else "short"
                figures = await measure(wire, layout, count, server.port, given.rounds)
                rows.append({"wire": wire, "kind": kind, **figures})
    finally:
        server.close()
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'wire':10} {'kind':6} {'limit':>9} {'aiollm':>9}  x limit  paired  bar")
    for row in rows:
        bar = BARS[row["kind"]]
        print(
            f"{row['wire']:10} {row['kind']:6} {row['limit_us']:7.2f}us {row['aiollm_us']:7.2f}us"
            f"  {row['ratio']:7.2f}  {row['paired_median']:6.2f}  {bar}"
        )
    print("blast: CPU a chunk of 2,000; short: CPU a request of 8 chunks; minima, interleaved")


if __name__ == "__main__":
    asyncio.run(main())
