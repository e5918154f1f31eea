"""Requests that are written again on an idle connection: the same bytes, a third less work."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

import pytest
from msgspec.structs import replace

from aiollm import (
    ClosedError,
    ConfigError,
    ConnectError,
    DeadlineError,
    ProtocolError,
    StreamInterrupted,
    TransportError,
)
from aiollm._http import receiving
from aiollm._http.aiohttp_tuning import SMALL_BODY
from aiollm._http.receiving import _Flowing
from aiollm._http.repeated import MOST
from aiollm._http.transport import HttpTransport
from aiollm._wire.body import Blob, Body
from aiollm.provider import HttpRequest
from aiollm.testing import Answer, Cut, End, FaultServer, Gate, Raw, Stale, Unsolicited

FINE = Answer(200, {"content-type": "text/plain"}, b"fine")


class Session:
    """Counts the requests that go through aiohttp's session."""

    def __init__(self):
        self.requests = 0

    def __enter__(self):
        self._before = sys.getprofile()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_):
        sys.setprofile(self._before)

    def _note(self, frame, event, _):
        # A coroutine is "called" at each of its steps.
        if event == "call" and frame.f_code.co_qualname == "ClientSession.request":
            self.requests += 1


def asking(server, body=b'{"model": "m"}', **headers):
    headers = {"Content-Type": "application/json", "Authorization": "Bearer k", **headers}
    return HttpRequest(f"{server.url}/v1/chat?x=%20", headers, Body((body,)))


@pytest.fixture
async def transport():
    transport = HttpTransport()
    yield transport
    await transport.aclose()


async def ask(transport, request):
    """Return the status and body of an answer, and how many requests the session made for it."""
    with Session() as session:
        reply = await transport.send(request, 5.0)
        try:
            return reply.status, await reply.read_whole(100, 1.0), session.requests
        finally:
            reply.close()


async def test_a_request_like_the_first_is_the_same_on_the_wire_without_a_session(transport):
    async with FaultServer(default=FINE) as server:
        assert await ask(transport, asking(server)) == (200, b"fine", 1)
        assert await ask(transport, asking(server)) == (200, b"fine", 0)
        assert await ask(transport, asking(server, b"a longer body, if not by much")) == (
            (200, b"fine", 0)
        )
        first, second, third = server.requests
    assert sorted(first.head.splitlines()) == sorted(second.head.splitlines())
    assert first.raw_path == second.raw_path == third.raw_path == "/v1/chat?x=%20"
    assert third.headers == {**first.headers, "content-length": "29"}
    assert third.body == b"a longer body, if not by much"
    assert {each.connection for each in server.requests} == {0}


async def test_a_new_connection_is_opened_without_a_session_while_all_others_are_in_use(transport):
    held = Gate()
    async with FaultServer(default=Answer(200, {}, (b"fine", held))) as server:
        replies = []
        for session in (1, 0, 0):
            with Session() as used:
                replies.append(await transport.send(asking(server), 5.0))
            assert used.requests == session
        held.open()
        for reply in replies:
            assert await reply.read_whole(100, 1.0) == b"fine"
            reply.close()
        assert [each.connection for each in server.requests] == [0, 1, 2]
        first, *others = (sorted(each.head.splitlines()) for each in server.requests)
        assert others == [first, first]


async def test_a_new_connection_that_closes_unanswered_is_not_tried_again(transport):
    held = Gate()
    waits = Answer(200, {}, (held,))
    async with FaultServer(waits, Raw((End("close"),)), default=FINE) as server:
        reply = await transport.send(asking(server), 5.0)
        with pytest.raises(TransportError, match="without an answer"):
            await transport.send(asking(server), 5.0)
        assert len(server.requests) == 2
        reply.close()


