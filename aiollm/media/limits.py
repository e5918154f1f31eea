"""The limits of an image and the result of fitting it: shared by fitting, pool and transform."""

from __future__ import annotations

from importlib.util import find_spec

import msgspec

MAX_PIXELS = 80_000_000
"""The most pixels that are decoded, 320 MB in memory; larger images are refused."""

INSTALL = (
    "no image library is installed: install aiollm-client[images] (Pillow) "
    "or aiollm-client[simd] (pillow-simd)"
)

Size = tuple[int, int]


class ImageLimits(msgspec.Struct, frozen=True):
    """Allowed MIME types, longest edge in pixels, and size in bytes; None means no limit."""

    mime: tuple[str, ...]
    edge: int | None = None
    size: int | None = None

    def target(self, size: Size) -> Size:
        """Return `size`, shrunk so that its longest edge is within the limit."""
        longest = max(size)
        if self.edge is None or longest <= self.edge:
            return size
        return scaled(size, self.edge / longest)


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


def too_many_pixels(size: Size) -> str:
    """Return why an image of this size is not decoded."""
    return f"it has {size[0]} x {size[1]} pixels, and at most {MAX_PIXELS:,} are decoded"
