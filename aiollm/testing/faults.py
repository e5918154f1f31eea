"""Faults as data: each describes how a loopback server answers one request, well or badly.

`steps` turns a fault into steps: bytes to send, gates and pauses to wait for, and an ending.
`after` counts bytes of the body; None means before the first byte of the headers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, repeat
from typing import Any, Literal, TypeAlias

import msgspec

from aiollm.testing.gate import Gate
from aiollm.testing.http1 import LAST_CHUNK, chunk_bytes, head_bytes, pairs_of
from aiollm.testing.server_record import SeenRequest


class Pause(msgspec.Struct, frozen=True):
    """Wait this many seconds; use a `Gate` if the test can decide when to continue."""

    seconds: float


class End(msgspec.Struct, frozen=True):
    """How a script ends: with FIN, with RST, never, or when the next request arrives."""

    how: Literal["close", "reset", "hang", "close_on_reuse", "reset_on_reuse"]


Piece: TypeAlias = bytes | Gate | Pause
"""A piece of a body: bytes, or something to wait for between them."""
AnswerStep: TypeAlias = bytes | Gate | Pause | End
"""A step of an answer: its pieces, including the head, then how it ends."""


class Answer(msgspec.Struct, frozen=True):
    """A well-formed answer whose body is bytes, a str, a mapping (sent as JSON), or pieces.

    Pieces are sent one by one, each as one HTTP chunk, and may include gates and pauses.
    `framing` defaults to `length` for a complete body and to `chunked` for pieces; `close` ends
    the answer with FIN.
    """

    status: int = 200
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = {}
    body: bytes | str | Mapping[str, Any] | Sequence[Piece] = b""
    framing: Literal["length", "chunked", "close"] | None = None


class Serve(msgspec.Struct, frozen=True):
    """A 200 with these bytes, in chunks of `size` bytes (0 = one chunk)."""

    body: bytes
    content_type: str = "text/event-stream"
    size: int = 0


_TEXT = Serve(
    b'data: {"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


class Hang(msgspec.Struct, frozen=True):
    """Stop sending but keep the connection open; opening `gate` sends the rest."""

    after: int | None = None
    answer: Answer | Serve = _TEXT
    gate: Gate | None = None


class Cut(msgspec.Struct, frozen=True):
    """Close with a FIN in mid-answer, once `gate` is open, leaving the HTTP message incomplete."""

    after: int | None = None
    answer: Answer | Serve = _TEXT
    gate: Gate | None = None


class Truncate(msgspec.Struct, frozen=True):
    """End the body early but properly: complete for HTTP, but not for the protocol in it."""

    after: int = 0
    answer: Answer | Serve = _TEXT


class Reset(msgspec.Struct, frozen=True):
    """Reset the connection with a RST, once `gate` is open.

    A peer may lose bytes that it received but has not read yet; a gate lets it read them first.
    """

    after: int | None = None
    answer: Answer | Serve = _TEXT
    gate: Gate | None = None


class Trickle(msgspec.Struct, frozen=True):
    """Send the body `size` bytes at a time, one piece every so many seconds or by gate."""

    every: float | Gate = 1.0
    size: int = 1
    answer: Answer | Serve = _TEXT


class Flood(msgspec.Struct, frozen=True):
    """Send `data` endlessly; the default is an SSE comment, a sign of life without output."""

    data: bytes = b": keep-alive\n\n"
    every: float | Gate = 0.0
    content_type: str = "text/event-stream"


class EndlessHeaders(msgspec.Struct, frozen=True):
    """Send header lines endlessly."""

    every: float | Gate = 0.0


class Stale(msgspec.Struct, frozen=True):
    """Answer, then close the kept-alive connection once `gate` is open, or on reuse without one.

    On reuse, the next request on that connection is read and gets a FIN (or RST) in place of an
    answer, as if the server had closed just before it arrived. It does not use up a script.
    """

    answer: Answer | Serve = _TEXT
    gate: Gate | None = None
    how: Literal["close", "reset"] = "close"


class Unsolicited(msgspec.Struct, frozen=True):
    """Answer, then send a second answer that nobody asked for on the idle connection."""

    answer: Answer | Serve = _TEXT
    extra: Answer | Serve = _TEXT
    gate: Gate | None = None


class Raw(msgspec.Struct, frozen=True):
    """Send exactly these steps, without HTTP; the connection stays open unless they end it."""

    steps: Sequence[AnswerStep]


Fault: TypeAlias = (
    Answer
    | Serve
    | Hang
    | Cut
    | Truncate
    | Reset
    | Trickle
    | Flood
    | EndlessHeaders
    | Stale
    | Unsolicited
    | Raw
)


def redirect(location: str, status: int = 307) -> Answer:
    """Return a redirect, for example to another origin."""
    return Answer(status, {"location": location})


def html(text: str = "<!doctype html><title>Welcome</title>", status: int = 200) -> Answer:
    """Return a web page, as a captive portal or a proxy sends it instead of the API's answer."""
    return Answer(status, {"content-type": "text/html; charset=utf-8"}, text)


