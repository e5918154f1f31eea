"""The type of an image: what its bytes show goes before what was declared."""

from __future__ import annotations

import pytest

from aiollm._wire.image_type import image_mime, mime_of
from aiollm.types import ImagePart

AVIF = b"\x00\x00\x00\x18ftypavif"
TIFF = b"II*\x00\x08\x00\x00\x00"


@pytest.mark.parametrize(
    ("data", "declared", "mime"),
    [
        (b"\x89PNG\r\n\x1a\n.", "image/jpeg", "image/png"),
        (b"\xff\xd8\xff\xe0", "", "image/jpeg"),
        (b"GIF89a", "image/png", "image/gif"),
        (b"GIF87a", "", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio/wav", "audio/wav"),
        (b"BM\x10\x00\x00\x00\x00\x00\x00\x00", "", "image/bmp"),
        (b"BMW", "image/svg+xml", "image/svg+xml"),
        (b"\x00\x00\x00\x18ftypheic", "", "image/heic"),
        (b"\x00\x00\x00\x18ftypmif1", "", "image/heif"),
        (AVIF, "image/jpeg", "image/avif"),
        (b"\x00\x00\x00\x1cftypavis", "", "image/avif"),
        (b"\x00\x00\x00\x1cftypnew1\x00\x00\x00\x00mif2avif", "", "image/avif"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00mp42", "video/mp4", "video/mp4"),
        (TIFF, "image/png", "image/tiff"),
        (b"MM\x00*\x00\x00\x00\x08", "", "image/tiff"),
        (b"MM\x00+\x00\x08\x00\x00", "", "image/tiff"),
        (b"<svg>", "image/svg+xml", "image/svg+xml"),
        (b"x", "", ""),
    ],
)
def test_the_bytes_go_before_what_was_declared(data, declared, mime) -> None:
    assert image_mime(ImagePart(data, mime=declared)) == mime
    assert mime_of(data) == ("" if mime == declared else mime)


def test_the_address_of_an_image_leaves_its_declared_type() -> None:
    assert image_mime(ImagePart(url="https://x", mime="image/png")) == "image/png"
