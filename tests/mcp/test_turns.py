"""What a hostile MCP server sends holds up nothing else: it is read in pieces, none too dense."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Any

import httpx2
import pytest

from aiollm._mcp.events import in_turns
from aiollm._mcp.http import _Bounded
from aiollm._mcp.lines import Lines, TooLong
from aiollm._mcp.sdk import load
from aiollm._mcp.stdio import StdioTransport
from aiollm._mcp.tools import Listed, book_of
from aiollm._mcp.traffic import Traffic
from aiollm._user_types.density import MESSAGE, Weight
from aiollm._wire.lenient import MAX_MENDED
from tests.turns import turns

DENSE = [b"[" * 40_000, b'{"a":"b"},' * 20_000, b"1," * 140_000, b'"\\n"' * 600_000]


@pytest.mark.parametrize("dense", DENSE)
@pytest.mark.parametrize("size", [1000, 200_000, 2**24])
def test_a_line_of_too_many_parts_is_left_out_whatever_its_size(dense, size):
    line = b'{"jsonrpc":"2.0","id":7,"result":{"a":[' + dense + b"]}}\n"
    reader = Lines(2**24)
    pieces = [line[at : at + size] for at in range(0, len(line), size)]
    (found,) = (each for piece in pieces for each in reader.feed(piece))
    assert isinstance(found, TooLong)
    assert (found.id, found.size) == (7, len(line) - 1)
    assert "more than" in found.excess
    assert list(reader.feed(b"{}\n")) == [b"{}"]


def test_a_large_text_is_no_structure():
    line = b'{"jsonrpc":"2.0","id":7,"result":{"a":"%s"}}' % (b"[1,2]{}, " * 500_000)
    assert list(Lines(2**24).feed(line + b"\n")) == [line]


async def test_others_run_between_the_messages_of_a_server():
    """Whatever it writes at once: messages, noise, or nothing but line ends."""
    written = """import sys; sys.stdout.write('{"jsonrpc":"2.0","id":1,"result":{}}\\n' * 2000)
