"""Framing: response bytes to frames (SSE events, NDJSON lines), incremental and bounded.

Rules: WHATWG server-sent events, on bytes. Only CRLF, LF and CR end a line. A frame is the
event's data; `NamedSSE` gives pairs of event name and data. An event with empty data says
nothing and is no frame. Raw JSON lines in an event stream (some servers append a JSON error to
it) come out as frames of their own.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from aiollm.errors import ProtocolError

MAX_FRAME = 64 * 1024 * 1024
"""Bytes of one frame at most (design: bounds; images arrive as one line)."""

_BOM = b"\xef\xbb\xbf"
_SEPARATOR = b"\n\ndata: "
_OPENING = (b"{", b"[")
_LONE_CR = re.compile(rb"\r(?!\n)")
_QUOTED = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)', re.DOTALL)
"""A JSON string; its group is empty where the string lacks its end."""

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


class _EventStream(ABC, Generic[F]):
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
        if b"\r" in data or self._carriage:
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
        *lines, last = self._lines.rest().split(b"\n")
        self._slow(lines, frames)
        if self._raw is not None or last[:1] in _OPENING:
            self._collect(last, frames)
        return frames

    def _events(self, block: bytes) -> list[F]:
        frames: list[F] = []
        lines = block.split(b"\n")
        lines.pop()
        self._slow(lines, frames)
        return frames

    @abstractmethod
    def _make(self, name: bytes, data: bytes, /) -> F:
        """Return the frame of an event."""

    def _skip_bom(self, data: bytes) -> bytes:
        head = self._lines.rest() + data
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._lines.hold(head)
            return b""
        self._started = True
        return head.removeprefix(_BOM)

    def _normal_newlines(self, data: bytes) -> bytes:
        """Make every line end in LF; a CR ends its line at once, and a LF after it is skipped."""
        if self._carriage and data:
            data = data.removeprefix(b"\n")
            self._carriage = False
        if not data:
            return data
        self._carriage = data.endswith(b"\r")
        # Where every CR has its LF, dropping the CRs costs half as much as replacing pairs.
        if _LONE_CR.search(data) is None:
            return data.translate(None, b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _slow(self, lines: list[bytes], frames: list[F]) -> None:
        """Parse line by line, as the standard has it."""
        for line in lines:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value[1:] if value[:1] == b" " else value)
                self._raw = None
            elif self._raw is None and not line:
                self._dispatch(frames)
            elif name == b"event":
                self._name = value[1:] if value[:1] == b" " else value
                self._raw = None
            elif self._raw is not None or line[:1] in _OPENING:
                self._collect(line, frames)

    def _dispatch(self, frames: list[F]) -> None:
        data = b"\n".join(self._data)
        if data:
            frames.append(self._make(self._name, data))
        self._data.clear()
        self._name = b""

    def _collect(self, line: bytes, frames: list[F]) -> None:
        """Add a line to the raw JSON value that it begins or continues."""
        self._raw = self._raw or _RawJSON()
        whole = self._raw.add(line)
        if whole is None:
            return
        self._raw = None
        if whole.endswith((b"}", b"]")):
            frames.append(self._make(b"", whole))


class SSE(_EventStream[bytes]):
    """Server-sent events whose names do not matter: a frame is the data."""

    __slots__ = ()

    def _make(self, _name: bytes, data: bytes, /) -> bytes:
        return data

    def _events(self, block: bytes) -> list[bytes]:
        # What most servers send: one `data: ` line an event and nothing else. The count of
        # newlines proves it; a long separator is the cheapest way to cut.
        if not self._data and self._raw is None and block.startswith(b"data: "):
            frames = block[6:-2].split(_SEPARATOR)
            if block.count(b"\n") == 2 * len(frames) and block.endswith(b"\n\n") and all(frames):
                return frames
        return super()._events(block)


class NamedSSE(_EventStream[tuple[bytes, bytes]]):
    """Server-sent events with names: a frame is a pair of event name (maybe b"") and data."""

    __slots__ = ()

    def _make(self, name: bytes, data: bytes, /) -> tuple[bytes, bytes]:
        return (name, data)

    def _events(self, block: bytes) -> list[tuple[bytes, bytes]]:
        # One `event: ` line and one `data: ` line an event: three newlines each.
        if not self._data and self._raw is None and block.startswith(b"event: "):
            events = block[7:-2].split(b"\n\nevent: ")
            if block.count(b"\n") == 3 * len(events) and block.endswith(b"\n\n"):
                frames = [
                    (name, data)
                    for event in events
                    for name, _, data in (event.partition(b"\ndata: "),)
                    if data
                ]
                if len(frames) == len(events):
                    return frames
        return super()._events(block)


class _RawJSON:
    """Collects lines of a bare JSON value until its brackets balance."""

    __slots__ = ("_depth", "_lines", "_quoted", "_size")

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._depth = 0
        self._quoted = False
        self._size = 0

    def add(self, line: bytes) -> bytes | None:
        """Add a line; return the whole value once it is balanced. Raises: ProtocolError."""
        self._lines.append(line)
        self._size += len(line)
        if self._size > MAX_FRAME:
            raise ProtocolError(f"raw JSON is larger than {MAX_FRAME} bytes", frame=line)
        bare, strings = _QUOTED.subn(rb"\1", b'"' + line if self._quoted else line)
        self._quoted = bare.count(b'"') < strings
        self._depth += bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")
        return None if self._depth > 0 or self._quoted else b"\n".join(self._lines)
