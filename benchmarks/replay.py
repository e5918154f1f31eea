"""A loopback server for benchmarks, in a process of its own, that costs next to nothing.

It answers any POST with prebuilt bytes chosen by the path `/{wire}/{layout}/{count}/...`: `count`
chunks in the wire format, laid out as

    events  one HTTP chunk an event, all in one write
    packed  HTTP chunks of 16 KiB, all in one write
    paced   20 ms between the chunks; each one's text is the clock's reading when it was sent
    hold    the first chunk, and then nothing more
    large   one event whose text is `count` KiB, in HTTP chunks of 4 KiB

It prints its plain and its TLS port as JSON and ends when its standard input closes.
Usage: python benchmarks/replay.py [CERTIFICATE KEY]
"""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
import sys
import time
from collections.abc import Callable

PACE = 0.02
"""Seconds between the chunks of a paced stream."""

WORD = b" word"
STAMP = " %.6f "
BACKLOG = 8192


def _openai(count: int) -> list[bytes]:
    chunk = (
        b'data: {"id":"chatcmpl-Ck7q2ZxW1","object":"chat.completion.chunk",'
        b'"created":1795300000,"model":"gpt-6.1-sol","service_tier":"default",'
        b'"system_fingerprint":"fp_9d1c2b7a40","choices":[{"index":0,"delta":{"content":" word"},'
        b'"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"aZ3"}\n\n'
    )
    end = chunk.replace(b'{"content":" word"}', b"{}").replace(
        b'"finish_reason":null', b'"finish_reason":"stop"'
    )
    usage = (
        b'data: {"id":"chatcmpl-Ck7q2ZxW1","object":"chat.completion.chunk",'
        b'"created":1795300000,"model":"gpt-6.1-sol","choices":[],"usage":{"prompt_tokens":21,'
        b'"completion_tokens":17,"total_tokens":38}}\n\n'
    )
    return [chunk] * count + [end, usage, b"data: [DONE]\n\n"]


def _anthropic(count: int) -> list[bytes]:
    def event(name: bytes, rest: bytes) -> bytes:
        return b'event: %s\ndata: {"type":"%s"%s}\n\n' % (name, name, rest)

    start = event(
        b"message_start",
        b',"message":{"id":"msg_01","type":"message","role":"assistant",'
        b'"model":"claude-opus-5-5","content":[],"stop_reason":null,"stop_sequence":null,'
        b'"usage":{"input_tokens":25,"output_tokens":1}}',
    )
    block = event(b"content_block_start", b',"index":0,"content_block":{"type":"text","text":""}')
    delta = event(
        b"content_block_delta", b',"index":0,"delta":{"type":"text_delta","text":" word"}'
    )
    stop = event(b"content_block_stop", b',"index":0')
    end = event(
        b"message_delta",
        b',"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":17}',
    )
    return [start, block, *[delta] * count, stop, end, event(b"message_stop", b"")]


def _google(count: int) -> list[bytes]:
    chunk = (
        b'data: {"candidates": [{"content": {"parts": [{"text": " word"}],"role": "model"},'
        b'"index": 0}],"usageMetadata": {"promptTokenCount": 11,"candidatesTokenCount": 14,'
        b'"totalTokenCount": 25},"modelVersion": "gemini-3.8-flash","responseId": "r-1"}\r\n\r\n'
    )
    end = chunk.replace(b'"index": 0', b'"finishReason": "STOP","index": 0')
    return [chunk] * (count - 1) + [end]


def _ollama(count: int) -> list[bytes]:
    line = (
        b'{"model":"qwen3:8b","created_at":"2026-11-22T23:41:07.414671Z",'
        b'"message":{"role":"assistant","content":" word"},"done":false}\n'
    )
    end = (
        b'{"model":"qwen3:8b","created_at":"2026-11-22T23:41:07.414671Z",'
        b'"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",'
        b'"prompt_eval_count":26,"eval_count":282}\n'
    )
    return [line] * count + [end]


WIRES: dict[str, Callable[[int], list[bytes]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "google": _google,
    "ollama": _ollama,
}


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _pieces(data: bytes, size: int) -> bytes:
    return b"".join(_chunked(data[at : at + size]) for at in range(0, len(data), size))


@functools.cache
def answer(wire: str, layout: str, count: int) -> tuple[bytes, list[bytes]]:
    """Return the head of the response, and what makes up its body."""
    kind = b"application/x-ndjson" if wire == "ollama" else b"text/event-stream"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % kind
    end = b"0\r\n\r\n"
    match layout:
        case "paced":
            return head, WIRES[wire](count)
        case "hold":
            first = 1 + [WORD in event for event in WIRES[wire](2)].index(True)
            return head, [b"".join(map(_chunked, WIRES[wire](2)[:first]))]
        case "packed":
            return head, [_pieces(b"".join(WIRES[wire](count)), 16 * 1024) + end]
        case "large":
            body = b"".join(WIRES[wire](1)).replace(WORD, b"x" * count * 1024, 1)
            return head, [_pieces(body, 4096) + end]
        case _:
            return head, [b"".join(map(_chunked, WIRES[wire](count))) + end]


class Replay(asyncio.Protocol):
    """One connection; requests come one after the other."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._head = bytearray()
        self._path: str | None = None
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        # Bodies are counted, not kept: a large one costs the same a byte as a small one.
        while data or (self._path is not None and not self._left):
            if self._path is None:
                data = self._read_head(data)
                continue
            taken = min(self._left, len(data))
            self._left -= taken
            data = data[taken:]
            if not self._left:
                path, self._path = self._path, None
                self._answer(path)

    def _read_head(self, data: bytes) -> bytes:
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return b""
        head, rest = bytes(self._head[:end]), bytes(self._head[end + 4 :])
        self._head.clear()
        self._path = head.split(b" ", 2)[1].decode()
        self._left = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                self._left = int(value)
        return rest

    def _answer(self, path: str) -> None:
        _, wire, layout, count, *_ = path.replace(":", "/").split("/")
        head, body = answer(wire, layout, int(count))
        if layout == "paced":
            self.transport.write(head)
            loop = asyncio.get_running_loop()
            self._pace(body, 0, loop.time())
        else:
            self.transport.write(head + body[0])

    def _pace(self, events: list[bytes], at: int, due: float) -> None:
        if self.transport.is_closing():
            return
        stamp = (STAMP % time.monotonic()).encode()
        data = _chunked(events[at].replace(WORD, stamp))
        last = at + 1 == len(events)
        self.transport.write(data + b"0\r\n\r\n" if last else data)
        if not last:
            due += PACE
            asyncio.get_running_loop().call_at(due, self._pace, events, at + 1, due)


async def main() -> None:
    """Serve until standard input closes."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Replay, "127.0.0.1", 0, backlog=BACKLOG)]
    if len(sys.argv) > 2:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*sys.argv[1:3])
        servers.append(
            await loop.create_server(Replay, "127.0.0.1", 0, ssl=context, backlog=BACKLOG)
        )
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    print(json.dumps({"plain": ports[0], "tls": ports[1] if len(ports) > 1 else None}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    for server in servers:
        server.close()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
