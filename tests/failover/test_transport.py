"""The transport: foreign errors become ours, nothing secret or private gets through."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import inspect

import aiohttp
import pytest
from aiohttp import http_exceptions

from aiollm import (
    AuthenticationError,
    FailoverError,
    ImageRequest,
    LLMError,
    OverloadedError,
    ProtocolError,
)
from aiollm._http import pieces, receiving, transport
from aiollm._http.pieces import Pieces
from aiollm._http.receiving import MAX_INTERIM
from aiollm._http.translation import translate
from aiollm.testing import Answer, Gate, Raw, chat
from aiollm.testing.faults import End

pytestmark = pytest.mark.loops


def aiohttp_errors():
    found = set()
    for module in (aiohttp, aiohttp.client_exceptions, http_exceptions):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Exception) and kind.__module__.startswith("aiohttp"):
                found.add(kind)
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", aiohttp_errors(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("in_body", [False, True])
def test_every_error_of_aiohttp_maps_to_the_tree_without_its_text(kind, in_body):
    error = kind.__new__(kind)
    error.args = ("Authorization: Bearer sk-secret",)
    error._os_error = OSError(1, "refused")
    ours = translate(error, in_body=in_body)
    assert isinstance(ours, LLMError)
    assert "sk-secret" not in str(ours)


async def test_requests_ask_for_no_compression_and_carry_no_cookies(serve, registry):
    answer = chat("x")
    server = await serve(Answer(200, {"set-cookie": "a=b"}, answer.body, "chunked"))
    reg = registry({"a": server})
    for _ in range(2):
        await reg.stream("a/m", "hi").collect()
    for request in server.requests:
        assert request.headers["accept-encoding"] == "identity"
        assert "cookie" not in request.headers


@pytest.mark.parametrize("call", ["stream", "images", "unary"])
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nxx",
        b"HTTP/1.1 000 OK\r\n\r\n",
    ],
    ids=["no content", "not modified", "another protocol", "the largest length", "no status"],
)
async def test_an_answer_that_has_no_body_by_its_head_is_an_error(serve, registry, call, head):
    server = await serve(Raw((head,)))
    with pytest.raises(LLMError):
        await CALLS[call](registry({"a": server}, retries=0))


def encoded(status=200, encoding="gzip"):
    bomb = gzip.compress(b"{}\n\n" * 1_000_000)
    return Answer(status, {"content-type": "text/event-stream", "content-encoding": encoding}, bomb)


CALLS = {
    "stream": lambda reg: reg.generate("a/m", "hi"),
    "images": lambda reg: reg.generate_images("a/m", ImageRequest("a boat")),
    "unary": lambda reg: reg.models("a"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("encoding", ["gzip", "GZip, br", "deflate", "zstd", "x-unheard-of"])
async def test_an_encoding_that_nobody_asked_for_is_refused_unread(serve, registry, call, encoding):
    server = await serve(encoded(encoding=encoding))
    with pytest.raises((FailoverError, ProtocolError)) as caught:
        await call(registry({"a": server}))
    error = getattr(caught.value, "last", caught.value)
    assert type(error) is ProtocolError
    assert error.frame == b""
    assert f"Content-Encoding '{encoding}'" in str(error)
    assert "turn off compression" in str(error)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("status", "kind"), [(401, AuthenticationError), (503, OverloadedError)])
async def test_a_refusal_in_an_encoding_is_what_its_status_says(
    serve, registry, call, status, kind
):
    server = await serve(encoded(status))
    with pytest.raises((FailoverError, kind)) as caught:
        await call(registry({"a": server}))
    error = getattr(caught.value, "last", caught.value)
    assert type(error) is kind
    assert (error.status, error.body) == (status, b"")
    assert error.message == f"HTTP {status} with a body in the Content-Encoding 'gzip'"


@pytest.mark.parametrize("encoding", ["identity", "none", "utf-8", ""])
async def test_an_encoding_that_changes_nothing_is_accepted(serve, registry, encoding):
    answer = chat("x")
    server = await serve(
        Answer(
            200,
            {"content-type": "text/event-stream", "content-encoding": encoding},
            answer.body,
            "chunked",
        )
    )
    assert (await registry({"a": server}).generate("a/m", "hi")).text == "x"


async def test_a_large_body_arrives_whole_and_with_its_length(serve, registry):
    server = await serve(chat("x"))
    text = "ü" * 3_000_000
    await registry({"a": server}).stream("a/m", text).collect()
    (request,) = server.requests
    assert request.json()["messages"][0]["content"] == text
    assert int(request.headers["content-length"]) == len(request.body)


async def test_a_header_that_is_too_long_is_named_and_not_quoted(serve, registry):
    server = await serve(Answer(200, {"x-long": "secret" * 2000}, {}))
    with pytest.raises(FailoverError) as caught:
        await registry({"a": server}).stream("a/m", "hi").collect()
    assert isinstance(caught.value.last, ProtocolError)
    assert "a header has more than 8190 bytes" in str(caught.value.last)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"HTTP/1.1 what\r\n\r\n", "status"),
        (b"HTTP/1.1 200 OK\r\nbad header: secret\r\n\r\n", "header"),
    ],
)
async def test_an_answer_that_is_not_http_says_what_is_wrong(registry, head, reason):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(FailoverError) as caught:
            await registry({"a": f"http://127.0.0.1:{port}"}).stream("a/m", "hi").collect()
    error = caught.value.last
    assert isinstance(error, ProtocolError)
    assert reason in error.message
    assert "secret" not in error.message


def test_a_header_that_comes_twice_is_named():
    """aiohttp refuses it in Python's development mode alone."""
    twice = http_exceptions.BadHttpMessage("Duplicate 'Server' header found.")
    assert "Duplicate 'Server' header found" in str(translate(twice))


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
FINAL = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("count", [0, 3, MAX_INTERIM, MAX_INTERIM + 1, 100_000])
async def test_interim_responses_are_passed_over_but_not_without_end(registry, count):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(INTERIM * count + FINAL + b"".join(chat("x").body))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        call = registry({"a": f"http://127.0.0.1:{port}"}).stream("a/m", "hi").collect()
        if count <= MAX_INTERIM:
            assert (await call).text == "x"
            return
        with pytest.raises(FailoverError) as caught:
            await call
        assert type(caught.value.last) is ProtocolError
        assert "interim" in str(caught.value.last)


