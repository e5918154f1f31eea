"""Shrink a large PNG strip by strip, so that its pixels are never in memory all at once.

PIL only decodes whole files. So the rows are inflated here, and each strip of them, wrapped as if
it were compressed, is a picture for PIL's decoder, which undoes the filters.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from struct import pack, unpack_from
from typing import Any

from PIL import Image

from aiollm.errors import UnsupportedError
from aiollm.media.limits import Size, area
from aiollm.media.png import LACKS_ROWS, profile, walk

_MODES = {0: "L", 2: "RGB", 6: "RGBA"}
"""The modes of the colour types that are read here, of 8 bits."""
_LARGE, _HUGE = 2_000_000, 16_000_000
"""Pixels from which strips are made, with isal and without. They cost a twentieth of the time,
which isal more than makes up for; without it, this is the price of never taking over 64 MB."""
_STRIP = 192 * 1024
"""Pixels of a strip: 768 KiB. Smaller ones cost time, larger ones memory."""
_GAP = 2.0
"""How close the box filter may come to the final size, as for any lossless source."""
_SUPPORT = 2
"""Pixels that bicubic looks at on each side, of the smaller picture."""
_PART = 65536
_MOST = 65535
"""The most bytes of a block that is stored and not compressed."""
_OTHERS = {b"acTL", b"tRNS"}
"""Chunks of animations, and of a colour that is clear."""
BICUBIC = Image.Resampling.BICUBIC


class SeeThroughError(Exception):
    """The picture has clear pixels, whose colour must not count when it is shrunk."""


class PNGFile:
    """An opened file, of which `draft` sets the size at which it is decoded."""

    def __init__(self, data: bytes, size: Size, whole: Callable[[], Image.Image]) -> None:
        self._data = data
        self._whole = whole
        self._stored: Size = size
        self.size: Size = size
        self.mode = ""
        """L, RGB or RGBA for strips, "" if they cannot be made or are not worth it."""
        self.inflater: Callable[[], Any] = zlib.decompressobj
        self.info: dict[str, Any] = {"icc_profile": profile(data)}

    def draft(self, _mode: None, size: Size) -> None:
        """Decode at this size."""
        self.size = size

    def decoded(self) -> Image.Image:
        """Return the pixels. Raises: errors of PIL's, UnsupportedError if rows are missing."""
        if self.mode and self.size != self._stored:
            try:
                return self._shrunk()
            except SeeThroughError:
                pass
        return self._whole()

    def _shrunk(self) -> Image.Image:
        (wide, high), (width, height) = self._stored, self.size
        across, down = max(1, int(wide / width / _GAP)), max(1, int(high / height / _GAP))
        below = _Shrinker(self.mode.removesuffix("A"), self.size, high / down)
        for strip in self._strips(down):
            rows, known = _opaque(strip), 1
            if across * down > 1:
                rows, known = rows.reduce((across, down), (0, 1, wide, rows.height)), 0
            box = (0, 0, wide / across, rows.height)
            below.add(rows.resize((width, rows.height), BICUBIC, box), known)
        return below.finished

    def _strips(self, down: int) -> Iterator[Image.Image]:
        """Yield strips, below the last row of the one before; all are made in the same memory.

        All but the last have a multiple of `down` rows of their own.
        """
        mode, (wide, high) = self.mode, self._stored
        row = len(mode) * wide + 1
        count = max(1, _STRIP // wide // down) * down
        above = bytes(row)  # filters look at the row above: it is given as it is, without one
        strip = Image.new(mode, (wide, count + 1))
        inflated = _filtered_rows(self._data, self.inflater(), (row, high), count)
        if self.inflater is not zlib.decompressobj:
            inflated = _in_a_thread(inflated)
        for rows in inflated:
            height = 1 + sum(map(len, rows)) // row
            stream = _stored([above, *rows])
            rows.clear()
            if height != strip.height:
                strip = Image.new(mode, (wide, height))
            strip.frombytes(stream, "zip", mode, 0)
            del stream
            above = b"\0" + strip.crop((0, height - 1, wide, height)).tobytes()
            yield strip


class _Shrinker:
    """Makes rows of the final width into ones of the final height, as they come."""

    def __init__(self, mode: str, size: Size, high: float) -> None:
        self.finished = Image.new(mode, size)
        self._rows = Image.new(mode, (size[0], 0))
        self._top = self._done = 0
        self._high = high
        self._scale = high / size[1]

    def add(self, rows: Image.Image, known: int) -> None:
        """Add rows, of which the first `known` have come before."""
        at = self._rows.height - known
        self._rows = self._rows.crop((0, 0, rows.width, at + rows.height))
        self._rows.paste(rows, (0, at))
        bottom, scale, ready = self._top + self._rows.height, self._scale, self.finished.height
        if bottom < self._high:
            ready = int(bottom / scale) - _SUPPORT
        if ready > self._done:
            self._finish(ready)
        first = max(self._top, int((self._done - _SUPPORT) * scale))
        self._rows = self._rows.crop((0, first - self._top, rows.width, self._rows.height))
        self._top = first

    def _finish(self, ready: int) -> None:
        """Make the rows up to `ready`, for which all that the filter looks at is there."""
        width, top, bottom = self.finished.width, self._done * self._scale, ready * self._scale
        box = (0, top - self._top, width, min(bottom - self._top, self._rows.height))
        made = self._rows.resize((width, ready - self._done), BICUBIC, box)
        self.finished.paste(made, (0, self._done))
        self._done = ready


def opened(data: bytes, whole: Callable[[], Image.Image]) -> PNGFile | None:
    """Return the file, of which `whole` decodes what is not done here; None without a header."""
    if data[12:16] != b"IHDR":
        return None
    width, height, depth, colour, *others = unpack_from(">IIBBBBB", data, 16)
    file = PNGFile(data, (width, height), whole)
    fast = _fast_inflater()
    large = area(file.size) >= (_LARGE if fast else _HUGE)
    if large and depth == 8 and not any(others) and not _has_others(data):
        file.mode, file.inflater = _MODES.get(colour, ""), fast or zlib.decompressobj
    return file


def _has_others(data: bytes) -> bool:
    for kind, _, _ in walk(data):
        if kind in _OTHERS:
            return True
        if kind == b"IDAT":
            break
    return False


def _opaque(strip: Image.Image) -> Image.Image:
    """Return the strip without alpha. Raises: SeeThroughError, not for the row above it."""
    if strip.mode != "RGBA":
        return strip
    alpha = strip.getchannel("A").crop((0, 1, *strip.size))
    if alpha.getextrema() != (255, 255):
        raise SeeThroughError
    return strip.convert("RGB")


def _in_a_thread(rows: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
    """Yield what another thread makes, while this one waits.

    PIL's resizing takes four times as long in a thread that isal has run in, probably because of
    what it leaves in vector registers.
    """
    with ThreadPoolExecutor(1) as thread:
        try:
            asked = thread.submit(next, rows, None)
        except RuntimeError:  # there may be no room for one more thread
            yield from rows
            return
        while (pieces := asked.result()) is not None:
            yield pieces
            asked = thread.submit(next, rows, None)


def _filtered_rows(data: bytes, inflate: Any, size: Size, count: int) -> Iterator[list[bytes]]:
    """Inflate `count` rows at a time, in pieces, which the caller may clear.

    `size` is the bytes of a row and the number of rows. Raises: UnsupportedError if some lack.
    """
    row, high = size
    left, want = row * high, min(count, high) * row
    pieces: list[bytes] = []
    for part in _parts(data):
        rest: Any = part
        while left and not inflate.eof:
            piece = inflate.decompress(rest, want)
            rest, more = inflate.unconsumed_tail, len(piece) == want
            pieces.append(piece)
            left -= len(piece)
            want -= len(piece)
            if not want:
                yield pieces
                pieces, want = [], min(count * row, left)
            # What did not fit may be kept inside, with nothing left of the part.
            if not rest and not more:
                break
        # The checksum may come in a part of its own; of further rows, a byte is made and no more.
        if not left and (inflate.eof or inflate.decompress(rest, 1)):
            break
    if left:
        raise UnsupportedError(LACKS_ROWS)


def _parts(data: bytes) -> Iterator[memoryview]:
    """Yield the compressed rows in parts that are small, because what is left of one is copied."""
    for kind, start, end in walk(data):
        if kind == b"IDAT":
            for at in range(start, end, _PART):
                yield memoryview(data)[at : min(at + _PART, end)]


def _fast_inflater() -> Callable[[], Any] | None:
    """Return isal's, which is twice as fast as zlib's, None where it is not installed."""
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    inflater: Callable[[], Any] = isal_zlib.decompressobj
    return inflater


def _stored(pieces: list[bytes]) -> bytes:
    """Return a zlib stream of the pieces, of blocks that are not compressed and have no end."""
    parts: list[bytes | memoryview] = [b"\x78\x01"]
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(piece), _MOST):
            block = view[start : start + _MOST]
            parts += pack("<BHH", 0, len(block), len(block) ^ _MOST), block
    return b"".join(parts)
