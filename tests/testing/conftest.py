"""A peer that speaks raw bytes, so that the kit is proven without an HTTP library."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


class Peer:
    """One TCP connection, without any HTTP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def ask(self, path: str = "/", body: bytes = b"", method: str = "POST", extra: str = ""):
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        self.writer.write(head.encode() + body)

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def until(self, end: bytes) -> bytes:
        return await self.reader.readuntil(end)

    async def exactly(self, count: int) -> bytes:
        return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """Read to the FIN; a RST raises ConnectionResetError."""
        return await self.reader.read()

    async def answer(self) -> tuple[bytes, bytes]:
        """Read one answer of known length or in chunks; return head and body."""
        head = await self.head()
        if b"transfer-encoding: chunked" not in head:
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            return head, await self.exactly(int(length or 0))
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += (await self.exactly(size + 2))[:-2]
        await self.exactly(2)
        return head, body


Connect = Callable[..., AbstractAsyncContextManager[Peer]]


@asynccontextmanager
async def connected(server, ssl: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    host = server.host.strip("[]")
    reader, writer = await asyncio.open_connection(host, server.port, ssl=ssl)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
def connect() -> Connect:
    return connected


@pytest.fixture(scope="session")
def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DATA / "localhost.pem")
    return context


@pytest.fixture(scope="session")
def client_tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=DATA / "localhost.pem")