def steps(fault: Fault, request: SeenRequest) -> Iterator[AnswerStep]:
    """Turn a fault into the steps that answer `request`."""
    match fault:
        case Answer() | Serve():
            yield from _whole(fault, request)
        case Hang() | Cut() | Reset():
            yield from _broken(fault, request)
        case Truncate(after, answer):
            wire = _Wire(answer, request)
            yield wire.head
            yield from wire.framed(_first(wire.pieces, after))
            yield from wire.end
        case Trickle(every, size, answer):
            wire = _Wire(answer, request)
            yield wire.head
            yield from _paced(wire.framed(_sliced(wire.pieces, size)), every)
            yield from wire.end
        case Flood(data, every, content_type):
            wire = _Wire(Answer(200, {"content-type": content_type}, (data,)), request)
            yield wire.head
            yield from _paced(wire.framed(repeat(data)), every)
        case EndlessHeaders(every):
            yield b"HTTP/1.1 200 OK\r\n"
            yield from _paced((b"x-filler-%d: filler\r\n" % number for number in count()), every)
        case Stale(answer, gate, how):
            yield from _whole(answer, request)
            yield from _closing(gate, how)
        case Unsolicited(answer, extra, gate):
            yield from _whole(answer, request)
            yield from (gate,) if gate else ()
            yield from _whole(extra, request)
        case Raw(raw):
            yield from raw


def _closing(gate: Gate | None, how: Literal["close", "reset"]) -> Iterator[AnswerStep]:
    if gate is None:
        yield End("close_on_reuse" if how == "close" else "reset_on_reuse")
    else:
        yield gate
        yield End(how)


def _whole(answer: Answer | Serve, request: SeenRequest) -> Iterator[AnswerStep]:
    wire = _Wire(answer, request)
    match wire.pieces:
        case (bytes() as body,):
            # In one write, as most servers send a short answer.
            yield wire.head + b"".join(_bytes_in(wire.framed((body,)))) + wire.tail
            yield from wire.fin
        case pieces:
            yield wire.head
            yield from wire.framed(pieces)
            yield from wire.end


def _broken(fault: Hang | Cut | Reset, request: SeenRequest) -> Iterator[AnswerStep]:
    wire = _Wire(fault.answer, request)
    if fault.after is not None:
        yield wire.head
        yield from wire.framed(_first(wire.pieces, fault.after))
    if fault.gate is not None:
        yield fault.gate
    match fault:
        case Cut():
            yield End("close")
        case Reset():
            yield End("reset")
        case Hang(after, answer, gate):
            if gate is None:
                yield End("hang")
            elif after is None:
                yield from _whole(answer, request)
            else:
                yield from wire.framed(_rest(wire.pieces, after))
                yield from wire.end


class _Wire:
    """An answer taken apart: head, pieces of the body, and what its framing adds."""

    def __init__(self, answer: Answer | Serve, request: SeenRequest) -> None:
        plain = _plain(answer)
        body, content_type = _content(plain.body)
        whole = isinstance(plain.body, bytes | str | Mapping)
        framing = plain.framing or ("length" if whole else "chunked")
        bare = request.method == "HEAD" or plain.status in {204, 304}
        headers = pairs_of(plain.headers)
        names = {name.lower() for name, _ in headers}
        if content_type and "content-type" not in names:
            headers = (("content-type", content_type), *headers)
        if not bare and not names & {"content-length", "transfer-encoding"}:
            headers += _framing_header(framing, body)
        self.head = head_bytes(plain.status, headers)
        self.pieces: tuple[Piece, ...] = () if bare else body
        self.tail = LAST_CHUNK if framing == "chunked" and not bare else b""
        self.fin: tuple[AnswerStep, ...] = (End("close"),) if framing == "close" else ()

    @property
    def end(self) -> tuple[AnswerStep, ...]:
        return (*((self.tail,) if self.tail else ()), *self.fin)

    def framed(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            yield chunk_bytes(piece) if self.tail and isinstance(piece, bytes) else piece


def _plain(answer: Answer | Serve) -> Answer:
    match answer:
        case Answer():
            return answer
        case Serve(body, content_type, size):
            pieces = tuple(_sliced((body,), size or len(body) or 1))
            return Answer(200, {"content-type": content_type}, pieces, "chunked")


def _content(
    body: bytes | str | Mapping[str, Any] | Sequence[Piece],
) -> tuple[tuple[Piece, ...], str]:
    match body:
        case bytes():
            return (body,), ""
        case str():
            return (body.encode(),), "text/plain; charset=utf-8"
        case Mapping():
            return (msgspec.json.encode(body),), "application/json"
        case _:
            return tuple(body), "text/event-stream"


def _framing_header(
    framing: Literal["length", "chunked", "close"], body: Sequence[Piece]
) -> tuple[tuple[str, str], ...]:
    match framing:
        case "length":
            return (("content-length", str(sum(map(len, _bytes_in(body))))),)
        case "chunked":
            return (("transfer-encoding", "chunked"),)
        case "close":
            return (("connection", "close"),)


def _bytes_in(pieces: Iterable[Piece]) -> Iterator[bytes]:
    return (piece for piece in pieces if isinstance(piece, bytes))


def _first(pieces: Iterable[Piece], size: int) -> Iterator[Piece]:
    """Yield the first `size` bytes, and the gates and pauses before them."""
    for piece in pieces:
        if size <= 0:
            return
        if isinstance(piece, bytes):
            yield piece[:size]
            size -= len(piece)
        else:
            yield piece


def _rest(pieces: Iterable[Piece], size: int) -> Iterator[Piece]:
    """Yield what `_first` leaves out."""
    for piece in pieces:
        if size <= 0:
            yield piece
        elif isinstance(piece, bytes):
            if len(piece) > size:
                yield piece[size:]
            size -= len(piece)


def _sliced(pieces: Iterable[Piece], size: int) -> Iterator[Piece]:
    for piece in pieces:
        if isinstance(piece, bytes):
            for start in range(0, len(piece), size):
                yield piece[start : start + size]
        else:
            yield piece


def _paced(pieces: Iterable[Piece], every: float | Gate) -> Iterator[Piece]:
    """Put a wait before each piece of bytes."""
    wait = every if isinstance(every, Gate) else Pause(every) if every else None
    for piece in pieces:
        if wait is not None and isinstance(piece, bytes):
            yield wait
        yield piece
