"""Odd answers to repeated requests: they end as those to requests through aiohttp's session do."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random

import msgspec
import pytest

from aiollm import LLMError, ProtocolError
from aiollm._http.receiving import MAX_INTERIM
from aiollm._http.transport import HttpTransport
from aiollm.testing import Answer, Cut, FaultServer, Gate, Raw, Reset, Stale
from tests.work.test_repeated_requests import FINE, ask, asking

OK = b"HTTP/1.1 200 OK\r\n"
EVIL = OK + b"Content-Length: 4\r\n\r\nEVIL"
CHUNKS = (
    OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nfi\r\n2;a=b\r\nne\r\n0\r\nX-Trailer: 1\r\n\r\n"
)
FOUR = b"Content-Length: 4\r\n\r\nfine"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def raw(*pieces: bytes) -> Raw:
    return Raw(pieces)


ODD = {
    "a status of an error": Answer(429, {"retry-after": "1"}, b"slow down"),
    "chunks with a trailer": raw(CHUNKS),
    "split at each byte": raw(*(CHUNKS[at : at + 1] for at in range(len(CHUNKS)))),
    "HTTP/1.0": raw(b"HTTP/1.0 200 OK\r\n" + FOUR),
    "HTTP/1.0 that stays open": raw(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + FOUR),
    "Connection: close": raw(OK + b"Connection: close\r\n" + FOUR),
    "no length": Answer(200, {}, b"fine", framing="close"),
    "no content": raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "a body without leave": raw(b"HTTP/1.1 204 No Content\r\n" + FOUR),
    "not modified": raw(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"),
    "another protocol": raw(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxx"),
    "an upgrade that is none": raw(OK + b"Upgrade: h2c\r\nConnection: upgrade\r\n" + FOUR),
    "some interim responses": raw(CONTINUE * MAX_INTERIM + OK + FOUR),
    "too many interim responses": raw(CONTINUE * (MAX_INTERIM + 1) + OK + FOUR),
    "more than its length": raw(OK + FOUR + b"more"),
    "two answers": raw(OK + FOUR + EVIL),
    "less than its length": Cut(2, FINE),
    "no answer": Stale(FINE),
    "a reset in the body": Reset(2, FINE),
    "two lengths": raw(OK + b"Content-Length: 4\r\n" + FOUR),
    "a length and chunks": raw(CHUNKS.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n", 1)),
    "no such length": raw(OK + b"Content-Length: -4\r\n\r\nfine"),
    "a long header": raw(OK + b"X: %b\r\n" % (b"x" * 9000) + FOUR),
    "many headers": raw(OK + b"".join(b"X%d: 1\r\n" % at for at in range(200)) + FOUR),
    "cookies": raw(OK + b"Set-Cookie: a=b; Path=/\r\n" + FOUR),
    "a redirect": Answer(307, {"location": "/elsewhere"}, b"there"),
    "a content encoding": Answer(200, {"content-encoding": "gzip"}, gzip.compress(b"fine")),
}


@pytest.fixture
async def transport():
    transport = HttpTransport()
    yield transport
    assert nothing_is_held(transport)
    await transport.aclose()


def nothing_is_held(transport):
    session = transport._session
    return not (transport._replies or (session is not None and session.connector._acquired))


async def outcome(transport, request, connect=5.0):
    """Return all that is seen of an answer; `connect` is in seconds."""
    reply = None
    try:
        reply = await transport.send(request, connect)
        body = b""
        while data := await reply.read():
            body += data
    except LLMError as error:
        return type(error), str(error)
    else:
        return reply.status, reply.headers, body
    finally:
        if reply is not None:
            reply.close()


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_an_odd_answer_ends_as_in_aiohttps_session(odd, transport):
    found = []
    for others in ([{}] * 4, [{"Number": str(at)} for at in range(4)]):
        # A request with another header is none that was sent before.
        async with FaultServer(FINE, odd, default=FINE) as server:
            ends = [await outcome(transport, asking(server, **other)) for other in others]
            found.append((ends, [request.connection for request in server.requests]))
    again, through_session = found
    assert again == through_session


async def test_the_end_of_an_answer_is_not_lost_to_what_follows_it(transport):
    gate = Gate()
    script = Raw((OK + b"Content-Length: 4\r\n\r\nfi", gate, b"ne, and no HTTP\r\n\r\n"))
    async with FaultServer(FINE, script, default=FINE) as server:
        await ask(transport, asking(server))
        reply = await transport.send(asking(server), 5.0)
        assert await reply.read() == b"fi"
        gate.open()
        assert await reply.read() == b"ne"
        assert await reply.read() == b""
        reply.close()
        assert await ask(transport, asking(server)) == (200, b"fine", 0)
        assert server.requests[-1].connection == 1


async def test_an_answer_behind_too_many_interim_ones_is_not_taken(transport):
    late = raw(CONTINUE * (MAX_INTERIM + 1) + OK + FOUR)
    async with FaultServer(FINE, late, default=FINE) as server:
        await ask(transport, asking(server))
        with pytest.raises(ProtocolError, match="more than 64 interim"):
            await transport.send(asking(server), 5.0)
        assert await ask(transport, asking(server)) == (200, b"fine", 0)
        assert server.requests[-1].connection == 1


async def test_half_a_head_that_nobody_asked_for_is_not_part_of_the_next_answer(transport):
    half = Raw((OK + FOUR + b"HTTP/1.1 500 Evil\r\nX-Evil: ",))
    async with FaultServer(FINE, half, default=FINE) as server:
        for _ in range(2):
            await ask(transport, asking(server))
        reply = await transport.send(asking(server), 5.0)
        assert (reply.status, await reply.read_whole(100, 1.0)) == (200, b"fine")
        assert "x-evil" not in reply.headers
        reply.close()


async def test_nothing_is_inflated_on_the_way(transport):
    bomb = gzip.compress(bytes(2**20))
    async with FaultServer(FINE, Answer(200, {"content-encoding": "gzip"}, bomb)) as server:
        await ask(transport, asking(server))
        reply = await transport.send(asking(server), 5.0)
        await reply._content.wait_eof()
        assert reply._content._size == len(bomb)
        reply.close()


async def test_a_connection_that_is_not_done_with_the_last_request_is_not_used(transport):
    async with FaultServer(default=FINE) as server:
        await ask(transport, asking(server))
        (pool,) = transport._session.connector._conns.values()
        pool[0][0].pause_writing()
        assert await ask(transport, asking(server)) == (200, b"fine", 0)
        assert server.requests[-1].connection == 1
        assert [request.connection for request in server.requests] == [0, 1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Cookie", "a=b"),
        ("Expect", "100-continue"),
        ("Content-Encoding", "identity"),
        ("Transfer-Encoding", "identity"),
    ],
)
async def test_a_request_that_aiohttp_does_more_for_is_left_to_it(transport, name, value):
    script = Raw((CONTINUE + OK + FOUR,)) if name == "Expect" else FINE
    async with FaultServer(default=script) as server:
        for _ in range(2):
            answer = await ask(transport, asking(server, **{name: value}))
            assert answer == (200, b"fine", 1)


async def test_only_a_post_is_sent_again(transport):
    async with FaultServer(default=FINE) as server:
        for _ in range(2):
            answer = await ask(transport, msgspec.structs.replace(asking(server), method="PUT"))
            assert answer == (200, b"fine", 1)
            await ask(transport, asking(server))
        assert [each.method for each in server.requests] == ["PUT", "POST"] * 2


@pytest.mark.parametrize("calls", [64, 1000])
async def test_a_crowd_gets_its_own_answers_or_none(transport, calls):
    """Where calls are cancelled at any step, and connections end at any time."""
    chance = random.Random(calls)

    def chunks(text: str) -> bytes:
        return OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
            len(text),
            text.encode(),
        )

    async def answer(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = int(head.rpartition(b"Content-Length: ")[2].split()[0])
                text = (await reader.readexactly(size)).decode()
                whole = chance.choice([chunks(text)] * 8 + [CONTINUE + chunks(text)])
                if (kind := chance.random()) < 0.1:
                    whole = whole[: chance.randrange(len(whole))]
                elif kind < 0.2:
                    whole += EVIL
                at = chance.randrange(len(whole) + 1)
                writer.write(whole[:at])
                await asyncio.sleep(0)
                writer.write(whole[at:])
                if kind < 0.1 or kind > 0.9:
                    break
        writer.transport.abort()

    async def call(number: int, port: int) -> bool:
        text = f"<{number}>" * chance.choice([1, 1, 1000])
        asked = asking(Place(port), text.encode())
        with contextlib.suppress(LLMError, TimeoutError):
            # The others end however busy the machine is, which all connect to at once.
            async with asyncio.timeout(chance.choice([0.0, 0.01, None, None])):
                answered = await outcome(transport, asked, connect=None)
                if answered[0] == 200:
                    assert answered[2].decode() == text
                    return True
        return False

    server = await asyncio.start_server(answer, "127.0.0.1", backlog=2048)
    port = server.sockets[0].getsockname()[1]
    done = 0
    for _ in range(3):
        done += sum(await asyncio.gather(*(call(number, port) for number in range(calls))))
    assert done > calls / 2  # of three times as many, half of which wait however long it takes
    assert nothing_is_held(transport)
    await transport.aclose()
    server.close()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)


class Place:
    """Where a server listens."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"
