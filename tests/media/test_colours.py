"""Colour profiles: judged by their numbers, converted once, and never a reason to lose an image."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import pytest

from aiollm import ImagePart, Request, user
from aiollm.capabilities import Capabilities
from aiollm.media import info, normalize
from aiollm.media.icc import needs_conversion
from aiollm.media.limits import ImageLimits
from aiollm.media.transform import transform

Image = pytest.importorskip("PIL.Image")

from PIL import ImageCms, features  # noqa: E402

pytestmark = pytest.mark.skipif(not features.check("littlecms2"), reason="built without littlecms")

PNG = ImageLimits(("image/png",))
SOFT = (200, 120, 60)


def close(pixel, wanted, off=3):
    """Say whether two colours are the same but for rounding."""
    return all(abs(a - b) <= off for a, b in zip(pixel[:3], wanted, strict=True))


def by_littlecms(image, profile, mode="RGB"):
    """Return what littlecms makes of a picture with this profile."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.profileToProfile(
        image, source, ImageCms.createProfile("sRGB"), outputMode=mode
    ).getpixel((5, 5))


SAME = {
    "parametric": lambda m: m.profile(light=m.curve(*m.SRGB_LINE, kind=3)),
    "parametric, with offsets": lambda m: m.profile(light=m.curve(*m.SRGB_LINE, 0, 0, kind=4)),
    "table": lambda m: m.profile(light=m.curve(table=1024)),
    "small table": lambda m: m.profile(light=m.curve(table=32)),
    "large table": lambda m: m.profile(light=m.curve(table=4096)),
    "rounded primaries": lambda m: m.profile(
        (0.43607, 0.22249, 0.01392),
        (0.38515, 0.71687, 0.09708),
        (0.14307, 0.06061, 0.7141),
        light=m.curve(table=256),
        name="display of some vendor",
    ),
    "grey": lambda m: m.profile(light=m.curve(table=1024), space=b"GRAY"),
    "littlecms": lambda _: ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
}
OTHER = {
    "linear, named sRGB": lambda m: m.profile(name="GIMP built-in Linear sRGB"),
    "gamma 1.8": lambda m: m.profile(light=m.curve(1.8), name="sRGB"),
    "gamma 2.2": lambda m: m.profile(light=m.curve(2.2), name="sRGB"),
    "parametric gamma": lambda m: m.profile(light=m.curve(1.6, kind=0)),
    "black cut off": lambda m: m.profile(light=m.curve(2.2, 1.1, -0.1, kind=1)),
    "black lifted": lambda m: m.profile(light=m.curve(2.2, 1.0, -0.1, 0.1, kind=2)),
    "Display P3": lambda m: m.profile(*m.P3, light=m.curve(*m.SRGB_LINE, kind=3)),
    "swapped": lambda m: m.profile(m.P3[2], m.P3[1], m.P3[0], light=m.curve(table=256)),
}


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("file", ["JPEG", "PNG", "WEBP"])
async def test_a_picture_in_srgb_needs_no_work_whoever_wrote_its_profile(make, kind, file):
    profile = SAME[kind](make)
    data = make.save(make.photo(60, 40), file, icc_profile=profile)
    request = Request(user(ImagePart(data)))
    assert profile[-9:] in data or file == "PNG"
    assert info(data).srgb
    assert await normalize(request, Capabilities(allowed_image_mime=make.COMMON)) is request


@pytest.mark.parametrize("kind", OTHER)
@pytest.mark.parametrize("file", ["JPEG", "PNG", "WEBP"])
async def test_any_other_profile_is_converted_even_where_the_picture_fits(make, thread, kind, file):
    profile, plain = OTHER[kind](make), Image.new("RGB", (40, 40), SOFT)
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    data = make.save(plain, file, icc_profile=profile, **options.get(file, {}))
    limits = Capabilities(allowed_image_mime=make.COMMON)
    made = await normalize(Request(user(ImagePart(data))), limits, pool=thread)
    image = make.load(made.messages[0].parts[0].data)
    assert not info(data).srgb
    assert close(image.convert("RGB").getpixel((5, 5)), by_littlecms(plain, profile))
    assert "icc_profile" not in image.info
    assert await normalize(made, limits, pool=thread) is made


def test_grey_and_its_transparency_are_converted(make):
    profile = make.profile(space=b"GRAY")  # linear
    image = Image.new("LA", (20, 20), (60, 128))
    made = make.load(transform(make.save(image, "PNG", icc_profile=profile), PNG).data)
    wanted = by_littlecms(Image.new("L", (20, 20), 60), profile)
    assert wanted[0] > 120
    assert close(made.convert("RGBA").getpixel((5, 5)), wanted)
    assert made.convert("RGBA").getpixel((5, 5))[3] == 128


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_a_profile_for_colours_applies_to_grey_palettes_and_transparency(make, mode):
    profile = make.profile()  # linear
    image = Image.new("L", (20, 20), 60)
    if mode == "I;16":
        image = image.convert("I").point(lambda value: value * 257)
    image = image.convert(mode)
    made = make.load(transform(make.save(image, "PNG", icc_profile=profile), PNG).data)
    assert close(made.convert("RGB").getpixel((5, 5)), (133, 133, 133))


