"""Colours to sRGB: by the file's profile, or from Lab."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from aiollm.media import icc

if TYPE_CHECKING:
    from PIL import Image

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The mode of the pixels that a profile's colour space describes."""


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert L, LA, RGB, RGBX, RGBA or CMYK from a profile; without one, keep the numbers."""
    if profile and icc.needs_conversion(profile):
        try:
            return _converted(image.convert("RGB") if image.mode == "RGBX" else image, profile)
        # littlecms may be missing, and a profile may be broken like any metadata.
        except Exception:  # noqa: BLE001
            profile = None
    return image.convert("RGB") if image.mode == "CMYK" else image


def from_lab(image: Image.Image) -> Image.Image:
    """Convert CIE Lab to sRGB. Raises: an error of PIL's where littlecms is missing."""
    from PIL import ImageCms

    return _through(image, ImageCms.createProfile("LAB"))


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = _MODES[source.profile.xcolor_space.strip()]
    alpha = image.getchannel("A") if image.mode in {"LA", "RGBA"} else None
    plain = image if alpha is None else image.convert(image.mode.removesuffix("A"))
    if mode != plain.mode:
        if (plain.mode, mode) != ("L", "RGB"):
            raise ValueError(f"a profile of {mode} for {plain.mode}")
        plain = plain.convert(mode)
    made = _through(plain, source)
    if alpha is not None:
        made.putalpha(alpha)
    return made


def _through(image: Image.Image, source: Any) -> Image.Image:
    from PIL import ImageCms

    target = ImageCms.createProfile("sRGB")
    made = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    return image if made is None else made
