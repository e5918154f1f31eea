"""Framing: response bytes to frames (SSE events, NDJSON lines), incremental and bounded.

Rules: WHATWG server-sent events, on bytes. Only CRLF, LF and CR end a line. A frame is the
event's data; `NamedSSE` gives pairs of event name and data. Raw JSON lines in an event stream
(some servers append a JSON error to it) come out as frames of their own.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

from aiollm.errors import ProtocolError

MAX_FRAME = 64 * 1024 * 1024
"""Bytes of one frame at most (design: bounds; images arrive as one line)."""

_BOM = b"\xef\xbb\xbf"
_SEPARATOR = b"\n\ndata: "
_LONE_CR = re.compile(rb"\r(?!\n)")

F = TypeVar("F")


class _Lines:
    """Cuts bytes into whole lines and keeps the rest, copying each byte a bounded number of times.

    Pieces without a separator wait in a list: joining on every read would be quadratic for a
    frame that comes in thousands of reads.
    """

    __slots__ = ("_pending", "_size")

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._size = 0

    def take(self, data: bytes, end: int) -> bytes:
        """Return all pending bytes plus `data[:end]`; keep the rest pending."""
        head = data if end == len(data) else data[:end]
        if self._pending:
            self._pending.append(head)
            head = b"".join(self._pending)
            self._pending = []
        self._size = 0
        if end < len(data):
            self.hold(data[end:])
        return head

    def hold(self, data: bytes) -> None:
        """Keep `data` until its separator arrives."""
        self._pending.append(data)
        self._size += len(data)
        if self._size > MAX_FRAME:
            head = self._pending[0]
            self._pending = []
            raise ProtocolError(f"one frame is larger than {MAX_FRAME} bytes", frame=head)

    def ends_with_newline(self) -> bool:
        return bool(self._pending) and self._pending[-1].endswith(b"\n")

    def rest(self) -> bytes:
        """Return and forget what is pending."""
        rest = b"".join(self._pending)
        self._pending = []
        self._size = 0
        return rest


class NDJSON:
    """Newline-delimited JSON: a frame is one line that is not blank."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines = _Lines()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes. Raises: ProtocolError."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._lines.hold(data)
            return []
        return [line for line in self._lines.take(data, end).split(b"\n") if line.strip()]

    def close(self) -> list[bytes]:
        """Return the last line if it lacks only its newline; half a line is no frame."""
        rest = self._lines.rest().strip()
        whole = rest.endswith(b"}") and _RawJSON().add(rest) is not None
        return [rest] if whole else []


