"""Read an image's header without decoding it: format, size, orientation, colours, completeness."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from struct import unpack_from

import msgspec

from aiollm._wire.image_type import mime_of
from aiollm.media import exif, icc
from aiollm.types import ImagePart

_STEPS = 4096
"""The most segments, chunks or blocks to walk, in under 2 ms; beyond, a header is unreadable."""
_BOXES = 512
"""The most boxes of an ISO file to walk for its size; the tiles of a grid share one extent."""
_EXIF_BLOCKS = 16
"""The most blocks of EXIF that are joined, a megabyte: the orientation is near their start."""
_EXIF = b"Exif\0\0"
_PROFILE = b"ICC_PROFILE\0\1"
_TAIL = 64 * 1024
"""Bytes at the end of a file that are searched for its end marker."""


class ImageInfo(msgspec.Struct, frozen=True):
    """Facts from an image's header; width and height in pixels, before any EXIF rotation.

    `complete` is False when the end of the file seems to be missing; only decoding can make sure.
    `orientation` is that of EXIF: 1 means upright, 2 to 8 turned or mirrored. `srgb` is False when
    a colour profile says that the colours are not those of sRGB.
    """

    mime: str
    width: int
    height: int
    animated: bool = False
    complete: bool = True
    orientation: int = exif.UPRIGHT
    srgb: bool = True

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


def info(data: bytes | ImagePart) -> ImageInfo | None:
    """Return format and pixel size from the header, without decoding the image.

    Returns None for a URL, for bytes of an unknown format, and for an invalid header.
    """
    match data:
        case ImagePart(data=content):
            return info(content) if content else None
        case _:
            mime = mime_of(data)
    reader = _READERS.get(mime)
    if reader is None:
        return None
    try:
        found = reader(data)
    except (struct.error, IndexError, ValueError):
        return None
    return found if found is not None and found.width > 0 < found.height else None


def _jpeg(data: bytes) -> ImageInfo | None:
    position, size = 2, (0, 0)
    srgb: bool | None = None
    blocks: list[tuple[int, int]] = []
    for _ in range(_STEPS):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        (length,) = unpack_from(">H", data, position + 2)
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = unpack_from(">HH", data, position + 5)
            size = (width, height)
        elif marker == 0xE1 and data.startswith(_EXIF, position + 4):
            if len(blocks) < _EXIF_BLOCKS:
                blocks.append((position + 10, position + 2 + length))
        elif marker == 0xE2 and srgb is None and data.startswith(_PROFILE, position + 4):
            # Of a profile in several segments, the first has the list of its contents.
            start = position + 18
            srgb = not icc.needs_conversion(data[start : start + min(length - 16, icc.MOST)])
        elif marker == 0xDA:
            start = max(position, len(data) - _TAIL)
            # Entropy-coded data never contains FF D9, so after the scan header it is the end.
            whole = data.rfind(b"\xff\xd9", start) >= 0
            turned = _jpeg_turn(data, blocks)
            return ImageInfo("image/jpeg", *size, False, whole, turned, srgb is not False)
        position += 2 + length
    return None


def _jpeg_turn(data: bytes, blocks: list[tuple[int, int]]) -> int:
    match blocks:
        case []:
            return exif.UPRIGHT
        case [(start, _)]:
            return exif.orientation(data, start)
        case _:  # more than 64 KB go on in the next segment
            return exif.orientation(b"".join(data[start:end] for start, end in blocks))


def _png(data: bytes) -> ImageInfo | None:
    if data[12:16] != b"IHDR":
        return None
    width, height = unpack_from(">II", data, 16)
    whole = data.rfind(b"IEND\xaeB`\x82", max(0, len(data) - _TAIL)) >= 0
    animated, turned, srgb = _png_chunks(data)
    return ImageInfo("image/png", width, height, animated, whole, turned, srgb)


def _png_chunks(data: bytes) -> tuple[bool, int, bool]:
    """Return whether it is animated, its orientation, and whether its colours are sRGB's.

    Of each kind of chunk the first counts: a file may have but one, and a trap has thousands.
    """
    position, animated, pixels = 8, False, False
    turned: int | None = None
    srgb: bool | None = None
    for _ in range(_STEPS):
        if pixels and position + 8 > len(data):
            break
        (length,) = unpack_from(">I", data, position)
        start = position + 8
        match data[position + 4 : start]:
            case b"acTL":
                animated = True
            case b"eXIf" if turned is None:
                turned = exif.orientation(data, start)
            case b"iCCP" if srgb is None:
                srgb = not _png_profile(data[start : start + min(length, icc.MOST)])
            case b"IDAT" if not pixels:
                pixels = True
                if _ends_with_pixels(data, position, length):
                    break
            case b"IEND":
                break
            case _:
                pass
        position += 12 + length
    else:
        if not pixels:
            raise ValueError("chunks without end")
    return animated, turned or exif.UPRIGHT, srgb is not False


def _ends_with_pixels(data: bytes, first: int, length: int) -> bool:
    """Return whether nothing but IEND comes behind the pixels, which begin at `first`.

    A large file has hundreds of IDATs, all but the last of one length: so one look finds the last.
    """
    end = len(data) - 12
    stride = 12 + length
    last = first + (end - first - 1) // stride * stride
    return data.startswith(b"IDAT", last + 4) and (
        last + 12 + int.from_bytes(data[last : last + 4], "big") == end
    )


@lru_cache(maxsize=16)
def _png_profile(chunk: bytes) -> bool:
    """Return whether the profile in a chunk, or the start of one, needs conversion."""
    start = chunk.find(b"\0") + 2
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(chunk[start:], icc.MOST)
    except zlib.error:
        return False
    # One that is larger has tables for more than sRGB, or is a trap that nobody should be sent.
    return bool(inflate.unconsumed_tail) or icc.needs_conversion(profile)


def _gif(data: bytes) -> ImageInfo | None:
    width, height, flags = unpack_from("<HHB", data, 6)
    try:
        frames, whole = _gif_frames(data, 13 + _gif_table(flags))
    except IndexError:
        frames, whole = 1, False
    return ImageInfo("image/gif", width, height, frames > 1, whole)


def _gif_table(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_frames(data: bytes, position: int) -> tuple[int, bool]:
    """Count frames, at most two, and return whether the trailer was reached."""
    frames = 0
    steps = iter(range(_STEPS))  # for all: each of many blocks may hold as many sub-blocks
    for _ in steps:
        match data[position]:
            case 0x2C:
                frames += 1
                if frames == 2:
                    return 2, True
                after = position + 11 + _gif_table(data[position + 9])
                position = _gif_blocks(data, after, steps)
            case 0x21:
                position = _gif_blocks(data, position + 2, steps)
            case kind:
                return max(frames, 1), kind == 0x3B
    return max(frames, 1), False


def _gif_blocks(data: bytes, position: int, steps: Iterator[int]) -> int:
    """Skip a chain of sub-blocks; a run of full ones, the bulk of a large file, in one step."""
    window = 16
    for _ in steps:
        size = data[position]
        if size == 0:
            return position + 1
        if size < 255:
            position += size + 1
            continue
        run = data[position : position + window * 256 : 256]
        full = len(run) - len(run.lstrip(b"\xff"))
        position += full * 256
        window = window * 2 if full == window else 16
    raise IndexError(position)


def _webp(data: bytes) -> ImageInfo | None:
    (size,) = unpack_from("<I", data, 4)
    whole = len(data) >= size + 8
    match data[12:16]:
        case b"VP8X":
            wide = unpack_from("<I", data, 24)[0] & 0xFFFFFF
            high = unpack_from("<I", data, 26)[0] >> 8
            flags = data[20]
            turned, srgb = _webp_chunks(data) if flags & 0x28 else (exif.UPRIGHT, True)
            return ImageInfo("image/webp", wide + 1, high + 1, bool(flags & 2), whole, turned, srgb)
        case b"VP8L" if data[20] == 0x2F:
            (bits,) = unpack_from("<I", data, 21)
            return ImageInfo(
                "image/webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, complete=whole
            )
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            width, height = unpack_from("<HH", data, 26)
            return ImageInfo("image/webp", width & 0x3FFF, height & 0x3FFF, complete=whole)
    return None


def _webp_chunks(data: bytes) -> tuple[int, bool]:
    """Return the orientation, and whether the colours are sRGB's: of each, the first counts."""
    position = 12
    turned: int | None = None
    srgb: bool | None = None
    for _ in range(_STEPS):
        if position + 8 > len(data):
            break
        (length,) = unpack_from("<I", data, position + 4)
        start = position + 8
        match data[position : position + 4]:
            case b"EXIF" if turned is None:
                turned = exif.orientation(data, start)
            case b"ICCP" if srgb is None:
                srgb = not icc.needs_conversion(data[start : start + min(length, icc.MOST)])
            case _:
                pass
        position = start + length + length % 2
    return turned or exif.UPRIGHT, srgb is not False


