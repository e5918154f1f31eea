"""A crowd in four processes on one shared budget: how much of it is used, and what that takes.

    python benchmarks/budget.py [calls of each process]

Needs `redis-server`. Each process asks so many times at once, a quarter, half, and one and a half
times what all calls together cost. A row: what was used of the sum, and messages to Redis a call.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from aiollm import Budget, Finish, Price, Registry, Request, Usage, user
from aiollm.testing import FakeProvider
from tests.fleet.conftest import Redis

PROCESSES = 4
PRICES = {"fake/*": Price(10, 100)}
QUESTION = Request((user("hi"),), max_output_tokens=100)
ANSWER = ["Hello", Finish("stop", "stop", Usage(10, 80, certainty="exact"))]
COST = (10 * 10 + 80 * 100) / 1e6


async def worker(url: str, usd: float, calls: int) -> None:
    async with Registry(env={}, prices=PRICES, fleet=url) as reg:
        reg.register("fake", FakeProvider(default=ANSWER).provider())
        await reg.preload()
        budget = Budget(usd, name="crowd")
        began, cpu = time.monotonic(), time.process_time()
        asked = (reg.generate("fake/m", QUESTION, budget=budget) for _ in range(calls))
        ended = await asyncio.gather(*asked, return_exceptions=True)
        kinds = [type(each).__name__ for each in ended]
        print(
            json.dumps(
                {
                    "answered": kinds.count("Response"),
                    "refused": kinds.count("BudgetError"),
                    "messages": budget._ledger.pool._sent,
                    "reserved": budget.reserved,
                    "seconds": time.monotonic() - began,
                    "cpu": time.process_time() - cpu,
                }
            )
        )


async def row(redis: Redis, calls: int, share: float) -> None:
    url, usd = redis.url, COST * calls * PROCESSES * share
    started = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "worker", url, str(usd), str(calls)),
            stdout=subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]
    found = [json.loads((await each.communicate())[0]) for each in started]
    total = {name: sum(each[name] for each in found) for name in found[0]}
    print(
        f"{PROCESSES} x {calls} calls, money for {share:.0%}: {total['answered']} answered, "
        f"{total['refused']} refused, used {total['answered'] * COST / usd:.1%}, reserved after "
        f"${total['reserved']:g}, {total['messages'] / PROCESSES / calls:.2f} messages a call, "
        f"at most {max(each['seconds'] for each in found):.1f} s",
        flush=True,
    )


async def main(calls: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        redis = Redis(Path(folder))
        try:
            for share in (0.25, 0.5, 1.5):
                await row(redis, calls, share)
        finally:
            redis.kill()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["worker", url, usd, calls]:
            asyncio.run(worker(url, float(usd), int(calls)))
        case [calls]:
            asyncio.run(main(int(calls)))
        case _:
            asyncio.run(main(50))
