"""The orientation in an EXIF block, from whichever file it comes."""

from __future__ import annotations

import struct
from struct import unpack_from

UPRIGHT = 1
_PREFIX = b"Exif\0\0"
_ENTRIES = 1024
"""The most entries of a directory to look at; cameras write some 15 of them."""
_TYPES = {1: "B", 3: "H", 4: "I"}
"""How the value is stored; the standard wants 3, some programs write the others."""


def orientation(block: bytes) -> int:
    """Return the orientation, 1 to 8; 1 (upright) where it is missing, invalid or unreadable."""
    start = len(_PREFIX) if block.startswith(_PREFIX) else 0
    order = ">" if block.startswith(b"MM", start) else "<"
    try:
        found = _find(block, start, order)
    except struct.error:
        return UPRIGHT
    return found if 1 <= found <= 8 else UPRIGHT


def _find(block: bytes, start: int, order: str) -> int:
    mark, directory = unpack_from(order + "HI", block, start + 2)
    if mark != 42:
        return UPRIGHT
    first = start + directory
    count = min(unpack_from(order + "H", block, first)[0], _ENTRIES)
    first += 2
    tag = b"\1\x12" if order == ">" else b"\x12\1"
    at = block.find(tag, first, first + 12 * count)
    while at >= 0 and (at - first) % 12:  # inside of another entry
        at = block.find(tag, at + 1, first + 12 * count)
    if at < 0:
        return UPRIGHT
    (kind,) = unpack_from(order + "H", block, at + 2)
    value: int = unpack_from(order + _TYPES.get(kind, "H"), block, at + 8)[0]
    return value
