"""What aiohttp and asyncio keep private and aiohttp_tuning.py uses: it must still be there."""

from __future__ import annotations

import asyncio
import ssl
import sys

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler

from aiollm._http.aiohttp_tuning import (
    RECEIVE_SIZE,
    SMALL_BODY,
    TLS_RECEIVE_SIZE,
    Connector,
    Request,
    receive_less,
    request_class,
)
from aiollm._http.pieces import Pieces, has_bytes, in_pieces
from aiollm._http.receiving import _Answering, _Flowing, connection_factory
from aiollm.testing import Answer, FaultServer


class Flow:
    """Stands for a connection, and counts how often a body asks for more."""

    transport = object()

    def __init__(self):
        self._reading_paused = False
        self.asked = 0

    def resume_reading(self, resume_parser=True):
        self.asked += 1
        self._reading_paused = False

    def pause_reading(self):
        self._reading_paused = True


def a_body(flow, limit=2**16):
    body = in_pieces(aiohttp.StreamReader(flow, limit, loop=asyncio.get_running_loop()))
    assert type(body) is Pieces, "aiohttp is not as pieces.py knows it"
    return body


def feed(body, data):
    """Feed a body as aiohttp's parser does with one HTTP chunk."""
    body.begin_http_chunk_receiving()
    body.feed_data(data)
    body.end_http_chunk_receiving()


async def test_all_pieces_of_a_body_are_taken_out_as_one():
    flow = Flow()
    body = a_body(flow)
    for number in range(100):
        feed(body, b"%d " % number)
    assert await body.readany() == b"".join(b"%d " % number for number in range(100))
    assert flow.asked == 0
    feed(body, b"tail")
    body.feed_eof()
    assert body.take() == b"tail"
    assert body.take() == b""
    assert await body.readany() == b""


async def test_pieces_that_came_before_the_class_was_changed_are_taken_too():
    flow = Flow()
    body = aiohttp.StreamReader(flow, 2**16, loop=asyncio.get_running_loop())
    feed(body, b"one ")
    feed(body, b"two ")
    in_pieces(body)
    feed(body, b"three")
    assert body.take() == b"one two three"
    assert body.take() is None


async def test_a_body_that_is_full_pauses_its_connection_until_it_is_taken():
    flow = Flow()
    body = a_body(flow, limit=10)
    feed(body, b"x" * 20)
    assert not flow._reading_paused
    feed(body, b"x")
    assert flow._reading_paused
    assert len(body.take()) == 21
    assert not flow._reading_paused
    assert flow.asked == 1


async def test_a_wait_for_a_body_ends_with_bytes_the_end_or_an_error():
    body = a_body(Flow())
    loop = asyncio.get_running_loop()
    loop.call_soon(feed, body, b"bytes")
    assert await body.readany() == b"bytes"
    loop.call_soon(body.feed_eof)
    assert await body.readany() == b""
    body = a_body(Flow())
    loop.call_soon(body.set_exception, aiohttp.ClientPayloadError("cut"))
    with pytest.raises(aiohttp.ClientPayloadError, match="cut"):
        await body.readany()
    with pytest.raises(aiohttp.ClientPayloadError, match="cut"):
        body.take()


async def test_a_wait_for_a_body_that_was_cancelled_loses_nothing():
    body = a_body(Flow())
    reading = asyncio.ensure_future(body.readany())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task"):
        body.coming()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    feed(body, b"bytes")
    assert await body.readany() == b"bytes"


async def test_nobody_waits_for_a_connection_that_is_closed():
    flow = Flow()
    flow.transport = None
    with pytest.raises(RuntimeError, match="closed"):
        await a_body(flow).readany()


async def test_a_wait_that_was_cancelled_leaves_room_for_the_next():
    body = a_body(Flow())
    reading = asyncio.ensure_future(body.readany())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    asyncio.get_running_loop().call_soon(feed, body, b"bytes")
    assert await body.readany() == b"bytes"


async def test_what_was_taken_of_a_body_does_not_fill_it_but_counts_as_arrived():
    flow = Flow()
    body = a_body(flow, limit=10)
    assert not has_bytes(body)
    for _ in range(3):
        feed(body, b"x" * 15)
        assert len(body.take()) == 15
    assert flow.asked == 0, "it was paused"
    assert has_bytes(body)


