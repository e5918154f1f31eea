"""Large PNG files are shrunk strip by strip, to the pixels that they have when decoded whole."""

from __future__ import annotations

import random
import threading
import tracemalloc
import zlib
from contextlib import suppress
from struct import pack, unpack_from

import pytest

from aiollm.errors import UnsupportedError
from aiollm.media.limits import ImageLimits
from aiollm.media.transform import transform

Image = pytest.importorskip("PIL.Image")
ImageChops = pytest.importorskip("PIL.ImageChops")

from aiollm.media import png_strips  # noqa: E402

ANY = ("image/jpeg", "image/png")
BICUBIC = Image.Resampling.BICUBIC
SIZE = (2003, 1301)
COLOURS = {0: ("L", 1), 2: ("RGB", 3), 6: ("RGBA", 4)}
DICE = random.Random(17)


def no_need():
    raise AssertionError("it was decoded whole")


INFLATERS = [zlib.decompressobj]
with suppress(ImportError):
    from isal import isal_zlib

    INFLATERS.append(isal_zlib.decompressobj)


def shrunk(file, size, inflater=zlib.decompressobj):
    """Return the picture of this size, made of strips."""
    opened = png_strips.PNGFile(file, unpack_from(">II", file, 16), no_need)
    opened.mode, opened.inflater = COLOURS[file[25]][0], inflater
    opened.draft(None, size)
    return opened.decoded()


def apart(one, other):
    """Return the largest difference of two pictures; the text of one would fill the screen."""
    return max(band.getextrema()[1] for band in ImageChops.difference(one, other).split())


def filtered(size, samples, opaque=False):
    """Return rows of soft noise, the filter of each a different one."""
    wide, high = size
    row = bytearray(DICE.choices(range(3), k=wide * samples))
    if opaque:
        row[3::4] = bytes(wide)
    # Filters add the row above, so that small numbers wander through all values.
    first = bytearray(DICE.randbytes(wide * samples))
    if opaque:
        first[3::4] = b"\xff" * wide
    kinds = [2, 4, 2] if opaque else [1, 2, 3, 4, 2]
    return (
        b"\0"
        + bytes(first)
        + b"".join(bytes([kinds[at % len(kinds)]]) + row for at in range(high - 1))
    )


SIZES = (2002, 1300), (1568, 1018), (1001, 650), (334, 217), (100, 65), (7, 5), (1, 1)


@pytest.mark.parametrize("inflater", INFLATERS)
@pytest.mark.parametrize("colour", COLOURS, ids=["grey", "colour", "opaque alpha"])
def test_strips_make_the_pixels_that_the_whole_picture_makes(make, colour, inflater):
    mode, samples = COLOURS[colour]
    file = make.png(SIZE, filtered(SIZE, samples, opaque=mode == "RGBA"), colour=colour)
    whole = make.load(file).convert(mode.removesuffix("A"))
    for size in SIZES:
        made = shrunk(file, size, inflater)
        assert made.mode == whole.mode
        assert apart(made, whole.resize(size, BICUBIC, reducing_gap=2.0)) <= 1


def test_one_clear_pixel_in_the_last_row_is_enough_to_keep_the_alpha(make):
    image = Image.new("RGBA", SIZE, (0, 0, 255, 255))
    image.putpixel((SIZE[0] - 1, SIZE[1] - 1), (255, 0, 0, 0))
    made = transform(make.save(image), ImageLimits(ANY, 1500))
    assert made.mime == "image/png"
    assert make.load(made.data).getpixel((1499, made.height - 1))[3] < 255


@pytest.mark.parametrize("cut", [1, 5, 1000])
def test_pixels_in_chunks_of_any_size_are_one_stream(make, cut):
    rows = filtered(SIZE, 3)
    stream = zlib.compress(rows, 1)
    pieces = [stream[:cut], b"", stream[cut : cut + 1], stream[cut + 1 :]]
    header = make.chunk(b"IHDR", pack(">IIBBBBB", *SIZE, 8, 2, 0, 0, 0))
    chunks = b"".join(make.chunk(b"IDAT", piece) for piece in pieces)
    file = b"\x89PNG\r\n\x1a\n" + header + chunks + make.chunk(b"IEND", b"")
    wanted = make.load(make.png(SIZE, rows)).resize((1000, 650), BICUBIC, reducing_gap=2.0)
    assert apart(shrunk(file, (1000, 650)), wanted) <= 1


@pytest.mark.parametrize("inflater", INFLATERS)
@pytest.mark.parametrize("cut", [1, 4, 5])
def test_a_wrong_checksum_is_found_in_a_chunk_of_its_own(make, cut, inflater):
    stream = zlib.compress(filtered(SIZE, 1), 1)
    stream = stream[:-1] + bytes([stream[-1] ^ 1])
    header = make.chunk(b"IHDR", pack(">IIBBBBB", *SIZE, 8, 0, 0, 0, 0))
    chunks = make.chunk(b"IDAT", stream[:-cut]) + make.chunk(b"IDAT", stream[-cut:])
    file = b"\x89PNG\r\n\x1a\n" + header + chunks + make.chunk(b"IEND", b"")
    with pytest.raises(Exception, match=r"incorrect|did not match|[Cc]hecksum"):
        shrunk(file, (500, 325), inflater)


