"""Pixels to bytes: choose a format, and the best quality and size within the budget."""

from __future__ import annotations

import io
from math import sqrt
from typing import TYPE_CHECKING, Any

import msgspec

from aiollm.errors import UnsupportedError
from aiollm.media.limits import FittedImage, ImageLimits, scaled
from aiollm.media.pixels import has_alpha, on_white, padded

if TYPE_CHECKING:
    from PIL import Image

_QUALITIES = (85, 80, 75, 70, 65, 60, 55, 50, 45)
_EDGE = 32
"""The longest edge in pixels below which a shrunk image is no longer readable."""
_STEP = 0.9
"""Each smaller size is at most this fraction of the one before."""


class Encoder(msgspec.Struct, frozen=True):
    """An output format: its PIL name, and the build feature it needs.

    `qualities` go from best to worst, () if the format has none; `longest` is the longest edge in
    pixels that it can hold.
    """

    mime: str
    format: str
    feature: str = ""
    qualities: tuple[int, ...] = ()
    alpha: bool = True
    longest: int = 65_535


JPEG = Encoder("image/jpeg", "JPEG", "jpg", _QUALITIES, alpha=False)
PNG = Encoder("image/png", "PNG", "zlib", longest=2**31 - 1)
WEBP = Encoder("image/webp", "WEBP", "webp", _QUALITIES, longest=16_383)
GIF = Encoder("image/gif", "GIF")


def encode(image: Image.Image, limits: ImageLimits, *, lossless: bool, sharp: bool) -> FittedImage:
    """Encode within the limits. Raises: UnsupportedError when nothing fits.

    PNG is used for a lossless source and for transparency. If it is too large, a lossy format is,
    at the best quality and then the largest size that fit. `sharp` keeps the full colour
    resolution, for text and drawings.
    """
    encoders = _choose(image, limits, lossless=lossless)
    if not encoders:
        raise UnsupportedError(f"none of these formats can be written: {', '.join(limits.mime)}")
    spent = 0
    for encoder in encoders:
        data = _best(image, encoder, limits.max_bytes, sharp=sharp)
        spent = len(data)
        if limits.max_bytes is None or spent <= limits.max_bytes:
            return FittedImage(data, encoder.mime, *image.size)
    return _shrunk(image, encoders[-1], limits, spent, sharp=sharp)


def _choose(image: Image.Image, limits: ImageLimits, *, lossless: bool) -> list[Encoder]:
    """Return the formats to try, best first, up to the first that can reduce quality."""
    from PIL import features

    order = (JPEG, WEBP, PNG, GIF)
    if has_alpha(image):
        order = (PNG, WEBP, JPEG, GIF)
    elif lossless:
        order = (PNG, JPEG, WEBP, GIF)
    found: list[Encoder] = []
    for encoder in order:
        written = not encoder.feature or features.check(encoder.feature)
        if written and encoder.mime in limits.mime and max(image.size) <= encoder.longest:
            found.append(encoder)
            if encoder.qualities:
                break
    return found


def _shrunk(
    image: Image.Image, encoder: Encoder, limits: ImageLimits, spent: int, *, sharp: bool
) -> FittedImage:
    import PIL.Image

    edges, factor, size = image.size, 1.0, limits.max_bytes or 0
    while True:
        # Bytes grow roughly with the area, so the square root estimates the edge that fits. The
        # step guarantees progress when the estimate is too optimistic.
        factor *= min(_STEP, sqrt(size / spent))
        smaller = scaled(image.size, factor)
        if max(smaller) < _EDGE or smaller == edges:
            raise UnsupportedError(f"it cannot be made to fit in {size:,} bytes and stay readable")
        edges = smaller
        shrunk = image.resize(edges, PIL.Image.Resampling.BICUBIC, reducing_gap=2.0)
        shrunk = padded(shrunk, limits)
        data = _best(shrunk, encoder, size, sharp=sharp)
        spent = len(data)
        if spent <= size:
            return FittedImage(data, encoder.mime, *shrunk.size)


def _best(image: Image.Image, encoder: Encoder, size: int | None, *, sharp: bool) -> bytes:
    """Encode at the best quality of at most `size` bytes, or at the worst if none fits."""
    image = image if encoder.alpha else on_white(image)
    first, *others = encoder.qualities or (None,)
    best = _save(image, encoder, first, sharp=sharp)
    if size is None or len(best) <= size or not others:
        return best
    # Binary search for the best quality that fits. Try the worst first: if that is too large,
    # no quality fits, and the image must shrink.
    found = _save(image, encoder, others.pop(), sharp=sharp)
    while others and len(found) <= size:
        middle = len(others) // 2
        data = _save(image, encoder, others[middle], sharp=sharp)
        if len(data) <= size:
            found, others = data, others[:middle]
        else:
            others = others[middle + 1 :]
    return found


def _save(image: Image.Image, encoder: Encoder, quality: int | None, *, sharp: bool) -> bytes:
    options: dict[str, Any] = {} if quality is None else {"quality": quality}
    if encoder is JPEG:
        options |= {"subsampling": 0} if sharp else {}
    elif image.mode == "RGBX":
        image = image.convert("RGB")
    out = io.BytesIO()
    image.save(out, encoder.format, **options)
    return out.getvalue()