async def test_no_bytes_are_no_sign_of_life():
    body = a_body(Flow())
    reading = asyncio.ensure_future(body.readany())
    await asyncio.sleep(0)
    assert not body.feed_data(b"")
    assert body.take() is None
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not reading.done()
    body.feed_eof()
    assert await reading == b""


async def test_a_timeout_between_reads_starts_anew_with_each_read():
    """Only aiohttp keeps it, and so its own code takes the bytes."""
    connection = connection_factory(asyncio.get_running_loop())()
    connection.set_response_params(read_timeout=100.0)
    handles = []
    for piece in (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"one", b"two"):
        connection.data_received(piece)
        handles.append(connection._read_timeout_handle)
    assert type(connection._payload) is Pieces
    assert len(set(map(id, handles))) == 3
    assert [handle.cancelled() for handle in handles] == [True, True, False]
    connection._drop_timeout()


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"3\r\none\r\n3\r\ntwo\r\n"


class Transport(asyncio.Transport):
    max_size = RECEIVE_SIZE


async def received(*reads):
    connection = connection_factory(asyncio.get_running_loop())()
    connection.connection_made(Transport())
    connection.set_response_params(read_until_eof=True)
    for read in reads:
        connection.data_received(read)
    return connection


async def test_of_what_comes_with_the_head_aiohttp_notes_no_chunks_either():
    connection = await received(HEAD + CHUNKS)
    body = connection._payload
    assert body.take() == b"onetwo"
    assert body._http_chunk_splits is None, "aiohttp has fed its own body"


