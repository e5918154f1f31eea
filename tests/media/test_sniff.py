"""Headers: format, size, animation and completeness, without a decoder."""

from __future__ import annotations

import struct
import sys
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._wire.image_type import mime_of
from aiollm.media import info
from aiollm.media.fitting import misfit
from aiollm.media.limits import ImageLimits
from aiollm.media.sniff import ImageInfo
from aiollm.types import ImagePart

MAGIC = {
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x10\0\0\0WEBPVP8 ",
    "image/bmp": b"BM\x10\0\0\0\0\0\0\0",
    "image/tiff": b"II*\0",
    "image/avif": b"\0\0\0\x18ftypavif",
    "image/heic": b"\0\0\0\x18ftypheic",
}
KINDS = {"JPEG": "jpeg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "BMP": "bmp"}


@pytest.mark.usefixtures("need_pil")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (317, 211), (3, 1025)])
def test_tells_format_and_size(make, kind, size):
    data = make.save(make.photo(*size), kind)
    assert info(data) == ImageInfo(f"image/{KINDS[kind]}", *size)
    assert info(ImagePart(data, mime="text/plain")) == info(data)
    assert mime_of(data) == f"image/{KINDS[kind]}"


@pytest.mark.usefixtures("need_pil")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_its_end_is_not_whole(make, kind):
    data = make.save(make.photo(300, 200), kind)
    assert info(data[: len(data) * 2 // 3]).complete is False
    assert info(data[:9]) is None


@pytest.mark.usefixtures("need_pil")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_something_behind_the_end_leaves_a_file_whole(make, kind):
    assert info(make.save(make.photo(300, 200), kind) + b"trailer" * 100).complete


@pytest.mark.usefixtures("need_pil")
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_tells_animated_from_still(make, kind):
    frames = [make.photo(64, 48, seed) for seed in range(3)]
    still = make.save(frames[0], kind)
    moving = make.save(frames[0], kind, save_all=True, append_images=frames[1:])
    assert not info(still).animated
    assert info(moving).animated


@pytest.mark.usefixtures("need_pil")
def test_lossless_and_transparent_webp_have_headers_of_their_own(make):
    lossless = make.save(make.photo(300, 200), "WEBP", lossless=True)
    transparent = make.save(make.screenshot(301, 203).resize((301, 203)), "WEBP")
    extended = make.save(make.photo(65, 43), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    assert (info(lossless).width, info(lossless).height) == (300, 200)
    assert (info(transparent).width, info(transparent).height) == (301, 203)
    assert b"VP8X" in extended[:20]
    assert (info(extended).width, info(extended).height) == (65, 43)


def test_a_large_gif_is_read_in_few_steps():
    pixels = (b"\xff" + bytes(255)) * 60_000 + b"\x11" + bytes(17) + b"\0"
    data = b"GIF89a\x20\0\x10\0\0\0\0" + b"\x2c" + bytes(9) + b"\x08" + pixels + b";"
    assert info(data) == ImageInfo("image/gif", 32, 16)


@pytest.mark.parametrize(
    ("brand", "mime"),
    [(b"heic", "heic"), (b"heix", "heic"), (b"mif1", "heif"), (b"avif", "avif")],
)
def test_heif_family_has_its_largest_extent_as_size(make, brand, mime):
    assert info(make.isobmff(brand, (4032, 3024))) == ImageInfo(f"image/{mime}", 4032, 3024)
    assert mime_of(make.isobmff(brand, (4032, 3024))) == f"image/{mime}"


def test_a_sequence_of_the_heif_family_is_animated(make):
    assert info(make.isobmff(b"avis", (40, 30))).animated


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"hello",
        b"%PDF-1.7",
        b"<svg xmlns=''/>",
        b"%!PS-Adobe-3.0 EPSF",
        b"BMW is",
        b"RIFF\0\0\0\0WAVE",
        b"\0\0\0\x18ftypisom\0\0\0\0mp42",
        b"GIF88a",
        b"\x89PNG\n\n\n\n",
    ],
)
def test_other_bytes_are_no_image(data):
    assert mime_of(data) == ""
    assert info(data) is None


def test_a_url_has_no_info():
    assert info(ImagePart(url="https://example.com/cat.png")) is None


def test_an_avif_or_a_tiff_is_never_taken_for_what_it_was_declared(make):
    wanted = ImageLimits(("image/jpeg", "image/png"))
    assert misfit(make.isobmff(b"avif", (40, 30)), wanted) == "image/avif is not accepted"
    assert misfit(b"II*\0\x08\0\0\0", wanted) == "its header has no size"


def test_formats_without_a_size_in_their_head_are_named_all_the_same():
    assert mime_of(b"II*\0\x08\0\0\0") == mime_of(b"MM\0*\0\0\0\x08") == "image/tiff"
    assert info(b"II*\0\x08\0\0\0") is None


@given(kind=st.sampled_from(sorted(MAGIC)), rest=st.binary(max_size=300))
def test_rubbish_behind_the_first_bytes_is_never_an_error(kind, rest):
    data = MAGIC[kind] + rest
    assert mime_of(data) == kind
    found = info(data)
    assert found is None or (found.width > 0 and found.height > 0)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xe0\0\2" * 1_000_000,
        b"\xff\xd8" + b"\xff" * 3_000_000,
        b"GIF89a\1\0\1\0\0\0\0" + b"\x21\xf9\1\0\0" * 1_000_000,
        b"GIF89a\1\0\1\0\0\0\0\x2c" + bytes(9) + b"\x08" + b"\1\0" * 1_000_000,
        b"\0\0\0\x18ftypheic" + b"\0\0\0\x0cmeta" * 500_000,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(17) + b"\0\0\0\0tEXt\0\0\0\0" * 300_000,
    ],
    ids=["segments", "padding", "extensions", "blocks", "boxes", "chunks"],
)
def test_a_header_without_end_is_given_up(data):
    assert info(data) is None or info(data).mime == "image/gif"


