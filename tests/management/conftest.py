"""A loopback server that replays recorded exchanges, and services that ask it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from aiollm.registry import Registry
from aiollm.servers import LlamaSwap, Ollama
from tests.registries import registries, servers

CAPTURES = Path(__file__).parents[1] / "captures"
FIXTURES = Path(__file__).parents[1] / "fixtures"


class Replay:
    """Answers by request line; what has no answer is a test's mistake and gets 599."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.feeds: dict[str, list[bytes]] = {}
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.left = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def host(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def asked(self) -> list[str]:
        """The request lines so far."""
        return [line for line, _, _ in self.requests]

    @staticmethod
    def recorded(name: str) -> bytes:
        """Return the bytes of a recorded reply, head included."""
        return CAPTURES.joinpath(f"{name}.raw").read_bytes()

    @staticmethod
    def fixture(path: str) -> bytes:
        """Return a handwritten body."""
        return FIXTURES.joinpath(path).read_bytes()

    @staticmethod
    def reply(body: bytes, status: int = 200) -> bytes:
        """Return a reply with this body."""
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            line = first.removesuffix(" HTTP/1.1")
            headers = {key.lower(): value for key, _, value in (h.partition(": ") for h in rest)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.requests.append((line, headers, body))
            if line in self.feeds:
                await self._feed(self.feeds[line], reader, writer)
            else:
                writer.write(self.answers.get(line) or self.reply(b'{"error":"no answer"}', 599))
                await writer.drain()
        finally:
            writer.close()

    async def _feed(
        self, pieces: list[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send a body without an end and wait until the other side leaves."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        with suppress(ConnectionResetError):
            await reader.read()
        self.left.set()


@pytest.fixture
async def replay() -> AsyncIterator[Replay]:
    server = Replay()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def service(replay: Replay) -> AsyncIterator[Callable[..., Any]]:
    """Return a way to get a service for the loopback server from a registry."""
    async with AsyncExitStack() as stack:

        async def make(kind: type[LlamaSwap | Ollama], dsn: str) -> Any:
            reg = await stack.enter_async_context(Registry(env={"LLM_BOX": dsn}))
            return reg.llama_swap("box") if kind is LlamaSwap else reg.ollama("box")

        yield make


@pytest.fixture
async def swap(replay: Replay, service: Callable[..., Any]) -> LlamaSwap:
    return await service(LlamaSwap, f"llama-swap://sk-swap@{replay.host}")


@pytest.fixture
async def ollama(replay: Replay, service: Callable[..., Any]) -> Ollama:
    return await service(Ollama, f"ollama+http://{replay.host}")


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Start a FaultServer: scripts by path, one for every request, or several in order."""
    async with servers() as start:
        yield start


@pytest.fixture
async def registry() -> AsyncIterator[Callable[..., Any]]:
    """Make a registry of DSNs by name; it ends with the test."""
    async with registries() as make:
        yield make
