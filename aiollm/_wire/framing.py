"""Framing: response bytes to frames (SSE events, NDJSON lines), incremental and bounded.

The rules are those of WHATWG server-sent events, applied to bytes: only CRLF, LF and CR end a
line. A frame is the event's data; `NamedSSE` yields pairs of event name and data. An event with
empty data is skipped. Unlike the standard's, an event whose data is complete JSON needs no blank
line at the end of the body, because some servers close without it.

Raw JSON between events becomes a frame, too, because some servers append a JSON error to an event
stream. If it is not an error, its frame begins with `BARE`: no decoder may take it for an event.
An `error:` line, as some builds of llama.cpp send it, is an event named `error`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from math import inf
from typing import Any, ClassVar, Generic, TypeVar

from aiollm._user_types.density import LARGE, Weight, excess_in
from aiollm._wire.raw_json import OPENING, RawJSON, as_error, is_error
from aiollm.errors import ProtocolError

MAX_FRAME = 64 * 1024 * 1024
"""The most bytes in one frame; it is large because an image arrives as one line."""

MAX_LINES = 64 * 1024
"""The most lines of data in one event."""

_FOLD = 1024
"""How many of these are joined to one as soon as more have come: to join all of them at the end of
their event would hold up the event loop for milliseconds."""

MAX_RAW = 64 * 1024
MAX_RAW_LINES = 1024
MAX_RAW_VALUES = 64
"""Raw JSON is an error at best: the most bytes and lines of one, and how many are read at all."""

BARE = b"\x1e"
"""The first byte of a frame of raw JSON that is not an error; no JSON begins with it."""

_LF, _CR = b"\n\r"
"""As numbers: `in` takes bytes for one first, which costs as much as splitting a short read."""

_BOM = b"\xef\xbb\xbf"
_CRLF = b"\r\n\r\n"
_LFLF = b"\n\n"
_BETWEEN, _BETWEEN_CRLF = b"\n\ndata: ", b"\r\n\r\ndata: "
"""What stands between events that have a line each."""
_DATA, _EVENT = b"data: ", b"event: "
"""Compared with slices, which cost a third of `startswith` and `endswith`."""
_BEGIN = re.compile(rb"(?:event: ([^\r\n]*)\n)?data: (?=[^\r\n]*\Z)")
"""How the first piece of a large event begins, as most have it."""
_FIELDS = frozenset({b"", b"d", b"e"})
_MATTERS = frozenset({*_FIELDS, *OPENING})
"""How the lines begin that are read outside raw JSON, and while any of it is read: comments, `id`
and `retry` have no effect."""
_LARGE = 4 * 1024
"""Bytes without an end of an event after which complete lines do not wait for it: what is held
takes no time, and then all of it at once."""
_LONE_CR = re.compile(rb"\r(?!\n)")

F = TypeVar("F")


class _Framer:
    """Keeps the start of a frame until its end arrives.

    Pieces without a separator wait in a list, so that each byte is copied a bounded number of
    times: joining on every read would be quadratic for a frame that spans thousands of reads.
    """

    __slots__ = ("_pending", "_size", "_weight")

    _weight: Weight
    """What the bytes of a large frame hold so far; there is none before."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._size = 0

    def _take(self, data: bytes, end: int) -> bytes:
        """Return all pending bytes plus `data[:end]`; keep the rest pending."""
        head = data if end == len(data) else data[:end]
        if self._pending:
            held = self._size
            self._pending.append(head)
            if held > LARGE:
                self._weigh(head, held + len(head))
            head = self._rest()
            if _LARGE < held <= LARGE:  # fewer are of no large frame: as many may follow at once
                check_density(head)
        if end < len(data):
            self._hold(data[end:])
        return head

    def _hold(self, data: bytes) -> None:
        """Keep `data` until its separator arrives."""
        self._pending.append(data)
        self._size += len(data)
        if self._size > LARGE:
            if self._size - len(data) <= LARGE:
                self._weight = Weight()
                data = b"".join(self._pending)
            self._weigh(data, self._size)

    def _weigh(self, piece: bytes, size: int) -> None:
        """Count what a piece of a large frame holds. Raises: ProtocolError."""
        excess = self._weight.add(piece)
        if not excess and size <= MAX_FRAME:
            return
        head = self._pending[0]
        self._rest()
        if excess:
            raise ProtocolError(f"a frame of {size} bytes or more holds {excess}", frame=head)
        raise ProtocolError(f"one frame is larger than {MAX_FRAME} bytes", frame=head)

    def _rest(self) -> bytes:
        """Return and forget all pending bytes."""
        rest = b"".join(self._pending)
        self._pending = []
        self._size = 0
        return rest