def test_where_no_thread_can_be_started_it_does_without(make):
    rows = filtered(SIZE, 1)
    file = make.png(SIZE, rows, colour=0)
    before = threading.stack_size(1 << 46)  # more than there is on any machine
    try:
        made = shrunk(file, (500, 325), INFLATERS[-1])
    finally:
        threading.stack_size(before)
    assert apart(made, make.load(file).resize((500, 325), BICUBIC, reducing_gap=2.0)) <= 1


FAULTS = {
    "rows are missing": lambda make, rows: make.png(SIZE, rows[:-1]),
    "a filter that does not exist": lambda make, rows: make.png(SIZE, b"\x09" + rows[1:]),
    "the stream is broken": lambda make, rows: _broken(make.png(SIZE, rows)),
    "the checksum is wrong": lambda make, rows: _miscounted(make.png(SIZE, rows)),
    "the file is cut": lambda make, rows: make.png(SIZE, rows)[:-400_000],
    "no pixels": lambda make, _: make.png(SIZE, b""),
}


def _broken(file):
    first = 33 + 8 + 2  # the first block, which now is of a type that does not exist
    return file[:first] + b"\xff" + file[first + 1 :]


def _miscounted(file):
    end = len(file) - 16  # behind it, the checksum of the chunk and the last chunk
    return file[: end - 4] + b"\1\2\3\4" + file[end:]


@pytest.mark.parametrize("inflater", INFLATERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_refused_and_never_half_a_picture(make, fault, inflater):
    file = FAULTS[fault](make, filtered(SIZE, 3))
    with pytest.raises(UnsupportedError, match="damaged"):
        transform(file, ImageLimits(ANY, 500))
    with pytest.raises(Exception, match=r".") as raised:
        shrunk(file, (500, 325), inflater)
    assert not isinstance(raised.value, AssertionError)


def test_what_comes_behind_the_last_row_is_neither_inflated_nor_a_fault(make):
    file = make.png(SIZE, filtered(SIZE, 1) + bytes(50_000_000), colour=0)
    assert shrunk(file, (100, 65)).size == (100, 65)


def test_the_profile_of_a_large_file_is_found(make):
    image = Image.new("L", SIZE)
    file = make.save(image, icc_profile=b"a profile" * 40)
    assert png_strips.opened(file, no_need).info["icc_profile"] == b"a profile" * 40


@pytest.mark.parametrize("lost", [1, 4, 9])
def test_a_profile_whose_end_is_lost_costs_no_picture(make, lost):
    profile = b"one\0\0" + zlib.compress(b"a profile" * 400)
    cut = make.chunk(b"iCCP", profile[:-lost])
    file = make.png((40, 30), (b"\0" + bytes(120)) * 30, extra=[cut])
    assert transform(file, ImageLimits(ANY, 20)).width == 20


def test_a_profile_behind_a_bad_one_is_never_unpacked_without_an_end(make):
    bad = make.chunk(b"iCCP", b"no end of the name")
    trap = make.chunk(b"iCCP", b"trap\0\0" + zlib.compress(bytes(40 << 20)))
    file = make.png((40, 30), (b"\0" + bytes(120)) * 30, extra=[bad, trap])
    tracemalloc.start()
    with suppress(UnsupportedError):
        transform(file, ImageLimits(ANY, 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


HUGE = (4001, 4000)
WHOLE = {
    "small": lambda make: make.png((40, 30), (b"\0" + bytes(120)) * 30),
    "sixteen bits": lambda make: make.png(HUGE, b"", depth=16),
    "a palette": lambda make: make.png(HUGE, b"", colour=3),
    "a colour that is clear": lambda make: make.png(
        HUGE, b"", extra=[make.chunk(b"tRNS", pack(">3H", 0, 0, 0))]
    ),
    "an animation": lambda make: make.png(HUGE, b"", extra=[make.chunk(b"acTL", bytes(8))]),
    "interlaced": lambda make: make.png(HUGE, b"")[:28] + b"\1" + make.png(HUGE, b"")[29:],
}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_strips_cannot_do_is_decoded_whole(make, kind):
    opened = png_strips.opened(WHOLE[kind](make), lambda: "the whole picture")
    opened.draft(None, (30, 20))
    assert opened.decoded() == "the whole picture"


def test_a_file_is_decoded_in_strips_from_a_size_that_is_lower_where_isal_is_fast(make):
    huge = png_strips.opened(make.png(HUGE, b""), no_need)
    large = png_strips.opened(make.png(SIZE, b""), no_need)
    assert huge.mode == "RGB"
    assert large.mode == ("RGB" if len(INFLATERS) > 1 else "")
    assert large.inflater is huge.inflater is INFLATERS[-1]


def test_a_picture_that_need_not_shrink_is_decoded_whole(make):
    opened = png_strips.opened(make.png(HUGE, b""), lambda: "the whole picture")
    opened.draft(None, HUGE)
    assert opened.decoded() == "the whole picture"