class _EventStream(Generic[F]):
    """What both kinds of SSE share: the line rules, the slow path, raw JSON between events."""

    __slots__ = ("_carriage", "_data", "_lines", "_name", "_raw", "_started")

    def __init__(self) -> None:
        self._lines = _Lines()
        self._data: list[bytes] = []
        self._name = b""
        self._raw: _RawJSON | None = None
        self._carriage = False
        self._started = False

    def feed(self, data: bytes) -> list[F]:
        """Return the frames that `data` completes. Raises: ProtocolError."""
        if not self._started:
            data = self._skip_bom(data)
        if self._carriage or b"\r" in data:
            data = self._normal_newlines(data)
        end = data.rfind(b"\n\n") + 2
        if end == 1 and data[:1] == b"\n" and self._lines.ends_with_newline():
            end = 1
        elif end == 1:
            if data:
                self._lines.hold(data)
            return []
        return self._events(self._lines.take(data, end))

    def close(self) -> list[F]:
        """Return the frames that only the end completes: raw JSON, never half an event."""
        frames: list[F] = []
        self._slow(self._lines.rest() + (b"\n" if self._carriage else b""), frames, at_end=True)
        return frames

    def _events(self, block: bytes) -> list[F]:
        frames: list[F] = []
        self._slow(block, frames)
        return frames

    def _make(self, name: bytes, data: bytes) -> F:
        raise NotImplementedError

    def _skip_bom(self, data: bytes) -> bytes:
        head = self._lines.rest() + data
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._lines.hold(head)
            return b""
        self._started = True
        return head.removeprefix(_BOM)

    def _normal_newlines(self, data: bytes) -> bytes:
        if self._carriage:
            data = b"\r" + data
        self._carriage = data.endswith(b"\r")
        if self._carriage:
            data = data[:-1]
        # Where every CR has its LF, dropping the CRs costs half as much as replacing pairs.
        if _LONE_CR.search(data) is None:
            return data.translate(None, b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _slow(self, block: bytes, frames: list[F], *, at_end: bool = False) -> None:
        """Parse line by line, as the standard has it."""
        lines = block.split(b"\n")
        unfinished = lines.pop()
        for line in lines:
            if self._raw is not None:
                self._feed_raw(line, frames)
            elif not line:
                if self._data:
                    frames.append(self._make(self._name, b"\n".join(self._data)))
                self._data = []
                self._name = b""
            elif line[:1] in (b"{", b"["):
                self._raw = _RawJSON()
                self._feed_raw(line, frames)
            else:
                self._field(line)
        if at_end and unfinished:
            if self._raw is None and unfinished[:1] in (b"{", b"["):
                self._raw = _RawJSON()
            if self._raw is not None:
                self._feed_raw(unfinished, frames)

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value[1:] if value[:1] == b" " else value)
        elif name == b"event":
            self._name = value[1:] if value[:1] == b" " else value

    def _feed_raw(self, line: bytes, frames: list[F]) -> None:
        assert self._raw is not None
        whole = self._raw.add(line)
        if whole is not None:
            self._raw = None
            frames.append(self._make(b"", whole))


class SSE(_EventStream[bytes]):
    """Server-sent events whose names do not matter: a frame is the data."""

    __slots__ = ()

    def _make(self, name: bytes, data: bytes) -> bytes:
        return data

    def _events(self, block: bytes) -> list[bytes]:
        # What most servers send: one `data: ` line an event and nothing else. The count of
        # newlines proves it; a long separator is the cheapest way to cut.
        if not self._data and self._raw is None and block.startswith(b"data: "):
            frames = block[6:-2].split(_SEPARATOR)
            if block.count(b"\n") == 2 * len(frames) and block.endswith(b"\n\n"):
                return frames
        return super()._events(block)


class NamedSSE(_EventStream[tuple[bytes, bytes]]):
    """Server-sent events with names: a frame is a pair of event name (maybe b"") and data."""

    __slots__ = ()

    def _make(self, name: bytes, data: bytes) -> tuple[bytes, bytes]:
        return (name, data)

    def _events(self, block: bytes) -> list[tuple[bytes, bytes]]:
        # One `event: ` line and one `data: ` line an event: three newlines each.
        if not self._data and self._raw is None and block.startswith(b"event: "):
            events = block[7:-2].split(b"\n\nevent: ")
            if block.count(b"\n") == 3 * len(events) and block.endswith(b"\n\n"):
                pairs = [event.partition(b"\ndata: ") for event in events]
                if all(cut for _, cut, _ in pairs):
                    return [(name, data) for name, _, data in pairs]
        return super()._events(block)


class _RawJSON:
    """Collects lines of a bare JSON value until its brackets balance."""

    __slots__ = ("_depth", "_escaped", "_lines", "_quoted", "_size")

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._size = 0

    def add(self, line: bytes) -> bytes | None:
        """Add a line; return the whole value once it is balanced. Raises: ProtocolError."""
        self._lines.append(line)
        self._size += len(line)
        if self._size > MAX_FRAME:
            raise ProtocolError(f"raw JSON is larger than {MAX_FRAME} bytes", frame=line)
        for byte in line:
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = byte == 0x5C
                self._quoted = byte != 0x22
            elif byte == 0x22:
                self._quoted = True
            elif byte in b"{[":
                self._depth += 1
            elif byte in b"}]":
                self._depth -= 1
        return None if self._depth > 0 else b"\n".join(self._lines)
