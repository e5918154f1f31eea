"""Pictures made on the spot: photos, screenshots, and files that are broken in a known way."""

from __future__ import annotations

import asyncio
import io
import random
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from types import SimpleNamespace

import pytest

from aiollm.media import MediaPool

COMMON = ("image/jpeg", "image/png", "image/gif", "image/webp")

try:
    from PIL import Image, ImageDraw
except ImportError:  # the tests that need it are skipped
    Image = None


@pytest.fixture
def need_pil() -> None:
    """Skip where neither Pillow nor pillow-simd is installed."""
    pytest.importorskip("PIL")


@pytest.fixture
async def pool() -> AsyncIterator[MediaPool]:
    """A pool of two worker processes."""
    async with MediaPool(2) as made:
        yield made


@pytest.fixture
async def thread() -> AsyncIterator[MediaPool]:
    """A pool without processes."""
    async with MediaPool(0) as made:
        yield made


def save(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return the image as a file of this kind."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def load(data: bytes) -> Image.Image:
    """Return the picture in a file, decoded."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def photo(width: int, height: int, seed: int = 1) -> Image.Image:
    """Return a picture with detail at many scales, as JPEG likes it; deterministic."""
    dice = random.Random(seed)
    coarse = Image.frombytes("RGB", (16, 12), dice.randbytes(16 * 12 * 3))
    fine = Image.frombytes("RGB", (160, 120), dice.randbytes(160 * 120 * 3))
    size = (width, height)
    return Image.blend(coarse.resize(size, Image.BICUBIC), fine.resize(size, Image.BICUBIC), 0.25)


def screenshot(width: int, height: int, text: str = "turn") -> Image.Image:
    """Return a window with text, opaque but with an alpha channel, as browsers make them."""
    image = Image.new("RGBA", (width, height), (250, 250, 252, 255))
    draw = ImageDraw.Draw(image)
    for line in range(0, height, 24):
        draw.text((8, line), f"{text} {line} " * 8, fill=(20, 20, 60, 255))
    draw.rectangle((width // 2, height // 2, width - 5, height - 5), fill=(200, 60, 60, 255))
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int],
    rows: bytes,
    *,
    depth: int = 8,
    colour: int = 2,
    extra: Iterable[bytes] = (),
) -> bytes:
    """Return a PNG made by hand: any header, any pixels behind it, whether they agree or not."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


SRGB = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
P3 = (0.5151, 0.2412, -0.0011), (0.292, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)
SRGB_LINE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""The curve of sRGB as the numbers of a parametric one."""


def fixed(values: Iterable[float]) -> bytes:
    """Return numbers as an ICC profile holds them."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def to_light(level: float) -> float:
    """Return how much light sRGB means by a level."""
    return level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4


def curve(*numbers: float, kind: int | None = None, table: int = 0) -> bytes:
    """Return an ICC curve: parametric of a `kind`, a table of sRGB, a gamma, or a straight line."""
    if kind is not None:
        return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + fixed(numbers)
    if table:
        steps = [round(to_light(at / (table - 1)) * 65535) for at in range(table)]
        return b"curv" + bytes(4) + struct.pack(f">I{table}H", table, *steps)
    return (
        b"curv"
        + bytes(4)
        + struct.pack(f">I{len(numbers)}H", len(numbers), *(round(each * 256) for each in numbers))
    )


LINEAR = curve()


def profile(
    red: tuple[float, ...] = SRGB[0],
    green: tuple[float, ...] = SRGB[1],
    blue: tuple[float, ...] = SRGB[2],
    *,
    light: bytes = LINEAR,
    name: str = "made for a test",
    space: bytes = b"RGB ",
) -> bytes:
    """Return an ICC profile of a monitor with these primaries (XYZ, D50) and this curve."""

    def xyz(values: Iterable[float]) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(values)

    described = name.encode() + b"\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(described)) + described + bytes(79),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
    }
    if space == b"GRAY":
        tags[b"kTRC"] = light
    else:
        tags |= {b"rXYZ": xyz(red), b"gXYZ": xyz(green), b"bXYZ": xyz(blue)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), light)
    start, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s",
        start + len(body),
        bytes(4),
        0x02100000,
        b"mntr",
        space,
        b"XYZ ",
        bytes(12),
        b"acsp",
    )
    header += bytes(68 - len(header)) + fixed((0.9642, 1.0, 0.8249)) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


def exif(orientation: int, order: str = "<", kind: int = 3, gap: int = 0) -> bytes:
    """Return an EXIF block with a camera and an orientation, `gap` bytes behind its header."""
    mark = b"II" if order == "<" else b"MM"
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *[orientation, 0][: 5 - kind])
    return (
        mark
        + struct.pack(order + "HI", 42, 8 + gap)
        + bytes(gap)
        + struct.pack(order + "H", 2)
        + struct.pack(order + "HHI", 0x010F, 2, 4)
        + b"abc\0"
        + struct.pack(order + "HHI", 0x0112, kind, 1)
        + value
        + bytes(4)
    )


def segment(marker: int, data: bytes) -> bytes:
    """Return one JPEG segment."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def isobmff(brand: bytes, size: tuple[int, int]) -> bytes:
    """Return the head of a HEIF family file whose largest extent is `size`."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    extents = b"".join(
        box(b"ispe", bytes(4) + struct.pack(">II", *each)) for each in ((64, 64), size, (128, 96))
    )
    meta = box(b"meta", bytes(4) + box(b"hdlr", bytes(24)) + box(b"iprp", box(b"ipco", extents)))
    return box(b"ftyp", brand + bytes(4) + b"mif1") + meta + box(b"mdat", bytes(32))


async def until(true: Callable[[], bool]) -> None:
    """Wait for what another process or thread shows."""
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.001)


@pytest.fixture
def make() -> SimpleNamespace:
    """The makers of this file, under one name."""
    return SimpleNamespace(
        COMMON=COMMON,
        P3=P3,
        SRGB_LINE=SRGB_LINE,
        chunk=chunk,
        curve=curve,
        exif=exif,
        isobmff=isobmff,
        load=load,
        photo=photo,
        png=png,
        profile=profile,
        save=save,
        screenshot=screenshot,
        segment=segment,
        to_light=to_light,
        until=until,
    )
