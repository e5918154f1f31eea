"""Fit one image: open it if its format is on the allow-list, render it, encode it again."""

from __future__ import annotations

import io
import struct
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
    decodable,
    too_many_pixels,
)
from aiollm.media.pixels import SelfShrinking, render
from aiollm.media.png import LACKS_ROWS, lacks_rows, too_many_chunks, without_bad_profile
from aiollm.media.sniff import ImageInfo, info

if TYPE_CHECKING:
    from PIL import Image

    Picture = Image.Image | SelfShrinking

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
_TURNED_BY_HEADER = {"image/jpeg", "image/png", "image/webp"}
"""The formats whose orientation the header gives; it ignores XMP, as browsers do."""

_NAMES = ", ".join(source.name for source in SOURCES.values())
UNKNOWN = f"only these formats can be read: {_NAMES}"


def transform(data: bytes, limits: ImageLimits, max_pixels: int = MAX_PIXELS) -> FittedImage:
    """Return the image within `limits`. Raises: UnsupportedError with the reason."""
    source = SOURCES.get(mime_of(data))
    if source is None:
        raise UnsupportedError(UNKNOWN)
    _require(source)
    try:
        return _transform(data, source, limits, max_pixels)
    except UnsupportedError:
        raise
    except MemoryError:
        reason = f"the {source.name} image needs more memory than the limit"
    # Broken files raise nearly anything: OSError, SyntaxError, struct.error, KeyError.
    except Exception as error:  # noqa: BLE001
        reason = f"the {source.name} image is damaged: {type(error).__name__}: {error}"
    raise UnsupportedError(reason[:500])


def _transform(data: bytes, source: Source, limits: ImageLimits, max_pixels: int) -> FittedImage:
    found = info(data)
    opened = [_open(data, source, found, max_pixels)]
    original = opened[0].size
    # The same eyes that let an image pass as upright; formats without them are left to PIL.
    turned = found.orientation if found is not None and found.mime in _TURNED_BY_HEADER else None
    # Popped, so that earlier pixels are freed as soon as each step replaces them.
    image = render(opened.pop(), limits, max_pixels, sharp=source.lossless, orientation=turned)
    # A shrunk image has lost its sharp pixels already, so PNG would only cost bytes.
    kept = max(image.size) >= max(original) and area(original) <= LOSSLESS_PIXELS
    return encode(image, limits, lossless=source.lossless and kept, sharp=source.lossless)


def _open(data: bytes, source: Source, found: ImageInfo | None, max_pixels: int) -> Picture:
    if found is not None and not decodable(found.mime, (found.width, found.height), max_pixels):
        raise UnsupportedError(too_many_pixels((found.width, found.height), max_pixels))
    if source.format == "PNG":
        if too_many_chunks(data):
            raise UnsupportedError("the PNG image has thousands of chunks besides its pixels")
        data = without_bad_profile(data)
    elif source.format == "JPEG" and found is None:
        raise UnsupportedError("the JPEG image has a damaged header")
    picture = _self_shrinking(data, source) or _opened(data, source)
    if not decodable(mime_of(data), picture.size, max_pixels):
        raise UnsupportedError(too_many_pixels(picture.size, max_pixels))
    return picture


def _self_shrinking(data: bytes, source: Source) -> SelfShrinking | None:
    """Open a file that is decoded better here than by PIL; None for all others."""
    match source.format:
        case "WEBP":
            from aiollm.media import webp

            return webp.opened(data)
        case "PNG":
            from aiollm.media import png_strips

            return png_strips.opened(data, lambda: _whole_png(data, source))
        case "JPEG":
            from aiollm.media.jpeg_strips import JPEGFile

            return JPEGFile(data, _opened(data, source))
        case _:
            return None


def _opened(data: bytes, source: Source) -> Image.Image:
    """Open as `Image.open` does, without PIL's own limit of pixels, which is one for all users."""
    from PIL import Image

    Image.preinit()
    if source.format not in Image.OPEN:
        Image.init()
    factory, accept = Image.OPEN[source.format]
    try:
        if accept is None or accept(data[:16]) is True:
            return factory(io.BytesIO(data), "")
    except (SyntaxError, IndexError, TypeError, KeyError, struct.error):
        pass
    raise UnsupportedError(f"the {source.name} image has a damaged header")


def _whole_png(data: bytes, source: Source) -> Image.Image:
    """Decode a PNG by PIL, which would silently leave zeros where rows are missing."""
    image = _opened(data, source)
    last = image.crop((0, image.height - 1, *image.size))
    if not any(last.tobytes()) and lacks_rows(data):
        raise UnsupportedError(LACKS_ROWS)
    return image


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
