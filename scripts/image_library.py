"""Name what the installed image library lacks and exit with 1; print nothing if it has it all.

`scripts/setup` runs it: without some headers Pillow-SIMD still builds, silently lacking features,
and pip's cache keeps that build even after the headers are installed.
"""

from __future__ import annotations

import sys

NEEDED = {
    "jpg": "JPEG",
    "zlib": "PNG",
    "webp": "WebP",
    "libtiff": "compressed TIFF",
    "littlecms2": "colour profiles",
}
"""What the tests need, by the names of PIL.features."""


def lacking() -> list[str]:
    """Return the missing features; all of them if the library cannot be imported."""
    try:
        from PIL import features
    except ImportError:
        return list(NEEDED.values())
    return [told for feature, told in NEEDED.items() if not features.check(feature)]


if __name__ == "__main__":
    if lacks := lacking():
        print(", ".join(lacks))
        sys.exit(1)
