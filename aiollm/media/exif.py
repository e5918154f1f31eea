"""The orientation in an EXIF block, from whichever file it comes."""

from __future__ import annotations

import struct
from struct import Struct

UPRIGHT = 1
_PREFIX = b"Exif\0\0"
_ENTRIES = 1024
"""The most entries of a directory to look at; cameras write some 15 of them."""
_BYTE, _LONG = 1, 4
"""The types of a value that some programs write in place of the standard's 3, a short number."""


class _Order:
    """What is read in one order of bytes."""

    def __init__(self, mark: str, tag: bytes) -> None:
        self.head, self.short, self.long = (
            Struct(mark + "HI"),
            Struct(mark + "H"),
            Struct(mark + "I"),
        )
        self.tag = tag


_LITTLE, _BIG = _Order("<", b"\x12\1"), _Order(">", b"\1\x12")


def orientation(block: bytes, start: int = 0) -> int:
    """Return the orientation, 1 to 8, in the block that begins at `start`.

    It is 1 (upright) where it is missing, invalid or unreadable.
    """
    if block.startswith(_PREFIX, start):
        start += len(_PREFIX)
    order = _BIG if block.startswith(b"MM", start) else _LITTLE
    try:
        found = _find(block, start, order)
    except (struct.error, IndexError):
        return UPRIGHT
    return found if 1 <= found <= 8 else UPRIGHT


def _find(block: bytes, start: int, order: _Order) -> int:
    mark, directory = order.head.unpack_from(block, start + 2)
    if mark != 42:
        return UPRIGHT
    first = start + directory + 2
    end = first + 12 * min(order.short.unpack_from(block, first - 2)[0], _ENTRIES)
    at = block.find(order.tag, first, end)
    while at >= 0 and (at - first) % 12:  # inside of another entry
        at = block.find(order.tag, at + 1, end)
    if at < 0:
        return UPRIGHT
    # Four bytes of which a short value takes the first two, as in the standard; some programs
    # write a byte, or a long number.
    kind: int = order.short.unpack_from(block, at + 2)[0]
    if kind == _BYTE:
        return block[at + 8]
    reader = order.long if kind == _LONG else order.short
    value: int = reader.unpack_from(block, at + 8)[0]
    return value
