"""How many drafts and images a call gets: what was asked for, however many a server sends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from aiollm.images import ImageRequest, ImageResult, PartialImage
from aiollm.types import ImagePart, Notice

_DRAFTS = ("partial_images",)
_IMAGES = ("n", "batch_size", "n_iter")
"""Fields of `ImageRequest.extra` that ask for more; stable-diffusion-webui multiplies its two."""


class ImageQuota:
    """Lets through as much as one request asks for, and counts the rest."""

    def __init__(self, request: ImageRequest) -> None:
        self._drafts = max(request.partial_images, _asked(request, _DRAFTS, none=0))
        self._images = max(request.count, _asked(request, _IMAGES, none=1))
        self._drafts_sent = 0
        self._images_sent = 0

    def drafts(self, sent: Iterable[PartialImage]) -> list[PartialImage]:
        """Return those asked for, numbered as they come: a server's numbers may be anything."""
        first = self._drafts_sent
        numbered = [replace(each, index=first + number) for number, each in enumerate(sent)]
        self._drafts_sent += len(numbered)
        return numbered[: max(0, self._drafts - first)]

    def images(self, result: ImageResult) -> Sequence[ImagePart]:
        """Return the first images, as many as were asked for."""
        self._images_sent = len(result.images)
        return result.images[: self._images]

    def notices(self) -> list[Notice]:
        """Say what was left out."""
        spare = {
            "drafts": self._drafts_sent - self._drafts,
            "images": self._images_sent - self._images,
        }
        text = "{} {} more than were asked for are left out"
        return [Notice(text.format(count, what)) for what, count in spare.items() if count > 0]


def _asked(request: ImageRequest, fields: Iterable[str], *, none: int) -> int:
    values = [request.extra[name] for name in fields if name in request.extra]
    counts = [value for value in values if type(value) is int and value > 0]
    return math.prod(counts) if counts else none
