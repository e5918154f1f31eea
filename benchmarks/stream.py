"""CPU of `reg.stream` beside the limit: aiohttp, split, typed msgspec and one generator.

Both read the same bytes from one server, in interleaved rounds of one run; what counts is the
ratio of the minima. The short form of `make bench`, without peers.
Usage: python benchmarks/stream.py [--rounds 15] [--wire openai ...]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from contenders import aiollm_, limit
from field import MODELS

BLAST = 2000
SHORT = 8
BARS = {"blast": 1.4, "short": 1.2}


class Server:
    """The replay server in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("replay.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.port = json.loads(self._process.stdout.readline())["plain"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


async def _cpu(contender: Any, path: str, times: int, expected: int) -> float:
    """Return CPU seconds of `times` streams, each checked for its count of texts."""
    began = time.process_time()
    for _ in range(times):
        got = 0
        async for _text in contender.texts(path):
            got += 1
        assert got == expected, f"{got} texts instead of {expected}"
    return time.process_time() - began


async def measure(wire: str, count: int, port: int, rounds: int) -> dict[str, float]:
    """Return minima and medians in microseconds a unit: a chunk, or a request if short."""
    root, path = f"http://127.0.0.1:{port}", f"{wire}/events/{count}"
    times = 4 if count == BLAST else 200
    unit = times * (count if count == BLAST else 1)
    found: dict[str, list[float]] = {"limit": [], "aiollm": []}
    work = {
        "limit": limit.Contender(wire, root, MODELS[wire]),
        "aiollm": aiollm_.Contender(wire, root, MODELS[wire]),
    }
    try:
        for contender in work.values():
            await _cpu(contender, path, 2, count)
        for turn in range(rounds):
            for name in sorted(work, reverse=bool(turn % 2)):
                found[name].append(await _cpu(work[name], path, times, count) / unit * 1e6)
    finally:
        for contender in work.values():
            await contender.close()
    ratios = [ours / least for ours, least in zip(found["aiollm"], found["limit"], strict=True)]
    return {
        "limit_us": min(found["limit"]),
        "aiollm_us": min(found["aiollm"]),
        "ratio": min(found["aiollm"]) / min(found["limit"]),
        "paired_median": statistics.median(ratios),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--wire", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    server = Server()
    rows = []
    try:
        for wire in given.wire:
            for kind, count in (("blast", BLAST), ("short", SHORT)):
                figures = await measure(wire, count, server.port, given.rounds)
                rows.append({"wire": wire, "kind": kind, **figures})
    finally:
        server.close()
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'wire':10} {'kind':6} {'limit':>9} {'aiollm':>9}  x limit  paired  bar")
    for row in rows:
        print(
            f"{row['wire']:10} {row['kind']:6} {row['limit_us']:7.2f}us {row['aiollm_us']:7.2f}us"
            f"  {row['ratio']:7.2f}  {row['paired_median']:6.2f}  {BARS[row['kind']]}"
        )
    print("blast: CPU a chunk of 2,000; short: CPU a request of 8 chunks; minima, interleaved")


if __name__ == "__main__":
    asyncio.run(main())
