"""One contender in a process of its own: obeys commands on stdin, answers on stdout, in JSON.

Usage: python benchmarks/worker.py CONTENDER WIRE MODEL ROOT [asyncio|uvloop]
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

BLAST = 2000
SHORT = 8
WORD = len(" word")
SPREAD = 0.5
"""Seconds over which paced streams start: else a 99th percentile shows nothing but that."""

PROBE = 0.01
"""Seconds between two looks at how late the loop is."""

sys.path.insert(0, str(Path(__file__).parent / "contenders"))


class Figures:
    """What a contender can be asked to do; each method is a command and returns its figures."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._contender: Any = None

    @property
    def _texts(self) -> Any:
        if self._contender is None:
            self._contender = self._make()
        return self._contender.texts

    async def first(self) -> dict[str, float]:
        """The first request of the process, once imported: CPU, how long the loop stood still."""
        _ = self._texts
        async with Stall() as stall:
            began = time.process_time()
            await self._whole(f"events/{SHORT}", SHORT)
            spent = time.process_time() - began
        return {"cpu_ms": spent * 1e3, "stall_ms": stall.longest * 1e3, "rss_mib": rss() / 2**20}

    async def blast(self, seconds: float) -> dict[str, float]:
        """CPU of streams of 2,000 chunks that have all come at once."""
        return await self._repeat(f"events/{BLAST}", BLAST, seconds, 1e6 / BLAST)

    async def packed(self, seconds: float) -> dict[str, float]:
        """The same, in HTTP chunks of 16 KiB, as proxies and HTTP/2 gateways pack them."""
        return await self._repeat(f"packed/{BLAST}", BLAST, seconds, 1e6 / BLAST)

    async def short(self, seconds: float) -> dict[str, float]:
        """CPU and time to the first text of requests with 8 chunks."""
        return await self._repeat(f"events/{SHORT}", SHORT, seconds, 1e6)

    async def _repeat(self, path: str, count: int, seconds: float, unit: float) -> dict[str, float]:
        """Repeat a stream for so many seconds of CPU; report CPU a stream, times `unit`."""
        firsts = []
        gc.collect()
        began = time.process_time()
        while True:
            firsts.append(await self._whole(path, count))
            spent = time.process_time() - began
            if spent >= seconds:
                break
        return {
            "us": spent / len(firsts) * unit,
            "first_us": statistics.median(firsts) * 1e6,
            "streams": len(firsts),
        }

    async def _whole(self, path: str, count: int) -> float:
        """Read a stream, check that all its text came, and return the seconds to the first."""
        length = 0
        first = 0.0
        began = time.perf_counter()
        async for text in self._texts(path):
            if not first:
                first = time.perf_counter() - began
            length += len(text)
        assert length == count * WORD, f"{length} characters instead of {count * WORD}"
        return first

    async def paced(self, streams: int, chunks: int) -> dict[str, float]:
        """Streams with 20 ms between their chunks: CPU a chunk, and how late each was read."""
        late: list[float] = []

        async def one(after: float) -> None:
            await asyncio.sleep(after)
            async for text in self._texts(f"paced/{chunks}"):
                now = time.monotonic()
                late.extend(now - float(stamp) for stamp in text.split())

        gc.collect()
        async with Stall() as stall:
            began, clock = time.process_time(), time.perf_counter()
            await asyncio.gather(*(one(SPREAD * at / streams) for at in range(streams)))
            spent, wall = time.process_time() - began, time.perf_counter() - clock
        assert len(late) == streams * chunks, f"{len(late)} chunks"
        late.sort()
        return {
            "us": spent / len(late) * 1e6,
            "late_p50_ms": late[len(late) // 2] * 1e3,
            "late_p99_ms": late[int(len(late) * 0.99)] * 1e3,
            "stall_ms": stall.longest * 1e3,
            "wall_s": wall,
        }

    async def open(self, streams: int, within: float) -> dict[str, float]:
        """Open streams and hold them, then cancel all at once."""
        for _ in range(20):
            await self._whole(f"events/{SHORT}", SHORT)
        gc.collect()
        held: list[int] = []
        errors: list[str] = []

        async def one() -> None:
            try:
                async for _ in self._texts("hold/1"):
                    held.append(1)  # noqa: PERF401
            except Exception as error:
                errors.append(type(error).__name__)
                raise

        before, began, clock = rss(), time.process_time(), time.perf_counter()
        tasks = [asyncio.create_task(one()) for _ in range(streams)]
        # Looking now and then costs what is measured nothing.
        while len(held) + len(errors) < streams and time.perf_counter() - clock < within:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        spent, opened = time.process_time() - began, len(held)
        gc.collect()
        grown = rss() - before
        trim()
        in_use = rss() - before
        began, clock = time.process_time(), time.perf_counter()
        for task in tasks:
            task.cancel()
        _, left = await asyncio.wait(tasks, timeout=within)
        cancelling = time.perf_counter() - clock
        spent_cancelling = time.process_time() - began
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        return {
            "opened": opened,
            "errors": len(errors),
            "kib": grown / 1024 / max(opened, 1),
            "in_use_kib": in_use / 1024 / max(opened, 1),
            "open_ms": spent / max(opened, 1) * 1e3,
            "cancel_s": cancelling,
            "cancel_ms": spent_cancelling / streams * 1e3,
            "tasks_left": len(others) or len(left),
        }

    async def large(self, mib: int) -> dict[str, float]:
        """CPU of one event of so many MiB, which comes in HTTP chunks of 4 KiB."""
        size = mib * 2**20
        began = time.process_time()
        length = 0
        async for text in self._texts(f"large/{mib * 1024}"):
            length += len(text)
        assert length == size, f"{length} characters instead of {size}"
        return {"ms": (time.process_time() - began) * 1e3}

    async def body(self, mib: int) -> dict[str, float]:
        """CPU of a request whose prompt has so many MiB."""
        prompt = "x" * (mib * 2**20)
        began = time.process_time()
        async for _ in self._texts(f"events/{SHORT}", prompt):
            pass
        return {"ms": (time.process_time() - began) * 1e3}

    async def close(self) -> dict[str, float]:
        """Let go of everything."""
        if self._contender is not None:
            await self._contender.close()
        return {}


class Stall:
    """Looks at the loop every 10 ms and remembers how late it was at worst."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)
        self._note()
        self._task.cancel()

    async def _look(self) -> None:
        self._due = time.perf_counter()
        while True:
            self._due = time.perf_counter() + PROBE
            await asyncio.sleep(PROBE)
            self._note()

    def _note(self) -> None:
        self.longest = max(self.longest, time.perf_counter() - self._due)


def rss() -> int:
    """Return the bytes of memory that the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def trim() -> None:
    """Let the allocator give back what is free: a burst leaves it holding more than is in use."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


async def obey(figures: Figures) -> None:
    """Carry out one command a line, until there are no more."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        try:
            answer = await getattr(figures, order.pop("do"))(**order)
        except Exception as error:  # noqa: BLE001 - whatever a library raises is its figure
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), file=OUT, flush=True)


def main() -> None:
    """Make the contender and obey."""
    name, wire, model, root, loop = sys.argv[1:]

    def make() -> Any:
        return importlib.import_module(name).Contender(wire, root, model)

    if loop == "uvloop":
        import uvloop

        uvloop.run(obey(Figures(make)))
    else:
        asyncio.run(obey(Figures(make)))


if __name__ == "__main__":
    # Some libraries print; the answers have a channel of their own.
    OUT = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    main()
