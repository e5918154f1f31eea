"""Take vectors out of JSON: each leaves a mark, and what is left is small.

A reply of vectors has megabytes of numbers, which a decoder of JSON would make into objects while
the event loop stands still. Each vector is decoded alone here, so that others run in between.
"""

from __future__ import annotations

import math
import os
import re
import sys
from array import array
from base64 import b64encode
from collections.abc import Iterable, Iterator

import msgspec

from aiollm.errors import ProtocolError
from aiollm.retrieval import RawVector, Vector

MAX_TEXT = 2 * 1024 * 1024
MAX_SIZE = 32 * 1024
"""Bytes and numbers of one vector, which is decoded in one go: no model has more than 16,384."""

MAX_ESCAPED = 512 * 1024
"""Bytes of a text with escaped quotes, which is not a vector but a query or a document."""

LARGE = 1024 * 1024
MAX_NUMBERS = 48 * 1024
"""Bytes and numbers of a reply that is decoded in one go: some 2 ms of work."""

STEP = 128 * 1024
"""Bytes between two turns of the event loop: some 0.4 ms of work."""

SAMPLE = 16 * 1024
"""Bytes at the beginning that show how dense the numbers of a reply are."""

EACH = 512
"""Bytes of work that one list or text is counted as, however short."""

MAX_REST = 4 * 1024 * 1024
"""Bytes that may be left of a large reply: each vector leaves some 100."""

_BEGIN = re.compile(rb'"|\[\s{0,64}(?=[-0-9])')
"""Where a text or a list of numbers begins; texts are read to their ends: lists may be in them."""

_TEXT = re.compile(rb'(?s:"(?:[^"\\]++|\\.)*+")')
_LEAST = 26
"""Bytes of a text with its quotes that may be taken out."""

_LONGEST_BEGIN = 90
_NAME_ENDS = re.compile(rb"\s{0,64}:")
_NUMBERS = msgspec.json.Decoder(list[float])
_BYTES = msgspec.json.Decoder(bytes)
"""The fastest strict base64 decoder available, 2.5 times as fast as `binascii`."""


class ReplyVectors:
    """The vectors of one reply; those of a large one by the marks that they left in `rest`."""

    def __init__(self, body: bytes, count: int) -> None:
        """Read a reply that should have `count` vectors."""
        self._found: list[bytes | None] = []
        # Beside its vector an item has names, and may have texts and lists of its own.
        self._most = 32 * count + 1024
        # No vector has such a length, and no server can know the mark.
        self._mark = os.urandom(_MARK)
        self.rest = body
        """The JSON to decode: all of a small reply, of a large one what is not in vectors."""

    def is_sparse(self) -> bool:
        """Return whether `rest` has few parts of any kind, found sooner than by counting all."""
        if len(self.rest) > LARGE or b"\\" in self.rest:
            return False
        left = self._most
        for mark in (b"{", b"[", b","):  # so names and texts are few, too
            left = _fewer(mark, self.rest, left)
        return left > 0

    def steps(self) -> Iterator[None]:
        """Take the vectors out of a large reply; between two steps others may run.

        Raises: ProtocolError.
        """
        body = self.rest
        size = len(body)
        begun = body.count(b",", 0, SAMPLE)  # `check_density` bounds what its rest has more
        if size <= LARGE and begun * size <= MAX_NUMBERS * min(size, SAMPLE):
            return
        out: list[bytes] = []
        kept = at = work = tried = 0
        while at < len(body):
            before = at
            if (begin := _BEGIN.search(body, at, at + STEP)) is None:
                at = len(body) if at + STEP >= len(body) else at + STEP - _LONGEST_BEGIN
            else:
                start = begin.start()
                tried += 1
                if tried > self._most:
                    reason = f"the reply has more than {self._most} lists and texts"
                    raise ProtocolError(reason, frame=body[start:])
                at, vector = _at(body, start)
                if vector is not None:
                    out += body[kept:start], self._keep(vector)
                    kept = at
            work += at - before + EACH
            if work >= STEP:
                work = 0
                yield
        self.rest = b"".join((*out, body[kept:]))
        if len(self.rest) > MAX_REST:
            reason = f"the reply has {len(self.rest)} bytes beside its vectors"
            raise ProtocolError(reason, frame=self.rest)

    def _keep(self, vector: bytes) -> bytes:
        """Return what stands for a vector from now on."""
        place = len(self._found)
        self._found.append(vector)
        return b'"%s"' % b64encode(self._mark + place.to_bytes(_PLACE))

    def take(self, value: RawVector) -> bytes:
        """Return the 32-bit numbers of the vector in a value's place. Raises: ProtocolError."""
        match value:
            case bytes() if value and not len(value) % 4:
                return value
            case list() if value:
                return _of_numbers(value)
            case bytes() if value.startswith(self._mark) and len(value) == _MARK + _PLACE:
                place = int.from_bytes(value[_MARK:])
                vector, self._found[place] = self._found[place], None
                if vector is not None:
                    return vector
        raise ProtocolError("the reply has something else in the place of a vector")

    def take_int8(self, value: RawVector) -> bytes:
        """Do the same where each byte of a vector is a number. Raises: ProtocolError."""
        numbers = self.take(value)
        return numbers if isinstance(value, list) else _of_numbers(array("b", numbers))


