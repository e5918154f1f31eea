"""Faults in a PNG that PIL does not report or bear: endless chunks, missing rows, bad profiles."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import unpack_from

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel, by colour type."""
_PIXELS = {b"IDAT", b"fdAT", b"fcTL"}
_CHUNKS = 4096
LACKS_ROWS = "the PNG image is damaged: it has fewer rows than its header says"
_BLOCK = 1 << 20
_PROFILE = 1 << 20
"""The most bytes of a profile that PIL unpacks; beyond, it refuses the image with it."""


def too_many_chunks(data: bytes) -> bool:
    """Return whether there are more chunks besides the pixels than any real file has."""
    others = 0
    for kind, _, _ in walk(data):
        others += kind not in _PIXELS
        if others > _CHUNKS:
            return True
    return False


def lacks_rows(data: bytes) -> bool:
    """Return whether the pixels end before the last row; interlaced files are not checked."""
    width, height, depth, colour, _, _, interlaced = unpack_from(">IIBBBBB", data, 16)
    if interlaced:
        return False
    left: int = height * (1 + (width * depth * _CHANNELS[colour] + 7) // 8)
    inflate = zlib.decompressobj()
    for kind, start, end in walk(data):
        if kind == b"IDAT":
            rest = data[start:end]
            while rest and left > 0:
                left -= len(inflate.decompress(rest, _BLOCK))
                rest = inflate.unconsumed_tail
    return left > 0


def without_bad_profile(data: bytes) -> bytes:
    """Return the file without a colour profile that PIL would refuse it for."""
    for kind, start, end in walk(data):
        if kind == b"IDAT":
            break
        if kind == b"iCCP" and _unpacked(data[start:end]) is None:
            return data[: start - 8] + data[end + 4 :]
    return data


def profile(data: bytes) -> bytes | None:
    """Return the colour profile of a file, None if the first one is bad or there is none."""
    for kind, start, end in walk(data):
        if kind == b"iCCP":
            return _unpacked(data[start:end])
        if kind == b"IDAT":
            break
    return None


def _unpacked(chunk: bytes) -> bytes | None:
    """Return a profile as far as it goes, as PIL does, None for one that PIL refuses."""
    name, _, rest = chunk.partition(b"\0")
    inflate = zlib.decompressobj()
    try:
        made = inflate.decompress(rest[1:], _PROFILE)
    except zlib.error:
        return None
    return made if name and rest[:1] == b"\0" and not inflate.unconsumed_tail else None


def walk(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk and where its data begins and ends."""
    position = 8
    while position + 8 <= len(data):
        length, kind = unpack_from(">I4s", data, position)
        yield kind, position + 8, position + 8 + length
        position += 12 + length
