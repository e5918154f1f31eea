"""Large JPEG files are shrunk while they are decoded, to the pixels they have when it is done."""

from __future__ import annotations

import ctypes
import io
import random
import sys

import pytest

from aiollm.errors import UnsupportedError
from aiollm.media.limits import ImageLimits
from aiollm.media.transform import transform

Image = pytest.importorskip("PIL.Image")
ImageChops = pytest.importorskip("PIL.ImageChops")

from PIL import ImageFile, JpegImagePlugin, _imaging  # noqa: E402

from aiollm.media import jpeg_strips  # noqa: E402
from aiollm.media.jpeg_strips import JPEGFile  # noqa: E402
from aiollm.media.pixels import render  # noqa: E402

large_pages = pytest.mark.skipif(
    not jpeg_strips.large_pages(), reason="the system gives out no large pages"
)
DICE = random.Random(23)
SIZE = (2003, 1301)
LIMITS = ImageLimits(("image/png",), 1500)


def apart(one, other):
    """Return the largest difference of two pictures; the text of one would fill the screen."""
    assert (one.mode, one.size) == (other.mode, other.size)
    return max(band.getextrema()[1] for band in ImageChops.difference(one, other).split())


def rounded():
    """Return by how much pixels may differ: Pillow 13 shrinks the height first where it may."""
    bicubic, image = Image.Resampling.BICUBIC, Image.effect_noise((2000, 1300), 90)
    strip = image.resize((1500, 75), bicubic, (0, 100, 2000, 200))
    across = image.resize((1500, 1300), bicubic).resize((1500, 75), bicubic, (0, 100, 1500, 200))
    return 1 if apart(across, strip) == 0 else 16


ROUNDED = rounded()


