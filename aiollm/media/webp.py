"""Shrink a WebP while it is decoded, with the libwebp that PIL has loaded.

PIL asks libwebp for the whole picture: for 8 MP that is 31 MiB, and two more canvases of that size.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from struct import unpack_from
from typing import TYPE_CHECKING, Any

from aiollm.media.limits import Size, area

if TYPE_CHECKING:
    from PIL import Image

_ABI = 0x0209
"""The version of these structures; libwebp refuses any but 0x02.., which it has had since 2014."""
_RGBA = 1
"""MODE_RGBA."""
_NO_MEMORY = 1
"""VP8_STATUS_OUT_OF_MEMORY."""
_LEAST = 2.02
"""How much smaller. libwebp averages pixels, as PIL is told to do from here on: below, bicubic is
sharper, and the whole picture is smaller than four times what is wanted."""
_CHUNKS = 64
"""How many chunks are looked at for a profile and the pixels, which it comes before."""
_FRAME = (b"ALPH", b"VP8 ", b"VP8L")
"""The chunks of pixels."""
_int, _spare = ctypes.c_int, ctypes.c_uint32


class _Features(ctypes.Structure):
    """WebPBitstreamFeatures."""

    _fields_ = (
        ("width", _int),
        ("height", _int),
        ("has_alpha", _int),
        ("has_animation", _int),
        ("format", _int),
        ("pad", _spare * 5),
    )


class _Planes(ctypes.Structure):
    """WebPYUVABuffer, which is not used, but is the larger part of a union."""

    _fields_ = (
        ("planes", ctypes.c_void_p * 4),
        ("strides", _int * 4),
        ("sizes", ctypes.c_size_t * 4),
    )


class _Pixels(ctypes.Structure):
    """WebPRGBABuffer."""

    _fields_ = (("start", ctypes.c_void_p), ("stride", _int), ("size", ctypes.c_size_t))


class _Output(ctypes.Union):
    _fields_ = (("pixels", _Pixels), ("planes", _Planes))


class _Buffer(ctypes.Structure):
    """WebPDecBuffer."""

    _fields_ = (
        ("colorspace", _int),
        ("width", _int),
        ("height", _int),
        ("is_external_memory", _int),
        ("output", _Output),
        ("pad", _spare * 4),
        ("private_memory", ctypes.c_void_p),
    )


class _Options(ctypes.Structure):
    """WebPDecoderOptions."""

    _fields_ = (
        ("filters", _int * 2),
        ("cropping", _int * 5),
        ("use_scaling", _int),
        ("scaled_width", _int),
        ("scaled_height", _int),
        ("others", _int * 4),
        ("pad", _spare * 5),
    )


class _Config(ctypes.Structure):
    """WebPDecoderConfig."""

    _fields_ = (("input", _Features), ("output", _Buffer), ("options", _Options))


class WebPFile:
    """An opened file, of which `draft` sets the size at which it is decoded."""

    def __init__(self, data: bytes, library: Any, features: _Features) -> None:
        self._data = data
        self._library = library
        self._alpha = bool(features.has_alpha)
        self._stored: Size = (features.width, features.height)
        self.size: Size = self._stored
        self.info: dict[str, Any] = {"icc_profile": _profile(data)}

    def draft(self, _mode: None, size: Size) -> None:
        """Decode at this size if it is much smaller; not with alpha, or clear pixels would show."""
        (wide, high), (width, height) = self._stored, size
        if not self._alpha and min(wide / width, high / height) >= _LEAST:
            self.size = size

    def decoded(self) -> Image.Image:
        """Return the pixels as RGBX or RGBA. Raises: OSError if it is damaged, MemoryError."""
        import PIL.Image

        # Typed as PIL types what it reads from; it accepts any buffer.
        pixels: Any = bytearray(4 * area(self.size))
        config = _Config()
        self._library.WebPInitDecoderConfigInternal(ctypes.byref(config), _ABI)
        target = config.output.output.pixels
        target.start = ctypes.addressof(ctypes.c_char.from_buffer(pixels))
        target.stride, target.size = 4 * self.size[0], len(pixels)
        config.output.colorspace, config.output.is_external_memory = _RGBA, 1
        config.options.use_scaling = self.size != self._stored
        config.options.scaled_width, config.options.scaled_height = self.size
        start, end = _frame(self._data)
        # Without what follows them: pixels that are cut would be read on from there.
        place: Any = ctypes.cast(ctypes.c_char_p(self._data), ctypes.c_void_p).value
        size, config_of = ctypes.c_size_t(end - start), ctypes.byref(config)
        status = self._library.WebPDecode(ctypes.c_void_p(place + start), size, config_of)
        if status == _NO_MEMORY:
            raise MemoryError
        if status:
            raise OSError(f"libwebp ended with status {status}")
        mode = "RGBA" if self._alpha else "RGBX"
        return PIL.Image.frombuffer(mode, self.size, pixels, "raw", mode, 0, 1)


def opened(data: bytes) -> WebPFile | None:
    """Return a still file that can be read here; None for what is left to PIL, damage included."""
    library = _library()
    features = _Features()
    size = ctypes.c_size_t(len(data))
    if library is None or library.WebPGetFeaturesInternal(data, size, ctypes.byref(features), _ABI):
        return None
    return None if features.has_animation else WebPFile(data, library, features)


def _library() -> Any:
    """Return the libwebp that PIL's own module is linked with, None where it keeps it to itself."""
    from PIL import _webp

    try:
        library = ctypes.CDLL(_webp.__file__)
        known = library.WebPInitDecoderConfigInternal(ctypes.byref(_Config()), _ABI)
    except (OSError, AttributeError):
        return None
    return library if known else None


def _profile(data: bytes) -> bytes | None:
    return next((data[start:end] for kind, start, end in _chunks(data) if kind == b"ICCP"), None)


def _frame(data: bytes) -> tuple[int, int]:
    """Return the place of the pixels with their chunks' heads; all of it where it is not found."""
    first = None
    for kind, start, end in _chunks(data):
        if kind in _FRAME:
            first = start - 8 if first is None else first
            if kind != b"ALPH":
                return first, min(end + (end - start) % 2, len(data))  # with its padding
    return 0, len(data)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, the start and the end of each chunk."""
    position = 12
    for _ in range(_CHUNKS):
        if position + 8 > len(data):
            break
        kind, length = unpack_from("<4sI", data, position)
        start = position + 8
        yield kind, start, start + length
        position = start + length + length % 2
