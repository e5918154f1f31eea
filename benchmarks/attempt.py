"""What an attempt costs with limits, prices, a cache or a fleet, unused and used.

    python benchmarks/attempt.py [rounds]

Calls of a provider in memory, in interleaved rounds: CPU us a call, the minimum over the rounds,
and how much more that is than without anything. The fleet needs `redis-server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from msgspec.structs import replace

from aiollm import Budget, Finish, Price, Registry, Usage
from aiollm.dsn import Limits
from aiollm.provider import Provider
from aiollm.testing import FakeProvider
from tests.fleet.conftest import Redis

ANSWER = ["Hello", Finish("stop", "stop", Usage(10, 80, certainty="exact"))]
ROOM = 10**9
CALLS = 200


class Case:
    """One way to call: a registry, and the options of its calls."""

    def __init__(self, limits: Limits = Limits(), **settings: Any) -> None:  # noqa: B008 - frozen
        self.options: dict[str, Any] = settings.pop("options", {})
        self.reg = Registry(env={}, **settings)
        provider = FakeProvider(default=ANSWER).provider()
        self.reg.register("fake", _limited(provider, limits))
        self.best = float("inf")

    async def measure(self) -> None:
        began = time.process_time()
        for _ in range(CALLS):
            await self.reg.generate("fake/m", "hi", **self.options)
        self.best = min(self.best, (time.process_time() - began) / CALLS * 1e6)


def _limited(provider: Provider, limits: Limits) -> Provider:
    return replace(provider, limits={"*": limits}) if limits != Limits() else provider


@contextlib.asynccontextmanager
async def cases() -> AsyncIterator[dict[str, Case]]:
    prices = {"fake/*": Price(10, 100)}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = {
            "nothing": Case(),
            "max_concurrency": Case(Limits(max_concurrency=ROOM)),
            "max_concurrency, rpm, tpm": Case(Limits(max_concurrency=ROOM, rpm=ROOM, tpm=ROOM)),
            "prices": Case(prices=prices),
            "prices, a budget": Case(prices=prices, options={"budget": Budget(ROOM)}),
            "a cache, answers kept": Case(
                response_cache=f"sqlite:{folder / 'kept.db'}", options={"response_cache": "use"}
            ),
        }
        if shutil.which("redis-server"):
            redis = Redis(folder)
            stack.callback(redis.kill)
            found["a fleet, no limits"] = Case(fleet=redis.url)
        yield found
        for case in found.values():
            await case.reg.aclose()


async def main(rounds: int) -> None:
    async with cases() as found:
        for _ in range(rounds):
            for case in found.values():
                await case.measure()
        plain = found["nothing"].best
        print("| with | CPU us a call | more |\n| --- | ---: | ---: |")
        for name, case in found.items():
            print(f"| {name} | {case.best:.1f} | {case.best - plain:.1f} |")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
