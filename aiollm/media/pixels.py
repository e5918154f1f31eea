"""An opened file to plain pixels: shrunk, in sRGB, upright, eight bits, without metadata."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from aiollm.media.limits import ImageLimits, Size

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION = 0x0112
_FINE, _CHEAP = 2.0, 1.01
"""How close the box filter may come to the final size before bicubic takes over. Text needs the
finer value. In photos the cheaper one differs by 44 dB, which JPEG at quality 85 (35 dB) hides, and
saves Pillow half the resize."""
_SCALES = {"I": 65535.0, "F": 1.0}
"""The brightest value of the deep modes, unless the pixels contain a brighter one."""


def render(image: Image.Image, limits: ImageLimits, *, sharp: bool) -> Image.Image:
    """Return the pixels as L, LA, RGB or RGBA, shrunk to the edge limit, without metadata.

    `sharp` uses the finer filter, for text and drawings.
    """
    import PIL.Image

    profile = image.info.get("icc_profile")
    stored, size = image.size, limits.target(image.size)
    image.draft(None, size)
    image.load()
    if image.size == stored[::-1]:
        # PIL turns a TIFF upright by itself.
        size = size[::-1]
    turn = _turn(image)
    image = _opaque(_plain(_eight_bits(image)))
    gap = _FINE if sharp else _CHEAP
    if size != image.size and has_alpha(image):
        # In one call, because each call multiplies the colours by alpha and divides them again.
        image = image.resize(size, PIL.Image.Resampling.BICUBIC, reducing_gap=gap)
    elif size != image.size:
        for shrink in _passes(image.size, size, gap):
            image = shrink(image)
    image = _srgb(image, profile)
    if turn is not None:
        image = image.transpose(turn)
    # PIL's writers copy what they find here: comment, XMP, profile, transparency.
    image.info = {}
    return image


def _passes(old: Size, new: Size, gap: float) -> Iterator[Callable[[Image.Image], Image.Image]]:
    """Yield the steps of `resize` with `reducing_gap`: the same pixels as in one call.

    If that resizes the height first, as Pillow 13 may, they differ by rounding. The caller can free
    the earlier pixels between the steps, so that a photo takes a quarter less memory.
    """
    import PIL.Image

    bicubic = PIL.Image.Resampling.BICUBIC
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


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return the rotation that makes the image upright, by its EXIF or XMP orientation."""
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
        return turns.get(image.getexif().get(_ORIENTATION, 1))
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
    """Return L, LA, RGB, RGBA or CMYK."""
    if "transparency" in image.info or image.mode in {"PA", "RGBa", "La"}:
        return image.convert("RGBA")
    match image.mode:
        case "L" | "LA" | "RGB" | "RGBA" | "CMYK":
            return image
        case "1":
            return image.convert("L")
        case _:
            return image.convert("RGB")


def _opaque(image: Image.Image) -> Image.Image:
    """Drop a fully opaque alpha channel: it would double the cost of everything after it."""
    if has_alpha(image) and image.getchannel("A").getextrema() == (255, 255):
        return image.convert(image.mode.removesuffix("A"))
    return image


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert from the file's colour profile to sRGB; without a valid one, change nothing."""
    if profile:
        try:
            image = _converted(image, profile)
        # littlecms may be missing, and a profile may be broken like any metadata.
        except Exception:  # noqa: BLE001
            profile = None
    return image.convert("RGB") if image.mode == "CMYK" else image


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if "srgb" in ImageCms.getProfileDescription(source).lower():
        return image
    mode = "RGBA" if has_alpha(image) else "RGB"
    colours = image.convert(mode) if image.mode == "LA" else image
    made = ImageCms.profileToProfile(
        colours, source, ImageCms.createProfile("sRGB"), outputMode=mode
    )
    return made if made is not None else image
