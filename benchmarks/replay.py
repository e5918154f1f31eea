"""A loopback server for benchmarks, in a process of its own, that costs next to nothing.

It answers any POST with prebuilt bytes chosen by the path `/{wire}/{layout}/{count}/...`: `count`
chunks in the wire format, `packed` into few writes or one HTTP chunk an event (`events`), or
`paced` with 20 ms between chunks. It prints its port and ends when its standard input closes.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable

PACE = 0.02
"""Seconds between the chunks of a paced stream."""


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
        return b"event: %s\ndata: {\"type\":\"%s\",%s}\n\n" % (name, name, rest)

    start = event(
        b"message_start",
        b'"message":{"id":"msg_01","type":"message","role":"assistant","model":"claude-opus-5-5",'
        b'"content":[],"stop_reason":null,"stop_sequence":null,'
        b'"usage":{"input_tokens":25,"output_tokens":1}}',
    )
    block = event(b"content_block_start", b'"index":0,"content_block":{"type":"text","text":""}')
    delta = event(b"content_block_delta", b'"index":0,"delta":{"type":"text_delta","text":" word"}')
    stop = event(b"content_block_stop", b'"index":0')
    end = event(
        b"message_delta",
        b'"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":17}',
    )
    return [start, block, *[delta] * count, stop, end, b'event: message_stop\ndata: {"type":"message_stop"}\n\n']


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


@functools.cache
def answer(wire: str, layout: str, count: int) -> tuple[bytes, list[bytes]]:
    """Return the response head, and the writes that make up the body."""
    kind = b"application/x-ndjson" if wire == "ollama" else b"text/event-stream"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % kind
    events = WIRES[wire](count)
    framed = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    end = b"0\r\n\r\n"
    match layout:
        case "paced":
            return head, [*framed[:-1], framed[-1] + end]
        case "packed":
            body = b"".join(events)
            size = 16 * 1024
            pieces = [body[at : at + size] for at in range(0, len(body), size)]
            return head, [b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + end]
        case _:
            return head, [b"".join(framed) + end]


class Replay(asyncio.Protocol):
    """One connection; requests come one after the other."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._seen = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while (end := self._seen.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._seen[:end])
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(self._seen) < end + 4 + length:
                return
            del self._seen[: end + 4 + length]
            self._answer(head.split(b" ", 2)[1].decode())

    def _answer(self, path: str) -> None:
        _, wire, layout, count, *_ = path.split("/")
        head, writes = answer(wire, layout, int(count))
        if layout == "paced":
            self.transport.write(head)
            self._pace(writes, 0)
        else:
            self.transport.write(head + writes[0])

    def _pace(self, writes: list[bytes], at: int) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(writes[at])
        if at + 1 < len(writes):
            asyncio.get_running_loop().call_later(PACE, self._pace, writes, at + 1)


async def main() -> None:
    """Serve until standard input closes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Replay, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
