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


def profile(red: tuple[float, ...], green: tuple[float, ...], blue: tuple[float, ...]) -> bytes:
    """Return an ICC profile of a monitor with these primaries (XYZ, D50) and gamma 1."""

    def fixed(values: Iterable[float]) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(values: Iterable[float]) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(values)

    name = b"made for a test\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(79),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
        b"rXYZ": xyz(red),
        b"gXYZ": xyz(green),
        b"bXYZ": xyz(blue),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), b"curv\x00\x00\x00\x00\x00\x00\x00\x00"),
    }
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
        b"RGB ",
        b"XYZ ",
        bytes(12),
        b"acsp",
    )
    header += bytes(68 - len(header)) + fixed((0.9642, 1.0, 0.8249)) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


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
        chunk=chunk,
        isobmff=isobmff,
        load=load,
        photo=photo,
        png=png,
        profile=profile,
        save=save,
        screenshot=screenshot,
        until=until,
    )