class OneConnection:
    """A server whose first connection is in use, and which takes no second one."""

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self._listener.setblocking(False)
        self._sockets = [self._listener]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.transport = HttpTransport()
        sending = asyncio.ensure_future(self.transport.send(asking(self), 5.0))
        line, _ = await loop.sock_accept(self._listener)
        self._sockets.append(line)
        await loop.sock_sendall(line, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        self._reply = await sending
        return self

    def refuse(self):
        self._listener.close()

    def hang(self):
        for _ in range(3):
            filler = socket.socket()
            self._sockets.append(filler)
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(self._listener.getsockname())

    async def __aexit__(self, *_):
        self._reply.close()
        await self.transport.aclose()
        for each in self._sockets:
            each.close()


async def test_a_new_connection_that_is_refused_is_a_connect_error():
    async with OneConnection() as server:
        server.refuse()
        with Session() as used, pytest.raises(ConnectError, match="refused"):
            await server.transport.send(asking(server), 5.0)
        assert used.requests == 0


@pytest.mark.skipif(sys.platform != "linux", reason="backlogs are full in another way")
async def test_a_new_connection_may_take_as_long_as_any():
    async with OneConnection() as server:
        server.hang()
        with Session() as used, pytest.raises(DeadlineError) as caught:
            await server.transport.send(asking(server), 0.05)
        assert caught.value.which == "connect"
        assert used.requests == 0


@pytest.mark.skipif(sys.platform != "linux", reason="backlogs are full in another way")
async def test_a_new_connection_that_is_cancelled_leaves_nothing():
    async with OneConnection() as server:
        server.hang()
        sending = asyncio.ensure_future(server.transport.send(asking(server), None))
        used = server.transport._session.connector._acquired
        before = len(used)
        while len(used) == before:
            await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert len(used) == before


async def test_a_request_that_differs_goes_through_the_session(transport):
    async with FaultServer(default=FINE) as server:
        first = asking(server)
        await ask(transport, first)
        for other in (
            asking(server, Authorization="Bearer other"),
            asking(server, b"x" * (SMALL_BODY + 1)),
            replace(first, body=Body((Blob(b"file"),))),
            replace(first, url=f"{server.url}/v1/other"),
            replace(first, method="GET", body=None),
        ):
            assert (await ask(transport, other))[2] == 1
            assert (await ask(transport, first))[2] == 0
        assert server.requests[1].headers["authorization"] == "Bearer other"


async def test_a_header_that_could_end_the_head_is_refused_each_time(transport):
    async with FaultServer(default=FINE) as server:
        await ask(transport, asking(server))
        for _ in range(2):
            with pytest.raises(ConfigError, match="cannot be sent"):
                await ask(transport, asking(server, Evil="x\r\nHost: elsewhere"))
        assert len(server.requests) == 1


async def test_only_so_many_heads_are_kept(transport):
    async with FaultServer(default=FINE) as server:
        for number in range(MOST + 1):
            await ask(transport, asking(server, Number=str(number)))
        assert (await ask(transport, asking(server, Number=str(MOST))))[2] == 0
        assert (await ask(transport, asking(server, Number="0")))[2] == 1


async def test_a_stale_connection_is_replaced_once(transport):
    async with FaultServer(FINE, Stale(FINE), FINE) as server:
        for _ in range(2):
            await ask(transport, asking(server))
        assert (await ask(transport, asking(server)))[:2] == (200, b"fine")
        assert [each.connection for each in server.requests][-1] == 1


@pytest.mark.parametrize("size", [1, SMALL_BODY + 1], ids=["repeated", "session"])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "begun", [b"H", b"HTTP/1.1 200 OK\r\nContent-Ty", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
async def test_a_request_whose_answer_has_begun_is_not_sent_again(transport, begun, how, size):
    came = Gate()
    async with FaultServer(FINE, Raw((begun, came, End(how))), default=FINE) as server:
        await ask(transport, asking(server))
        sending = asyncio.ensure_future(transport.send(asking(server, b"x" * size), 5.0))
        while not (used := transport._session.connector._acquired):
            await asyncio.sleep(0)
        (protocol,) = used
        while protocol._sent is not None:  # until it is answered
            await asyncio.sleep(0)
        came.open()
        with pytest.raises(TransportError, match=r"without an answer|connection failed"):
            await sending
        assert len(server.requests) == 2


@pytest.mark.parametrize("size", [1, SMALL_BODY + 1], ids=["repeated", "session"])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(("seconds", "requests"), [(1.0, 3), (60.0, 2)], ids=["soon", "late"])
async def test_a_request_that_was_worked_on_is_not_sent_again(
    transport, monkeypatch, seconds, requests, how, size
):
    """A proxy that ends what takes it too long would else have it made, and billed, twice."""
    now = 1000.0
    monkeypatch.setattr(receiving, "monotonic", lambda: now)
    came = Gate()
    async with FaultServer(FINE, Raw((came, End(how))), default=FINE) as server:
        await ask(transport, asking(server))
        sending = asyncio.ensure_future(transport.send(asking(server, b"x" * size), 5.0))
        while len(server.requests) < 2:
            await asyncio.sleep(0)
        now += seconds
        came.open()
        if requests > 2:
            (await sending).close()
        else:
            with pytest.raises(TransportError, match=r"without an answer|connection failed"):
                await sending
        assert len(server.requests) == requests


async def test_a_connection_with_an_answer_nobody_asked_for_is_not_used(transport):
    gate = Gate()
    twice = Unsolicited(FINE, Answer(200, {}, b"EVIL"), gate)
    async with FaultServer(twice, default=FINE) as server:
        await ask(transport, asking(server))
        gate.open()
        (pool,) = transport._session.connector._conns.values()
        while not pool[0][0].should_close:
            await asyncio.sleep(0)
        assert await ask(transport, asking(server)) == (200, b"fine", 0)
        assert server.requests[-1].connection == 1


async def test_interim_responses_are_passed_over(transport):
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2
    last = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
    async with FaultServer(FINE, Raw((early, last)), default=FINE) as server:
        await ask(transport, asking(server))
        assert await ask(transport, asking(server)) == (200, b"fine", 0)
        assert await ask(transport, asking(server)) == (200, b"fine", 0)


@pytest.mark.parametrize("size", [1, SMALL_BODY + 1], ids=["repeated", "session"])
async def test_a_connection_on_which_another_protocol_follows_is_not_used(transport, size):
    switches = Raw((b"HTTP/1.1 101 Switching Protocols\r\n\r\n",))
    async with FaultServer(FINE, switches, default=FINE) as server:
        await ask(transport, asking(server))
        assert (await ask(transport, asking(server, b"x" * size)))[:2] == (101, b"")
        assert await ask(transport, asking(server)) == (200, b"fine", 0)
        assert server.requests[-1].connection == 1


async def test_a_status_that_is_none_is_an_answer_as_the_sessions_is(transport):
    none = Raw((b"HTTP/1.1 000 Nothing\r\nContent-Length: 4\r\n\r\nfine",))
    async with FaultServer(none, FINE, none, default=FINE) as server:
        answers = [(await ask(transport, asking(server)))[:2] for _ in range(3)]
        assert answers == [(0, b"fine"), (200, b"fine"), (0, b"fine")]
        assert {each.connection for each in server.requests} == {0}


async def test_an_answer_that_is_no_http_is_an_error_and_ends_the_connection(transport):
    async with FaultServer(FINE, Raw((b"nonsense\r\n\r\n",)), default=FINE) as server:
        await ask(transport, asking(server))
        with pytest.raises(ProtocolError, match="not valid HTTP"):
            await ask(transport, asking(server))
        assert await ask(transport, asking(server)) == (200, b"fine", 0)
        assert server.requests[-1].connection == 1


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n"


@pytest.mark.parametrize("rest", [b"zz\r\nnonsense\r\n", b"4\r\nfineXX0\r\n\r\n"])
async def test_chunks_that_are_no_http_end_the_body_with_an_error(transport, rest):
    gate = Gate()
    async with FaultServer(FINE, Raw((CHUNKED, gate, rest)), default=FINE) as server:
        await ask(transport, asking(server))
        reply = await transport.send(asking(server), 5.0)
        assert await reply.read() == b"fine"
        gate.open()
        with pytest.raises((StreamInterrupted, ProtocolError)):
            while await reply.read():
                pass
        reply.close()
        assert await ask(transport, asking(server)) == (200, b"fine", 0)
        assert server.requests[-1].connection == 1


async def test_an_answer_behind_the_end_of_a_body_is_not_taken_for_the_next(transport):
    gate, evil = Gate(), b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
    script = Raw((CHUNKED, gate, b"0\r\n\r\n" + evil))
    async with FaultServer(FINE, script, default=FINE) as server:
        await ask(transport, asking(server))
        reply = await transport.send(asking(server), 5.0)
        assert await reply.read() == b"fine"
        gate.open()
        assert await reply.read() == b""
        reply.close()
        assert await ask(transport, asking(server)) == (200, b"fine", 0)
        assert server.requests[-1].connection == 1


async def test_aiohttps_connections_are_as_they_are_known(transport):
    async with FaultServer(default=FINE) as server:
        await ask(transport, asking(server))
        (pool,) = transport._session.connector._conns.values()
        assert type(pool[0][0]) is _Flowing, "aiohttp is not as receiving.py knows it"


async def test_a_head_is_kept_once_however_many_connections_are_opened(transport):
    first, second = Gate(), Gate()
    async with FaultServer(*(Answer(200, {}, (gate,)) for gate in (first, second))) as server:
        one = await transport.send(asking(server), 5.0)
        (head,) = transport._repeater._heads.values()
        other = await transport.send(asking(server), 5.0)
        assert [*transport._repeater._heads.values()] == [head]
        one.close()
        other.close()


async def test_a_body_that_is_cut_is_an_error(transport):
    async with FaultServer(FINE, Cut(2, FINE), default=FINE) as server:
        await ask(transport, asking(server))
        reply = await transport.send(asking(server), 5.0)
        with pytest.raises(StreamInterrupted):
            while await reply.read():
                pass
        reply.close()
        assert await ask(transport, asking(server)) == (200, b"fine", 0)
        assert server.requests[-1].connection == 1


async def test_a_connection_whose_body_was_not_read_is_closed(transport):
    endless = Answer(200, {}, (b"first", Gate()))
    async with FaultServer(FINE, endless, default=FINE) as server:
        await ask(transport, asking(server))
        reply = await transport.send(asking(server), 5.0)
        assert await reply.read() == b"first"
        reply.close()
        reply.close()
        assert (await ask(transport, asking(server)))[:2] == (200, b"fine")
        assert server.requests[-1].connection == 1


async def test_closing_the_transport_wakes_who_reads(transport):
    endless = Answer(200, {}, (b"first", Gate()))
    async with FaultServer(FINE, endless) as server:
        await ask(transport, asking(server))
        reply = await transport.send(asking(server), 5.0)
        assert await reply.read() == b"first"
        reading = asyncio.ensure_future(reply.read())
        await asyncio.sleep(0)
        await transport.aclose()
        with pytest.raises(ClosedError, match="registry was closed"):
            await asyncio.wait_for(reading, 5)
