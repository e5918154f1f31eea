"""Nanoseconds a chunk from bytes to text, without any IO, beside split and typed msgspec.

All ways read the same bytes in reads of the same size, in interleaved rounds of one run; what
counts is the ratio of the minima. Usage: python benchmarks/parsing.py [--rounds 25] [--read 32768]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import msgspec
from replay import WIRES

from aiollm.provider import Codec
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.types import TextDelta

CHUNKS = 4000
WORD = " word"

Run = Callable[[list[bytes]], str]


def responses(count: int) -> list[bytes]:
    """Return the events of OpenAI's Responses; the other wires are those of replay.py."""

    def event(name: str, rest: str) -> bytes:
        return f'event: {name}\ndata: {{"type":"{name}",{rest}}}\n\n'.encode()

    delta = event(
        "response.output_text.delta",
        f'"sequence_number":7,"item_id":"msg_1","output_index":0,"content_index":0,'
        f'"delta":"{WORD}","logprobs":[],"obfuscation":"aZ3x"',
    )
    end = event(
        "response.completed",
        '"sequence_number":9,"response":{"id":"resp_1","object":"response","status":"completed",'
        '"output":[],"usage":{"input_tokens":21,"output_tokens":17}}',
    )
    return [delta] * count + [end]


class OpenAIDelta(msgspec.Struct):
    content: str | None = None


class OpenAIChoice(msgspec.Struct):
    delta: OpenAIDelta


class OpenAI(msgspec.Struct):
    choices: list[OpenAIChoice]


class Responses(msgspec.Struct):
    delta: str = ""


class AnthropicDelta(msgspec.Struct):
    text: str = ""


class Anthropic(msgspec.Struct):
    delta: AnthropicDelta | None = None


class GooglePart(msgspec.Struct):
    text: str = ""


class GoogleContent(msgspec.Struct):
    parts: list[GooglePart] = []


class GoogleCandidate(msgspec.Struct):
    content: GoogleContent


class Google(msgspec.Struct):
    candidates: list[GoogleCandidate]


class OllamaMessage(msgspec.Struct):
    content: str = ""


class Ollama(msgspec.Struct):
    message: OllamaMessage


class Wire(msgspec.Struct):
    """A wire format: its events, our codec, and the least that any reader must do."""

    events: Callable[[int], list[bytes]]
    codec: Codec
    chunk: Any
    text: Callable[[Any], str | None]
    separator: bytes = b"\n\n"
    skip: bytes = b"data: "


TABLE = {
    "openai": Wire(
        WIRES["openai"], ChatCodec(), OpenAI,
        lambda chunk: chunk.choices[0].delta.content if chunk.choices else None,
    ),
    "responses": Wire(responses, ResponsesCodec(), Responses, lambda chunk: chunk.delta),
    "anthropic": Wire(
        WIRES["anthropic"], AnthropicCodec(), Anthropic,
        lambda chunk: chunk.delta.text if chunk.delta else None,
    ),
    "google": Wire(
        WIRES["google"], GoogleCodec(), Google,
        lambda chunk: chunk.candidates[0].content.parts[0].text, separator=b"\r\n\r\n",
    ),
    "ollama": Wire(
        WIRES["ollama"], OllamaCodec(), Ollama,
        lambda chunk: chunk.message.content, separator=b"\n", skip=b"",
    ),
}  # fmt: skip


def limit(wire: Wire) -> Run:
    """Split at the separator, decode into a minimal struct: correct for these bytes alone."""
    decode = msgspec.json.Decoder(wire.chunk).decode
    text, separator, skip = wire.text, wire.separator, wire.skip

    def run(reads: list[bytes]) -> str:
        texts = []
        rest = b""
        for read in reads:
            *events, rest = (rest + read).split(separator)
            for event in events:
                data = event[event.index(skip) + len(skip) :]
                if data != b"[DONE]":
                    texts.append(text(decode(data)) or "")
        return "".join(texts)

    return run


def framing(wire: Wire) -> Run:
    """Cut into frames as our streams do, and count the words."""

    def run(reads: list[bytes]) -> str:
        framer = wire.codec.framing()
        frames = []
        for read in reads:
            frames += framer.feed(read)
        return WORD * min(len(frames), CHUNKS)

    return run


def decoding(wire: Wire) -> Run:
    """Cut into frames and decode into chunks, as our streams do."""

    def run(reads: list[bytes]) -> str:
        framer, decoder = wire.codec.framing(), wire.codec.decoder()
        texts = []
        for read in reads:
            items: list[Any] = []
            decoder.feed(framer.feed(read), items)
            texts += [item.text for item in items if type(item) is TextDelta]
        assert decoder.finished or decoder.close(items) is None
        return "".join(texts)

    return run


WAYS = {"limit": limit, "framing": framing, "decoding": decoding}


def main() -> None:
    """Print one row a wire: nanoseconds a chunk of each way, and ours beside the limit."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=25)
    options.add_argument("--read", type=int, default=32 * 1024, help="bytes of one read")
    given = options.parse_args()
    runs, reads = {}, {}
    for name, wire in TABLE.items():
        body = b"".join(wire.events(CHUNKS))
        reads[name] = [body[at : at + given.read] for at in range(0, len(body), given.read)]
        for way, make in WAYS.items():
            runs[name, way] = make(wire)
            assert runs[name, way](reads[name]) == WORD * CHUNKS, (name, way)
    best: dict[tuple[str, str], float] = dict.fromkeys(runs, float("inf"))
    for _ in range(given.rounds):
        for key, run in runs.items():
            start = time.process_time_ns()
            run(reads[key[0]])
            best[key] = min(best[key], (time.process_time_ns() - start) / CHUNKS)
    print(f"ns a chunk, reads of {given.read} bytes")
    print(f"{'wire':<12}{'limit':>8}{'framing':>10}{'framing + decoding':>20}{'ratio':>8}")
    for name in TABLE:
        least, framed, whole = (best[name, way] for way in WAYS)
        print(f"{name:<12}{least:8.0f}{framed:10.0f}{whole:20.0f}{whole / least:8.2f}")


if __name__ == "__main__":
    main()
