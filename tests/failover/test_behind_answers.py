"""What comes behind an answer costs neither it nor the next one, wherever reads are cut."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import ClientOSError
from aiohttp.helpers import DEBUG

from aiollm import FailoverError, InvalidRequestError, Registry, StreamInterrupted
from aiollm._http.receiving import SendNotes, connection_factory
from aiollm._http.repeated import _PARAMETERS
from aiollm.testing import FaultServer, Raw
from tests.work.test_work import Counter

OK = b"HTTP/1.1 200 OK\r\n"
FOUR = b"Content-Length: 4\r\n\r\nfine"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
ANSWERS = {
    "length": (OK + FOUR, b"fine"),
    "chunks": (OK + CHUNKED + b"2\r\nfi\r\n2;a=b\r\nne\r\n0\r\n\r\n", b"fine"),
    "trailers": (OK + CHUNKED + b"4\r\nfine\r\n0\r\nX: y\r\n\r\n", b"fine"),
    "no bytes": (OK + b"Content-Length: 0\r\n\r\n", b""),
    "no chunks": (OK + CHUNKED + b"0\r\n\r\n", b""),
    "interim responses": (b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + OK + FOUR, b"fine"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "an error": (b"HTTP/1.1 400 Bad\r\n" + FOUR, b"fine"),
    "blank lines before it": (b"\r\n" * 5 + OK + FOUR, b"fine"),
    "line ends in the body": (OK + b"Content-Length: 6\r\n\r\n\r\n\n\n\r\n", b"\r\n\n\n\r\n"),
}
if not DEBUG:  # in which aiohttp is strict
    ANSWERS["bare line ends"] = ((OK + FOUR).replace(b"\r", b""), b"fine")
JUNK = {
    "a brace": b"}",
    "a line end": b"\n",
    "a byte of a head": b"H",
    "half a head": b"HTTP/1.1 500 Evil\r\nX: ",
    "an answer": OK + b"Content-Length: 4\r\n\r\nEVIL",
    "words": b"more\r\n\r\n",
    "a head": OK + b"Content-Length: 4\r\n\r\n",
    "a head of chunks": OK + CHUNKED,
    "a head and its end cut": (OK + b"Content-Length: 4\r\n\r\n")[:-1],
    "a line of a head": OK,
    "half an answer": OK + b"Content-Length: 40\r\n\r\nEVIL",
}


class Wire(asyncio.Transport):
    """Stands for a socket."""

    closed = paused = False

    def get_extra_info(self, name, default=None):
        return default

    def is_closing(self):
        return self.closed

    def abort(self):
        self.closed = True

    close = abort

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


class Line:
    """A connection over which answers come as a test says."""

    def __init__(self):
        self.wire = Wire()
        self.protocol = connection_factory(asyncio.get_running_loop())()
        self.protocol.connection_made(self.wire)

    def ask(self):
        self.protocol.begin(SendNotes())
        self.protocol.set_response_params(**_PARAMETERS)

    def receive(self, *reads):
        for read in reads:
            if read and not self.wire.closed:
                self.protocol.data_received(read)

    async def answer(self):
        """Return the body of the answer."""
        while (found := await self.protocol.read())[0].code == 100:
            pass
        body = b""
        while data := await found[1].readany():
            body += data
        return body

    @property
    def may_be_reused(self):
        return not (self.wire.closed or self.protocol.should_close)


async def after_one_more(line):
    line.ask()
    line.receive(OK + FOUR)
    assert await line.answer() == b"fine"


@pytest.mark.parametrize("kept", [False, True], ids=["fresh", "kept"])
@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
@pytest.mark.parametrize(("answer", "body"), ANSWERS.values(), ids=ANSWERS)
async def test_a_complete_answer_is_taken_and_its_connection_closed(answer, body, junk, kept):
    whole = answer + junk
    for cut in range(len(whole)):
        line = Line()
        if kept:
            await after_one_more(line)
        line.ask()
        line.receive(whole[:cut], whole[cut:])
        assert await line.answer() == body, f"cut at {cut}"
        assert not line.may_be_reused, f"cut at {cut}"
        assert not line.protocol._buffer, f"cut at {cut}"


@pytest.mark.parametrize("kept", [False, True], ids=["fresh", "kept"])
@pytest.mark.parametrize(("answer", "body"), ANSWERS.values(), ids=ANSWERS)
async def test_a_connection_is_reused_where_nothing_is_behind_the_answer(answer, body, kept):
    for cut in range(len(answer)):
        line = Line()
        if kept:
            await after_one_more(line)
        line.ask()
        line.receive(answer[:cut], answer[cut:])
        assert await line.answer() == body, f"cut at {cut}"
        assert line.may_be_reused, f"cut at {cut}"
        await after_one_more(line)


async def test_what_comes_on_an_idle_connection_closes_it():
    for junk in JUNK.values():
        line = Line()
        await after_one_more(line)
        line.receive(junk)
        assert not line.may_be_reused


@pytest.mark.parametrize("junk", [b"", *JUNK.values()], ids=["nothing", *JUNK])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_the_end_of_a_body_that_waits_for_its_reader_is_known_too(junk, chunked):
    body = b"x" * 200_000
    head = CHUNKED if chunked else b"Content-Length: 200000\r\n\r\n"
    sent = b"30d40\r\n%b\r\n0\r\n\r\n" % body if chunked else body
    line = Line()
    line.ask()
    line.receive(OK + head, sent[:150_000])
    assert line.wire.paused
    line.receive(sent[150_000:] + junk)
    assert await line.answer() == body
    assert line.may_be_reused == (not junk)


@pytest.mark.parametrize("cut", [b"\r\n1\r\n", b"zz\r\n", b"\r\nzz\r\n"])
async def test_a_body_that_is_not_complete_is_none(cut):
    """Bytes that are not HTTP are no end, wherever the read begins."""
    whole = OK + CHUNKED + b"2\r\nfi" + cut
    for at in range(len(whole)):
        line = Line()
        line.ask()
        line.receive(whole[:at], whole[at:])
        line.protocol.connection_lost(None)
        with pytest.raises(Exception, match=r"chunk|Not enough|Response payload|400"):
            await line.answer()


async def test_blank_lines_before_a_head_are_not_taken_one_by_one():
    line = Line()
    line.ask()
    with Counter() as counter:
        line.receive(b"\r\n" * 30_000 + OK + FOUR)
    assert counter.count <= 2000
    assert await line.answer() == b"fine"


def event(text):
    return b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text


STREAM = (
    event(b"a")
    + event(b"b")
    + b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
EVENTS = OK + b"Content-Type: text/event-stream\r\n"
REFUSED = b'{"error":{"message":"no such field","type":"invalid_request_error"}}'
AGAIN = EVENTS + b"Content-Length: %d\r\n\r\n%b" % (len(STREAM), STREAM)


def env(server):
    return {"LLM_A": f"openai+http://k@127.0.0.1:{server.port}"}


@pytest.mark.parametrize("junk", [b"}", b"\n", b"HTTP/1.1 2", AGAIN], ids=repr)
async def test_a_stream_whose_length_is_too_short_is_complete_and_the_next_is_its_own(junk):
    async with (
        FaultServer(Raw((AGAIN,)), Raw((AGAIN + junk,)), default=Raw((AGAIN,))) as server,
        Registry(env=env(server), retries=0) as reg,
    ):
        answers = [(await reg.generate("a/m", "hi")).text for _ in range(4)]
        assert answers == ["ab"] * 4
        assert [request.connection for request in server.requests] == [0, 0, 1, 1]


async def test_an_error_whose_length_is_too_short_keeps_its_words():
    head = b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    whole = head % len(REFUSED) + REFUSED + b"\n}"
    async with (
        FaultServer(Raw((whole,)), default=Raw((AGAIN,))) as server,
        Registry(env=env(server), retries=0) as reg,
    ):
        with pytest.raises(FailoverError) as caught:
            await reg.generate("a/m", "hi")
        assert isinstance(caught.value.last, InvalidRequestError)
        assert "no such field" in str(caught.value.last)


async def test_a_stream_with_a_length_that_ends_too_soon_keeps_what_came():
    short = EVENTS + b"Content-Length: 100\r\n\r\n" + (event(b"a") + event(b"b"))[:100] + b"\0\0"
    async with (
        FaultServer(default=Raw((short,))) as server,
        Registry(env=env(server), retries=0) as reg,
    ):
        with pytest.raises(StreamInterrupted) as caught:
            await reg.generate("a/m", "hi")
        assert caught.value.partial.text == "a"


class Socketed(Wire):
    """Stands for a socket whose other end has answered."""

    def __init__(self, end, **more):
        super().__init__()
        self._known = {"socket": end, **more}

    def get_extra_info(self, name, default=None):
        return self._known.get(name, default)


@pytest.mark.loops
async def test_an_answer_that_is_there_when_a_write_fails_is_taken():
    """As that of a server that refuses a large request amid it, and closes."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        mine.setblocking(False)
        theirs.sendall(b"HTTP/1.1 413 Too Large\r\n" + FOUR)
        line = Line()
        line.ask()
        line.protocol.transport = Socketed(mine)
        line.protocol.connection_lost(ConnectionResetError())
        assert await line.answer() == b"fine"
        assert line.protocol.should_close


@pytest.mark.parametrize("case", ["nothing came", "it is TLS", "it is closed", "there is none"])
async def test_without_such_an_answer_the_write_has_failed(case):
    mine, theirs = socket.socketpair()
    with mine, theirs:
        mine.setblocking(False)
        if case != "nothing came":
            theirs.sendall(OK + FOUR)
        if case == "it is closed":
            mine.close()
        line = Line()
        line.ask()
        end = None if case == "there is none" else mine
        line.protocol.transport = Socketed(end, sslcontext=case == "it is TLS" or None)
        line.protocol.connection_lost(ConnectionResetError())
        with pytest.raises(ClientOSError):
            await line.answer()
