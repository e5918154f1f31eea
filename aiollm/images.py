"""Image generation: the request, its drafts and its result."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import msgspec
from msgspec.structs import force_setattr

from aiollm.errors import ConfigError
from aiollm.types import Attempt, Cost, ImagePart, Target, Timings, Usage, _shown

ImageSize: TypeAlias = tuple[int, int] | str
"""Width and height in pixels, also as `"1024x768"`; a ratio such as `"16:9"`; or `"auto"`."""
ImageQuality: TypeAlias = Literal["auto", "low", "medium", "high", "xhigh", "max"]
"""How much work the model puts into an image."""
ImageFormat: TypeAlias = Literal["png", "jpeg", "webp", "gif", "svg"]
"""The file format of an image."""
ImageBackground: TypeAlias = Literal["auto", "opaque", "transparent"]
"""What is behind the subject of an image."""

MAX_SIDE = 16_384
"""The longest side in pixels; no model comes near it."""

IMAGE_SECONDS = 300.0
"""Seconds each wait for an image may take: OpenAI's models can need over 120 (November 2026)."""

MAX_PARTIAL_IMAGES = 3
"""The most partial images per request; OpenAI's limit."""

_PIXELS = re.compile(r"(\d{1,6})x(\d{1,6})")
_RATIO = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})")


class ImageRequest(msgspec.Struct, frozen=True):
    """A request to make images from a prompt, or to edit `images`; `mask` marks where to edit.

    `size`: pixels as (width, height) or "1024x768", a ratio such as "16:9", or "auto".
    `partial_images`: the most drafts while the image is being made. `extra`: fields for the wire
    body by scope, as in `Request`. Raises: ConfigError.
    """

    prompt: str
    count: int = 1
    size: ImageSize | None = None
    quality: ImageQuality | None = None
    format: ImageFormat | None = None
    background: ImageBackground | None = None
    seed: int | None = None
    images: tuple[ImagePart, ...] = ()
    mask: ImagePart | None = None
    partial_images: int = 0
    extra: Mapping[str, Any] = {}

    if TYPE_CHECKING:  # what may be passed is wider than what is kept

        def __init__(  # noqa: PLR0913, PLR0917 - the fields
            self,
            prompt: str,
            count: int = ...,
            size: ImageSize | None = ...,
            quality: ImageQuality | None = ...,
            format: ImageFormat | None = ...,  # noqa: A002
            background: ImageBackground | None = ...,
            seed: int | None = ...,
            images: ImagePart | list[ImagePart] | tuple[ImagePart, ...] = ...,
            mask: ImagePart | None = ...,
            partial_images: int = ...,
            extra: Mapping[str, Mapping[str, Any]] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        force_setattr(self, "images", _images(self.images))
        force_setattr(self, "size", _size(self.size))
        _check_text(self.prompt)
        _check_number("count", self.count, 1, 2**31)
        _check_number("partial_images", self.partial_images, 0, MAX_PARTIAL_IMAGES)
        if self.seed is not None:
            _check_number("seed", self.seed, -1, 2**63 - 1)
        _check_word("quality", self.quality, get_args(ImageQuality))
        _check_word("format", self.format, get_args(ImageFormat))
        _check_word("background", self.background, get_args(ImageBackground))
        _check_mask(self.mask, self.images)
        if not _is(self.extra, Mapping) or not all(_is(name, str) for name in self.extra):
            raise ConfigError("extra must map '*', wires, providers or targets to fields")

    @property
    def dimensions(self) -> tuple[int, int] | None:
        """Width and height; None when the size is a ratio or left to the model."""
        return None if isinstance(self.size, str) else self.size

    @property
    def ratio(self) -> float | None:
        """Width divided by height; None when the size is left to the model."""
        if self.size is None or self.size == "auto":
            return None
        if isinstance(self.size, str):
            across, _, down = self.size.partition(":")
            return int(across) / int(down)
        width, height = self.size
        return width / height


class ImageResult(msgspec.Struct, frozen=True):
    """The finished images, in order; `revised_prompt` is the prompt as the provider rewrote it."""

    commits: ClassVar[bool] = True
    images: tuple[ImagePart, ...]
    usage: Usage = Usage()
    revised_prompt: str = ""
    target: Target | None = None
    warnings: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    timings: Timings = Timings()
    cost: Cost = Cost()


class PartialImage(msgspec.Struct, frozen=True):
    """A draft of an image that is still being made; later ones are better.

    `index` counts from 0. There are at most `ImageRequest.partial_images` of them.
    """

    commits: ClassVar[bool] = True
    image: ImagePart
    index: int = 0


def as_image_request(
    value: object, check_extra: Callable[[Mapping[str, Any]], object]
) -> ImageRequest:
    """Return `value` as an ImageRequest; text becomes its prompt. Raises: ConfigError."""
    match value:
        case ImageRequest():
            if value.extra:
                check_extra(value.extra)
            return value
        case str():
            return ImageRequest(value)
        case _:
            raise ConfigError(f"expected a prompt or an ImageRequest, not {_shown(value)}")


def _images(value: object) -> tuple[ImagePart, ...]:
    match value:
        case ImagePart():
            return (value,)
        case list() | tuple() if all(isinstance(item, ImagePart) for item in value):
            return tuple(value)
        case _:
            raise ConfigError(f"images must hold ImageParts, not {_shown(value)}")


def _size(value: object) -> ImageSize | None:
    match value:
        case None | "auto":
            return value
        case str() if found := _PIXELS.fullmatch(value):
            return _checked_pixels(int(found[1]), int(found[2]))
        case str() if _RATIO.fullmatch(value):
            return value
        case [int() as width, int() as height] if not isinstance(value, list):
            return _checked_pixels(width, height)
        case _:
            raise ConfigError(
                f"size is {_shown(value)}: expected (width, height), "
                "'1024x768', a ratio such as '16:9', or 'auto'"
            )


def _checked_pixels(width: int, height: int) -> tuple[int, int]:
    for side in (width, height):
        _check_number("a side of size", side, 1, MAX_SIDE)
    return width, height


def _check_text(prompt: object) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigError("prompt must be a str that is not empty: say what to draw")


def _check_number(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{name} is {_shown(value)}: expected an integer from {low} to {high}")


def _check_word(name: str, value: object, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise ConfigError(f"{name} is {_shown(value)}: expected one of {', '.join(known)}")


def _check_mask(mask: object, images: tuple[ImagePart, ...]) -> None:
    if mask is None:
        return
    if not isinstance(mask, ImagePart):
        raise ConfigError(f"mask must be an ImagePart, not {_shown(mask)}")
    if not images:
        raise ConfigError("mask marks where to edit an image, but images is empty")


def _is(value: object, kind: type) -> bool:
    """Test a type at run time, in a way that type checkers do not narrow by the annotation."""
    return isinstance(value, kind)
