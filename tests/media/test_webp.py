"""WebP files are shrunk while they are decoded; what cannot be is left to PIL."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aiollm.errors import UnsupportedError
from aiollm.media.limits import ImageLimits
from aiollm.media.transform import transform

Image = pytest.importorskip("PIL.Image")
ImageChops = pytest.importorskip("PIL.ImageChops")
ImageStat = pytest.importorskip("PIL.ImageStat")
if not pytest.importorskip("PIL.features").check("webp"):
    pytest.skip("PIL was built without WebP", allow_module_level=True)

from aiollm.media import webp  # noqa: E402

ANY = ("image/jpeg", "image/png")
NEAR = 5
"""Of 255: what another filter makes of fine noise; a picture off by one pixel has 8 and more."""


def apart(one, other):
    """Return how far two pictures are apart on average, of 255."""
    return max(ImageStat.Stat(ImageChops.difference(one, other)).mean)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [True, False])
def test_at_its_own_size_it_has_the_pixels_that_pil_gives_it(make, mode, lossless):
    picture = make.photo(301, 203).convert(mode)
    if mode == "RGBA":
        picture.putalpha(make.photo(301, 203, 7).convert("L"))
    file = make.save(picture, "WEBP", lossless=lossless)
    made = webp.opened(file).decoded()
    assert made.convert(mode).tobytes() == make.load(file).convert(mode).tobytes()


@pytest.mark.parametrize("size", [(297, 198), (150, 100), (64, 43), (1, 1)])
@pytest.mark.parametrize("lossless", [True, False])
def test_it_is_decoded_at_a_much_smaller_size_with_the_same_picture(make, size, lossless):
    file = make.save(make.photo(1200, 800).resize((601, 400)), "WEBP", lossless=lossless)
    opened = webp.opened(file)
    opened.draft(None, size)
    made = opened.decoded().convert("RGB")
    assert opened.size == made.size == size
    whole = make.load(file)
    assert apart(made, whole.resize(size, Image.Resampling.LANCZOS)) < NEAR


def test_it_is_decoded_whole_where_the_finer_filter_of_pil_is_sharper(make):
    opened = webp.opened(make.save(make.photo(600, 400), "WEBP"))
    opened.draft(None, (300, 200))
    assert opened.size == (600, 400)


def test_one_with_clear_pixels_is_not_shrunk_so_that_their_colour_stays_hidden(make):
    picture = Image.new("RGBA", (400, 400), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 401, 201))
    file = make.save(picture, "WEBP", lossless=True, exact=True)
    opened = webp.opened(file)
    opened.draft(None, (100, 100))
    assert opened.size == (400, 400)
    made = make.load(transform(file, ImageLimits(ANY, 90)).data)
    assert all(red < 9 for _, (red, _, _, alpha) in made.getcolors(9999) if alpha > 9)


def test_an_animation_is_left_to_pil(make):
    first, *others = (make.photo(300, 200, seed) for seed in range(3))
    file = make.save(first, "WEBP", save_all=True, append_images=others)
    assert webp.opened(file) is None
    made = make.load(transform(file, ImageLimits(ANY, 150)).data)
    assert apart(made, first.resize((150, 100))) < apart(made, others[0].resize((150, 100))) / 2


@pytest.mark.parametrize("part", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("lossless", [True, False])
def test_a_file_that_is_cut_is_refused_and_never_half_a_picture(make, part, lossless):
    file = make.save(make.photo(300, 200), "WEBP", lossless=lossless)
    with pytest.raises(UnsupportedError, match="damaged"):
        transform(file[: int(len(file) * part)], ImageLimits(ANY, 100))


def decoded(file):
    opened = webp.opened(file)
    if opened is None:
        raise OSError("it is left to PIL")
    opened.decoded()


def is_read(file, read):
    try:
        read(file)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [True, False])
def test_damaged_pixels_are_refused_as_pil_does_and_not_read_on_in_the_next_chunk(
    make, mode, lossless
):
    exif = b"Exif\0\0" + bytes(range(256)) * 64
    picture = make.photo(61, 43).convert(mode)
    if mode == "RGBA":
        picture.putalpha(make.photo(61, 43, 7).convert("L"))
    file = make.save(picture, "WEBP", lossless=lossless, exif=exif)
    begin, end = file.index(b"VP8L" if lossless else b"VP8 ") + 8, file.index(b"EXIF")
    seen = set()
    for place in range(begin, end, (end - begin) // 300 + 1):
        damaged = file[:place] + bytes([file[place] ^ 0x55]) + file[place + 1 :]
        as_pil = is_read(damaged, make.load)
        assert is_read(damaged, decoded) == as_pil
        seen.add(as_pil)
    assert seen == {True, False}


def test_a_lack_of_memory_is_no_fault_of_the_file(make):
    opened = webp.opened(make.save(make.photo(30, 20), "WEBP"))
    opened._library = SimpleNamespace(
        WebPInitDecoderConfigInternal=lambda *_: 1,
        WebPDecode=lambda *_: 1,  # VP8_STATUS_OUT_OF_MEMORY
    )
    with pytest.raises(MemoryError):
        opened.decoded()


def test_more_pixels_than_are_decoded_are_refused_though_few_would_be_left(make):
    file = make.save(make.photo(300, 200), "WEBP")
    with pytest.raises(UnsupportedError, match="at most 50,000"):
        transform(file, ImageLimits(ANY, 30), 50_000)


def test_the_profile_is_found_behind_other_chunks(make):
    plain = make.save(make.photo(30, 20), "WEBP", icc_profile=b"a profile")
    other = b"ABCD" + (3).to_bytes(4, "little") + b"odd\0"
    size = (len(plain) - 8 + len(other)).to_bytes(4, "little")
    file = plain[:4] + size + plain[8:30] + other + plain[30:]
    assert webp.opened(file).info["icc_profile"] == b"a profile"
    assert webp.opened(make.save(make.photo(30, 20), "WEBP")).info["icc_profile"] is None
