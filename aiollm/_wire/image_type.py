"""Detect the type of an image from its first bytes."""

from __future__ import annotations

from aiollm.types import ImagePart

_BRANDS = {
    b"heic": "image/heic", b"heix": "image/heic", b"heim": "image/heic", b"heis": "image/heic",
    b"hevc": "image/heic", b"hevx": "image/heic", b"mif1": "image/heif", b"msf1": "image/heif",
    b"avif": "image/avif", b"avis": "image/avif",
}  # fmt: skip


def mime_of(data: bytes) -> str:
    """Return the MIME type detected from the first bytes, "" if it is unknown."""
    match data[:4]:
        case b"\x89PNG":
            return "image/png" if data[4:8] == b"\r\n\x1a\n" else ""
        case b"GIF8":
            return "image/gif" if data[4:6] in {b"7a", b"9a"} else ""
        case b"RIFF":
            return "image/webp" if data[8:12] == b"WEBP" else ""
        case b"II*\0" | b"MM\0*" | b"II+\0" | b"MM\0+":
            return "image/tiff"
        case _:
            pass
    if data[:3] == b"\xff\xd8\xff":
        return "image/jpeg"
    if data[:2] == b"BM" and data[6:10] == bytes(4):
        return "image/bmp"
    return _iso_mime(data) if data[4:8] == b"ftyp" else ""


def image_mime(part: ImagePart) -> str:
    """Return the MIME type detected from a part's bytes, else the declared one, else "".

    Providers refuse an image whose declared type is wrong.
    """
    return mime_of(part.data) or part.mime


def _iso_mime(data: bytes) -> str:
    """Return the type of the first known brand; the major brand comes first."""
    size = int.from_bytes(data[:4], "big")
    for position in (8, *range(16, min(size, 256), 4)):
        if mime := _BRANDS.get(data[position : position + 4]):
            return mime
    return ""
