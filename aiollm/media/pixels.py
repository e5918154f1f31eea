"""An opened file to plain pixels: shrunk, in sRGB, upright, eight bits, without metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from aiollm.errors import UnsupportedError
from aiollm.media.colours import from_lab, to_srgb
from aiollm.media.limits import ImageLimits, Size, area, too_many_pixels

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION = 0x0112
_FINE, _CHEAP = 2.0, 1.01
"""How close the box filter may come to the final size before bicubic takes over. Text needs the
finer value. In photos the cheaper one differs by 44 dB, which JPEG at quality 85 (35 dB) hides, and
saves Pillow half the resize."""
_SCALES = {"I": 65535.0, "F": 1.0}
"""The brightest value of the deep modes, unless the pixels contain a brighter one."""


def render(
    file: Image.Image | SelfShrinking,
    limits: ImageLimits,
    max_pixels: int,
    *,
    sharp: bool,
    orientation: int | None,
) -> Image.Image:
    """Return the pixels as L, LA, RGB, RGBX or RGBA, made to fit by shape, without metadata.

    `sharp` uses the finer filter, for text and drawings. `orientation` is that of the header, None
    if only PIL can read it. Raises: UnsupportedError for more than `max_pixels` to decode.
    """
    profile = file.info.get("icc_profile")
    stored, size = file.size, _draft(file, limits, max_pixels)
    image = _loaded(file)
    del file  # else its pixels would stay beside the shrunk ones
    if image.size == stored[::-1]:
        # PIL turns a TIFF upright by itself.
        size = size[::-1]
    turn = _turn(image, orientation)
    image = _opaque(_plain(_eight_bits(image)))
    gap = _FINE if sharp else _CHEAP
    for shrink in _passes(image.size, size, gap, at_once=has_alpha(image)):
        image = shrink(image)
    image = to_srgb(image, profile)
    if turn is not None:
        image = image.transpose(turn)
    # PIL's writers copy what they find here: comment, XMP, profile, transparency.
    image.info = {}
    return padded(image, limits)


class SelfShrinking(Protocol):
    """An opened file that is decoded here, at the size given to `draft`, and not by PIL."""

    info: dict[str, Any]

    @property
    def size(self) -> Size:
        """The size at which it is decoded."""

    def draft(self, _mode: None, size: Size) -> object:
        """Decode at `size` if that is possible, else at the stored one."""

    def decoded(self) -> Image.Image:
        """Return the pixels."""


def padded(image: Image.Image, limits: ImageLimits) -> Image.Image:
    """Return the image with white, or clear, margins where it is smaller or thinner than allowed.

    They are at the right and at the bottom, so that the places a model names stay right.
    """
    import PIL.Image

    size = limits.padded(image.size)
    if size == image.size:
        return image
    white: Any = {"L": 255, "LA": (255, 0), "RGB": (255, 255, 255)}.get(
        image.mode, (255, 255, 255, 0)
    )
    canvas = PIL.Image.new(image.mode, size, white)
    canvas.paste(image, (0, 0))
    return canvas


def _loaded(file: Image.Image | SelfShrinking) -> Image.Image:
    import PIL.Image

    if not isinstance(file, PIL.Image.Image):
        return file.decoded()
    file.load()
    return file


def _draft(file: Image.Image | SelfShrinking, limits: ImageLimits, max_pixels: int) -> Size:
    """Choose the scale at which a file is decoded; return the final size, not turned yet."""
    stored = size = file.size
    if area(stored) > max_pixels:
        size = stored[0] // 2, stored[1] // 2
    size = limits.shrunk(size)
    file.draft(None, size)
    if area(file.size) > max_pixels:
        raise UnsupportedError(too_many_pixels(stored, max_pixels))
    return size


def _passes(
    old: Size, new: Size, gap: float, *, at_once: bool = False
) -> Iterator[Callable[[Image.Image], Image.Image]]:
    """Yield the steps of `resize` with `reducing_gap`: the same pixels as in one call.

    If that resizes the height first, as Pillow 13 may, they differ by rounding. The caller can free
    the earlier pixels between the steps, so that a photo takes a quarter less memory. `at_once` is
    for images with alpha: each step would multiply the colours by it and divide them again.
    """
    import PIL.Image

    bicubic = PIL.Image.Resampling.BICUBIC
    if old == new:
        return
    if at_once:
        yield lambda image: image.resize(new, bicubic, reducing_gap=gap)
        return
    (wide, high), (width, height) = old, new
    across, down = max(1, int(wide / width / gap)), max(1, int(high / height / gap))
    if across * down > 1:
        yield lambda image: image.reduce((across, down))
    yield lambda image: image.resize(
        (width, image.height), bicubic, (0, 0, wide / across, image.height)
    )
    yield lambda image: image.resize(new, bicubic, (0, 0, width, high / down))


def has_alpha(image: Image.Image) -> bool:
    """Return whether the image has an alpha channel."""
    return image.mode in {"LA", "RGBA"}


def on_white(image: Image.Image) -> Image.Image:
    """Return the image without alpha, on a white background."""
    import PIL.Image

    if not has_alpha(image):
        return image
    plain = image.mode.removesuffix("A")
    flat = PIL.Image.new(plain, image.size, 255 if plain == "L" else (255, 255, 255))
    flat.paste(image.convert(plain), mask=image.getchannel("A"))
    return flat


def _turn(image: Image.Image, orientation: int | None) -> Image.Transpose | None:
    """Return the rotation that makes the image upright, None if it is."""
    import PIL.Image

    turns = {
        2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
        3: PIL.Image.Transpose.ROTATE_180,
        4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
        5: PIL.Image.Transpose.TRANSPOSE,
        6: PIL.Image.Transpose.ROTATE_270,
        7: PIL.Image.Transpose.TRANSVERSE,
        8: PIL.Image.Transpose.ROTATE_90,
    }
    try:
        found = image.getexif().get(_ORIENTATION, 1) if orientation is None else orientation
        return turns.get(found)
    # Metadata can be broken in many ways, and must never lose the image.
    except Exception:  # noqa: BLE001
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 and 32 bits and floats to 8 bits; PIL's own conversion would clip to white."""
    if image.mode.startswith("I;16"):
        image = image.convert("I")
    if image.mode not in _SCALES:
        return image
    low, high = image.getextrema()
    top = max(_SCALES[image.mode], float(high))  # type: ignore[arg-type]
    base = min(0.0, float(low))  # type: ignore[arg-type]
    factor = 255 / (top - base)
    return image.point(lambda value: value * factor - base * factor).convert("L")


def _plain(image: Image.Image) -> Image.Image:
    """Return L, LA, RGB, RGBX, RGBA or CMYK."""
    if "transparency" in image.info or image.mode in {"PA", "RGBa", "La"}:
        return image.convert("RGBA")
    match image.mode:
        case "L" | "LA" | "RGB" | "RGBX" | "RGBA" | "CMYK":
            return image
        case "1":
            return image.convert("L")
        case "LAB":
            return from_lab(image)
        case _:
            return image.convert("RGB")


def _opaque(image: Image.Image) -> Image.Image:
    """Drop a fully opaque alpha channel: it would double the cost of everything after it."""
    if has_alpha(image) and image.getchannel("A").getextrema() == (255, 255):
        return image.convert(image.mode.removesuffix("A"))
    return image