sys.stdout.flush(); sys.stdin.read()"""  # what one that ends has written is read for a moment alone
    traffic = Traffic(await load(), lambda _: None, lambda: None)
    transport = StdioTransport(traffic, [sys.executable, "-c", written], {}, None, 2**20)
    async with transport as (received, _), turns() as seen:
        messages, at = [], Counter()
        async for each in received:
            messages.append(each)
            at[len(seen)] += 1
            if len(messages) == 2000:
                break
        transport.close()
    await transport.child.gone()
    assert len(messages) == 2000
    assert {type(each.message).__name__ for each in messages} == {"JSONRPCResponse"}
    assert max(at.values()) <= 20, "messages in one turn"


class Body(httpx2.AsyncByteStream):
    """A body in memory."""

    def __init__(self, *reads):
        self.reads, self.closed = reads, False

    async def __aiter__(self):
        for each in self.reads:
            yield each

    async def aclose(self):
        self.closed = True


async def test_others_run_between_the_pieces_of_a_stream_of_events():
    body = Body(b": ping\n\n" * 20_000, b"data: {}\n\n")
    response = httpx2.Response(200, stream=in_turns(httpx2, body))
    async with turns() as seen:
        whole = b"".join([piece async for piece in response.aiter_raw()])
    await response.aclose()
    assert whole == b"".join(body.reads)
    assert len(seen) >= 18
    assert body.closed


@pytest.mark.parametrize("dense", DENSE)
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
async def test_an_event_of_too_many_parts_ends_its_stream_alone(dense, end):
    small = b'data: {"a":[%s]}' % (b"[]," * 2000) + end
    fine = in_turns(httpx2, Body(small * 20))
    assert b"".join([piece async for piece in fine]) == small * 20
    with pytest.raises(httpx2.SSEError, match="an event has more than"):
        async for _ in in_turns(httpx2, Body(small, b"data: " + dense, end)):
            pass


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
async def test_events_that_come_line_by_line_are_counted_one_by_one(end):
    """The end of a line and the blank line after it may come in two reads, or in four."""
    small = b'data: {"a":[%s]}' % (b"[]," * 2000)
    for blank in ([end], [end[:1], end[1:]] if end[1:] else [end]):
        reads = [small, end, *blank] * 20
        assert b"".join([each async for each in in_turns(httpx2, Body(*reads))]) == b"".join(reads)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_events_are_made_readable_however_they_are_cut(end, size):
    event = b'event: message%bdata:%b{"id":1,"result":{"text":"%b"}}%b%b'
    cut, whole = (
        event % (end, space, text, end, end)
        for space, text in ((b" ", rb"\ud83d"), (b"", rb"\ud83d\ude00"))
    )
    data = cut + whole
    reads = [data[at : at + size] for at in range(0, len(data), size)]
    made = b"".join([each async for each in in_turns(httpx2, Body(*reads))])
    assert made.count("\ufffd".encode()) == 1
    assert made.endswith(whole)
    assert made.startswith(cut[: cut.index(b"{")].rstrip(b" "))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
async def test_an_event_is_passed_on_at_its_end_and_a_long_line_before(end):
    long = b"data: " + b"x" * (MAX_MENDED + 1)
    body = in_turns(httpx2, Body(b"data: {}" + end + end, b": ping" + end, long, b"never"))
    given = []
    async for each in body:
        given.append(each)
        if len(given) == 1:
            assert given == [b"data: {}" + end + end]
        if b"".join(given).endswith(long):
            break
    assert b"".join(given) == b"data: {}" + end + end + b": ping" + end + long


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
async def test_all_lines_of_an_event_are_counted_together(end):
    lines = (b"data: " + b"[]," * 2000 + end) * 20
    with pytest.raises(httpx2.SSEError, match="an event has more than"):
        async for _ in in_turns(httpx2, Body(lines, end)):
            pass


async def test_others_run_between_the_schemas_of_a_list():
    listed = [Listed(f"t{at}", "", {"properties": {"a": {}}}) for at in range(50)]
    async with turns() as seen:
        book = await book_of("s", listed, None, None)
    assert len(book.tools) == 50
    assert len(seen) >= 49


class _Noting(dict[str, Any]):
    """A schema that notes which threads read its type."""

    def __init__(self, schema: dict[str, Any]) -> None:
        super().__init__(schema)
        self.threads: set[int] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.threads.add(threading.get_ident())
        return super().get(key, default)


@pytest.mark.parametrize(("count", "elsewhere"), [(4, False), (4000, True)])
async def test_a_large_schema_is_mended_in_a_thread(count, elsewhere):
    properties = {f"p{at}": {"type": "string"} for at in range(count)}
    schema = _Noting({"properties": properties})
    book = await book_of("s", [Listed("wide", "", schema)], None, None)
    assert len(book.tools["wide"].parameters["properties"]) == count
    assert len(schema.threads) == 1
    assert (threading.get_ident() not in schema.threads) is elsewhere


async def test_a_schema_whose_references_double_it_again_and_again_is_mended_in_a_thread():
    both = [{key: {"$ref": f"#/$defs/{at}"} for key in "ab"} for at in range(1, 20)]
    levels = [{"properties": each} for each in both]
    defs = {str(at): each for at, each in enumerate([*levels, {"type": "string"}])}
    schema = _Noting({"properties": {"a": {"$ref": "#/$defs/0"}}, "$defs": defs})
    book = await book_of("s", [Listed("bomb", "", schema)], None, None)
    assert "subschemas" in book.refused["bomb"]
    assert threading.get_ident() not in schema.threads


class Chunked:
    """A response whose HTTP chunks have all come, and are of a byte each."""

    is_closed = False

    async def aiter_bytes(self):
        for _ in range(10_000):
            yield b"a"

    async def aclose(self):
        self.is_closed = True


async def test_others_run_between_the_http_chunks_of_an_answer():
    response = Chunked()
    async with turns() as seen:
        body = await _Bounded._body(None, response, 2**20, Weight(MESSAGE))
    assert body == b"a" * 10_000
    assert len(seen) >= 100
    assert response.is_closed
