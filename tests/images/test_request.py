"""Image requests: what is taken, what is refused before any byte."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aiollm.errors import ConfigError
from aiollm.images import ImageRequest, ImageResult, PartialImage
from aiollm.types import ImagePart, Usage

IMAGE = ImagePart(b"\x89PNG\r\n\x1a\n")


def test_a_prompt_is_enough() -> None:
    request = ImageRequest("a paper boat")
    assert (request.count, request.images, request.dimensions, request.ratio) == (1, (), None, None)


@pytest.mark.parametrize(("size", "kept", "pixels", "ratio"), [
    ((1024, 512), (1024, 512), (1024, 512), 2.0),
    ("1024x512", (1024, 512), (1024, 512), 2.0),
    ("16:9", "16:9", None, 16 / 9),
    ("auto", "auto", None, None),
    (None, None, None, None),
])  # fmt: skip
def test_a_size_is_pixels_a_ratio_or_left_open(
    size: Any, kept: object, pixels: object, ratio: float | None
) -> None:
    request = ImageRequest("x", size=size)
    assert (request.size, request.dimensions, request.ratio) == (kept, pixels, ratio)


def test_one_image_or_a_list_of_them_will_do() -> None:
    assert ImageRequest("x", images=IMAGE).images == (IMAGE,)  # type: ignore[arg-type]
    assert ImageRequest("x", images=[IMAGE, IMAGE]).images == (IMAGE, IMAGE)  # type: ignore[arg-type]
    assert ImageRequest("x", images=(IMAGE,), mask=IMAGE).mask == IMAGE


@pytest.mark.parametrize(("field", "value"), [
    ("prompt", ""), ("prompt", "  "), ("prompt", None), ("prompt", b"x"),
    ("count", 0), ("count", 1.0), ("count", True), ("count", "1"),
    ("size", "big"), ("size", "16:0"), ("size", "0x5"), ("size", (0, 5)), ("size", (5,)),
    ("size", (5.0, 5)), ("size", [512, 512]), ("size", "99999x5"), ("size", 512),
    ("size", (True, 5)),
    ("quality", "hd"), ("format", "jpg"), ("background", "blue"),
    ("seed", -2), ("seed", 2**63), ("seed", 0.5),
    ("images", "x.png"), ("images", ["x.png"]), ("mask", b"x"),
    ("partial_images", -1), ("partial_images", 4),
    ("extra", [1]), ("extra", {1: 2}),
])  # fmt: skip
def test_what_no_provider_takes_is_refused_by_the_name_of_its_field(field: str, value: Any) -> None:
    given = {"prompt": "x", field: value}
    with pytest.raises(ConfigError, match=field):
        ImageRequest(**given)


def test_a_mask_needs_an_image() -> None:
    with pytest.raises(ConfigError, match="images is empty"):
        ImageRequest("x", mask=IMAGE)


def test_requests_and_results_are_values() -> None:
    assert ImageRequest("x", size="8x8") == ImageRequest("x", size=(8, 8))
    assert ImageResult((IMAGE,)).usage == Usage()
    with pytest.raises(AttributeError):
        ImageResult(()).images = ()  # type: ignore[misc]
    assert msgspec.structs.replace(PartialImage(IMAGE), index=2).index == 2
