"""Soak: what a process holds must not grow with the number of its calls.

Many streams, failures, cancelled races and images are made; after each tenth, memory, objects,
files and tasks are counted. Least values are compared, as kept connections and timers that were
cancelled come and go. Ends with 1 if one grows by more than its bar. The servers are a process of
their own.
Usage: python benchmarks/soak.py [--streams 60000] [--failures 20000] [--races 20000]
    [--images 2000]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import io
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from aiollm import ImagePart, LLMError, Registry, Request, Timeouts, user
from aiollm.capabilities import Capabilities
from aiollm.media import MediaPool, normalize
from aiollm.testing import Answer, Cut, FaultServer, Hang, Pause, Reset, Truncate, chat

AT_ONCE = 50
CAPS = Capabilities(max_image_dimension=1000)
PAGE_KIB = resource.getpagesize() // 1024
BARS = {"KiB": 2048, "workers' KiB": 1024, "objects": 150, "files": 3, "tasks": 0}
"""Growth from the least of the third to sixth tenths to the least of the last four."""


class Level(msgspec.Struct):
    """What the process, and its image workers, hold after some calls."""

    calls: int
    held: dict[str, float]


def faults(dice: random.Random) -> Callable[[object], Any]:
    """Return a script that fails in a random way each time."""
    ways = (
        lambda: Cut(dice.randrange(600)),
        lambda: Reset(dice.randrange(600)),
        lambda: Truncate(dice.randrange(600)),
        lambda: Hang(after=dice.randrange(600)),
        lambda: Answer(500, {}, {"error": {"message": "no"}}),
        lambda: Answer(429, {"retry-after-ms": "1"}, {"error": {"message": "no"}}),
        lambda: Answer(400, {}, {"error": {"message": "no", "code": "context_length_exceeded"}}),
        lambda: Answer(200, {"content-type": "text/html"}, "<html>"),
        lambda: Answer(200, {"content-type": "text/event-stream"}, "data: {]\n\n", "chunked"),
    )
    return lambda _: dice.choice(ways)()


async def serve() -> None:
    """Serve until the standard input ends."""
    slow = chat("one ", Pause(0.005), "two ", Pause(0.005), "three")
    async with (
        FaultServer(default=chat("one ", "two ", "three")) as good,
        FaultServer(default=faults(random.Random(1))) as bad,
        FaultServer(default=slow) as a,
        FaultServer(default=slow) as b,
    ):
        print(json.dumps([server.url for server in (good, bad, a, b)]), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def photos(count: int) -> Iterator[bytes]:
    """Return JPEGs of two megapixels that differ, too wide for any target."""
    from PIL import Image

    noise = Image.effect_noise((200, 100), 60).resize((2000, 1000)).convert("RGB")
    file = io.BytesIO()
    noise.save(file, "JPEG")
    for number in range(count):
        yield file.getvalue() + number.to_bytes(4, "big")


async def stream(reg: Registry, _: random.Random) -> None:
    """Read a stream to its end."""
    await reg.stream("good/m", "hi").collect()


async def failure(reg: Registry, _: random.Random) -> None:
    """Fail, with the error and its traceback dropped by the caller alone."""
    try:
        await reg.stream("bad/m", "hi", retries=0, timeouts=Timeouts(idle=0.05)).collect()
    except LLMError:
        return


async def image(photo: bytes, pool: MediaPool) -> None:
    """Make an image fit."""
    await normalize(Request((user(ImagePart(photo)),)), CAPS, pool=pool)


async def race(reg: Registry, dice: random.Random) -> None:
    """Be cancelled within a race, at a random moment, or once more while it ends."""
    task = asyncio.ensure_future(reg.stream("a/m|b/m", "hi").collect())
    await asyncio.sleep(dice.uniform(0, 0.01))
    for _ in range(dice.randrange(1, 3)):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])


def level(calls: int) -> Level:
    """Collect garbage and note what is held."""
    gc.collect()
    return Level(
        calls,
        {
            "KiB": _kib(os.getpid()),
            "workers' KiB": sum(map(_kib, _descendants())),
            "objects": len(gc.get_objects()),
            "files": len([*Path("/proc/self/fd").iterdir()]),
            "tasks": len(asyncio.all_tasks()),
        },
    )


def _kib(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE_KIB


def _descendants() -> set[int]:
    """Return the image workers: the processes that this one has started, but not the servers."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if b"--serve" not in (process / "cmdline").read_bytes():
                stat = (process / "stat").read_text()
                parents[int(process.name)] = int(stat.rsplit(")")[-1].split()[1])
    found, more = set[int](), {os.getpid()}
    while more:
        more = {each for each, parent in parents.items() if parent in more}
        found |= more
    return found


async def soak(count: int, call: Callable[[], Awaitable[None]]) -> list[Level]:
    """Make that many calls, some at once; return the level after each tenth."""
    levels = []
    for tenth in range(10):
        left = iter(range(count // 10))

        async def worker(left: Iterator[int] = left) -> None:
            for _ in left:
                await call()

        await asyncio.gather(*(worker() for _ in range(min(AT_ONCE, count // 10))))
        await asyncio.sleep(0.2)  # connections close
        levels.append(level(count // 10 * (tenth + 1)))
    return levels


def report(part: str, levels: list[Level]) -> bool:
    """Print how each figure grew; return whether all are within their bars."""
    met = True
    for name, bar in BARS.items():
        held = [each.held[name] for each in levels]
        first, last = min(held[2:6]), min(held[6:])
        grown, within = last - first, last - first <= bar
        met = met and within
        row = f"{part:9} {levels[-1].calls:6}  {name:12} {first:9,.0f} -> {last:9,.0f}"
        print(f"{row}  {grown:+7,.0f}, bar {bar:g}: {'met' if within else 'MISSED'}", flush=True)
    return met


async def main(given: argparse.Namespace, urls: list[str]) -> bool:
    """Run all parts in one process; return whether nothing grew."""
    names = ("GOOD", "BAD", "A", "B")
    env = {f"LLM_{n}": f"openai+{url}/v1?api=chat" for n, url in zip(names, urls, strict=True)}
    dice = random.Random(1)
    met = []
    async with Registry(env=env, cooldown=0.001, max_wait=0, stagger=0.002) as reg:
        calls = {"streams": stream, "failures": failure, "races": race}
        for part, call in calls.items():
            levels = await soak(getattr(given, part), partial(call, reg, dice))
            met.append(report(part, levels))
    async with MediaPool(cache_limit=4 << 20) as pool:  # full after a hundred
        each = photos(given.images)
        levels = await soak(given.images, lambda: image(next(each), pool))
        met.append(report("images", levels))
    return all(met)


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for part, count in (("streams", 60_000), ("failures", 20_000), ("races", 20_000)):
        parser.add_argument(f"--{part}", type=int, default=count)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve())
        return 0
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as servers:
        assert servers.stdin is not None
        assert servers.stdout is not None
        try:
            met = asyncio.run(main(given, json.loads(servers.stdout.readline())))
        finally:
            servers.stdin.close()
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(_main())
