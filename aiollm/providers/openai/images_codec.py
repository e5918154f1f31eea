"""OpenAI's images API, also of other servers: generations as JSON, edits as a form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from aiollm._settings.hidden import HiddenValues
from aiollm._settings.wildcards import matches
from aiollm._wire.base64_files import from_text
from aiollm._wire.body import json_body
from aiollm._wire.image_type import image_mime
from aiollm._wire.multipart import File, multipart
from aiollm.errors import LLMError, UnsupportedError
from aiollm.images import ImageRequest, ImageResult
from aiollm.provider import HttpRequest, HttpResponse, Provider
from aiollm.providers.encoding import Warnings, bearer_headers, merge
from aiollm.providers.openai.dialects import AZURE, OPENAI, dialect_of
from aiollm.providers.openai.errors import reply_error
from aiollm.providers.openai.images_decode import OpenAIImageDecoder, result_of
from aiollm.types import ImagePart, Target

MAX_COUNT = 10
MAX_IMAGES = 16
MAX_IMAGE_BYTES = 50 * 1024 * 1024
MAX_MASK_BYTES = 4 * 1024 * 1024
MAX_PROMPT = 32_000
"""OpenAI's limits on a request (as documented in November 2026)."""

_STANDARD = ((1024, 1024), (1536, 1024), (1024, 1536))
_LONGEST, _SHORTEST = 3840, 2160
_STEP = 16
_AREA = 1536 * 864
"""Pixels of an image for which only a ratio is given: OpenAI's example of a free size."""
_COMPATIBLE_AREA = 1024 * 1024

_SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif"}
_TAKEN = ("image/png", "image/jpeg", "image/webp")


class _Row(msgspec.Struct, frozen=True):
    """What matching image models of OpenAI accept."""

    model: str
    any_size: bool = True
    qualities: tuple[str, ...] = ("auto", "low", "medium", "high")
    formats: tuple[str, ...] = ("png", "jpeg", "webp")


_NEWEST = _Row(
    "*",
    qualities=("auto", "low", "medium", "high", "xhigh", "max"),
    formats=("png", "jpeg", "webp", "gif", "svg"),
)
_ROWS = (
    _Row("gpt-image-1*", any_size=False),
    _Row("chatgpt-image-*", any_size=False),
    _Row("gpt-image-2"),
    _Row("gpt-image-2-*"),
    _NEWEST,
)
"""The first match applies."""

_OWN_NAME = "gpt-image-"
"""In the names of OpenAI's models at gateways. They answer in base64, and refuse to be asked to."""


