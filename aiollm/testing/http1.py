"""HTTP/1.1 as bytes: parse and write messages without IO, for servers that misbehave."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus

import msgspec

HEAD_END = b"\r\n\r\n"
_NO_BODY = (204, 304)


class HttpMessage(msgspec.Struct, frozen=True):
    """A request or response: its first line, headers as sent, decoded body, and raw head."""

    start: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    head: bytes

    @property
    def status(self) -> int:
        """The status of a response."""
        return _status(self.start)

    def header(self, name: str) -> str:
        """Return the values of a header joined by commas, "" if there are none."""
        return header(self.headers, name)


def header(headers: Iterable[tuple[str, str]], name: str) -> str:
    """Return the values of a header joined by commas, "" if there are none."""
    return ", ".join(value for key, value in headers if key.lower() == name)


class Parser:
    """Bytes to messages of one connection.

    `bodies=False` returns a message as soon as its headers are complete, and then ignores all
    other bytes. `reply_to` is the method that a response answers; "" parses requests.
    """

    def __init__(self, *, bodies: bool = True, reply_to: str = "") -> None:
        self.expects_continue: bool = False
        self._bodies = bodies
        self._reply_to = reply_to
        self._buffer = bytearray()
        self._head = b""
        self._body: _Length | _Chunked | _Rest | None = None
        self._swallows = False

    def feed(self, data: bytes) -> list[HttpMessage]:
        """Return the messages that `data` completes. Raises: ValueError for a broken one."""
        if self._swallows:
            return []
        self._buffer += data
        done = []
        while (message := self._next()) is not None:
            done.append(message)
        return done

    def close(self) -> HttpMessage | None:
        """Return the message that only the end of the connection completes."""
        if isinstance(self._body, _Rest):
            return self._message(bytes(self._body.data))
        return None

    def _next(self) -> HttpMessage | None:
        if self._body is None and not self._begin():
            return None
        if not self._bodies:
            self._swallows = True
            return self._message(b"")
        assert self._body is not None
        return self._message(bytes(self._body.data)) if self._body.take(self._buffer) else None

    def _begin(self) -> bool:
        while (end := self._buffer.find(HEAD_END)) >= 0:
            self._head = bytes(self._buffer[: end + 4])
            del self._buffer[: end + 4]
            start, headers = parse_head(self._head)
            self.expects_continue = header(headers, "expect").lower() == "100-continue"
            # Any number of interim responses may come before the one that counts.
            if not self._reply_to or _status(start) // 100 != 1:
                self._body = self._kind(start, headers)
                return True
        return False

    def _kind(self, start: str, headers: tuple[tuple[str, str], ...]) -> _Length | _Chunked | _Rest:
        if self._reply_to == "HEAD" or (self._reply_to and _status(start) in _NO_BODY):
            return _Length(0)
        if "chunked" in header(headers, "transfer-encoding").lower():
            return _Chunked()
        length = header(headers, "content-length")
        if length or not self._reply_to:
            return _Length(_size(length or "0", 10))
        return _Rest()

    def _message(self, body: bytes) -> HttpMessage:
        start, headers = parse_head(self._head)
        self._body = None
        return HttpMessage(start, headers, body, self._head)


def parse_head(head: bytes) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the first line and the headers. Raises: ValueError."""
    start, *lines = _FOLD.sub(" ", head[:-4].decode("latin-1")).split("\r\n")
    if len(start.split()) < 2 or "HTTP/" not in start:
        raise ValueError(f"not HTTP: {start[:80]!r}")
    pairs = (line.partition(":") for line in lines)
    return start, tuple((name.strip(), value.strip()) for name, _, value in pairs)


def _status(start: str) -> int:
    """Return the status in a response's first line. Raises: ValueError."""
    return _size(start.split(None, 2)[1], 10)


def _size(digits: str, base: int) -> int:
    """Read a length, a chunk's size or a status; int() takes signs and underscores, too.

    Raises: ValueError.
    """
    digits = digits.strip()
    if not digits or len(digits) > _MOST or digits.strip(_DIGITS[base]):
        raise ValueError(f"not HTTP: a number is {digits[:80]!r}")
    return int(digits, base)


_MOST = 16
"""Digits of a length that anybody means."""

_DIGITS = {10: "0123456789", 16: "0123456789abcdefABCDEF"}

_FOLD = re.compile(r"\r\n[ \t]+")
"""A line end within a header: RFC 9112 lets a reader take it for a space."""


class _Length:
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self.data = bytearray()
        self._left = length

    def take(self, buffer: bytearray) -> bool:
        part = buffer[: self._left]
        self.data += part
        self._left -= len(part)
        del buffer[: len(part)]
        return self._left == 0


class _Chunked:
    """A chunked body; trailers are dropped."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._chunk: _Length | None = None
        self._last = False

    def take(self, buffer: bytearray) -> bool:
        while True:
            if self._chunk is None:
                end = buffer.find(b"\r\n")
                if end < 0:
                    return False
                line = bytes(buffer[:end])
                del buffer[: end + 2]
                if self._last:
                    if not line:
                        return True
                    continue
                size = _size(line.partition(b";")[0].decode("latin-1"), 16)
                self._last = size == 0
                self._chunk = None if self._last else _Length(size + 2)
            elif not self._chunk.take(buffer):
                return False
            else:
                self.data += self._chunk.data[:-2]
                self._chunk = None


class _Rest:
    """A body that ends with the connection."""

    def __init__(self) -> None:
        self.data = bytearray()

    def take(self, buffer: bytearray) -> bool:
        self.data += buffer
        buffer.clear()
        return False


def pairs_of(
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    """Return headers, a mapping or pairs, as pairs."""
    return tuple(headers.items() if isinstance(headers, Mapping) else headers)


def head_bytes(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """Write a response's status line and headers."""
    known = status in {item.value for item in HTTPStatus}
    reason = HTTPStatus(status).phrase if known else "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk_bytes(data: bytes) -> bytes:
    """Write one chunk of a chunked body; for no data, nothing, as an empty chunk would end it."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


LAST_CHUNK = b"0\r\n\r\n"


def payload_spans(data: bytes) -> list[tuple[int, int]]:
    """Return where the payload is in a chunked body, whose last chunk may be cut short."""
    spans: list[tuple[int, int]] = []
    at = 0
    while (end := data.find(b"\r\n", at)) >= 0:
        digits = data[at:end].partition(b";")[0].decode("latin-1").strip()
        size = int(digits, 16) if digits and not digits.strip(_DIGITS[16]) else 0
        if not size:
            break
        start = end + 2
        spans.append((start, min(start + size, len(data))))
        at = start + size + 2
    return spans
