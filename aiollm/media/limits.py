"""The limits of an image and the result of fitting it: shared by fitting, pool and transform."""

from __future__ import annotations

from importlib.util import find_spec
from math import sqrt

import msgspec

MAX_PIXELS = 80_000_000
"""The most pixels that are decoded, 320 MB in memory, unless `max_pixels` says otherwise."""
_HALVES = 4
"""How many times as many a JPEG may have, which can be decoded at half its width and height.

More would not save memory: decoders keep all coefficients of a progressive JPEG at full size.
"""

INSTALL = (
    "no image library is installed: install aiollm-client[images] (Pillow) "
    "or aiollm-client[simd] (pillow-simd)"
)

Size = tuple[int, int]


class ImageLimits(msgspec.Struct, frozen=True):
    """What an image must be to be accepted; None means no limit.

    `mime`: allowed types. `max_dimension`: pixels of the longer side, `min_dimension` of the
    shorter. `max_pixels`: width times height. `max_ratio`: the longer side divided by the shorter.
    """

    mime: tuple[str, ...]
    max_dimension: int | None = None
    max_bytes: int | None = None
    max_pixels: int | None = None
    min_dimension: int = 1
    max_ratio: int | None = None

    def shrunk(self, size: Size) -> Size:
        """Return `size`, shrunk as much as the limits need, the margins of `padded` included.

        It is too large all the same where even the smallest image would be.
        """
        longest, factor, found = max(size), 1.0, size
        if self.max_dimension is not None and longest > self.max_dimension:
            factor = self.max_dimension / longest
            found = scaled(size, factor)
        while self.max_pixels is not None and (full := area(self.padded(found))) > self.max_pixels:
            if max(found) == 1:
                break
            # At least one pixel less, because `scaled` may round up.
            factor *= min(sqrt(self.max_pixels / full), 1 - 1 / max(found))
            found = scaled(size, factor)
        return found

    def padded(self, size: Size) -> Size:
        """Return the size of the canvas that gives an image of `size` its least shape."""
        least = self.min_dimension
        if self.max_ratio is not None:
            least = max(least, -(-max(size) // self.max_ratio))
        return max(size[0], least), max(size[1], least)


class FittedImage(msgspec.Struct, frozen=True):
    """An image after fitting."""

    data: bytes
    mime: str
    width: int
    height: int


def available() -> bool:
    """Return whether Pillow or pillow-simd is installed, without importing it."""
    return find_spec("PIL") is not None


def area(size: Size) -> int:
    """Return the number of pixels."""
    return size[0] * size[1]


def scaled(size: Size, factor: float) -> Size:
    """Return the size times `factor`; each edge is at least 1 and never longer than before."""
    wide, high = size
    return max(1, min(wide, round(wide * factor))), max(1, min(high, round(high * factor)))


def decodable(mime: str, size: Size, max_pixels: int) -> bool:
    """Return whether an image of this size may be decoded."""
    return area(size) <= max_pixels * (_HALVES if mime == "image/jpeg" else 1)


def too_many_pixels(size: Size, max_pixels: int) -> str:
    """Return why an image of this size is not decoded."""
    return (
        f"it has {size[0]} x {size[1]} pixels, and at most {max_pixels:,} are decoded: "
        "to decode more, raise the max_pixels of the Registry or MediaPool"
    )