def inks(level: int) -> bytes:
    """Return a profile of CMYK in which every mixture of inks is one grey."""
    straight = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    table += b"".join(struct.pack(">i", 65536 * (at % 4 == 0)) for at in range(9))
    table += straight * 4 + bytes([level, 128, 128]) * 16 + straight * 3
    tags = {b"A2B0": table, b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"a\0" + bytes(79)}
    start, entries, body = 132 + 12 * len(tags), b"", b""
    for tag, data in tags.items():
        entries += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s12s4s", start + len(body), b"", 0x02100000, b"prtr", b"CMYK",
                       b"Lab ", b"", b"acsp")  # fmt: skip
    head += bytes(68 - len(head)) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return head + struct.pack(">I", len(tags)) + entries + body


async def test_inks_are_converted_by_their_profile(make, thread):
    plain = Image.new("CMYK", (20, 20), (9, 99, 200, 3))
    data = make.save(plain, "JPEG", icc_profile=inks(136))
    assert not info(data).srgb
    request = Request(user(ImagePart(data)))
    made = await normalize(request, Capabilities(), pool=thread)
    image = make.load(made.messages[0].parts[0].data)
    assert image.mode == "RGB"
    red, green, blue = by_littlecms(plain, inks(136))
    assert red == green == blue  # what PIL makes of these inks by itself is orange
    assert close(image.getpixel((5, 5)), (red, green, blue), 5)


def test_lab_is_converted(make):
    lab = Image.new("LAB", (20, 20), (136, 208, 176))
    made = make.load(transform(make.save(lab, "TIFF"), PNG).data)
    source = ImageCms.createProfile("LAB")
    wanted = ImageCms.profileToProfile(
        lab, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
    ).getpixel((5, 5))
    assert wanted[0] > wanted[1] + 60
    assert close(made.getpixel((5, 5)), wanted)


BROKEN = {
    "cut": lambda m: m.profile()[:140],
    "tags beyond the end": lambda m: m.profile().replace(b"rTRC\0\0", b"rTRC\xff\xff"),
    "no tags": lambda m: m.profile()[:128] + bytes(4),
    "tags without number": lambda m: m.profile()[:128] + b"\xff" * 300,
    "a curve of another kind": lambda m: m.profile(light=b"para" + bytes(4) + b"\0\x63\0\0"),
    "for another kind of pixels": lambda m: m.profile(space=b"GRAY"),
    "a device that does not exist": lambda m: m.profile().replace(b"RGB XYZ", b"????XYZ"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("file", ["JPEG", "PNG", "WEBP"])
async def test_of_a_broken_profile_only_the_pixels_are_kept(make, thread, kind, file):
    data = make.save(Image.new("RGB", (20, 20), SOFT), file, icc_profile=BROKEN[kind](make))
    limits = Capabilities(allowed_image_mime=make.COMMON)
    made = await normalize(Request(user(ImagePart(data))), limits, pool=thread)
    image = make.load(made.messages[0].parts[0].data)
    assert close(image.convert("RGB").getpixel((5, 5)), SOFT, 12)
    assert info(made.messages[0].parts[0].data).srgb


def test_bytes_that_are_no_profile_say_nothing():
    assert not needs_conversion(b"")
    assert not needs_conversion(b"rubbish" * 300)


BOMBS = {
    "bomb": lambda: b"a\0\0" + zlib.compress(bytes(200_000_000), 9),
    "large": lambda: b"a\0\0" + zlib.compress(bytes(range(256)) * 8000),
    "not compressed": lambda: b"a\0\0" + b"rubbish" * 20,
    "compressed in another way": lambda: b"a\0\7" + zlib.compress(bytes(300)),
    "without a name": lambda: b"a" * 90,
    "empty": lambda: b"",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_png_keeps_its_pixels_whatever_its_profile_unpacks_to(make, kind):
    rows = (b"\0" + bytes(SOFT) * 20) * 20
    data = make.png((20, 20), rows, extra=[make.chunk(b"iCCP", BOMBS[kind]())])
    assert info(data).srgb == (kind not in {"bomb", "large"})
    made = make.load(transform(data, PNG).data)
    assert close(made.getpixel((5, 5)), SOFT, 0)


async def test_colours_alone_never_refuse_a_picture(make, monkeypatch):
    data = make.save(make.photo(60, 40), "PNG", icc_profile=make.profile())
    monkeypatch.setitem(sys.modules, "PIL", None)
    request = Request(user(ImagePart(data)))
    assert await normalize(request, Capabilities()) is request
