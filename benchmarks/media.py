"""Images: CPU an image, images a second, loop lag, memory, and what a fitting image costs.

Three ways make the same 1568 px JPEG, in interleaved rounds of one run: plain Pillow
(`thumbnail`), the best direct call (`draft`, bicubic with `reducing_gap`), and aiollm's codec. A
fourth only decodes, at the scale that aiollm's does: what is left while decoding is PIL's.
Every way is a process of its own. With pillow-simd under test, name an interpreter that has the
Pillow wheels, which is what "plain" stands for: python benchmarks/media.py --plain OTHER_PYTHON
Usage: python benchmarks/media.py [--plain PYTHON] [--rounds 15] [--photos 20]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

EDGE = 1568
ROOT = Path(__file__).parents[1]
NAMES = {"jpeg": "12 MP JPEG", "png": "12 MP PNG", "webp": "8 MP WebP"}
SIMD = {"jpeg": 0.27, "png": 0.70 if find_spec("isal") else 0.75, "webp": 0.50}
WHEELS = {"jpeg": 0.45, "webp": 0.55}
GROWTH = {"jpeg": 12, "png": 12, "webp": 12}
SCALING = 1.8
"""Bars: CPU of aiollm as a part of plain Pillow's, missed when minima and median both exceed; MiB
by which a new worker grows; and how many times as fast two workers are."""


# One way to make an image fit, run in a process of its own.


def plain(data: bytes) -> bytes:
    """Do what most people write."""
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    image.thumbnail((EDGE, EDGE))
    return jpeg(image)


def direct(data: bytes) -> bytes:
    """Do the best that calls of PIL can."""
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    factor = EDGE / max(image.size)
    size = (round(image.width * factor), round(image.height * factor))
    image.draft(None, size)
    return jpeg(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))


def ours(data: bytes) -> bytes:
    """Do what a worker does."""
    from aiollm.media.limits import ImageLimits
    from aiollm.media.transform import transform

    return transform(data, ImageLimits(("image/jpeg", "image/png"), EDGE)).data


def decode(data: bytes) -> bytes:
    """Do what any way does first, and nothing else."""
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    factor = EDGE / max(image.size)
    image.draft(None, (round(image.width * factor), round(image.height * factor)))
    image.load()
    return b""


def jpeg(image: object) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=85)
    return out.getvalue()


WAYS: dict[str, Callable[[bytes], bytes]] = {
    "plain": plain,
    "direct": direct,
    "ours": ours,
    "decode": decode,
}


def lane(way: str, files: list[str]) -> None:
    """Run `way` on the file whose number is asked for; answer with CPU ms and peak MiB."""
    sys.path.insert(0, str(ROOT))
    import PIL

    data = [Path(name).read_bytes() for name in files]
    small = io.BytesIO()
    from PIL import Image

    Image.new("RGB", (64, 64)).save(small, "JPEG")
    WAYS[way](small.getvalue())
    print(PIL.__version__, flush=True)
    for line in sys.stdin:
        forget_peak()
        before, start = resident(), time.process_time()
        WAYS[way](data[int(line)])
        spent = time.process_time() - start
        print(spent * 1000, peak() - before, flush=True)


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) / 256


def peak() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


class Lane:
    """A process that runs one way."""

    def __init__(self, python: str, way: str, files: list[Path]) -> None:
        from aiollm.media.process import environment

        self.process = subprocess.Popen(
            [python, __file__, "--lane", way, *map(str, files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment() if way in {"ours", "decode"} else None,
        )
        self.version = self.process.stdout.readline().strip()
        self.cpu: dict[int, list[float]] = {}
        self.peak: dict[int, list[float]] = {}

    def run(self, number: int) -> None:
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        cpu, high = map(float, self.process.stdout.readline().split())
        self.cpu.setdefault(number, []).append(cpu)
        self.peak.setdefault(number, []).append(high)

    def close(self) -> None:
        self.process.communicate()


# Pictures.


def photo(width: int, height: int, seed: int) -> object:
    """Return a picture with detail at all scales and some grain, as cameras make it."""
    from PIL import Image, ImageFilter

    dice = random.Random(seed)
    layers = None
    for part, share in ((400, 1.0), (100, 0.45), (25, 0.4), (6, 0.3), (2, 0.2)):
        size = (width // part + 2, height // part + 2)
        noise = Image.frombytes("RGB", size, dice.randbytes(size[0] * size[1] * 3))
        layer = noise.resize((width, height), Image.Resampling.BICUBIC)
        layers = layer if layers is None else Image.blend(layers, layer, share)
    return layers.filter(ImageFilter.GaussianBlur(0.7))


def pictures(folder: Path) -> dict[str, Path]:
    camera, other = photo(4000, 3000, 1), photo(3264, 2448, 2)
    paths = {kind: folder / f"photo.{kind}" for kind in NAMES}
    camera.save(paths["jpeg"], "JPEG", quality=90)
    camera.save(paths["png"], "PNG", compress_level=6)
    other.save(paths["webp"], "WEBP", quality=85)
    return paths


# Figures.


def cpu(paths: dict[str, Path], python: str, rounds: int) -> bool:
    files = list(paths.values())
    lanes = {"plain": Lane(python, "plain", files)}
    lanes |= {way: Lane(sys.executable, way, files) for way in ("direct", "ours", "decode")}
    for number in range(len(files)):
        for turn in range(rounds):
            order = list(lanes.values())
            first = turn % len(order)
            for each in order[first:] + order[:first]:
                each.run(number)
    for each in lanes.values():
        each.close()
    simd = ".post" in lanes["ours"].version
    inflated = "isal" if find_spec("isal") else "zlib"
    print(f"PIL {lanes['ours'].version}, PNG by {inflated}; plain: {lanes['plain'].version}")
    heads = "".join(f"{head:>8}" for head in ("plain", "direct", "aiollm", "decode"))
    print(f"{'CPU ms to 1568 px':20}{heads}   of plain (median; decoding alone)")
    good = True
    for number, kind in enumerate(paths):
        low = {way: min(each.cpu[number]) for way, each in lanes.items()}
        pairs = zip(lanes["ours"].cpu[number], lanes["plain"].cpu[number], strict=True)
        median = statistics.median(mine / theirs for mine, theirs in pairs)
        ratio, bar = low["ours"] / low["plain"], (SIMD if simd else WHEELS).get(kind)
        met = bar is None or min(ratio, median) <= bar
        good &= met
        print(
            f"{NAMES[kind]:20}{''.join(f'{each:8.1f}' for each in low.values())}"
            f"   {ratio:.3f} ({median:.3f}; {low['decode'] / low['plain']:.3f}) {verdict(met, bar)}"
        )
    return good


def memory(paths: dict[str, Path], python: str) -> bool:
    """Print how much a process grows by its first picture, and by the same one later."""
    from aiollm.media.jpeg_strips import large_pages

    good = True
    stripped = {"jpeg": large_pages(), "png": find_spec("isal") is not None, "webp": True}
    print("peak MiB above the input, in a new process: first time, later")
    for kind, path in paths.items():
        shown, first = [], {}
        for way in WAYS:
            each = Lane(python if way == "plain" else sys.executable, way, [path])
            for _ in range(3):
                each.run(0)
            each.close()
            first[way] = each.peak[0][0]
            shown.append(f"{way} {first[way]:.0f}, {min(each.peak[0]):.0f}")
        bar = GROWTH[kind] if stripped[kind] else None
        met = bar is None or first["ours"] <= bar
        good &= met
        print(f"{NAMES[kind]:20}{'; '.join(shown)} {verdict(met, bar)}")
    return good


def verdict(met: bool, bar: object) -> str:
    return "" if bar is None else f"bar {bar}: {'met' if met else 'MISSED'}"


async def service(paths: dict[str, Path], count: int) -> bool:
    """Normalize photos as a service does, and encode their bodies, while a heart beats."""
    from aiollm.capabilities import Capabilities
    from aiollm.media import MediaPool, normalize
    from aiollm.types import ImagePart, Request, user

    data = paths["jpeg"].read_bytes()
    requests = [Request((user("look", ImagePart(data + bytes([n]))),)) for n in range(count + 3)]
    caps = Capabilities(max_image_dimension=EDGE)
    async with MediaPool() as pool:
        start = time.perf_counter()
        await normalize(requests[-1], caps, pool=pool)
        cold = time.perf_counter() - start
        await asyncio.gather(*(normalize(each, caps, pool=pool) for each in requests[-3:-1]))
        start = time.perf_counter()
        await normalize(Request((user(ImagePart(data + b"warm")),)), caps, pool=pool)
        warm = time.perf_counter() - start

        mine = time.process_time()
        idle = await beat(asyncio.sleep(1))
        heart = time.process_time() - mine
        mine, before = time.process_time(), resident()
        forget_peak()
        start = time.perf_counter()
        lag = await beat(asyncio.gather(*(whole(each, caps, pool) for each in requests[:count])))
        wall = time.perf_counter() - start
        mine, grown = time.process_time() - mine, peak() - before
        statistics_ = pool.statistics()
    print(f"first image: cold {cold * 1000:.0f} ms, warm {warm * 1000:.0f} ms")
    print(
        f"{count} photos: {count / wall:.1f} images/s on {os.cpu_count()} cores, "
        f"{statistics_.processes} workers; this process {mine * 1000 / count:.1f} ms CPU a photo "
        f"({heart * wall * 1000 / count:.1f} of it the heartbeat), "
        f"{grown:.0f} MiB more at the peak"
    )
    met = lag[0] <= 10 and lag[1] <= 40
    print(
        f"loop lag meanwhile: p99 {lag[0]:.1f} ms, max {lag[1]:.1f} ms "
        f"(idle: {idle[0]:.1f}, {idle[1]:.1f}) {verdict(met, '10 / 40 ms')}"
    )
    return met


async def scaling(paths: dict[str, Path], count: int) -> bool:
    """Measure how much sooner two workers are done than one, round by round."""
    from aiollm.capabilities import Capabilities
    from aiollm.media import MediaPool, normalize
    from aiollm.types import ImagePart, Request, user

    data = paths["jpeg"].read_bytes()
    caps = Capabilities(max_image_dimension=EDGE)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    async with MediaPool(1) as one, MediaPool(2) as two:
        for turn in range(4):
            for workers, pool in ((1, one), (2, two)):
                images = [ImagePart(data + bytes([turn, workers, n])) for n in range(count)]
                requests = [Request((user("look", image),)) for image in images]
                start = time.perf_counter()
                await asyncio.gather(*(normalize(each, caps, pool=pool) for each in requests))
                seconds[workers].append(time.perf_counter() - start)
    # The first round starts the workers.
    ratio = min(seconds[1][1:]) / min(seconds[2][1:])
    met = ratio >= SCALING
    print(f"two workers against one: {ratio:.2f} times as fast {verdict(met, SCALING)}")
    return met


async def whole(request: object, caps: object, pool: object) -> None:
    """Prepare a request and encode its body slice by slice, as the transport does."""
    from aiollm._wire.body import Blob, json_body
    from aiollm.media import normalize
    from aiollm.types import ImagePart

    made = await normalize(request, caps, pool=pool)
    parts = [part for part in made.messages[0].parts if isinstance(part, ImagePart)]
    for _ in json_body({"images": [Blob(part.data, "data:") for part in parts]}).slices():
        await asyncio.sleep(0)


async def beat(work: object) -> tuple[float, float]:
    """Return the p99 and the maximum of the lag, in ms, of a 1 ms heartbeat during `work`."""
    lags: list[float] = []

    async def heart() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append((time.perf_counter() - start) * 1000 - 1)

    beating = asyncio.create_task(heart())
    await work
    beating.cancel()
    lags.sort()
    return lags[int(len(lags) * 0.99)], lags[-1]


async def fitting(paths: dict[str, Path]) -> bool:
    """Measure what an image costs that fits already."""
    from aiollm.capabilities import COMMON_MIME, Capabilities
    from aiollm.media import MediaPool, normalize
    from aiollm.types import ImagePart, Request, user

    good = True
    caps = Capabilities(
        allowed_image_mime=COMMON_MIME,
        max_image_dimension=5000,
        max_images_per_request=500,
        max_image_bytes=30_000_000,
        image_bytes_in_base64=True,
        max_body_bytes=50_000_000,
    )
    async with MediaPool() as pool:
        for kind, path in paths.items():
            request = Request((user("look", ImagePart(path.read_bytes())),))
            same = await normalize(request, caps, pool=pool) is request
            low = 1.0
            for _ in range(50):
                start = time.perf_counter()
                for _ in range(20):
                    await normalize(request, caps, pool=pool)
                low = min(low, (time.perf_counter() - start) / 20)
            met = same and low <= 50e-6
            good &= met
            print(
                f"{NAMES[kind]:20}that fits: {low * 1e6:.0f} us, "
                f"{'the same object' if same else 'A COPY'} {verdict(met, '50 us')}"
            )
    return good


def main() -> None:
    """Print all figures; the exit code is 1 when a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain", default=sys.executable, help="an interpreter with plain Pillow")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--lane", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.lane:
        lane(given.lane[0], given.lane[1:])
        return
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        paths = pictures(Path(folder))
        print(", ".join(f"{NAMES[k]} {p.stat().st_size / 1e6:.1f} MB" for k, p in paths.items()))
        good = [
            memory(paths, given.plain),
            cpu(paths, given.plain, given.rounds),
            asyncio.run(service(paths, given.photos)),
            asyncio.run(scaling(paths, given.photos)),
            asyncio.run(fitting(paths)),
        ]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