@pytest.fixture(scope="module")
def noise():
    """Return a picture of a size with detail and grain."""
    made = {}

    def noise(size=SIZE):
        if size not in made:
            coarse = [Image.effect_noise((each // 5 + 1, each // 7 + 1), 90) for each in size]
            bands = [Image.effect_noise(size, 30), *(each.resize(size) for each in coarse)]
            made[size] = Image.merge("RGB", bands)
        return made[size]

    return noise


def opened(data, factory=JpegImagePlugin.jpeg_factory):
    return JPEGFile(data, factory(io.BytesIO(data), ""))


def both(data, edge):
    """Return the picture made of strips and the one made of it whole."""
    limits = ImageLimits(("image/png",), edge)
    pictures = []
    for in_strips in True, False:
        file = opened(data)
        file.in_strips = in_strips
        pictures.append(render(file, limits, 80_000_000, sharp=False, orientation=1))
    return pictures


def is_whole(file, edge=1500):
    """Return whether PIL decodes all of it before it is shrunk."""
    file.draft(None, ImageLimits(("image/png",), edge).shrunk(file.size))
    return file.decoded() is file._file


@large_pages
@pytest.mark.parametrize("options", [
    {"subsampling": 0},
    {"subsampling": 1},
    {"subsampling": 2},
    {"restart_marker_blocks": 7},
    {"restart_marker_rows": 1},
    {"keep_rgb": True},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("edge", [2002, 1500, 1003])
def test_strips_make_the_pixels_that_the_whole_picture_makes(make, noise, options, edge):
    data = make.save(noise(), "JPEG", **options)
    assert not is_whole(opened(data), edge)
    assert apart(*both(data, edge)) <= ROUNDED


@large_pages
@pytest.mark.parametrize("size", [(9001, 301), (301, 9001), (4001, 2999)])
def test_pictures_of_any_shape_are_shrunk(make, noise, size):
    data = make.save(noise(size), "JPEG")
    edge = 1999 if max(size) < 5000 else 8999
    assert not is_whole(opened(data), edge)
    assert apart(*both(data, edge)) <= ROUNDED


@large_pages
def test_black_rows_count_as_rows(make):
    data = make.save(Image.new("RGB", SIZE), "JPEG")
    assert not is_whole(opened(data))
    assert apart(*both(data, 1500)) == 0


@large_pages
def test_the_first_of_several_pictures_in_a_file_is_shrunk(make, noise):
    data = make.save(noise(), "MPO", save_all=True, append_images=[Image.new("RGB", (90, 60))])
    assert opened(data)._file.format == "MPO"
    assert not is_whole(opened(data))
    assert apart(*both(data, 1500)) <= ROUNDED


@large_pages
def test_pil_reads_piece_by_piece_and_rows_are_shrunk_between_the_pieces(make, noise):
    """Fails where a later PIL decodes into other memory, or reads the file in one piece."""
    data = make.save(noise((4001, 2999)), "JPEG")
    file = opened(data)
    file.draft(None, (1999, 1498))
    strips = file._strips()
    file._file.im, file._file.fp = strips.source, strips
    file._file.load()
    assert file._file.im is strips.source
    assert strips._decoded > 0.9 * file.size[1]
    assert strips._done > 0.8 * 1498
    assert strips._freed > 0


@large_pages
def test_memory_that_is_locked_is_kept(make, noise):
    data = make.save(noise(), "JPEG")
    file = opened(data)
    file.draft(None, (1500, 974))
    strips = file._strips()
    start = ctypes.addressof(ctypes.c_char.from_buffer(strips._pixels))
    if ctypes.CDLL(None).mlock(ctypes.c_void_p(start), ctypes.c_size_t(4096)):
        pytest.skip("no memory may be locked")
    file._strips = lambda: strips
    assert apart(file.decoded(), both(data, 1500)[1]) <= ROUNDED
    assert strips._pixels[3] == 255


WHOLE = {
    "small": lambda noise, make: make.save(noise().resize((1600, 1200)), "JPEG"),
    "progressive": lambda noise, make: make.save(noise(), "JPEG", progressive=True),
    "grey": lambda noise, make: make.save(noise().convert("L"), "JPEG"),
    "for print": lambda noise, make: make.save(noise().convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_strips_cannot_do_is_decoded_whole(make, noise, kind):
    assert is_whole(opened(WHOLE[kind](noise, make)))


def test_a_picture_that_need_not_shrink_is_decoded_whole(make, noise):
    file = opened(make.save(noise(), "JPEG"))
    assert is_whole(file, 5000)


@large_pages
def test_what_is_averaged_first_is_decoded_whole(make, noise):
    """An eighth of it, and that by half."""
    data = make.save(noise((301, 199)).resize((16_100, 8_100)), "JPEG")
    assert is_whole(opened(data), 900)


def test_where_the_system_gives_out_no_large_pages_it_is_decoded_whole(
    make, noise, tmp_path, monkeypatch
):
    said = tmp_path / "enabled"
    said.write_text("always madvise [never]\n")
    data = make.save(noise(), "JPEG")
    for place in said, tmp_path / "nowhere":
        monkeypatch.setattr(jpeg_strips, "_LARGE_PAGES", place)
        assert is_whole(opened(data))


def test_on_other_systems_it_is_decoded_whole(make, noise, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert is_whole(opened(make.save(noise(), "JPEG")))


def test_where_there_is_no_memory_for_strips_it_is_decoded_whole(make, noise, monkeypatch):
    monkeypatch.setattr(jpeg_strips, "_PAGE", 1 << 60)
    assert is_whole(opened(make.save(noise(), "JPEG")))


def test_where_pil_takes_no_memory_it_is_decoded_whole(make, noise, monkeypatch):
    monkeypatch.delattr(_imaging, "map_buffer")
    assert is_whole(opened(make.save(noise(), "JPEG")))


class _OwnMemory(JpegImagePlugin.JpegImageFile):
    """A file that is decoded into other memory than it is given."""

    def load_prepare(self):
        self.im = Image.core.new(self.mode, self.size)


def test_where_pil_decodes_into_its_own_memory_no_picture_is_black(make, noise):
    data = make.save(noise(), "JPEG")
    file = opened(data, _OwnMemory)
    file.draft(None, (1500, 974))
    assert apart(file.decoded().copy(), make.load(data).copy()) == 0


def outcome(data):
    try:
        return transform(data, LIMITS)
    except UnsupportedError as refusal:
        return refusal.message


@pytest.fixture
def outcomes(monkeypatch, tmp_path):
    """Return what becomes of a file in strips, and decoded whole."""

    def outcomes(data):
        with monkeypatch.context() as without:
            without.setattr(jpeg_strips, "_LARGE_PAGES", tmp_path / "nowhere")
            whole = outcome(data)
        return outcome(data), whole

    return outcomes


def same(one, other):
    """Return whether both were refused for the same reason, or have the same pixels."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    pictures = [Image.open(io.BytesIO(each.data)) for each in (one, other)]
    return apart(*pictures) <= ROUNDED


DAMAGE = {
    "cut": lambda data: data[: DICE.randrange(700, len(data))],
    "cut at the end": lambda data: data[: -DICE.randrange(1, 100)],
    "cut, with an end": lambda data: data[: DICE.randrange(700, len(data))] + b"\xff\xd9",
    "bytes between": lambda data: data[:9000] + DICE.randbytes(3000) + data[9000:],
    "bytes behind": lambda data: data + bytes(300_000),
    "a wrong byte": lambda data: _wrong(data, DICE.randrange(700, len(data))),
    "a wrong byte in the header": lambda data: _wrong(data, DICE.randrange(2, 700)),
    "more rows than there are": lambda data: _of_height(data, 5000),
    "fewer rows than there are": lambda data: _of_height(data, 1100),
}


def _wrong(data, at):
    return data[:at] + bytes([data[at] ^ DICE.randrange(1, 256)]) + data[at + 1 :]


def _of_height(data, rows):
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + rows.to_bytes(2, "big") + data[at + 2 :]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_or_read_as_when_it_is_decoded_whole(
    make, noise, outcomes, damage
):
    data = make.save(noise(), "JPEG", quality=60)
    for _ in range(3):
        assert same(*outcomes(DAMAGE[damage](data)))


def test_a_program_that_lets_pil_bear_cut_files_gets_them(make, noise, outcomes, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = make.save(noise(), "JPEG", quality=60)
    strips, whole = outcomes(data[: len(data) // 2])
    assert strips.height == 974
    assert same(strips, whole)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_what_the_camera_says_applies_to_strips(make, noise, outcomes, orientation):
    exif = b"Exif\0\0" + make.exif(orientation)
    strips, whole = outcomes(make.save(noise(), "JPEG", exif=exif))
    assert strips.width == (974 if orientation > 4 else 1500)
    assert same(strips, whole)


def test_the_profile_applies_to_strips(make, noise):
    data = make.save(noise(), "JPEG", icc_profile=make.profile(*make.P3))
    plain = make.save(noise(), "JPEG")
    assert opened(data).info["icc_profile"]
    coloured, without = (make.load(transform(each, LIMITS).data) for each in (data, plain))
    assert apart(coloured, without) > 20


def test_more_pixels_than_may_be_decoded_are_refused_as_before(make, noise):
    data = make.save(noise(), "JPEG")
    with pytest.raises(UnsupportedError, match="2003 x 1301 pixels"):
        transform(data, LIMITS, 400_000)
    assert transform(data, LIMITS, 700_000).width == 1001