def _bmp(data: bytes) -> ImageInfo | None:
    size, header = unpack_from("<I8xI", data, 2)
    width, height = unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return ImageInfo("image/bmp", width, abs(height), complete=len(data) >= size)


def _iso(data: bytes) -> ImageInfo | None:
    """Return the largest spatial extent: that of the grid, not of its tiles."""
    width = height = position = 0
    for _ in range(_BOXES):
        if position + 8 > len(data):
            break
        size, kind = unpack_from(">I4s", data, position)
        match kind:
            case b"meta":
                position += 12
                continue
            case b"iprp" | b"ipco":
                position += 8
                continue
            case b"ispe":
                wide, high = unpack_from(">II", data, position + 12)
                width, height = max((width, height), (wide, high), key=lambda it: it[0] * it[1])
            case _:
                pass
        if size < 8:
            break
        position += size
    animated = data[8:12] in {b"avis", b"msf1", b"hevc", b"hevx"}
    return ImageInfo(mime_of(data), width, height, animated)


_READERS: dict[str, Callable[[bytes], ImageInfo | None]] = {
    "image/jpeg": _jpeg,
    "image/png": _png,
    "image/gif": _gif,
    "image/webp": _webp,
    "image/bmp": _bmp,
    "image/heic": _iso,
    "image/heif": _iso,
    "image/avif": _iso,
}
