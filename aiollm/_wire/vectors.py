"""Take vectors out of JSON: each leaves its number, and what is left is small.

A reply of vectors has megabytes of numbers, which a decoder of JSON would make into objects while
the event loop stands still. Each vector is decoded alone here, so that others run in between.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Iterator

import msgspec

from aiollm.errors import ProtocolError
from aiollm.retrieval import RawVector, Vector

MAX_TEXT = 2 * 1024 * 1024
"""Bytes of one vector: 65,536 numbers of 30 digits."""

LARGE = 1024 * 1024
MAX_NUMBERS = 48 * 1024
"""Bytes and numbers of a reply that is decoded in one go: some 2 ms of work."""

STEP = 128 * 1024
"""Bytes between two turns of the event loop: some 0.4 ms of work."""

_BEGIN = re.compile(rb'\[\s{0,64}(?=[-0-9])|"(?=[A-Za-z0-9+/\\]{24})')
"""Where a list of numbers, or a long text that may be base64, begins."""

_LONGEST_BEGIN = 90
_NUMBERS = msgspec.json.Decoder(list[float])
_BYTES = msgspec.json.Decoder(bytes)
"""The fastest strict base64 decoder available, 2.5 times as fast as `binascii`."""


class Vectors:
    """The vectors of one reply; the large ones by the numbers that they left in `rest`."""

    def __init__(self, body: bytes) -> None:
        self._found: list[Vector | None] = []
        self.rest = body
        """The JSON to decode: all of a small reply, of a large one what is not in vectors."""

    def steps(self) -> Iterator[None]:
        """Take the vectors out of a large reply; between two steps others may run.

        Raises: ProtocolError.
        """
        body = self.rest
        if len(body) <= LARGE and body.count(b",") <= MAX_NUMBERS:
            return
        out: list[bytes] = []
        kept = at = done = 0
        while at < len(body):
            begin = _BEGIN.search(body, at, at + STEP)
            if begin is None:
                at = max(at + 1, min(len(body), at + STEP) - _LONGEST_BEGIN)
            else:
                start = begin.start()
                at, vector = _at(body, start)
                if vector is not None:
                    out += body[kept:start], b"%d" % len(self._found)
                    self._found.append(vector)
                    kept = at
            if at - done >= STEP:
                done = at
                yield
        self.rest = b"".join((*out, body[kept:]))

    def take(self, value: RawVector) -> Vector:
        """Return the vector for what stands in its place. Raises: ProtocolError."""
        match value:
            case bytes() if value and not len(value) % 4:
                return _little_endian(value)
            case list() if value:
                return _of_numbers(value)
            case int() if 0 <= value < len(self._found):
                vector, self._found[value] = self._found[value], None
                if vector is not None:
                    return vector
        raise ProtocolError("the reply has something else in the place of a vector")


def is_finite(vector: Vector) -> bool:
    """Return whether all numbers of a vector are finite."""
    # The last byte of a number that is not finite is 7F or FF; few others have it.
    last = vector.tobytes()[_LAST::4]
    if b"\x7f" not in last and b"\xff" not in last:
        return True
    total = sum(each * 0.0 for each in vector)
    return total == total  # noqa: PLR0124 - NaN alone differs from itself


_LAST = 3 if sys.byteorder == "little" else 0


def _at(body: bytes, start: int) -> tuple[int, Vector | None]:
    """Return where what begins at `start` ends, and the vector that it is, if it is one."""
    is_list = body[start] == ord("[")
    end = body.find(b"]" if is_list else b'"', start + 1, start + MAX_TEXT) + 1
    if not end:
        raise ProtocolError(f"a value has more than {MAX_TEXT} bytes", frame=body[start:])
    text = body[start:end]
    try:
        if is_list:
            return end, _of_numbers(_NUMBERS.decode(text))
        data = _BYTES.decode(text.replace(rb"\/", b"/") if b"\\" in text else text)
    except (ValueError, RecursionError):
        return (start + 1 if is_list else end), None
    return end, (None if len(data) % 4 else _little_endian(data))


def _of_numbers(numbers: list[float]) -> Vector:
    try:
        return array("f", numbers)
    except OverflowError:
        reason = "a vector has a number that is not finite"
    raise ProtocolError(reason)


def _little_endian(data: bytes) -> Vector:
    vector = array("f")
    vector.frombytes(data)
    if sys.byteorder == "big":
        vector.byteswap()
    return vector
