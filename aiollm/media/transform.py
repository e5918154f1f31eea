"""Fit one image: open it if its format is on the allow-list, render it, encode it again."""

from __future__ import annotations

import io
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import msgspec

from aiollm._wire.image_type import mime_of
from aiollm.errors import UnsupportedError
from aiollm.media.encoders import encode
from aiollm.media.limits import (
    INSTALL,
    MAX_PIXELS,
    FittedImage,
    ImageLimits,
    area,
    available,
    too_many_pixels,
)
from aiollm.media.pixels import render
from aiollm.media.png import lacks_rows, too_many_chunks
from aiollm.media.sniff import info

if TYPE_CHECKING:
    from PIL import Image

LOSSLESS_PIXELS = 2_000_000
"""Up to this many pixels a lossless source stays lossless; above, PNG is too large and slow."""


class Plugin(msgspec.Struct, frozen=True):
    """A package that adds a format to PIL: its module, name on PyPI, and registering function."""

    module: str
    package: str
    register: str = ""


class Source(msgspec.Struct, frozen=True):
    """An input format: its PIL name, and the build feature or plugin it needs."""

    name: str
    format: str
    feature: str = ""
    plugin: Plugin | None = None
    lossless: bool = False


_HEIF = Plugin("pillow_heif", "pillow-heif", "register_heif_opener")
_AVIF = Plugin("pillow_avif", "pillow-avif-plugin")

SOURCES = {
    "image/jpeg": Source("JPEG", "JPEG", "jpg"),
    "image/png": Source("PNG", "PNG", "zlib", lossless=True),
    "image/gif": Source("GIF", "GIF", lossless=True),
    "image/webp": Source("WebP", "WEBP", "webp"),
    "image/bmp": Source("BMP", "BMP", lossless=True),
    "image/tiff": Source("TIFF", "TIFF", lossless=True),
    "image/avif": Source("AVIF", "AVIF", "avif", _AVIF),
    "image/heic": Source("HEIC", "HEIF", plugin=_HEIF),
    "image/heif": Source("HEIF", "HEIF", plugin=_HEIF),
}
"""The allow-list; no other format is ever opened, in particular not EPS and SVG."""

_NAMES = ", ".join(source.name for source in SOURCES.values())
UNKNOWN = f"only these formats can be read: {_NAMES}"


def transform(data: bytes, limits: ImageLimits) -> FittedImage:
    """Return the image within `limits`. Raises: UnsupportedError with the reason."""
    source = SOURCES.get(mime_of(data))
    if source is None:
        raise UnsupportedError(UNKNOWN)
    _require(source)
    try:
        return _transform(data, source, limits)
    except UnsupportedError:
        raise
    except MemoryError:
        reason = f"the {source.name} image needs more memory than the limit"
    # Broken files raise nearly anything: OSError, SyntaxError, struct.error, KeyError.
    except Exception as error:  # noqa: BLE001
        reason = f"the {source.name} image is damaged: {type(error).__name__}: {error}"
    raise UnsupportedError(reason[:500])


def _transform(data: bytes, source: Source, limits: ImageLimits) -> FittedImage:
    opened = [_open(data, source)]
    original = opened[0].size
    # Popped, so that earlier pixels are freed as soon as each step replaces them.
    image = render(opened.pop(), limits, sharp=source.lossless)
    # A shrunk image has lost its sharp pixels already, so PNG would only cost bytes.
    kept = max(image.size) == max(original) and area(original) <= LOSSLESS_PIXELS
    return encode(image, limits, lossless=source.lossless and kept, sharp=source.lossless)


def _open(data: bytes, source: Source) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    found = info(data)
    if found is not None and found.pixels > MAX_PIXELS:
        raise UnsupportedError(too_many_pixels((found.width, found.height)))
    if source.format == "PNG" and too_many_chunks(data):
        raise UnsupportedError("the PNG image has thousands of chunks besides its pixels")
    try:
        image = Image.open(io.BytesIO(data), formats=(source.format,))
    except UnidentifiedImageError:
        raise UnsupportedError(f"the {source.name} image has a damaged header") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnsupportedError(f"it has too many pixels: {error}") from None
    if area(image.size) > MAX_PIXELS:
        raise UnsupportedError(too_many_pixels(image.size))
    if source.format == "PNG" and _is_short(data, image):
        raise UnsupportedError("the PNG image is damaged: it has fewer rows than its header says")
    return image


def _is_short(data: bytes, image: Image.Image) -> bool:
    """Return whether a PNG ends before its last row; PIL would silently leave zeros there."""
    last = image.crop((0, image.height - 1, *image.size))
    return not any(last.tobytes()) and lacks_rows(data)


def _require(source: Source) -> None:
    """Check that the installed PIL can read the format. Raises: UnsupportedError."""
    if not available():
        raise UnsupportedError(INSTALL)
    if not _readable(source):
        extra = f", or install {source.plugin.package}" if source.plugin else ""
        raise UnsupportedError(
            f"the installed PIL was built without {source.name}: install the Pillow wheels "
            f"(aiollm-client[images]), or build pillow-simd with that library's headers{extra}"
        )


def _readable(source: Source) -> bool:
    from PIL import features

    if source.feature and features.check(source.feature):
        return True
    if source.plugin is None:
        return not source.feature
    if find_spec(source.plugin.module) is None:
        return False
    plugin = import_module(source.plugin.module)
    if source.plugin.register:
        getattr(plugin, source.plugin.register)()
    return True
