"""Decide how a request's images must change to keep a target's limits, without decoding them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from aiollm._wire.conversations import total
from aiollm._wire.image_type import mime_of
from aiollm.capabilities import Capabilities
from aiollm.errors import UnsupportedError
from aiollm.media.exif import UPRIGHT
from aiollm.media.limits import ImageLimits
from aiollm.media.sniff import ImageInfo, info
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Message,
    OpaquePart,
    Request,
    TextPart,
    ToolResultPart,
)


class Margins(msgspec.Struct, frozen=True):
    """Room that is left free, in bytes, because the rest of a body is known only later.

    `body`: options, schemas, and whatever a codec adds to a request. `image`: the JSON around one
    image. `share`: the least that each image of a crowded message gets; rather than less, the
    oldest images are left out.
    """

    body: int = 64 * 1024
    image: int = 512
    share: int = 128 * 1024


MARGINS = Margins()


def require_images(caps: Capabilities) -> None:
    """Raise UnsupportedError if the target does not accept images at all."""
    if not caps.images or caps.max_images_per_request == 0:
        raise UnsupportedError(
            "the target does not accept images, but the request contains some: leave them out, "
            "or name a target that does"
        )


def base64_size(size: int) -> int:
    """Return how many base64 characters `size` bytes take."""
    return 4 * ((size + 2) // 3)


def is_tight(images: Sequence[ImagePart], caps: Capabilities) -> bool:
    """Return whether the request's size must be counted: images fill a quarter of the limit.

    Below that, exceeding the limit would take 15 MB of text, which is beyond any context.
    """
    return caps.max_body_bytes is not None and 4 * sum(map(weight, images)) > caps.max_body_bytes


def room(rest: int, caps: Capabilities) -> int:
    """Return the base64 characters left for images when everything else takes `rest` bytes.

    Raises: UnsupportedError when nothing is left.
    """
    whole = caps.max_body_bytes or 0
    left = whole - MARGINS.body - rest
    if left <= 0:
        raise UnsupportedError(f"no room for images: the target accepts {whole:,} bytes a request")
    return left


def weight(image: ImagePart) -> int:
    """Return the bytes an image adds to a request body."""
    return MARGINS.image + (base64_size(len(image.data)) if image.data else len(image.url))


def text_weight(text: TextPart) -> int:
    """Return the bytes that a text adds to `rest_weight`."""
    return len(msgspec.json.encode(text)) + 1


def limits(
    images: Sequence[tuple[int, ImagePart]], caps: Capabilities, left: int | None, max_pixels: int
) -> list[ImageLimits]:
    """Return the limits for each image, given with the index of its message.

    `max_pixels` applies where the target has no number of its own.

    The images of one message belong together: if they alone exceed the room, each gets an equal
    share. The share is a power of two, so that it stays the same while the text grows and an image
    that was prepared for an earlier turn can be reused.
    """
    edge, size = _edge(len(images), caps), _size(caps)
    plain = ImageLimits(
        caps.allowed_image_mime,
        edge,
        size,
        max_pixels if caps.max_pixels is None else caps.max_pixels,
        _smaller(caps.min_image_dimension or 1, edge) or 1,
        caps.max_image_ratio,
    )
    if left is None:
        return [plain] * len(images)
    # Per message, not over the whole request: older images can be left out to make room, but the
    # images of one message are needed together.
    spent: Counter[int] = Counter()
    for number, image in images:
        spent[number] += weight(image)
    count = Counter(number for number, _ in images)
    crowded = {
        number: replace(plain, max_bytes=_smaller(size, _share(left, count[number])))
        for number, total in spent.items()
        if total > left
    }
    return [crowded.get(number, plain) for number, _ in images]


def misfit(data: bytes, wanted: ImageLimits) -> str:
    """Return why the image must change, "" when it can go as it is."""
    found = info(data)
    if found is None:
        return "its header has no size" if mime_of(data) else "its format is unknown"
    if found.mime not in wanted.mime:
        return f"{found.mime} is not accepted"
    if reason := _misshape(found, wanted):
        return f"it has {found.width} x {found.height} pixels, {reason}"
    if wanted.max_bytes is not None and len(data) > wanted.max_bytes:
        return f"it has {len(data):,} bytes, {wanted.max_bytes:,} are accepted"
    if found.animated:
        return "it is animated"
    if found.orientation != UPRIGHT:
        return f"its EXIF orientation is {found.orientation}, and few targets turn it upright"
    if not found.srgb:
        return COLOURS
    return "" if found.complete else CUT


def _misshape(found: ImageInfo, wanted: ImageLimits) -> str:
    size = found.width, found.height
    if wanted.max_dimension is not None and max(size) > wanted.max_dimension:
        return f"{wanted.max_dimension} are accepted"
    if wanted.max_pixels is not None and found.pixels > wanted.max_pixels:
        return f"and {wanted.max_pixels:,} in all are accepted"
    if min(size) < wanted.min_dimension:
        return f"and needs at least {wanted.min_dimension} on each side"
    if wanted.max_ratio is not None and wanted.padded(size) != size:
        return f"and no side may be more than {wanted.max_ratio} times the other"
    return ""


COLOURS = "its colour profile is not sRGB"
"""A misfit that can be borne: most targets ignore profiles, and show slightly other colours."""
CUT = "its end is missing"
"""The one misfit that may be wrong: a file with extra bytes after its end looks cut, too."""


def too_many(caps: Capabilities) -> str:
    """Say that the count is exceeded."""
    return f"the target accepts at most {caps.max_images_per_request} images a request"


def too_large(caps: Capabilities) -> str:
    """Say that the body is exceeded."""
    return f"the target accepts at most {caps.max_body_bytes:,} bytes a request"


def _edge(count: int, caps: Capabilities) -> int | None:
    if caps.many_images is not None and count > caps.many_images:
        return _smaller(caps.max_image_dimension, caps.many_images_dimension)
    return caps.max_image_dimension


def _size(caps: Capabilities) -> int | None:
    if caps.max_image_bytes is None or not caps.image_bytes_in_base64:
        return caps.max_image_bytes
    return caps.max_image_bytes // 4 * 3


def _smaller(first: int | None, second: int | None) -> int | None:
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)


def _share(left: int, count: int) -> int:
    """Return the bytes for one of `count` images: a power of two, at least the margin's share."""
    fair = max(1, left // count - MARGINS.image) // 4 * 3
    power = 1 << max(fair.bit_length() - 1, 0)
    alone = max(1, left - MARGINS.image) // 4 * 3
    return min(max(power, MARGINS.share), alone)


def rest_weight(request: Request) -> int:
    """Return roughly how many bytes of JSON everything but the images takes."""
    plain = _json_size([request.system, request.tools, request.extra])
    return plain + int(total(request, _rest_of))


def _rest_of(message: Message) -> int:
    files = sum(base64_size(len(part.data)) + len(part.url) for part in _files(message))
    texts = [*_texts(message)]
    return files + (_json_size(texts) - 1 if texts else 0)  # a bracket less: one list holds all


def _json_size(value: list[Any]) -> int:
    try:
        return len(msgspec.json.encode(value, enc_hook=lambda _: None))
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
        return len(str(value).encode("utf-8", "backslashreplace"))


def _files(message: Message) -> Iterator[DocumentPart | AudioPart]:
    for part in message.parts:
        match part:
            case DocumentPart() | AudioPart():
                yield part
            case ToolResultPart(content=content):
                yield from (item for item in content if isinstance(item, DocumentPart))
            case _:
                pass


def _texts(message: Message) -> Iterator[Any]:
    for part in message.parts:
        match part:
            case ImagePart() | DocumentPart() | AudioPart():
                pass
            case ToolResultPart(content=content):
                yield (part.id, part.name, part.text)
                yield from (item for item in content if isinstance(item, OpaquePart))
            case _:
                yield part