class OpenAIImages:
    """Images over OpenAI's wire; requests to hosts other than OpenAI's are not checked."""

    def encode_images(
        self, provider: Provider, target: Target, request: ImageRequest
    ) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError."""
        warnings = Warnings()
        request = _with_bytes(request)
        if dialect_of(provider.host) in (OPENAI, AZURE):
            fields = _own_fields(target.model, request, warnings)
        else:
            fields = _compatible_fields(target.model, request, warnings)
        if request.images:
            return _edit(provider, request, fields, warnings)
        return HttpRequest(
            f"{provider.base_url}/images/generations",
            bearer_headers(provider),
            json_body(merge(fields, request.extra)),
            warnings=tuple(warnings),
        )

    def decode_images(self, reply: HttpResponse) -> ImageResult:
        """Read a complete reply, JSON or events.

        Raises: ProviderError for an error in it, GenerationError for no image, ProtocolError.
        """
        if reply.body.lstrip()[:1] in (b"{", b"["):
            return result_of(reply.body)
        decoder = self.image_decoder()
        decoder.feed(reply.body, [])
        decoder.feed(b"", [])
        return decoder.close()

    def image_decoder(self) -> OpenAIImageDecoder:
        """Return a new decoder for a streamed reply."""
        return OpenAIImageDecoder()

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""
        return reply_error(reply)


def _own_fields(model: str, request: ImageRequest, warnings: Warnings) -> dict[str, Any]:
    """Return the fields for OpenAI itself, which refuses what a model does not support."""
    _check(request)
    row = next(row for row in _ROWS if matches(model, row.model))
    fields: dict[str, Any] = {"model": model, "prompt": request.prompt}
    if request.count > 1:
        fields["n"] = request.count
    if size := _own_size(row, request, warnings):
        fields["size"] = size
    if request.quality is not None:
        fields["quality"] = _quality(row, model, request.quality, warnings)
    if request.background is not None:
        fields["background"] = request.background
    if request.format is not None:
        if request.format not in row.formats:
            raise UnsupportedError(f"{model} cannot make {request.format} images")
        fields["output_format"] = request.format
    if request.seed is not None:
        warnings.add("OpenAI's images have no seed: it is dropped")
    if request.partial_images and request.count > 1:
        warnings.add("partial images work only for one image: partial_images is dropped")
    elif request.partial_images:
        fields |= {"stream": True, "partial_images": request.partial_images}
    return fields


def _compatible_fields(model: str, request: ImageRequest, warnings: Warnings) -> dict[str, Any]:
    """Return the fields for another server: the older dialect, requesting base64."""
    if request.partial_images:
        warnings.add("only OpenAI is asked for partial images: partial_images is dropped")
    if request.seed is not None:
        warnings.add("a server compatible with OpenAI's images API may ignore the seed")
    fields = {
        "model": model,
        "prompt": request.prompt,
        "n": request.count if request.count > 1 else None,
        "size": _shown(pixels_for(request)) or None,
        "quality": request.quality,
        "background": request.background,
        "output_format": request.format,
        "seed": request.seed,
        "response_format": None if _OWN_NAME in model else "b64_json",
    }
    return {name: value for name, value in fields.items() if value is not None}


def _check(request: ImageRequest) -> None:
    if request.count > MAX_COUNT:
        raise UnsupportedError(f"OpenAI makes at most {MAX_COUNT} images per request")
    if len(request.prompt) > MAX_PROMPT:
        raise UnsupportedError(f"OpenAI accepts prompts of at most {MAX_PROMPT} characters")
    if len(request.images) > MAX_IMAGES:
        raise UnsupportedError(f"OpenAI edits at most {MAX_IMAGES} images per request")
    if request.background == "transparent" and request.format not in (None, "png", "webp"):
        raise UnsupportedError("a transparent background needs the format png or webp")
    for image in request.images:
        if len(image.data) > MAX_IMAGE_BYTES:
            raise UnsupportedError("OpenAI accepts images of at most 50 MB")
        if image_mime(image) not in _TAKEN:
            raise UnsupportedError("OpenAI edits only PNG, JPEG and WebP images")
    if request.mask is not None:
        _check_mask(request.mask)


def _check_mask(mask: ImagePart) -> None:
    if len(mask.data) > MAX_MASK_BYTES:
        raise UnsupportedError("OpenAI accepts masks of at most 4 MB")
    if image_mime(mask) != "image/png":
        raise UnsupportedError("a mask must be a PNG, whose transparent part is edited")


def _quality(row: _Row, model: str, quality: str, warnings: Warnings) -> str:
    if quality in row.qualities:
        return quality
    warnings.add(f"{model} has no quality {quality!r}: 'high' is sent")
    return "high"


def _own_size(row: _Row, request: ImageRequest, warnings: Warnings) -> str | None:
    ratio = request.ratio
    if ratio is None:
        return None if request.size is None else "auto"
    near = min(_STANDARD, key=lambda size: abs(math.log(size[0] / size[1] / ratio)))
    if not row.any_size:
        size = near
    elif request.dimensions is not None:
        size = _stepped(*request.dimensions)
    else:
        size = near if near[0] / near[1] == ratio else _of_area(ratio, _AREA)
    if not 1 / 3 <= size[0] / size[1] <= 3 or max(size) > _LONGEST or min(size) > _SHORTEST:
        raise UnsupportedError(f"OpenAI cannot make an image of size {_shown(size)}")
    if request.dimensions not in (None, size):
        warnings.add(f"the size {_shown(request.dimensions)} becomes {_shown(size)}")
    elif request.dimensions is None and size[0] / size[1] != ratio:
        warnings.add(f"the ratio {request.size} becomes {_shown(size)}")
    return _shown(size)


def pixels_for(request: ImageRequest) -> tuple[int, int] | None:
    """Return the size in pixels for a server without ratios, None to let it choose."""
    if request.ratio is None:
        return None
    return request.dimensions or _of_area(request.ratio, _COMPATIBLE_AREA)


def _of_area(ratio: float, area: int) -> tuple[int, int]:
    return _stepped(math.sqrt(area * ratio), math.sqrt(area / ratio))


def _stepped(width: float, height: float) -> tuple[int, int]:
    return max(1, round(width / _STEP)) * _STEP, max(1, round(height / _STEP)) * _STEP


def _shown(size: tuple[int, int] | None) -> str:
    return f"{size[0]}x{size[1]}" if size else ""


def _edit(
    provider: Provider, request: ImageRequest, fields: dict[str, Any], warnings: Warnings
) -> HttpRequest:
    files = [_file("image[]", f"image-{at}", image) for at, image in enumerate(request.images)]
    if request.mask is not None:
        files.append(_file("mask", "mask", request.mask))
    kind, body = multipart(_flat(merge(fields, request.extra)), files)
    return HttpRequest(
        f"{provider.base_url}/images/edits",
        HiddenValues(bearer_headers(provider) | {"Content-Type": kind}),
        body,
        warnings=tuple(warnings),
    )


def _with_bytes(request: ImageRequest) -> ImageRequest:
    """Return the request with data URLs decoded, because a form holds files.

    Raises: UnsupportedError.
    """
    given = (*request.images, request.mask)
    if all(image is None or image.data for image in given):
        return request
    *images, mask = (image and _decoded(image) for image in given)
    return msgspec.structs.replace(request, images=tuple(images), mask=mask)


def _decoded(image: ImagePart) -> ImagePart:
    head, comma, text = image.url.partition(";base64,")
    if image.data:
        return image
    if not comma or not head.startswith("data:"):
        raise UnsupportedError("images to edit must be bytes or data URLs, not URLs")
    return ImagePart(from_text(text), mime=head.removeprefix("data:"))


def _file(field: str, name: str, image: ImagePart) -> File:
    mime = image_mime(image) or "application/octet-stream"
    return File(field, f"{name}.{_SUFFIXES.get(mime, 'bin')}", mime, image.data)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of a form; a nested one is named `outer[inner]`."""
    match value:
        case Mapping():
            for key, item in value.items():
                yield from _flat(item, f"{name}[{key}]" if name else str(key))
        case list() | tuple():
            for item in value:
                yield from _flat(item, f"{name}[]")
        case bool():
            yield name, str(value).lower()
        case None:
            return
        case _:
            yield name, str(value)