def _fewer(mark: bytes, data: bytes, most: int) -> int:
    """Return what is left of `most` after each mark in the data took one, 0 if nothing is."""
    at, find = -1, data.find
    for left in range(most, 0, -1):
        at = find(mark, at + 1)
        if at < 0:
            return left
    return 0


def is_finite(numbers: bytes) -> bool:
    """Return whether all of some 32-bit numbers are finite."""
    # The last byte of a number that is not finite is 7F or FF; few others have it.
    last = numbers[3::4]
    if b"\x7f" not in last and b"\xff" not in last:
        return True
    return all(map(math.isfinite, as_vector(numbers)))


def as_vector(numbers: bytes) -> Vector:
    """Return 32-bit numbers, whose lowest byte comes first, as a vector."""
    vector = array("f")
    vector.frombytes(numbers)
    if sys.byteorder == "big":
        vector.byteswap()
    return vector


_MARK, _PLACE = 5, 4
"""Bytes of the placeholder for a vector: nine, which is not a multiple of four."""


def _at(body: bytes, start: int) -> tuple[int, bytes | None]:
    """Return where what begins at `start` ends, and the vector that it is, if it is one."""
    is_list = body[start] == ord("[")
    end, other = (_list_end if is_list else _text_end)(body, start, start + MAX_TEXT)
    if other:
        return other, None
    if not end:
        raise ProtocolError(f"a value has more than {MAX_TEXT} bytes", frame=body[start:])
    if is_list and body.count(b",", start, end) >= MAX_SIZE:
        raise ProtocolError(f"a list has more than {MAX_SIZE} numbers", frame=body[start:])
    if not is_list and (end - start < _LEAST or _NAME_ENDS.match(body, end)):
        return end, None
    try:
        if is_list:
            return end, _of_numbers(_NUMBERS.decode(body[start:end]))
        data = _BYTES.decode(body[start:end])
    except (ValueError, RecursionError):
        return (start + 1 if is_list else end), None
    return end, (None if len(data) % 4 or len(data) > 4 * MAX_SIZE else data)


def _list_end(body: bytes, start: int, limit: int) -> tuple[int, int]:
    """Return where a list without lists ends, or else where one in it begins."""
    # Looked for first, a list in it bounds the other search.
    other = body.find(b"[", start + 1, limit)
    end = body.find(b"]", start + 1, limit if other < 0 else other) + 1
    return end, 0 if end else max(other, 0)


def _text_end(body: bytes, start: int, limit: int) -> tuple[int, int]:
    end = body.find(b'"', start + 1, limit) + 1
    if end and body[end - 2] == ord("\\"):
        whole = _TEXT.match(body, start, min(limit, start + MAX_ESCAPED))
        end = whole.end() if whole else 0
    return end, 0


def _of_numbers(numbers: Iterable[float]) -> bytes:
    try:
        vector = array("f", numbers)
    except OverflowError:
        reason = "a vector has a number that is not finite"
        raise ProtocolError(reason) from None
    if sys.byteorder == "big":
        vector.byteswap()
    return vector.tobytes()