@pytest.mark.parametrize(("fields", "is_taken"), [(7, True), (60, False), (10_000, False)])
async def test_a_head_may_be_large_but_not_without_end(registry, fields, is_taken):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        line, rest = FINAL.split(b"\r\n", 1)
        writer.write(line + b"\r\nX-Large: %b" % (b"x" * 8000) * fields + b"\r\n" + rest)
        writer.write(b"".join(chat("x").body))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        call = registry({"a": f"http://127.0.0.1:{port}"}).stream("a/m", "hi").collect()
        if is_taken:
            assert (await call).text == "x"
            return
        with pytest.raises(FailoverError) as caught:
            await call
        assert type(caught.value.last) is ProtocolError
        assert str(caught.value.last) == "a/m: the answer has a head of more than 65536 bytes"


def event(text):
    data = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text.encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("end", [(End("close"),), (End("reset"),), (b"zz\r\n", Gate())])
async def test_what_arrived_before_a_break_reaches_a_caller_who_reads_slowly(
    serve, registry, end, monkeypatch
):
    """aiohttp raises the error first, and drops what is in its buffer."""
    has_arrived, is_broken = Gate(), asyncio.Event()

    class Noting(Pieces):
        __slots__ = ()

        def feed_data(self, data, size=0):
            if b'"c"' in data:
                has_arrived.open()
            return super().feed_data(data, size)

        def set_exception(self, *args):
            super().set_exception(*args)
            is_broken.set()

    for module in (pieces, receiving, transport):
        monkeypatch.setattr(module, "Pieces", Noting)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    start = head + b"Transfer-Encoding: chunked\r\n\r\n" + event("a")
    go_on = Gate()
    server = await serve(Raw((start, go_on, event("b") + event("c"), has_arrived, *end)))
    texts = []
    with pytest.raises(LLMError) as caught:
        async for chunk in registry({"a": server}, retries=0).stream("a/m", "hi"):
            texts.append(chunk.text)
            if len(texts) == 1:
                go_on.open()
                await asyncio.wait_for(is_broken.wait(), 5)
    assert texts == ["a", "b", "c"]
    assert caught.value.partial.text == "abc"
