"""Name what the installed image library lacks, and exit with 1; say nothing where it has it all.

`scripts/setup` asks. Where headers are missing Pillow-SIMD builds without a word, and pip keeps
what it built for the time when they are there.
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
    """Return what the library cannot do; all of it where it cannot even be imported."""
    try:
        from PIL import features
    except ImportError:
        return list(NEEDED.values())
    return [told for feature, told in NEEDED.items() if not features.check(feature)]


if __name__ == "__main__":
    if lacks := lacking():
        print(", ".join(lacks))
        sys.exit(1)
