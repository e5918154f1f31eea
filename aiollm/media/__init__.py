"""Fit images to their target: read headers here, decode in worker processes.

Importing it is cheap: it loads PIL and starts processes only when an image has to change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiollm.media.limits import FittedImage, ImageLimits
    from aiollm.media.pool import MediaPool, PoolStatistics
    from aiollm.media.prepare import normalize, normalize_with_warnings
    from aiollm.media.sniff import ImageInfo, info

__all__ = [
    "FittedImage",
    "ImageInfo",
    "ImageLimits",
    "MediaPool",
    "PoolStatistics",
    "info",
    "normalize",
    "normalize_with_warnings",
]

_HOMES = {
    "FittedImage": "limits",
    "ImageInfo": "sniff",
    "ImageLimits": "limits",
    "MediaPool": "pool",
    "PoolStatistics": "pool",
    "info": "sniff",
    "normalize": "prepare",
    "normalize_with_warnings": "prepare",
}


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return value

    def __dir__() -> list[str]:
        return __all__
