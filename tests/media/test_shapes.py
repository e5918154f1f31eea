"""Shapes: pictures too small, too thin or of too many pixels for a target or for this machine."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import ConfigError, FailoverError, ImagePart, Registry, Request, UnsupportedError, user
from aiollm.capabilities import Capabilities, lookup
from aiollm.media import MediaPool, info, normalize
from aiollm.media.limits import ImageLimits, area
from aiollm.media.transform import transform
from aiollm.testing import Answer, FaultServer, chat

Image = pytest.importorskip("PIL.Image")

RED, WHITE = (255, 0, 0), (255, 255, 255)
QWEN = ImageLimits(("image/png",), min_dimension=28, max_ratio=200)


# Too small or too thin.


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((1, 1), (28, 28)),
        ((16, 16), (28, 28)),
        ((27, 300), (28, 300)),
        ((305, 20), (305, 28)),
        ((5800, 29), (5800, 29)),
        ((5801, 29), (5801, 30)),
        ((8000, 30), (8000, 40)),
        ((30, 8000), (40, 8000)),
    ],
)
def test_margins_give_a_picture_the_least_shape_and_keep_its_pixels_in_place(make, size, wanted):
    made = transform(make.save(Image.new("RGB", size, RED), "PNG"), QWEN)
    image = make.load(made.data).convert("RGB")
    assert image.size == (made.width, made.height) == wanted
    assert image.getpixel((0, 0)) == image.getpixel((size[0] - 1, size[1] - 1)) == RED
    if size != wanted:
        assert image.getpixel((wanted[0] - 1, wanted[1] - 1)) == WHITE


@pytest.mark.parametrize(("mode", "colour"), [("L", 9), ("LA", (9, 80)), ("RGBA", (9, 9, 9, 80))])
def test_margins_fit_the_kind_of_picture(make, mode, colour):
    made = transform(make.save(Image.new(mode, (10, 10), colour), "PNG"), QWEN)
    image = make.load(made.data)
    assert image.mode == mode
    edge = image.convert("RGBA").getpixel((27, 27))
    assert edge[:3] == WHITE
    assert edge[3] == (255 if mode == "L" else 0)


def test_margins_stay_when_the_bytes_do_not_fit(make):
    noise = make.photo(3000, 12).convert("RGB")
    limits = ImageLimits(("image/jpeg",), max_bytes=6_000, min_dimension=28, max_ratio=200)
    made = transform(make.save(noise, "PNG"), limits)
    assert made.height == 28
    assert len(made.data) <= 6_000


@given(
    size=st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)),
    edge=st.none() | st.integers(64, 9000),
    pixels=st.none() | st.integers(60_000, 10**8),
    least=st.integers(1, 60),
    ratio=st.none() | st.integers(2, 300),
)
def test_the_final_shape_keeps_every_limit(size, edge, pixels, least, ratio):
    limits = ImageLimits((), edge, None, pixels, least, ratio)
    shrunk = limits.shrunk(size)
    final = limits.padded(shrunk)
    assert shrunk[0] <= size[0]
    assert shrunk[1] <= size[1]
    assert edge is None or max(final) <= max(edge, least)
    assert pixels is None or area(final) <= pixels
    assert min(final) >= least
    assert ratio is None or max(final) <= ratio * min(final)
    assert limits.padded(final) == final


@pytest.mark.parametrize(
    ("family", "model", "least"),
    [
        ("llama-swap", "qwen2.5-vl", 28),
        ("ollama", "qwen2.5vl:7b", 28),
        ("openai", "Qwen/Qwen2.5-VL-72B-Instruct", 28),
        ("openai", "qwen2.5-omni-7b", 28),
        ("ollama", "qwen3-vl:8b", 32),
        ("openai", "Qwen/Qwen3.5-35B-A3B", 32),
        ("openai", "gpt-6.1-sol", None),
        ("llama-swap", "llava", None),
        ("anthropic", "claude-sonnet-5.5", None),
    ],
)
def test_the_models_that_fail_on_tiny_images_are_known(family, model, least):
    assert lookup(family, "box", model).min_image_dimension == least


async def test_a_tiny_image_neither_fails_the_call_nor_harms_the_server(make):
    """Qwen's servers answer a side below 28 pixels, or more than 200:1, with a 500."""

    def server(request):
        url = request.json()["messages"][-1]["content"][-1]["image_url"]["url"]
        image = make.load(base64.b64decode(url.partition(",")[2]))
        if min(image.size) < 28 or max(image.size) > 200 * min(image.size):
            return Answer(500, {}, {"error": {"message": "must be larger than factor:28"}})
        return chat("seen")

    async with FaultServer(server) as box:
        for option, model in (("", "qwen2.5-vl"), ("?min_image_dimension=28", "eyes")):
            dsn = box.dsn("llama-swap") + option
            async with Registry(env={"LLM_BOX": dsn}, retries=0, image_workers=0) as reg:
                icon = ImagePart(make.save(Image.new("RGB", (16, 20), RED), "PNG"))
                assert (await reg.generate(f"box/{model}", Request(user("?", icon)))).text == "seen"


