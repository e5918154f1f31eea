"""Reads that are larger than what is parsed in one turn of the loop, as uvloop's."""

from __future__ import annotations

import asyncio
import random

import pytest

from aiollm._http.aiohttp_tuning import READ_BUFFER
from aiollm._http.pieces import LESS, Pieces
from aiollm._http.receiving import RECEIVE_SIZE, _Flowing

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


class Transport(asyncio.Transport):
    """Notes whether it reads and whether it is closed."""

    def __init__(self):
        super().__init__()
        self.reads, self.closed = True, False

    def pause_reading(self):
        self.reads = False

    def resume_reading(self):
        self.reads = True

    def close(self):
        self.closed = True

    abort = close

    def is_closing(self):
        return self.closed


def connect(most=RECEIVE_SIZE):
    connection = _Flowing(asyncio.get_running_loop())
    connection.connection_made(Transport())
    connection.set_response_params(read_until_eof=True, read_bufsize=READ_BUFFER)
    connection.begin(None)
    connection.max_size = most
    return connection


def chunks(count, size=1):
    return (b"%x\r\n%b\r\n" % (size, b"x" * size)) * count


async def test_a_large_read_is_parsed_in_several_turns_before_the_next_one():
    connection = connect()
    connection.data_received(HEAD + chunks(40_000) + END)
    body, sizes = connection._payload, []
    assert type(body) is Pieces
    while not body.is_eof():
        assert not connection.transport.reads
        assert connection.should_close
        sizes.append(len(body.take()))
        await asyncio.sleep(0)
    sizes.append(len(body.take()))
    assert sum(sizes) == 40_000
    assert sizes[0] > LESS / 6 >= sizes[1] - 1  # the first part had very many chunks
    assert len(sizes) >= 10
    assert connection.transport.reads
    await connection.read()
    assert not connection.should_close


async def test_a_body_that_is_full_is_not_read_on_before_it_is_taken():
    connection = connect()
    connection.data_received(HEAD + chunks(6, 50_000))
    for _ in range(9):
        await asyncio.sleep(0)
    assert not connection._rest
    assert not connection.transport.reads
    assert len(connection._payload.take()) == 300_000
    assert connection.transport.reads


async def test_a_body_that_is_taken_amid_a_large_read_does_not_read_on():
    connection = connect()
    connection.data_received(HEAD + chunks(6, 50_000))
    assert connection._payload.take()
    assert not connection.transport.reads


async def test_what_comes_amid_a_large_read_follows_the_rest_of_it():
    """A transport may have more although it was paused."""
    connection = connect(100)
    connection.data_received(HEAD + chunks(20, 9))
    connection.data_received(b"3\r\nend\r\n" + END)
    body = connection._payload
    while not body.is_eof():
        await asyncio.sleep(0)
    assert body.take() == b"x" * 180 + b"end"


async def test_a_connection_is_not_reused_before_what_is_behind_its_answer_was_looked_at():
    answer = HEAD + chunks(20) + END
    connection = connect(len(answer))
    connection.data_received(answer + b"junk")
    message, body = await connection.read()
    assert message.code == 200
    assert body.is_eof()
    assert connection.should_close
    await asyncio.sleep(0)
    assert connection.transport.closed


@pytest.mark.parametrize("end", ["eof_received", "connection_lost"])
async def test_nothing_of_a_large_read_is_lost_where_the_end_comes_at_once(end):
    connection = connect()
    connection.data_received(HEAD + chunks(40_000) + END)
    body = connection._payload
    if end == "eof_received":
        connection.eof_received()
    connection.connection_lost(None)
    assert len(body.take()) == 40_000
    assert body.is_eof()
    await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(300))
async def test_an_answer_in_parts_is_the_same_answer(seed):
    """Whatever follows it, and however its reads are cut."""
    dice = random.Random(seed)
    sent = HEAD + b"".join(chunks(dice.randrange(1, 9), dice.randrange(1, 40)) for _ in range(5))
    sent += dice.choice([END, END, b"", b"zz\r\n", b"5\r\nx\r\n"])
    sent += dice.choice([b"", b"", b"HTTP/1.1 200 OK\r\n\r\n", b"junk", HEAD + END])
    cuts = sorted(dice.sample(range(len(sent)), dice.randrange(4)))
    reads = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    is_lost, turns = dice.random() < 0.5, dice.randrange(9)
    outcomes = []
    for most in (len(sent), dice.randrange(1, 200)):
        connection = connect(most)
        transport = connection.transport
        for read in reads:
            while not transport.reads and not transport.closed:
                await asyncio.sleep(0)
            if not transport.closed:
                connection.data_received(read)
        for _ in range(turns):
            await asyncio.sleep(0)
        if is_lost:
            connection.connection_lost(None)
        while connection._rest:
            await asyncio.sleep(0)
        message, body = (await connection.read()) if connection._buffer else (None, None)
        outcome = (
            message and message.code,
            body and b"".join(body._buffer),
            body and body.is_eof(),
            type(body and body.exception()),
            connection.should_close,
            transport.closed,
        )
        outcomes.append(outcome)
    assert outcomes[0] == outcomes[1]
