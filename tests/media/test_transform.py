"""One image made to fit: every kind of picture, and what must be refused."""

from __future__ import annotations

import io
import struct
from importlib.util import find_spec
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aiollm.errors import UnsupportedError
from aiollm.media.limits import MAX_PIXELS, ImageLimits, area
from aiollm.media.sniff import info
from aiollm.media.transform import SOURCES, transform

pytest.importorskip("PIL")

from PIL import Image, ImageChops, features

COMMON = ("image/jpeg", "image/png", "image/gif", "image/webp")
JPEG = ("image/jpeg",)
PNG = ("image/png",)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def near(pixel, wanted, off=12):
    """Say whether two colours are the same to the eye."""
    return all(abs(a - b) <= off for a, b in zip(pixel[:3], wanted, strict=True))


def corners():
    """Return a wide picture that looks different in every orientation."""
    image = Image.new("RGB", (120, 80), WHITE)
    image.paste(RED, (0, 0, 60, 40))
    image.paste(GREEN, (60, 0, 120, 40))
    image.paste(BLUE, (0, 40, 60, 80))
    return image


def exif(orientation):
    """Return an EXIF block with an orientation, a place and a camera."""
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010F] = "SecretCamera"
    block.get_ifd(0x8825)[1] = "N"
    return block.tobytes()


TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright picture is stored under each orientation: the inverse of how it is shown."""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once_and_dropped(make, kind, orientation):
    turn = TURNS[orientation]
    stored = corners() if turn is None else corners().transpose(turn)
    options = {} if kind == "TIFF" else {"exif": exif(orientation)}
    if kind == "TIFF":
        options = {"tiffinfo": {0x0112: orientation}}
    made = transform(make.save(stored, kind, **options), ImageLimits(JPEG, 60))
    image = make.load(made.data)
    assert image.size == (made.width, made.height) == (60, 40)
    assert near(image.getpixel((10, 10)), RED)
    assert near(image.getpixel((50, 10)), GREEN)
    assert near(image.getpixel((10, 30)), BLUE)
    assert image.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("target", [JPEG, PNG, ("image/webp",)])
def test_metadata_is_not_carried_over(make, target):
    photo = make.photo(400, 300)
    jpeg = make.save(photo, "JPEG", exif=exif(6), comment=b"SecretComment", xmp=b"<SecretXmp/>")
    made = transform(jpeg, ImageLimits(target, 200)).data
    assert b"Secret" in jpeg
    assert b"Secret" not in made
    assert b"Exif" not in made
    assert not {"exif", "comment", "xmp", "icc_profile"} & make.load(made).info.keys()


def test_text_chunks_of_a_png_are_not_carried_over(make):
    extra = [make.chunk(b"tEXt", b"Author\0Secret"), make.chunk(b"eXIf", exif(1)[6:])]
    made = transform(make.png((2, 1), b"\0" + bytes(6), extra=extra), ImageLimits(PNG, 1))
    assert b"Secret" not in made.data


def test_cmyk_becomes_rgb(make):
    jpeg = make.save(Image.new("CMYK", (100, 100), (0, 255, 255, 0)), "JPEG")
    made = make.load(transform(jpeg, ImageLimits(COMMON, 50)).data)
    assert made.mode == "RGB"
    assert near(made.getpixel((25, 25)), RED, 40)


def test_sixteen_bit_grey_is_scaled_not_clipped(make):
    ramp = b"".join(b"\0" + struct.pack(">256H", *range(0, 65536, 256)) for _ in range(16))
    made = transform(make.png((256, 16), ramp, depth=16, colour=0), ImageLimits(JPEG, 128))
    image = make.load(made.data).convert("L")
    assert near((image.getpixel((2, 4)),) * 3, (4,) * 3)
    assert near((image.getpixel((64, 4)),) * 3, (128,) * 3)
    assert near((image.getpixel((126, 4)),) * 3, (252,) * 3)


def test_sixteen_bit_colour_is_scaled_not_clipped(make):
    rows = (b"\0" + struct.pack(">3H", 0x8000, 0x4000, 0xC000) * 40) * 40
    made = make.load(transform(make.png((40, 40), rows, depth=16), ImageLimits(JPEG, 20)).data)
    assert near(made.getpixel((10, 10)), (128, 64, 192))


@pytest.mark.parametrize(
    ("mode", "value"), [("I;16", 0x8000), ("I", 0x8000), ("F", 0.5), ("F", 128.0)]
)
def test_deep_tiffs_keep_their_brightness(make, mode, value):
    image = Image.new(mode, (40, 40), value)
    if value == 128.0:
        image.paste(255.0, (0, 0, 10, 10))
    made = make.load(transform(make.save(image, "TIFF"), ImageLimits(JPEG, 40)).data)
    assert near((made.convert("L").getpixel((30, 30)),) * 3, (128,) * 3)


def test_one_bit_pictures_turn_into_grey(make):
    image = Image.new("1", (100, 100), 1)
    image.paste(0, (0, 0, 50, 100))
    made = make.load(transform(make.save(image, "TIFF"), ImageLimits(JPEG, 50)).data)
    assert near((made.convert("L").getpixel((40, 20)),) * 3, WHITE)
    assert near((made.convert("L").getpixel((5, 20)),) * 3, (0, 0, 0))


TRANSPARENT = {
    "RGBA": lambda make: make.save(half_clear(), "PNG"),
    "LA": lambda make: make.save(half_clear().convert("LA"), "PNG"),
    "palette": lambda make: make.save(half_clear().quantize(8), "PNG"),
    "gif": lambda make: make.save(half_clear(), "GIF"),
    "webp": lambda make: make.save(half_clear(), "WEBP", lossless=True),
    "key": lambda make: make.png(
        (40, 40),
        (b"\0" + bytes(60) + bytes([9, 9, 9]) * 20) * 40,
        extra=[make.chunk(b"tRNS", struct.pack(">3H", 0, 0, 0))],
    ),
}


def half_clear():
    """Return a picture whose left half is transparent black, the right half dark grey."""
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((9, 9, 9, 255), (20, 0, 40, 40))
    return image


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_turns_white_where_the_format_has_none(make, kind):
    made = make.load(transform(TRANSPARENT[kind](make), ImageLimits(JPEG, 20)).data).convert("RGB")
    assert near(made.getpixel((3, 10)), WHITE)
    assert near(made.getpixel((16, 10)), (9, 9, 9))


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_is_kept_where_the_format_has_it(make, kind):
    made = transform(TRANSPARENT[kind](make), ImageLimits(("image/jpeg", "image/png"), 20))
    image = make.load(made.data).convert("RGBA")
    assert made.mime == "image/png"
    assert image.getpixel((3, 10))[3] == 0
    assert image.getpixel((16, 10)) == (9, 9, 9, 255)


def test_an_alpha_channel_that_hides_nothing_is_dropped(make):
    made = transform(make.save(make.screenshot(400, 300), "PNG"), ImageLimits(COMMON, 200))
    assert made.mime == "image/jpeg"


def test_transparency_that_does_not_fit_the_budget_goes_to_white(make):
    image = make.photo(400, 300).convert("RGBA")
    image.putalpha(128)
    made = transform(make.save(image, "PNG"), ImageLimits(("image/jpeg", "image/png"), 300, 12_000))
    assert made.mime == "image/jpeg"
    assert len(made.data) <= 12_000


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(make, kind):
    frames = [Image.new("RGB", (60, 40), colour) for colour in (RED, GREEN, BLUE)]
    data = make.save(frames[0], kind, save_all=True, append_images=frames[1:])
    made = transform(data, ImageLimits(COMMON))
    assert not info(made.data).animated
    assert near(make.load(made.data).convert("RGB").getpixel((30, 20)), RED)


@pytest.mark.skipif(not features.check("littlecms2"), reason="built without littlecms")
def test_colours_are_converted_from_the_profile_to_srgb(make):
    red, green, blue = (0.436, 0.222, 0.014), (0.385, 0.717, 0.097), (0.143, 0.061, 0.714)
    swapped = make.profile(blue, green, red)
    data = make.save(Image.new("RGB", (60, 60), RED), "PNG", icc_profile=swapped)
    made = make.load(transform(data, ImageLimits(JPEG, 30)).data)
    assert near(made.getpixel((15, 15)), BLUE, 20)
    assert "icc_profile" not in made.info


def test_a_broken_profile_costs_nothing(make):
    data = make.save(Image.new("RGB", (60, 60), RED), "JPEG", icc_profile=b"rubbish" * 30)
    assert near(make.load(transform(data, ImageLimits(JPEG, 30)).data).getpixel((15, 15)), RED)


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF", "PNG", "JPEG"])
@pytest.mark.parametrize("target", COMMON)
def test_every_format_becomes_every_allowed_one(make, kind, target):
    data = make.save(make.photo(120, 90), kind)
    made = transform(data, ImageLimits((target,), 100))
    assert made.mime == info(made.data).mime == target
    assert (made.width, made.height) == (100, 75)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF"])
def test_a_small_lossless_picture_stays_lossless(make, kind):
    drawing = make.screenshot(200, 100).convert("RGB").quantize(16).convert("RGB")
    made = transform(make.save(drawing, kind), ImageLimits(("image/jpeg", "image/png")))
    assert made.mime == "image/png"
    assert not ImageChops.difference(make.load(made.data).convert("RGB"), drawing).getbbox()


def test_quality_gives_way_before_size_and_the_best_that_fits_is_taken(make):
    data = make.save(make.photo(1000, 800), "JPEG", quality=97)
    whole = len(transform(data, ImageLimits(JPEG, 800)).data)
    sizes = []
    for part in (1.0, 0.9, 0.7, 0.3, 0.1):
        budget = int(whole * part)
        made = transform(data, ImageLimits(JPEG, 800, budget))
        assert len(made.data) <= budget
        sizes.append((made.width, len(made.data)))
    assert sizes == sorted(sizes, reverse=True)
    assert [width for width, _ in sizes[:3]] == [800, 800, 800]
    assert sizes[-1][0] < 800
    assert sizes[1][1] > whole * 0.8


def test_an_impossible_budget_is_refused(make):
    with pytest.raises(UnsupportedError, match="cannot be made to fit in 100 bytes"):
        transform(make.save(make.photo(400, 300), "JPEG"), ImageLimits(COMMON, 200, 100))


def test_a_target_without_a_format_that_can_be_written_is_refused(make):
    with pytest.raises(UnsupportedError, match="image/heic"):
        transform(make.save(make.photo(40, 30)), ImageLimits(("image/heic",)))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "JPEG"])
def test_a_bomb_is_refused_by_its_header(make, kind):
    tiny = {
        "PNG": make.png((60_000, 60_000), b""),
        "GIF": b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + bytes(40),
        "BMP": b"BM" + struct.pack("<4I2i2H6I", 99, 0, 54, 40, 60_000, 60_000, 1, 24, *[0] * 6),
        "WEBP": b"RIFF\x40\0\0\0WEBPVP8L\x30\0\0\0\x2f" + b"\xff" * 4 + bytes(60),
        "JPEG": b"",
    }[kind]
    if kind == "JPEG":
        tiny = make.save(make.photo(64, 64), "JPEG").replace(
            struct.pack(">HH", 64, 64), struct.pack(">HH", 60_000, 60_000)
        )
    found = info(tiny)
    assert found.pixels > MAX_PIXELS
    with pytest.raises(UnsupportedError, match="at most 80,000,000"):
        transform(tiny, ImageLimits(COMMON, 1000))


def test_a_tiff_bomb_is_refused_too(make):
    data = make.save(Image.new("1", (10_000, 9_000)), "TIFF", compression="group4")
    assert len(data) < 10_000
    with pytest.raises(UnsupportedError, match=r"at most 80,000,000|too many pixels"):
        transform(data, ImageLimits(COMMON, 1000))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9])
def test_a_truncated_file_is_refused_with_the_reason(make, kind, part):
    data = make.save(make.photo(500, 400), kind)
    with pytest.raises(UnsupportedError, match=r"the \w+ image (is damaged|has a damaged header)"):
        transform(data[: int(len(data) * part)], ImageLimits(COMMON, 100))


def test_a_header_that_promises_more_than_there_is_is_refused(make):
    with pytest.raises(UnsupportedError, match="damaged"):
        transform(make.png((500, 500), (b"\0" + bytes(1500)) * 3), ImageLimits(COMMON, 100))


def test_a_black_picture_lacks_nothing(make):
    rows = b"\0" + bytes(300)
    assert transform(make.png((100, 100), rows * 100), ImageLimits(COMMON, 50)).width == 50
    with pytest.raises(UnsupportedError, match="fewer rows"):
        transform(make.png((100, 100), rows * 99), ImageLimits(COMMON, 50))


def test_a_deep_picture_is_checked_for_its_rows_too(make):
    rows = (b"\0" + bytes(200)) * 60
    assert (
        transform(make.png((100, 60), rows, depth=16, colour=0), ImageLimits(COMMON, 50)).width
        == 50
    )


def test_thousands_of_text_chunks_are_refused(make):
    spam = make.chunk(b"tEXt", b"a\0b") * 300_000
    with pytest.raises(UnsupportedError, match="chunks"):
        transform(make.png((2, 2), bytes(14), extra=[spam]), ImageLimits(COMMON, 1))


def test_text_that_unpacks_to_gigabytes_is_refused(make):
    import zlib

    bomb = make.chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(4_000_000)))
    with pytest.raises(UnsupportedError, match="damaged"):
        transform(make.png((2, 2), bytes(14), extra=[bomb] * 40), ImageLimits(COMMON, 1))


@pytest.mark.parametrize("data", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", b"", b"P6 1 1 255 aaa"])
def test_only_the_formats_of_the_list_are_opened(data):
    with pytest.raises(UnsupportedError, match="only these formats can be read: JPEG, PNG"):
        transform(data, ImageLimits(COMMON))


@pytest.mark.parametrize("mime", ["image/avif", "image/heic"])
def test_a_format_this_build_cannot_read_is_named(make, mime):
    source = SOURCES[mime]
    built_in = source.feature and features.check(source.feature)
    if built_in or find_spec(source.plugin.module):
        pytest.skip(f"{source.name} is read here")
    brand = mime.removeprefix("image/").encode()
    named = f"built without {source.name}.*{source.plugin.package}"
    with pytest.raises(UnsupportedError, match=named):
        transform(make.isobmff(brand, (40, 30)), ImageLimits(COMMON))


@pytest.mark.skipif(not features.check("avif"), reason="built without AVIF")
def test_avif_is_read_where_the_build_has_it(make):
    made = transform(make.save(corners(), "AVIF", quality=95), ImageLimits(JPEG, 60))
    assert near(make.load(made.data).getpixel((10, 10)), RED, 30)


def test_heic_is_read_where_its_plugin_is_installed(make):
    pytest.importorskip("pillow_heif").register_heif_opener()
    data = make.save(corners(), "HEIF", quality=95)
    assert info(data).mime in {"image/heic", "image/heif"}
    assert (info(data).width, info(data).height) >= (120, 80)
    made = transform(data, ImageLimits(JPEG, 60))
    assert near(make.load(made.data).getpixel((10, 10)), RED, 30)


@st.composite
def pictures(draw):
    """Any small picture as a file, of any mode its format can hold."""
    kinds = {
        "JPEG": ("L", "RGB", "CMYK"),
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "GIF": ("L", "P", "RGBA"),
        "WEBP": ("RGB", "RGBA"),
        "BMP": ("1", "L", "P", "RGB"),
        "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F"),
    }
    kind = draw(st.sampled_from(sorted(kinds)))
    mode = draw(st.sampled_from(kinds[kind]))
    size = draw(st.tuples(st.integers(1, 200), st.integers(1, 200)))
    noise = Image.frombytes("L", size, Random(draw(st.integers(0, 99))).randbytes(area(size)))
    image = noise if mode in {"L", "I;16"} else noise.convert(mode.removesuffix(";16"))
    if mode == "I;16":
        image = noise.convert("I").point(lambda value: value * 256).convert("I;16")
    if mode in {"LA", "RGBA"}:
        image.putalpha(noise)
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


@settings(max_examples=150, deadline=None)
@given(
    data=pictures(),
    mime=st.sets(st.sampled_from(COMMON), min_size=1),
    edge=st.none() | st.integers(1, 250),
    size=st.none() | st.integers(400, 60_000),
)
def test_what_is_made_always_keeps_the_limits(data, mime, edge, size):
    limits = ImageLimits(tuple(sorted(mime)), edge, size)
    before = bytes(bytearray(data))
    try:
        made = transform(data, limits)
    except UnsupportedError as error:
        assume("cannot be made to fit" not in error.message)
        raise
    found, original = info(made.data), info(data)
    assert data == before
    assert found.mime == made.mime
    assert made.mime in limits.mime
    assert (found.width, found.height) == (made.width, made.height)
    assert edge is None or max(made.width, made.height) <= edge
    assert size is None or len(made.data) <= size
    assert found.complete
    assert not found.animated
    if original is not None:
        assert max(made.width, made.height) <= max(original.width, original.height)
        assert min(made.width, made.height) <= min(original.width, original.height)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]),
    place=st.integers(0, 900),
    bytes_=st.binary(min_size=1, max_size=40),
)
def test_a_damaged_file_is_a_picture_or_a_refusal(make_once, kind, place, bytes_):
    data = bytearray(make_once[kind])
    data[place : place + len(bytes_)] = bytes_
    try:
        made = transform(bytes(data), ImageLimits(JPEG, 30))
    except UnsupportedError:
        return
    assert max(made.width, made.height) <= 30


@pytest.fixture(scope="module")
def make_once():
    """One small file of each format."""
    files = {}
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        out = io.BytesIO()
        Image.frombytes("RGB", (60, 40), Random(1).randbytes(7200)).save(out, kind)
        files[kind] = out.getvalue()
    return files
