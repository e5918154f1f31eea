"""The transport: foreign errors become ours, nothing secret or private gets through."""

from __future__ import annotations

import asyncio
import inspect

import aiohttp
import pytest
from aiohttp import http_exceptions

from aiollm import FailoverError, LLMError, ProtocolError
from aiollm._http.translation import translate
from aiollm.testing import Answer, chat


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
