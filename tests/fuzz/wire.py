"""An input that is an HTTP answer: a line for whom and how, headers, a blank line, the body.

    openai_chat 429 application/json
    retry-after: 3

    {"error": ...}

It is text, so that a corpus can be read, and any bytes are some answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any
from zlib import crc32

import msgspec

from aiollm.errors import LLMError, StreamInterrupted
from aiollm.provider import HttpResponse
from tests.contract.conftest import SERVICES, Case

NAMES = tuple(SERVICES)
_HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")


class Wire(msgspec.Struct, frozen=True):
    """A parsed input."""

    name: str
    status: int
    content_type: str
    headers: dict[str, str]
    body: bytes
    broken: bool = False
    """Whether the connection breaks after the body."""

    @property
    def case(self) -> Case:
        record = {
            "status": self.status,
            "content_type": self.content_type,
            "headers": self.headers,
            "kind": "fuzz",
        }
        return Case(f"{self.name}/fuzz", record, {}, SERVICES[self.name])

    @property
    def reply(self) -> HttpResponse:
        headers = {"content-type": self.content_type} | self.headers
        return HttpResponse(self.status, headers, self.body, "https://x/")


def written(
    name: str, status: int, content_type: str, headers: dict[str, str], body: bytes
) -> bytes:
    """Write an input."""
    lines = [f"{name} {status} {content_type}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\n".join(lines).encode("latin-1", "replace") + b"\n\n" + body


def parsed(data: bytes) -> Wire:
    """Read any input; what is odd gets a value that depends on it alone."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    name, status, content_type, broken, *_ = [*first.decode("latin-1").split(" ", 3), *[""] * 4]
    if name not in SERVICES:
        name = NAMES[crc32(first) % len(NAMES)]
    number = int(status) if re.fullmatch("[0-9]{3}", status, re.ASCII) else 200
    pairs = (line.partition(b":") for line in lines)
    headers = {
        key.decode(): value.strip().decode("utf-8", "surrogateescape")
        for key, _, value in pairs
        if _HEADER.fullmatch(key)
    }
    return Wire(name, max(number, 200), content_type.lower(), headers, body, broken == "broken")


class MemoryReply:
    """An answer in memory, cut as given, that may end with a broken connection."""

    has_body = True

    def __init__(self, wire: Wire, pieces: Iterable[bytes]) -> None:
        self.status = wire.status
        self.headers = {"content-type": wire.content_type} | wire.headers
        self.content_type = wire.content_type.partition(";")[0].strip()
        self.closed = 0
        self._pieces = iter([piece for piece in pieces if piece])
        self._broken = wire.broken

    async def read(self) -> bytes:
        piece = next(self._pieces, b"")
        if not piece and self._broken:
            raise StreamInterrupted("the connection broke")
        return piece

    async def read_whole(self, limit: int, seconds: float | None) -> bytes:
        return b"".join(self._pieces)[:limit]

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


class MemoryTransport:
    """Answers with one reply."""

    def __init__(self, reply: MemoryReply) -> None:
        self._reply = reply

    async def send(self, request: Any, connect: float | None) -> MemoryReply:
        return self._reply


def run_out(source: AsyncGenerator[Sequence[Any], None]) -> tuple[list[Any], LLMError | None]:
    """Return all items of a stream, and the error that it ended with."""
    items: list[Any] = []

    async def collect() -> None:
        async for batch in source:
            items.extend(batch)

    try:
        asyncio.run(collect())
    except LLMError as error:
        return items, error
    return items, None
