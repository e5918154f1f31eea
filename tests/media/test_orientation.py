"""Photos stored turned: they arrive upright, wherever the file says so, and once only."""

from __future__ import annotations

import base64
import io
import struct

import pytest

from aiollm import ImagePart, Registry, Request, user
from aiollm.capabilities import Capabilities
from aiollm.media import info, normalize
from aiollm.media.exif import orientation
from aiollm.testing import FaultServer, chat

Image = pytest.importorskip("PIL.Image")

RED, BLUE = (255, 0, 0), (0, 0, 255)


def stored(kind: str = "JPEG", **options: object) -> bytes:
    """Return a picture stored lying on its side; upright, it is 40 x 60 with red on top."""
    image = Image.new("RGB", (40, 60), BLUE)
    image.paste(RED, (0, 0, 40, 30))
    out = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(out, kind, **options)
    return out.getvalue()


def behind(data: bytes, *segments: bytes) -> bytes:
    """Return a JPEG with more segments at its start."""
    return data[:2] + b"".join(segments) + data[2:]


def two_pictures(make) -> bytes:
    """Return what phones write: a photo and a smaller one behind it, with an index of both."""
    photo, out = stored(), io.BytesIO()
    main, small = Image.open(io.BytesIO(photo)), Image.new("RGB", (20, 30), BLUE)
    block = b"Exif\0\0" + make.exif(6)
    main.save(out, "MPO", save_all=True, append_images=[small], exif=block, quality=95)
    return out.getvalue()


TURNED = {
    "jpeg, either byte order": lambda m: stored(exif=b"Exif\0\0" + m.exif(6, ">")),
    "jpeg, long value": lambda m: stored(exif=b"Exif\0\0" + m.exif(6, ">", 4)),
    "jpeg, behind other segments": lambda m: behind(
        stored(),
        m.segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
        *[m.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")] * 3,
        m.segment(0xED, b"Photoshop 3.0\0" + bytes(9000)),
        m.segment(0xE1, b"Exif\0\0" + m.exif(6)),
    ),
    "jpeg, exif in two segments": lambda m: behind(
        stored(),
        m.segment(0xE1, b"Exif\0\0" + m.exif(6, gap=60)[:30]),
        m.segment(0xE1, b"Exif\0\0" + m.exif(6, gap=60)[30:]),
    ),
    "jpeg, two pictures": two_pictures,
    "png": lambda m: stored("PNG", exif=m.exif(6, ">")),
    "png, behind the pixels": lambda m: (
        stored("PNG")[:-12] + m.chunk(b"eXIf", m.exif(6)) + stored("PNG")[-12:]
    ),
    "webp": lambda m: stored("WEBP", lossless=True, exif=m.exif(6)),
    "webp, with a prefix": lambda m: stored("WEBP", lossless=True, exif=b"Exif\0\0" + m.exif(6)),
}


@pytest.mark.parametrize("kind", TURNED)
async def test_a_turned_photo_that_fits_is_turned_upright_all_the_same(make, thread, kind):
    data = TURNED[kind](make)
    limits = Capabilities(allowed_image_mime=make.COMMON)
    assert info(data).orientation == 6
    made = await normalize(Request(user(ImagePart(data))), limits, pool=thread)
    sent = made.messages[0].parts[0].data
    image = make.load(sent).convert("RGB")
    assert image.size == (40, 60)
    assert image.getpixel((20, 5))[0] > 200
    assert image.getpixel((20, 55))[2] > 200
    assert info(sent).orientation == 1
    assert not {"exif", "xmp"} & make.load(sent).info.keys()
    assert await normalize(made, limits, pool=thread) is made


@pytest.mark.parametrize("scheme", ["openai", "ollama", "llama-swap", "anthropic"])
async def test_every_wire_gets_upright_pixels(make, scheme):
    data = TURNED["jpeg, either byte order"](make)
    sent = []

    def seen(request):
        sent.append(request.body)
        return chat("fine")

    async with (
        FaultServer(seen) as server,
        Registry(env={"LLM_BOX": server.dsn(scheme)}, retries=0, image_workers=0) as reg,
    ):
        try:
            await reg.generate("box/m", Request(user(ImagePart(data))))
        except Exception:  # noqa: BLE001 - the answer is one of chat completions
            assert scheme not in {"openai", "llama-swap"}
    (body,) = sent
    start = body.index(b"/9j/")  # a JPEG in base64
    size = info(base64.b64decode(body[start : body.index(b'"', start)]))
    assert (size.width, size.height) == (40, 60)


@pytest.mark.parametrize("number", [0, 1, 9, 255])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
async def test_an_orientation_that_means_nothing_changes_nothing(make, kind, number):
    data = stored(kind, exif=b"Exif\0\0" + make.exif(number))
    request = Request(user(ImagePart(data)))
    assert info(data).orientation == 1
    assert await normalize(request, Capabilities(allowed_image_mime=make.COMMON)) is request


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"MM\0*\0\0\0\x08\0\x09\1\x12",
        b"XX*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6",
        b"Exif\0\0rubbish",
        b"II*\0\x08\0\0\0\xff\xff" + b"\x12\1" * 30_000,
    ],
)
def test_a_broken_block_means_upright(block):
    assert orientation(block) == 1


def test_the_tag_is_not_taken_from_inside_of_another_entry():
    decoy = struct.pack("<HHI4s", 0x010F, 2, 4, b"\x12\1\x12\1")
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 8, 0)
    assert orientation(b"II*\0\x08\0\0\0\2\0" + decoy + turned) == 8


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_three_hundred_thousand_pieces_before_the_exif_are_given_up(make, kind):
    if kind == "jpeg":
        spam = [make.segment(0xE1, b"Exif\0\0a")] * 300_000
        data = behind(stored(), *spam, make.segment(0xE1, b"Exif\0\0" + make.exif(6)))
    else:
        spam = [make.chunk(b"tEXt", b"a\0b")] * 300_000
        data = make.png((2, 2), bytes(14), extra=[*spam, make.chunk(b"eXIf", make.exif(6))])
    assert info(data) is None