class NDJSON(_Framer):
    """Newline-delimited JSON: a frame is one line that is not blank."""

    __slots__ = ()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes. Raises: ProtocolError."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._hold(data)
            return []
        return list(filter(bytes.strip, self._take(data, end).split(b"\n")))

    def close(self) -> list[bytes]:
        """Return the last line if only its newline is missing; an incomplete line is dropped."""
        rest = self._rest().strip()
        return [rest] if _is_complete(rest) else []


class _Fold(bytes):
    """Lines of an event that were joined already."""

    __slots__ = ()


class _EventStream(_Framer, ABC, Generic[F]):
    """The base of both kinds of SSE: line rules, the general parser, raw JSON between events."""

    __slots__ = ("_carriage", "_data", "_midway", "_name", "_raw", "_raw_values", "_started")

    def __init__(self) -> None:
        _Framer.__init__(self)
        self._data: list[bytes] = []
        self._name = b""
        self._midway = False
        self._raw: RawJSON | None = None
        self._raw_values = 0
        self._carriage = False
        self._started = False

    def feed(self, data: bytes) -> list[F]:
        """Return the frames that `data` completes. Raises: ProtocolError."""
        if self._size or self._carriage or (data[-2:] != _LFLF and data[-4:] != _CRLF):
            return self._feed(data)
        if not self._started:
            self._started = True
            data = data.removeprefix(_BOM)
        return self._events(data)

    def _feed(self, data: bytes) -> list[F]:
        """Process a read that begins or ends inside an event."""
        if not self._started:
            data = self._skip_bom(data)
        # The blank line that ends an event may itself be cut: one LF pending, one in this read.
        ended = bool(self._pending) and self._pending[-1].endswith(b"\n")
        if self._carriage or _CR in data:
            # Keep a CRLF stream as it is up to its last complete event, so that subclasses can
            # use their fast path; only the remainder is normalized.
            # A large event is not normalized once more because of the line ends behind it.
            lone = self._carriage or ended or self._size > _LARGE
            if end := 0 if lone else _end_of_crlf(data):
                return self._events(self._take(data, end))
            data = self._normal_newlines(data)
        if self._size > LARGE and not ended:
            data, ended = self._end_line(data)
        end = data.rfind(b"\n\n") + 2
        if end > 1 or (ended and data[:1] == b"\n"):
            return self._events(self._take(data, end))
        if self._size + len(data) > _LARGE and (end := data.rfind(b"\n", 0, -1) + 1):
            return self._lines(self._take(data, end).split(b"\n"))
        if data:
            self._hold(data)
        return []

    def _end_line(self, data: bytes) -> tuple[bytes, bool]:
        """Take a large line of data out, if it ends in this read; return what is behind it.

        All other ways to find it would copy it several times. Whether it was found comes, too.
        """
        end = data.find(b"\n")
        found = _BEGIN.match(self._pending[0])
        if not 0 <= end < len(data) - 1 or found is None or self._raw is not None:
            return data, False
        self._name = self._name if found[1] is None else found[1]
        self._pending[0] = self._pending[0][found.end() :]
        self._data.append(self._take(data[:end], end))
        self._midway = True
        return data[end + 1 :], True

    def close(self) -> list[F]:
        """Return what only the end completes; an event whose JSON is incomplete is dropped."""
        frames: list[F] = []
        if self._pending:
            *lines, last = self._rest().split(b"\n")
            self._slow([*lines, last] if last else lines, frames)
        if _is_complete(b"\n".join(self._data).strip()):
            self._dispatch(frames)
        return frames

    def _events(self, block: bytes) -> list[F]:
        """Parse complete events, the last of which ends in LF LF or CRLF CRLF."""
        if _CR in block:
            block = self._normal_newlines(block)
        return self._lines(block.split(b"\n"))

    def _lines(self, lines: list[bytes]) -> list[F]:
        """Parse complete lines, which may end in the middle of an event. Raises: ProtocolError.

        They come split, with "" behind the last, so that nobody holds a large block any longer.
        """
        frames: list[F] = []
        lines.pop()
        self._slow(lines, frames)
        if len(self._data) > _FOLD:
            self._fold()
        self._midway = self._raw is not None or bool(self._data or self._name)
        return frames

    def _fold(self) -> None:
        """Join the lines of an event that may have many, but the last. Raises: ProtocolError."""
        lines = self._data
        folds = next(at for at, line in enumerate(lines) if type(line) is not _Fold)
        while len(lines) - folds > _FOLD:
            lines[folds : folds + _FOLD] = [_Fold(b"\n".join(lines[folds : folds + _FOLD]))]
            folds += 1
        if folds * _FOLD + len(lines) - folds > MAX_LINES:
            raise ProtocolError(f"one event has more than {MAX_LINES} lines", frame=lines[0])

    @abstractmethod
    def _make(self, name: bytes, data: bytes, /) -> F:
        """Return the frame for an event."""

    def _skip_bom(self, data: bytes) -> bytes:
        head = self._rest() + data
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._hold(head)
            return b""
        self._started = True
        return head.removeprefix(_BOM)

    def _normal_newlines(self, data: bytes) -> bytes:
        """Make every line end in LF.

        A CR ends its line at once rather than waiting for a LF that may never come. If the next
        read begins with that LF, it is skipped.
        """
        if self._carriage and data:
            data = data.removeprefix(b"\n")
            self._carriage = False
        if not data:
            return data
        self._carriage = data.endswith(b"\r")
        # If every CR is followed by a LF, dropping the CRs costs half as much as replacing pairs.
        if _LONE_CR.search(data) is None:
            return data.translate(None, b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _slow(self, lines: list[bytes], frames: list[F]) -> None:
        """Parse line by line, as the standard describes."""
        # Comments, `id` and `retry` have no effect: an answer is never resumed by event id.
        matters = _MATTERS if self._raw_values < MAX_RAW_VALUES else _FIELDS
        for line in lines:
            if self._raw is None:
                if not line:
                    if self._data or self._name:
                        self._dispatch(frames)
                    continue
                if line[:1] not in matters:
                    continue
                if line[:6] == _DATA:  # as most have it
                    self._data.append(line[6:])
                    continue
            name, _, value = line.partition(b":")
            # A field of an event ends raw JSON that never closed: garbage must not swallow events.
            if name == b"data":
                self._data.append(value[1:] if value[:1] == b" " else value)
                self._raw = None
            elif name == b"event":
                self._name = value[1:] if value[:1] == b" " else value
                self._raw = None
            elif name == b"error" and value.strip():
                self._name = name
                self._data.append(as_error(value.strip()))
                self._raw = None
            elif self._raw is not None or line[:1] in OPENING:
                self._collect(line, frames)

    def _dispatch(self, frames: list[F]) -> None:
        data = b"\n".join(self._data)
        if len(self._data) > 1:
            check_density(data)  # its lines may have come one by one
        if data:
            frames.append(self._make(self._name, data))
        self._data.clear()
        self._name = b""

    def _collect(self, line: bytes, frames: list[F]) -> None:
        """Add a line to the raw JSON value that it begins or continues."""
        if self._raw_values >= MAX_RAW_VALUES:
            return
        raw = self._raw = self._raw or RawJSON()
        if raw.size + len(line) > MAX_RAW or raw.count >= MAX_RAW_LINES:
            raise ProtocolError(f"raw JSON is larger than {MAX_RAW} bytes", frame=line)
        value = raw.add(line)
        if value is None:
            return
        self._raw = None
        self._raw_values += 1
        if value.endswith((b"}", b"]")):
            frames.append(self._make(b"", value if is_error(value) else BARE + value))


class SSE(_EventStream[bytes]):
    """Server-sent events whose names do not matter: a frame is the data."""

    __slots__ = ()

    def _make(self, _name: bytes, data: bytes, /) -> bytes:
        return data

    def _events(self, block: bytes) -> list[bytes]:
        # Fast path for what most servers send: each event is a single `data: ` line. Splitting at
        # a long separator is cheapest, and it was correct if no line end is left in the frames.
        # From the right it takes half the time, as separators begin with what JSON has not.
        if not self._midway and block[:6] == _DATA:
            is_lf = block[-2] == _LF
            text = block[6:-2] if is_lf else block[6:-4]
            if _LF not in text and _CR not in text and text:
                return [text]  # as at most reads of a slow stream
            frames = text.rsplit(_BETWEEN if is_lf else _BETWEEN_CRLF)
            text = b"".join(frames)
            if _LF not in text and _CR not in text and all(frames):
                return frames
        return super()._events(block)


class NamedSSE(_EventStream[tuple[bytes, bytes]]):
    """Server-sent events with names: a frame is a pair of event name (maybe b"") and data."""

    __slots__ = ()

    def _make(self, name: bytes, data: bytes, /) -> tuple[bytes, bytes]:
        return (name, data)

    def _events(self, block: bytes) -> list[tuple[bytes, bytes]]:
        if _CR in block:
            block = self._normal_newlines(block)
        # Fast path: each event is an `event: ` line and a `data: ` line, so has three newlines.
        if not self._midway and block[:7] == _EVENT:
            if len(block) > self._long and (run := self._run(block)):
                return run
            ends = block.count(b"\n")
            if ends == 3:
                name, _, data = block[7:-2].partition(b"\ndata: ")
                return [(name, data)] if data else super()._events(block)
            events = block[7:-2].rsplit(b"\n\nevent: ")  # as in `SSE`
            if ends == 3 * len(events):
                frames = [
                    (name, data)
                    for event in events
                    for name, _, data in (event.partition(b"\ndata: "),)
                    if data
                ]
                if len(frames) == len(events):
                    return frames
        return super()._events(block)

    _long: ClassVar[float] = inf
    """Bytes beyond which `_run` is asked first."""

    def _run(self, _block: bytes) -> list[tuple[bytes, Any]]:
        """Return the frames of events that all have one name; nothing to leave it."""
        return []


def held_by(framer: object) -> int:
    """Return how many bytes of a frame there are so far, 0 for a framer that does not tell."""
    return framer._size if isinstance(framer, _Framer) else 0  # noqa: SLF001  its own module


def check_density(data: bytes, weight: Weight | None = None) -> None:
    """Refuse large JSON of too many parts, which `weight` has counted. Raises: ProtocolError."""
    if len(data) > LARGE and (excess := weight.excess if weight else excess_in(data)):
        raise ProtocolError(f"a frame of {len(data)} bytes holds {excess}", frame=data)


def _end_of_crlf(data: bytes) -> int:
    """Return where the last event ends, 0 unless its lines end in CRLF and no CR follows it."""
    end = data.rfind(b"\n") + 1
    return end if data[end - 4 : end] == _CRLF and data.find(b"\r", end) < 0 else 0


def _is_complete(data: bytes) -> bool:
    """Say whether an object or array is complete: what follows cannot belong to it.

    Raises: ProtocolError.
    """
    if not data.endswith((b"}", b"]")) or data[:1] not in OPENING:
        return False
    check_density(data)
    return RawJSON().add(data) is not None