def test_gif_frames_may_have_tables_and_extensions():
    table = bytes(6)
    head = b"GIF89a" + struct.pack("<HHBBB", 20, 10, 0x80, 0, 0) + table
    frame = b"\x21\xf9\4\0\0\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 20, 10, 0x80) + table
    pixels = b"\2" + b"\3abc" + b"\0"
    assert info(head + frame + pixels + b";") == ImageInfo("image/gif", 20, 10)
    assert info(head + (frame + pixels) * 2 + b";").animated


def test_all_blocks_of_a_gif_together_are_walked_in_few_steps():
    """Each of many blocks may hold as many sub-blocks."""
    extension = b"\x21\xfe" + b"\x01x" * 4000 + b"\0"
    data = b"GIF89a\1\0\1\0\0\0\0" + extension * 100
    steps = 0

    def trace(frame, event, arg):
        nonlocal steps
        steps += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        assert info(data).mime == "image/gif"
    finally:
        sys.settrace(before)
    assert steps < 50_000


def calls_of(function: str, data: bytes) -> int:
    """Return how often a function of this name is called to read a header."""
    calls = 0

    def count(frame, event, arg):
        nonlocal calls
        calls += event == "call" and frame.f_code.co_name == function

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        assert info(data) is not None
    finally:
        sys.setprofile(before)
    return calls


def test_of_many_profiles_and_orientations_the_first_count(make):
    """Each takes a tenth of a millisecond, on the event loop, and a file may have thousands."""
    profiles = [zlib.compress(b"%d" % number) for number in range(300)]
    turns = [make.chunk(b"eXIf", make.exif(turn)) for turn in (6, 3)]
    extra = [*(make.chunk(b"iCCP", b"a\0\0" + each) for each in profiles), *turns]
    data = make.png((2, 2), bytes(14), extra=extra)
    assert calls_of("needs_conversion", data) == 1
    assert calls_of("orientation", data) == 1
    assert info(data).orientation == 6
    blocks = [(b"EXIF", make.exif(6)), (b"EXIF", make.exif(3))]
    blocks += [(b"ICCP", b"no profile %3d" % number) for number in range(300)]
    chunks = b"".join(kind + struct.pack("<I", len(block)) + block for kind, block in blocks)
    data = b"RIFF" + bytes(4) + b"WEBPVP8X\n\0\0\0\x28" + bytes(9) + chunks
    assert calls_of("needs_conversion", data) == 1
    assert calls_of("orientation", data) == 1
    assert info(data).orientation == 6


def test_little_is_copied_to_read_the_orientation_of_a_jpeg(make):
    blocks = [make.segment(0xE1, (b"Exif\0\0" + make.exif(6)).ljust(65_000, b"\0"))] * 200
    frame = make.segment(0xC0, struct.pack(">BHHB", 8, 2, 3, 1) + bytes(3))
    data = b"\xff\xd8" + b"".join(blocks) + frame + b"\xff\xda\0\2\xff\xd9"
    tracemalloc.start()
    try:
        assert info(data).orientation == 6
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
