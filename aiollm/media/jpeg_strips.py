"""Shrink a large JPEG strip by strip while PIL decodes it, so that few of its rows are in memory.

PIL is given the memory to decode into, and a file that it reads piece by piece. Before each piece,
the rows that have been decoded are shrunk, and their memory is returned to the system.
"""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress
from typing import Any

from PIL import Image, _imaging

from aiollm.media.limits import Size, area

_LARGE = 2_000_000
"""Pixels of the decoded picture from which strips are made."""
_STRIP = 272 * 1024
"""Pixels of a strip, shrunk across, and of what is made of it: 1.1 MiB. Smaller ones cost time."""
_MOST = 2.02
"""How many times as wide or high the decoded picture may be: from there on, it is averaged first.
PIL decodes a JPEG at a half, a quarter or an eighth, so that only a sixteenth is so small."""
_ROWS = 8
"""Rows that are looked for at once; PIL decodes at least as many of nearly any file at once."""
_SUPPORT = 2
"""Pixels that bicubic looks at on each side, of the smaller picture."""
_PAGE = 2 << 20
"""Bytes of a large page."""
_LARGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"
_CHANGED = AttributeError, TypeError, ValueError
"""What PIL raises where it takes no memory to decode into."""
BICUBIC = Image.Resampling.BICUBIC


class JPEGFile:
    """An opened file, of which `draft` sets the size at which it is decoded."""

    def __init__(self, data: bytes, file: Any) -> None:
        self._data = data
        self._file = file  # PIL types neither what it decodes into nor what it reads
        self._wanted: Size = file.size
        self.info: dict[str, Any] = file.info
        self.in_strips = True
        """Whether strips are made where they can be."""

    @property
    def size(self) -> Size:
        """The size at which PIL decodes it."""
        size: Size = self._file.size
        return size

    def draft(self, _mode: None, size: Size) -> None:
        """Decode at a half, a quarter or an eighth, where that is at least this size."""
        self._file.draft(None, size)
        self._wanted = size

    def decoded(self) -> Image.Image:
        """Return the pixels, at the wanted size if strips were made. Raises: errors of PIL's."""
        file: Any = self._file
        may_strip = self.in_strips and self._is_large() and large_pages()
        strips = self._strips() if may_strip else None
        if strips is None:
            file.load()
            return file  # type: ignore[no-any-return]
        file.im, file.fp = strips.source, strips
        file.load()
        # It has memory of its own where a later PIL no longer decodes into what it is given.
        return strips.finished() if file.im is strips.source else file

    def _is_large(self) -> bool:
        """Return whether strips are worth it, and can be made.

        All coefficients of a progressive file are kept, beside which its pixels are few.
        """
        (wide, high), (width, height) = self.size, self._wanted
        shrinks = self.size != self._wanted and max(wide / width, high / height) < _MOST
        plain = self._file.mode == "RGB" and "progressive" not in self.info
        return shrinks and plain and area(self.size) >= _LARGE

    def _strips(self) -> _Strips | None:
        """Return the strips, None where there is no memory for them or PIL takes none."""
        try:
            return _Strips(self._data, self.size, self._wanted)
        except (OSError, *_CHANGED):
            return None


class _Strips:
    """The memory that PIL decodes into and the file that it reads meanwhile, which shrinks it."""

    def __init__(self, data: bytes, old: Size, new: Size) -> None:
        self._data = memoryview(data)
        self._at = 0
        (wide, self._high), (self._width, self._height) = old, new
        self._row = 4 * wide
        size = -(-self._row * self._high // _PAGE) * _PAGE  # only whole pages are large
        self._pixels = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._pixels.madvise(mmap.MADV_HUGEPAGE)
        # What `Image.frombuffer` does for RGBX.
        self.source: Any = _imaging.map_buffer(self._pixels, old, "raw", 0, ("RGB", 0, 1))
        self._result = Image.new("RGB", new, None)
        self._scale = self._high / self._height
        self._strip = max(1, int(_STRIP / self._width / (1 + self._scale)))
        self._piece = max(1024, len(data) * self._strip // self._height)
        self._decoded = self._done = self._freed = 0

    def seek(self, position: int) -> None:
        """Go to where PIL begins to read."""
        self._at = position

    def read(self, size: int) -> memoryview:
        """Return the next piece, after shrinking what PIL has made of those before.

        It is smaller than PIL asks for where more would be many strips.
        """
        # Rows are written as a whole, with 255 as the fourth byte of each pixel.
        while (end := self._decoded + _ROWS) <= self._high and self._pixels[end * self._row - 1]:
            self._decoded = end
        ready = int(self._decoded / self._scale) - _SUPPORT
        while ready - self._done >= self._strip:
            self._shrink()
        piece = self._data[self._at : self._at + min(size, self._piece)]
        self._at += len(piece)
        return piece

    def finished(self) -> Image.Image:
        """Return the picture, when all is decoded."""
        while self._done < self._height:
            self._shrink()
        return self._result

    def _shrink(self) -> None:
        """Make a strip, and free the memory that the next one does not need."""
        ready = min(self._done + self._strip, self._height)
        box = (0, self._done * self._scale, self._row // 4, min(ready * self._scale, self._high))
        strip = self.source.resize((self._width, ready - self._done), BICUBIC, box)
        self._result.im.paste(strip, (0, self._done, self._width, ready))
        self._done = ready
        needed = max(0, int((ready - _SUPPORT) * self._scale)) * self._row // _PAGE * _PAGE
        if needed > self._freed:
            with suppress(OSError):  # a program may have locked all its memory
                self._pixels.madvise(mmap.MADV_DONTNEED, self._freed, needed - self._freed)
            self._freed = needed


def large_pages() -> bool:
    """Return whether the system gives out pages of 2 MiB.

    Anew for each picture, 3,000 of 4 KiB would cost a fifth of the time.
    """
    if sys.platform != "linux":
        return False
    try:
        with open(_LARGE_PAGES, "rb") as file:  # noqa: PTH123 - workers do not load pathlib
            return b"[never]" not in file.read()
    except OSError:
        return False