# Too many pixels.


def large(make, kind, size):
    """Return the head of a large picture: it is refused before its pixels are looked at."""
    if kind == "PNG":
        return make.png(size, b"")
    small = make.save(make.photo(64, 64), "JPEG")
    return small.replace(struct.pack(">HH", 64, 64), struct.pack(">HH", *size))


async def sent(data, caps, pool):
    """Return what a target with these capabilities gets of an image."""
    made = await normalize(Request(user(ImagePart(data))), caps, pool=pool)
    return made.messages[0].parts[0].data


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
async def test_nine_hundred_megapixels_go_to_no_target_without_limits(make, thread, kind):
    data = large(make, kind, (30_000, 30_000))
    with pytest.raises(UnsupportedError, match=r"raise the max_pixels of the Registry") as caught:
        await sent(data, Capabilities(), thread)
    assert "80,000,000 in all are accepted" in str(caught.value)


async def test_what_a_target_accepts_by_its_own_number_is_not_decoded(make, thread):
    data = large(make, "PNG", (30_000, 30_000))
    assert await sent(data, Capabilities(max_pixels=900_000_000), thread) is data


async def test_a_target_may_accept_fewer_pixels_than_are_decoded(make, thread):
    data = make.save(make.photo(400, 300), "PNG")
    for limit in (10_000, 9_999, 1, 120_000):
        found = info(await sent(data, Capabilities(max_pixels=limit), thread))
        assert found.pixels <= limit
        assert found.pixels >= 0.97 * limit


@pytest.mark.parametrize(
    ("edge", "wanted"),
    [(None, (600, 450)), (500, (500, 375)), (100, (100, 75))],
)
async def test_a_jpeg_of_up_to_four_times_the_pixels_is_decoded_at_half_its_size(
    make, edge, wanted
):
    data = make.save(make.photo(1200, 900), "JPEG")
    async with MediaPool(0, max_pixels=270_000) as pool:  # a quarter of the photo's
        found = info(await sent(data, Capabilities(max_image_dimension=edge), pool))
        assert (found.width, found.height) == wanted
        for kind in ("PNG", "WEBP"):
            other = make.save(make.photo(1200, 900), kind)
            with pytest.raises(UnsupportedError, match="270,000 are decoded"):
                await sent(other, Capabilities(max_image_dimension=edge), pool)
    async with MediaPool(0, max_pixels=269_999) as pool:
        with pytest.raises(UnsupportedError, match="269,999 are decoded"):
            await sent(data, Capabilities(), pool)


@pytest.mark.parametrize("workers", [0, 1])
async def test_a_phone_photo_of_108_megapixels_is_usable(make, workers):
    photo = make.save(make.photo(160, 120).resize((12_000, 9_000), 0), "JPEG", quality=20)
    async with MediaPool(workers) as pool:
        found = info(await sent(photo, Capabilities(max_image_dimension=2000), pool))
    assert (found.width, found.height) == (2000, 1500)


async def test_the_setting_raises_what_is_decoded(make):
    tall = make.save(Image.new("L", (200, 200), 200), "PNG")
    with pytest.raises(UnsupportedError, match="39,999 are decoded"):
        transform(tall, ImageLimits(("image/png",), 100), max_pixels=39_999)
    assert transform(tall, ImageLimits(("image/png",), 100), max_pixels=40_000).width == 100


@pytest.mark.parametrize("where", ["registry", "dsn"])
async def test_a_registry_and_a_dsn_set_it(make, where):
    data = make.save(make.photo(400, 300), "JPEG")
    bodies = []

    def seen(request):
        bodies.append(request.json())
        return chat("fine")

    async with FaultServer(seen) as box:
        dsn = box.dsn("openai") + ("?max_pixels=60000" if where == "dsn" else "")
        settings = {"max_pixels": 60_000} if where == "registry" else {}
        async with Registry(env={"LLM_BOX": dsn}, retries=0, image_workers=0, **settings) as reg:
            await reg.generate("box/m", Request(user(ImagePart(data))))
            if where == "registry":
                large = ImagePart(make.save(make.photo(500, 500), "PNG"))
                with pytest.raises(FailoverError) as caught:
                    await reg.generate("box/m", Request(user(large)))
                assert "60,000 are decoded" in str(caught.value.last)
    url = bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert info(base64.b64decode(url.partition(",")[2])).pixels <= 60_000
    assert len(bodies) == 1


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "many", True])
def test_a_wrong_number_is_an_error_at_once(wrong):
    with pytest.raises(ConfigError, match="max_pixels is"):
        Registry(env={}, max_pixels=wrong)
