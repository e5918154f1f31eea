"""Shrinking step by step: the same pixels as in one call, in less memory."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

Image = pytest.importorskip("PIL.Image")
ImageChops = pytest.importorskip("PIL.ImageChops")

from aiollm.media.jpeg_strips import large_pages  # noqa: E402
from aiollm.media.pixels import _passes  # noqa: E402
from aiollm.media.process import environment  # noqa: E402

ROOT = Path(__file__).parents[2]
DICE = random.Random(11)
BICUBIC = Image.Resampling.BICUBIC
ROUNDED = 32
"""What rounding and clipping between the two axes make of random pixels: 23 in 1800 pictures."""
BYTES = {"L": 1, "RGB": 3, "CMYK": 4}

GROWN = """
import io, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from PIL import Image
from aiollm.media.transform import transform
from aiollm.media.limits import ImageLimits

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

limits = ImageLimits(("image/jpeg",), 1568)
small = io.BytesIO()
Image.new("RGB", (64, 64)).save(small, "JPEG")
transform(small.getvalue(), limits)
photo = Path(sys.argv[2]).read_bytes()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
transform(photo, limits)
print((status("VmHWM") - before) / 1024)
"""


def down_first(image, new, gap):
    """Shrink by hand as `_passes` does, but the height before the width."""
    (wide, high), (width, height) = image.size, new
    across, down = max(1, int(wide / width / gap)), max(1, int(high / height / gap))
    if across * down > 1:
        image = image.reduce((across, down))
    image = image.resize((image.width, height), BICUBIC, (0, 0, image.width, high / down))
    return image.resize(new, BICUBIC, (0, 0, wide / across, height))


def apart(one, other):
    """Return the largest difference of two pictures; the text of one would fill the screen."""
    return max(band.getextrema()[1] for band in ImageChops.difference(one, other).split())


@pytest.mark.parametrize("mode", BYTES)
@pytest.mark.parametrize("gap", [1.01, 2.0])
def test_the_passes_make_the_pixels_of_one_call(mode, gap):
    """Pillow 13 shrinks the height first where that is less work: then noise rounds otherwise."""
    for _ in range(25):
        old = DICE.randint(2, 400), DICE.randint(2, 400)
        new = DICE.randint(1, old[0]), DICE.randint(1, old[1])
        if new == old:
            continue
        image = Image.frombytes(mode, old, DICE.randbytes(old[0] * old[1] * BYTES[mode]))
        wanted = image.resize(new, BICUBIC, reducing_gap=gap)
        turned = apart(down_first(image, new, gap), wanted) == 0
        for shrink in _passes(old, new, gap):
            image = shrink(image)
        assert image.size == new
        assert apart(image, wanted) <= (ROUNDED if turned else 0)


LARGE = {
    "JPEG": ((4000, 3000), 13 if large_pages() else 24),
    "PNG": ((4800, 3600), 12),
    "WEBP": ((3264, 2448), 12),
}
"""Sizes, and the most MiB. 7.0 are the result; whole, the JPEG would be decoded to 11.4."""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("kind", LARGE)
def test_a_photo_never_takes_its_pixels_and_both_steps_of_shrinking_at_once(tmp_path, kind):
    size, most = LARGE[kind]
    photo = tmp_path / "photo"
    Image.linear_gradient("L").resize(size).convert("RGB").save(photo, kind)
    done = subprocess.run(
        [sys.executable, "-c", GROWN, str(ROOT), str(photo)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < most