@pytest.mark.parametrize(
    ("chunk", "size"),
    [(b"1\r\nx\r\n", RECEIVE_SIZE // 4), (b"80\r\n%128s\r\n" % b"x", RECEIVE_SIZE)],
)
async def test_reads_become_smaller_after_one_of_very_many_chunks(chunk, size):
    """Each chunk takes time, however small it is."""
    connection = await received(HEAD)
    connection.data_received(chunk * (RECEIVE_SIZE // len(chunk)))
    assert connection._payload.take()
    assert connection.transport.max_size == size


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_head_that_is_cut_anywhere_is_the_same_head(interim):
    answer = interim + HEAD + CHUNKS + b"0\r\n\r\n"
    for at in range(1, len(answer)):
        connection = await received(answer[:at], answer[at:])
        messages = [await connection.read() for _ in range(1 + bool(interim))]
        _, body = messages[-1]
        assert body.take() == b"onetwo"
        assert body.is_eof()
        assert not connection.should_close


async def test_any_number_of_blank_lines_may_come_before_a_head():
    connection = await received(b"\r\n" * 20_000 + HEAD + CHUNKS)
    message, body = await connection.read()
    assert message.code == 200
    assert body.take() == b"onetwo"


@pytest.mark.parametrize("name", ["_exception", "_payload"])
async def test_a_connection_that_lacks_what_is_used_of_it_is_left_to_aiohttp(monkeypatch, name):
    assert connection_factory(asyncio.get_running_loop()).func is _Flowing
    monkeypatch.setattr(ResponseHandler, "__init__", without(name))
    assert connection_factory(asyncio.get_running_loop()).func is _Answering


def without(name):
    made = ResponseHandler.__init__

    def make(self, loop):
        made(self, loop)
        delattr(self, name)

    return make


async def test_all_that_aiohttp_keeps_in_a_connection_is_in_slots():
    """Since Python 3.13, anything else costs ten times as much to read."""
    assert vars(await received(HEAD + CHUNKS)) == {}


class CountingTransport(asyncio.Transport):
    paused = resumed = 0

    def pause_reading(self):
        self.paused += 1

    def resume_reading(self):
        self.resumed += 1


async def test_a_socket_is_read_again_only_if_that_had_stopped():
    connection = connection_factory(asyncio.get_running_loop())()
    transport = CountingTransport()
    connection.connection_made(transport)
    connection.set_response_params(read_until_eof=True, read_bufsize=2)
    connection.data_received(HEAD + b"3\r\none\r\n")
    assert (transport.paused, transport.resumed) == (0, 0)
    connection.data_received(b"3\r\ntwo\r\n")
    assert (transport.paused, transport.resumed) == (1, 0)
    _, body = await connection.read()
    assert body.take() == b"onetwo"
    assert (transport.paused, transport.resumed) == (1, 1)
    connection.data_received(b"0\r\n\r\n")
    assert body.is_eof()
    assert (transport.paused, transport.resumed) == (1, 1)


async def test_a_body_read_in_part_loses_nothing():
    body = a_body(Flow())
    for piece in (b"abc", b"def", b"ghi"):
        body.feed_data(piece)
    assert await body.read(2) == b"ab"
    assert await body.readany() == b"cdefghi"


def test_a_body_of_another_class_is_left_alone():
    empty = aiohttp.streams.EMPTY_PAYLOAD
    assert in_pieces(empty) is empty
    assert not isinstance(empty, Pieces)


class Lower:
    """What a TLS transport is to `receive_less`."""

    def __init__(self, protocol):
        self._ssl_protocol = protocol


@pytest.mark.skipif(not hasattr(asyncio, "sslproto"), reason="another implementation of TLS")
async def test_tls_connections_read_into_one_small_buffer(monkeypatch):
    monkeypatch.setattr(asyncio.sslproto.SSLProtocol, "max_size", 8 * TLS_RECEIVE_SIZE)
    buffer = bytearray(TLS_RECEIVE_SIZE)
    for protocol in (tls_protocol(), tls_protocol()):
        assert len(protocol.get_buffer(-1)) > TLS_RECEIVE_SIZE, "asyncio needs no help any more"
        receive_less(Lower(protocol), buffer)
        for wanted in (-1, 2**20):
            assert protocol.get_buffer(wanted).obj is buffer
            assert len(protocol.get_buffer(wanted)) == TLS_RECEIVE_SIZE
        protocol._get_app_transport()._closed = True  # it never opened: do not warn of it


@pytest.mark.skipif(not hasattr(asyncio, "sslproto"), reason="another implementation of TLS")
async def test_asyncio_copies_what_it_read_before_another_connection_reads():
    """What lets connections share a buffer: what is in it is OpenSSL's by the end of the step."""
    protocol = tls_protocol()
    protocol._do_handshake = protocol._do_read = lambda: None
    view = protocol.get_buffer(-1)
    view[:5] = b"first"
    protocol.buffer_updated(5)
    view[:5] = b"other"
    assert protocol._incoming.read() == b"first"
    protocol._get_app_transport()._closed = True


def tls_protocol():
    return asyncio.sslproto.SSLProtocol(
        asyncio.get_running_loop(),
        asyncio.Protocol(),
        ssl.create_default_context(),
        None,
        server_hostname="localhost",
        call_connection_made=False,
    )


def test_a_transport_without_such_buffers_is_left_alone():
    receive_less(None, bytearray())
    receive_less(object(), bytearray())


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="aiohttp itself starts to write at once")
@pytest.mark.skipif(aiohttp.__version__ < "3.14", reason="its response has another form")
@pytest.mark.parametrize(("size", "tasks"), [(100, 0), (SMALL_BODY, 0), (SMALL_BODY + 1, 1)])
async def test_a_small_body_is_written_without_a_task(size, tasks):
    assert request_class() is Request, "aiohttp is not as connections.py knows it"
    made = []

    def make(loop, coro, **options):
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **options)

    body = bytes(size)
    async with FaultServer(default=Answer(200, {}, b"fine")) as server, session() as http:
        for _ in range(2):
            loop = asyncio.get_running_loop()
            loop.set_task_factory(make)
            async with http.post(server.url, data=body) as response:
                loop.set_task_factory(None)
                assert await response.read() == b"fine"
        assert [request.body for request in server.requests] == [body, body]
    # The server of the test makes tasks as well: only those of aiohttp's client count.
    assert sum("ClientRequest" in coro.__qualname__ for coro in made) == 2 * tasks


async def test_a_body_that_waits_for_a_go_ahead_is_left_to_aiohttp():
    async with FaultServer(Answer(200, {}, b"fine")) as server, session() as http:
        async with http.post(server.url, data=b"body", expect100=True) as response:
            assert await response.read() == b"fine"
        assert server.requests[0].body == b"body"


def session():
    return aiohttp.ClientSession(connector=Connector(), request_class=request_class())
