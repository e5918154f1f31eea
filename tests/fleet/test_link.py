"""Whatever comes over the connection instead of replies, calls go on and the fleet is joined again.

A proxy before a real server cuts and mixes what it sends.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from aiollm._fleet import link, member
from aiollm._fleet.address import Address
from aiollm.testing import FaultServer, chat
from tests.fleet.conftest import until
from tests.turns import turns


class Proxy:
    """Passes bytes on; the replies of its next connections are changed."""

    def __init__(self, port: int) -> None:
        self.behind = port
        self.cuts: list[int] = []
        """After how many bytes of replies each of the next connections ends."""
        self.instead: bytes | None = None
        """What new connections get instead of all replies."""
        self._clients: set[asyncio.StreamWriter] = set()
        self._all: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self._all:
                writer.transport.abort()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def inject(self, data: bytes) -> None:
        """Send bytes to all who are connected."""
        for writer in self._clients:
            if not writer.is_closing():  # uvloop raises where asyncio is silent
                writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(task := asyncio.current_task())
        task.add_done_callback(self._tasks.discard)
        self._clients.add(writer)
        mine = {writer}
        self._all |= mine
        cut = self.cuts.pop(0) if self.cuts else None
        try:
            if self.instead is not None:
                writer.write(self.instead)
                with suppress(ConnectionError):
                    await reader.read()
                return
            there, back = await asyncio.open_connection("127.0.0.1", self.behind)
            mine.add(back)
            self._all |= mine
            forth = asyncio.create_task(self._pass(reader, back, None))
            await self._pass(there, writer, cut)
            forth.cancel()
            await asyncio.wait([forth])
        finally:
            self._clients.discard(writer)
            self._all -= mine
            for each in mine:
                each.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: int | None
    ) -> None:
        passed = 0
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if cut is not None and passed + len(data) >= cut:
                    writer.write(data[: cut - passed])
                    await writer.drain()
                    return
                if writer.is_closing():
                    return
                passed += len(data)
                writer.write(data)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(member, "BEAT", 0.05)
    monkeypatch.setattr(link, "RETRY_FIRST", 0.001)
    monkeypatch.setattr(link, "RETRY_MOST", 0.001)


@pytest.fixture(autouse=True)
async def nothing_fails_unseen():
    """Fail where an exception reached the loop, which would only have logged it."""
    seen = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    yield
    assert not seen


@pytest.fixture
async def proxy(redis):
    async with Proxy(redis.port).open() as proxy:
        yield proxy


@pytest.fixture
async def server():
    async with FaultServer(default=chat("well")) as server:
        yield server


def url_of(redis, proxy):
    url = redis.url.replace(f":{redis.port}/", f":{proxy.port}/")
    return url.replace("timeout=5", "timeout=0.02")


GREETING = 800
"""Bytes that Redis sends until a process is a member, and a few more."""


async def test_a_connection_that_ends_anywhere_while_it_is_made_is_made_again(
    redis, members, proxy, server
):
    proxy.cuts = [*range(0, GREETING, 3)]
    reg = members(url_of(redis, proxy), {"a": server})
    while proxy.cuts:
        left = len(proxy.cuts)
        assert (await reg.generate("a/m", "hi")).text == "well"
        await until(lambda left=left: len(proxy.cuts) <= max(0, left - 50))
    await until(lambda: reg.fleet.state == "linked")


async def test_what_a_process_stood_still_for_while_it_connects_is_not_waited(
    redis, members, server, monkeypatch
):
    monkeypatch.setattr(link, "CONNECT_TIMEOUT", 30.0)
    loop, late = asyncio.get_running_loop(), 0.0
    clock, find = loop.time, Address.find
    monkeypatch.setattr(loop, "time", lambda: clock() + late)

    async def find_late(address):
        nonlocal late
        late += 3600.0
        for _ in range(3):
            await asyncio.sleep(0)
        return await find(address)

    monkeypatch.setattr(Address, "find", find_late)
    reg = members(redis.url, {"a": server})
    await reg._resources._member.open()
    assert reg.fleet.state == "linked"


NOISE = {
    "zeros": b"\0" * 64 + b"\r\n",
    "web": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "no line": b"+" + b"x" * 100_000,
    "huge text": b"$99999999999999\r\nx",
    "huge array": b"*9999999\r\n",
    "huge map": b"%9999999\r\n:1\r\n",
    "negative": b"$-5\r\n*-7\r\n",
    "deep": b"*1\r\n" * 50_000,
    "empty push": b">0\r\n",
    "number as text": b":one\r\n",
    "other types": b",nan\r\n(1\r\n#x\r\n_\r\n=9\r\ntxt:hello\r\n",
    "not asked": b"+OK\r\n",
    "many not asked": b"*1\r\n:7\r\n" * 50,
    "error not asked": b"-ERR of nobody\r\n",
    "number as message": b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n:5\r\n",
    "nothing as message": b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n_\r\n",
    "half a state": b'>3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$13\r\n["{a}h",1,2]\r\n',
    "unknown push": b">2\r\n$10\r\ninvalidate\r\n*0\r\n",
    "number as push": b">2\r\n:1\r\n:2\r\n",
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
async def test_noise_between_replies_ends_the_connection_at_most(
    redis, members, proxy, server, noise
):
    reg = members(url_of(redis, proxy), {"a": server})
    await reg.generate("a/m", "hi")
    await until(lambda: reg.fleet.state == "linked")
    for _ in range(3):
        proxy.inject(noise)
        assert (await reg.generate("a/m", "hi")).text == "well"
        before = await beats(redis, reg)
        await until_beaten(redis, reg, before)
        assert reg.fleet.processes == 1


async def beats(redis, reg):
    """Return until when this process counts as alive, in Redis."""
    namespace = reg.fleet.namespace
    score = await redis.ask("ZSCORE", f"{{aiollm:1:{namespace}}}p", reg.fleet.process)
    return float(score or 0)


async def until_beaten(redis, reg, before):
    async with asyncio.timeout(20):
        while await beats(redis, reg) <= before or reg.fleet.state != "linked":
            await asyncio.sleep(0)


@pytest.mark.parametrize("noise", [*NOISE.values(), b""], ids=[*NOISE, "silence"])
async def test_a_server_that_is_none_keeps_no_call_waiting(
    redis, members, proxy, server, noise, monkeypatch
):
    monkeypatch.setattr(link, "CONNECT_TIMEOUT", 0.05)
    proxy.instead = noise
    reg = members(url_of(redis, proxy), {"a": server})
    assert (await reg.generate("a/m", "hi")).text == "well"
    assert reg.fleet.state == "away"
    proxy.instead = None
    await until(lambda: reg.fleet.state == "linked")


async def test_others_run_between_messages_that_come_at_once(redis, members, proxy, server):
    reg = members(url_of(redis, proxy), {"a": server})
    await reg.generate("a/m", "hi")
    await until(lambda: reg.fleet.state == "linked")
    connected = reg._resources._member._link
    hear, heard = connected._hear, []
    channel = reg._resources._member.channel.encode()
    message = b">3\r\n$7\r\nmessage\r\n$%d\r\n%s\r\n$1\r\n1\r\n" % (len(channel), channel)
    async with turns() as seen:
        connected._hear = lambda said: (heard.append(len(seen)), hear(said))
        proxy.inject(message * 1000)
        await until(lambda: len(heard) >= 1000)
    assert max(Counter(heard).values()) <= 2 * link.A_TURN
