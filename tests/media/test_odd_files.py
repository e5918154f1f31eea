"""Files that are odd or wrong in one known way: a right picture, or a refusal."""

from __future__ import annotations

import io
import struct
import zlib

import pytest

from aiollm.errors import UnsupportedError
from aiollm.media import info
from aiollm.media.limits import ImageLimits
from aiollm.media.transform import transform

Image = pytest.importorskip("PIL.Image")

ANY = ImageLimits(("image/jpeg", "image/png"), 10)
RED, GREEN = (255, 0, 0), (0, 200, 0)


def rows(pixel: bytes, side: int = 20) -> bytes:
    return (b"\0" + pixel * side) * side


def spoiled(data: bytes, kind: bytes) -> bytes:
    """Return a PNG in which the checksum of a chunk is wrong."""
    at = data.index(kind)
    end = at + 4 + int.from_bytes(data[at - 4 : at], "big")
    return data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]


def resized(data: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    """Return a JPEG whose header gives another size; JPEG has the height first."""
    return data.replace(struct.pack(">HH", *old[::-1]), struct.pack(">HH", *new[::-1]))


def two_pictures(make) -> bytes:
    out = io.BytesIO()
    first, second = (Image.new("RGB", (20, 20), colour) for colour in (RED, GREEN))
    first.save(out, "MPO", save_all=True, append_images=[second], quality=95)
    return out.getvalue()


def picture_before_an_animation(make) -> bytes:
    """Return an APNG whose first frame is not the picture that others show."""
    control = make.chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 20, 20, 0, 0, 1, 1, 0, 0))
    frame = make.chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress(rows(bytes(GREEN))))
    still = make.png(
        (20, 20), rows(bytes(RED)), extra=[make.chunk(b"acTL", struct.pack(">II", 1, 0))]
    )
    return still[:-12] + control + frame + still[-12:]


def interlaced(make) -> bytes:
    """Return a PNG of one pixel, for which interlaced and plain rows are the same."""
    plain = make.png((1, 1), b"\0" + bytes(RED))
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1)
    return plain[:8] + make.chunk(b"IHDR", header) + plain[33:]


def red(make, kind: str, **options: object) -> bytes:
    return make.save(Image.new("RGB", (20, 20), RED), kind, **options)


PICTURES = {
    "16 bits and alpha": lambda m: m.png(
        (20, 20), rows(struct.pack(">4H", 65535, 0, 0, 65535)), depth=16, colour=6
    ),
    "16 bits, grey and alpha": lambda m: m.png(
        (20, 20), rows(struct.pack(">2H", 0x4C00, 65535)), depth=16, colour=4
    ),
    "palette of 2 bits": lambda m: m.png(
        (20, 20),
        (b"\0" + b"\x55" * 5) * 20,
        depth=2,
        colour=3,
        extra=[m.chunk(b"PLTE", bytes(3) + bytes(RED))],
    ),
    "two pictures": two_pictures,
    "the name of a page before the end": lambda m: (
        red(m, "PNG")[:-12] + m.chunk(b"tEXt", b"a\0<script>") + red(m, "PNG")[-12:]
    ),
    "a zip behind it": lambda m: red(m, "PNG") + b"PK\3\4" + bytes(90_000),
    "a page behind it": lambda m: red(m, "JPEG") + b"<html><script>" * 9000,
    "a script in its comment": lambda m: red(m, "JPEG", comment=b"*/ alert(1) /*"),
    "another file in a segment": lambda m: (
        red(m, "JPEG")[:2] + m.segment(0xE5, red(m, "PNG")) + red(m, "JPEG")[2:]
    ),
    "chunks of no known kind": lambda m: m.png(
        (20, 20), rows(bytes(RED)), extra=[m.chunk(b"abCd", b"?")] * 9
    ),
    "the checksum of the pixels": lambda m: spoiled(m.png((20, 20), rows(bytes(RED))), b"IDAT"),
    "padding between segments": lambda m: red(m, "JPEG")[:2] + b"\xff" * 50 + red(m, "JPEG")[2:],
    "gif without size, but with a frame": lambda m: (
        red(m, "GIF")[:6] + bytes(4) + red(m, "GIF")[10:]
    ),
    "progressive": lambda m: red(m, "JPEG", progressive=True),
    "interlaced": interlaced,
}


REFUSED = {
    "no width": lambda m: m.png((0, 20), b""),
    "no height": lambda m: m.png((20, 0), b""),
    "jpeg without height": lambda m: resized(red(m, "JPEG"), (20, 20), (20, 0)),
    "jpeg without width": lambda m: resized(red(m, "JPEG"), (20, 20), (0, 20)),
    "jpeg without a frame": lambda m: b"\xff\xd8" + m.segment(0xDA, bytes(10)) + b"\xff\xd9",
    "the checksum of the header": lambda m: spoiled(m.png((20, 20), rows(bytes(RED))), b"IHDR"),
    "pixels that do not unpack": lambda m: (
        m.png((20, 20), b"")[:41] + m.chunk(b"IDAT", b"rubbish") + m.png((20, 20), b"")[-12:]
    ),
    "fewer rows than it says": lambda m: m.png((20, 40), rows(bytes(RED))),
    "a kind of colour that does not exist": lambda m: m.png((20, 20), rows(bytes(RED)), colour=5),
    "a depth that does not exist": lambda m: m.png((20, 20), rows(bytes(RED)), depth=3),
    "jpeg named as another file": lambda _: b"\xff\xd8\xff\xe0PK\3\4" + bytes(200),
    "a chunk of four gigabytes": lambda m: m.png((20, 20), b"")[:33] + b"\xff\xff\xff\xffIDAT",
}


@pytest.mark.parametrize("kind", PICTURES)
def test_an_odd_file_gives_the_picture_that_others_show(make, kind):
    data = PICTURES[kind](make)
    made = transform(data, ANY)
    pixel = make.load(made.data).convert("RGB").getpixel((0, 0))
    wanted = (76, 76, 76) if "grey" in kind else RED
    assert all(abs(one - other) < 9 for one, other in zip(pixel, wanted, strict=True))
    assert info(made.data).complete


def test_of_an_animation_with_a_picture_of_its_own_that_picture_is_taken(make):
    data = picture_before_an_animation(make)
    assert info(data).animated
    pixel = make.load(transform(data, ANY).data).convert("RGB").getpixel((0, 0))
    assert pixel[0] > 250
    assert pixel[1] < 9


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_shows_nothing_is_refused_with_a_reason(make, kind):
    with pytest.raises(UnsupportedError, match=r"the \w+ image (is damaged|has a damaged header)"):
        transform(REFUSED[kind](make), ANY)


@pytest.mark.parametrize("size", [(20, 400), (400, 20), (10, 10), (60_000, 5)])
def test_a_jpeg_with_another_size_in_its_header_is_a_picture_or_a_refusal(make, size):
    data = resized(red(make, "JPEG"), (20, 20), size)
    assert (info(data).width, info(data).height) == size
    try:
        made = transform(data, ANY)
    except UnsupportedError:
        return
    assert max(made.width, made.height) == 10


def test_three_hundred_thousand_segments_are_refused(make):
    spam = make.segment(0xE1, b"Exif\0\0") * 300_000
    with pytest.raises(UnsupportedError, match="damaged header"):
        transform(red(make, "JPEG")[:2] + spam + red(make, "JPEG")[2:], ANY)
