"""Gemini, images: image models make and edit images through generateContent."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from aiollm._settings.wildcards import matches
from aiollm._wire.body import json_body
from aiollm._wire.lenient import load, mend
from aiollm.errors import GenerationError, LLMError, UnsupportedError
from aiollm.images import ImageRequest, ImageResult
from aiollm.provider import HttpRequest, HttpResponse, Provider
from aiollm.providers.encoding import Warnings, merge
from aiollm.providers.error_bodies import MAX_WORD
from aiollm.providers.google.decode import GoogleDecoder
from aiollm.providers.google.encode import image_part
from aiollm.providers.google.errors import BLOCKED, block_error, ending_error, reply_error
from aiollm.providers.google.places import key_headers, method_url
from aiollm.types import Finish, ImageChunk, Item, Target, TextDelta, Usage

_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
_LONG_RATIOS = (*_RATIOS, "1:4", "4:1", "1:8", "8:1")


class _Row(msgspec.Struct, frozen=True):
    """What matching image models accept: ratios, and sizes by the side of a square."""

    model: str
    ratios: tuple[str, ...] = _RATIOS
    sizes: tuple[tuple[int, str], ...] = ((1024, "1K"), (2048, "2K"), (4096, "4K"))


_ROWS = (
    _Row("gemini-2*", sizes=()),
    _Row("gemini-3-pro*"),
    _Row("*", _LONG_RATIOS, ((512, "512"), (1024, "1K"), (2048, "2K"), (4096, "4K"))),
)
"""The first match applies (Google's documentation, November 2026)."""


class GoogleImages:
    """Images from Gemini's image models; Imagen is no longer served."""

    def encode_images(
        self, provider: Provider, target: Target, request: ImageRequest
    ) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError."""
        warnings = Warnings()
        _refuse(request, provider.capabilities(target.model).max_images_per_request)
        _warn(request, warnings)
        body = {
            "contents": [{"role": "user", "parts": _parts(request)}],
            "generationConfig": _config(target.model, request, warnings),
        }
        return HttpRequest(
            method_url(provider, target.model, "generateContent"),
            key_headers(provider),
            json_body(merge(body, request.extra)),
            warnings=tuple(warnings),
        )

    def decode_images(self, reply: HttpResponse) -> ImageResult:
        """Read a reply; drafts made while thinking are left out.

        Raises: ContentFilterError for a blocked prompt or image, GenerationError for an
        answer without an image, ProtocolError.
        """
        items: list[Item] = []
        GoogleDecoder().whole(reply.body, items)
        images = tuple(item.image for item in items if isinstance(item, ImageChunk))
        if not images:
            raise _no_image(items, reply.body)
        usage = next((item.usage for item in items if isinstance(item, Finish)), Usage())
        return ImageResult(images, usage)

    def image_decoder(self) -> None:
        """Return None: an image is never streamed."""

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""
        return reply_error(reply)


def _refuse(request: ImageRequest, most_images: int | None) -> None:
    if request.mask is not None:
        raise UnsupportedError(
            "Gemini does not accept a mask: describe in the prompt where to edit"
        )
    if request.count > 1:
        raise UnsupportedError(
            "Gemini makes one image per request: send one request for each image"
        )
    if request.background == "transparent":
        raise UnsupportedError("Gemini cannot make a transparent background")
    if most_images is not None and len(request.images) > most_images:
        raise UnsupportedError(f"this model accepts at most {most_images} images")


def _warn(request: ImageRequest, warnings: Warnings) -> None:
    if request.quality not in (None, "auto"):
        warnings.add("Gemini has no quality setting for images: it is dropped")
    if request.format is not None:
        warnings.add("Gemini chooses the image format itself: format is dropped")
    if request.partial_images:
        warnings.add("Gemini sends no partial images: partial_images is dropped")


def _parts(request: ImageRequest) -> list[dict[str, Any]]:
    return [{"text": request.prompt}, *(image_part(image) for image in request.images)]


def _config(model: str, request: ImageRequest, warnings: Warnings) -> dict[str, Any]:
    config: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"]}
    if request.seed is not None:
        config["seed"] = request.seed
    model = model.removeprefix("models/")
    row = next(row for row in _ROWS if matches(model, row.model))
    if request.ratio is not None:
        config["imageConfig"] = _image_config(row, request, request.ratio, warnings)
    return config


def _image_config(
    row: _Row, request: ImageRequest, wish: float, warnings: Warnings
) -> dict[str, str]:
    ratio = min(row.ratios, key=lambda known: _distance(_value(known), wish))
    config = {"aspectRatio": ratio}
    side = 0
    if request.dimensions is not None and row.sizes:
        wished = math.sqrt(request.dimensions[0] * request.dimensions[1])
        side, config["imageSize"] = min(row.sizes, key=lambda size: _distance(size[0], wished))
    if request.size != ratio and request.dimensions != (side, side):
        size = config.get("imageSize", "its own size")
        warnings.add(f"Gemini makes images by ratio and size class: requested {ratio} at {size}")
    return config


def _distance(one: float, other: float) -> float:
    return abs(math.log(one / other))


def _value(ratio: str) -> float:
    width, _, height = ratio.partition(":")
    return int(width) / int(height)


def _no_image(items: list[Item], body: bytes) -> LLMError:
    """Return why an answer has no image: a filter, the model's failure, or its words."""
    raw = next((item.raw_reason for item in items if isinstance(item, Finish)), "")
    text = "".join(item.text for item in items if isinstance(item, TextDelta))
    match load(body):
        case {"candidates": [{"finishMessage": str() as message}, *_]} if message:
            text = mend(message)
    if raw in BLOCKED:
        return block_error(raw, text)
    if error := ending_error(raw, text):
        return error
    return GenerationError(
        f"the model answered without an image: {text[:1000]}", code=raw[:MAX_WORD]
    )
