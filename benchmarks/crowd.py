"""Many calls at once against servers that limit, fail, come back, or stay dead: what is lost.

`python benchmarks/crowd.py [case ...]` prints a table of counts and ratios. The server counts by a
token bucket whose burst is one second's worth and answers in 0.2 s; the ideal time of `calls` is
(calls - burst) / rate + 0.2 s.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from aiollm import FailoverError, Limits, Registry, Request, Target, Usage
from aiollm._failover.tickets import Demand
from aiollm.testing import Answer, FaultServer, Gate, Pause, chat

RATE = 20.0
ANSWER = 0.2
BUSY = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}


class Limiter:
    """A token bucket of one second's worth that says 429 with Retry-After when it is empty."""

    def __init__(self, rate: float = RATE, *, announces: bool = False) -> None:
        self.rate = rate
        self.tokens = rate
        self.at = time.monotonic()
        self.announces = announces
        self.accepted = self.refused = 0

    def __call__(self, _):
        now = time.monotonic()
        self.tokens = min(self.rate, self.tokens + (now - self.at) * self.rate)
        self.at = now
        headers = {}
        if self.announces:
            headers = {
                "x-ratelimit-limit-requests": f"{self.rate * 60:.0f}",
                "x-ratelimit-remaining-requests": f"{max(0, int(self.tokens) - 1)}",
                "x-ratelimit-reset-requests": f"{(self.rate - self.tokens) / self.rate:.3f}s",
            }
        if self.tokens < 1:
            self.refused += 1
            return Answer(429, headers | {"retry-after": "1"}, BUSY)
        self.tokens -= 1
        self.accepted += 1
        answer = chat(Pause(ANSWER), "ok")
        return replace(answer, headers={**answer.headers, **headers})


async def outcome(reg: Registry, spec: str, seen: Counter, **options) -> None:
    """Make a call and count what became of it."""
    try:
        response = await reg.generate(spec, "hi", **options)
        seen["ok"] += 1
        seen[str(response.target)] += 1
    except FailoverError as error:
        seen["lost"] += 1
        seen[type(error.last).__name__] += 1


async def burst(kind: str, calls: int = 300):
    limiter = Limiter(announces=kind == "headers")
    options = {"rpm": RATE * 60} if kind == "declared" else {}
    seen: Counter = Counter()
    async with (
        FaultServer(limiter) as server,
        Registry(env={"LLM_A": server.dsn(**options)}) as reg,
    ):
        await reg.preload()
        began = time.monotonic()
        await asyncio.gather(*(outcome(reg, "a/m", seen) for _ in range(calls)))
        took = time.monotonic() - began
    ideal = (calls - RATE) / RATE + ANSWER
    refused = limiter.refused / (limiter.refused + limiter.accepted)
    print(
        f"burst {kind}: {seen['ok']}/{calls}, {took / ideal:.2f} x ideal, 429s {refused:.1%}",
        dict(seen),
    )


async def loop(kind: str, callers: int = 100, seconds: float = 20.0):
    limiter = Limiter(announces=kind == "headers")
    options = {"rpm": RATE * 60} if kind == "declared" else {}
    seen: Counter = Counter()
    async with (
        FaultServer(limiter) as server,
        Registry(env={"LLM_A": server.dsn(**options)}) as reg,
    ):
        await reg.preload()
        end = time.monotonic() + seconds

        async def caller():
            while time.monotonic() < end:
                await outcome(reg, "a/m", seen)

        tasks = [asyncio.create_task(caller()) for _ in range(callers)]
        await asyncio.sleep(seconds)
        accepted, refused = limiter.accepted, limiter.refused
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    allowed = RATE * seconds + RATE
    print(
        f"loop {kind}: {accepted / allowed:.1%} of what is allowed, "
        f"429s {refused / (refused + accepted):.1%}, lost {seen['lost']}"
    )


async def blip(seconds: float, rate: float, targets: int = 1):
    start = float("inf")
    requests: list[float] = []

    def script(_):
        now = time.monotonic()
        if start < now < start + seconds:
            requests.append(now - start)
            return Answer(503, {}, {"error": {"message": "loading"}})
        late.append(now - start)
        return chat("well")

    late: list[float] = []
    seen: Counter = Counter()
    async with FaultServer(script) as a, FaultServer(script) as b:
        env = {"LLM_A": a.dsn(), "LLM_B": b.dsn()}
        async with Registry(env=env) as reg:
            spec = "a/m" if targets == 1 else "a/m,b/m"
            await outcome(reg, spec, Counter())
            start = time.monotonic() + 0.3
            count = int((seconds + 3) * rate) + 1
            done: list[float] = []

            async def one(number):
                await asyncio.sleep(number / rate)
                await outcome(reg, spec, seen)
                done.append(time.monotonic() - start)

            await asyncio.gather(*(one(number) for number in range(count)))
    first = min((each for each in late if each > seconds), default=0) - seconds
    print(
        f"503 for {seconds} s at {rate}/s, {targets} target(s): lost {seen['lost']} of {count}, "
        f"{len(requests)} requests during it, first after {first:.2f} s, "
        f"last done {max(done) - seconds:.1f} s after, {dict(seen)}",
    )


async def dead(status: int, callers: int = 200):
    requests: list[float] = []
    began = time.monotonic()

    def script(_):
        requests.append(time.monotonic() - began)
        return Answer(status, {}, {"error": {"message": "no"}})

    seen: Counter = Counter()
    times: list[float] = []
    async with FaultServer(script) as a, Registry(env={"LLM_A": a.dsn()}) as reg:
        await outcome(reg, "a/m", Counter(), retries=0)
        before = len(requests)

        async def one():
            start = time.monotonic()
            await outcome(reg, "a/m", seen)
            times.append(time.monotonic() - start)

        began = time.monotonic()
        await asyncio.gather(*(one() for _ in range(callers)))
    print(
        f"{status} for ever, {callers} callers: {dict(seen)}, each within {max(times):.1f} s, "
        f"{len(requests) - before} requests at",
        [round(x, 1) for x in requests[before:]],
    )


async def spread(spec: str, calls: int = 16, dies: bool = False, slots: int | None = 2):
    count = Counter()

    def box(name: str) -> Callable:
        def script(_):
            count[name] += 1
            if dies and name == "b" and count[name] > 3:
                return Answer(503, {}, {"error": {"message": "gone"}})
            return chat(Pause(0.5), "x")

        return script

    seen: Counter = Counter()
    async with FaultServer(box("a")) as a, FaultServer(box("b")) as b:
        options = {} if slots is None else {"max_concurrency": slots}
        env = {"LLM_A": a.dsn(**options), "LLM_B": b.dsn(**options)}
        async with Registry(env=env) as reg:
            await reg.preload()
            began = time.monotonic()
            await asyncio.gather(*(outcome(reg, spec, seen) for _ in range(calls)))
            took = time.monotonic() - began
    ideal = "ideal 2.0 with both, 4.0 with one" if slots else "without slots"
    print(f"{spec}: {took:.2f} s ({ideal})", dict(seen), dict(count))


async def fair(waiters: int = 50, leavers: int = 10):
    """Let calls wait for one slot, of which some leave."""
    order: list[int] = []
    held = Gate()
    first = True

    def script(_):
        nonlocal first
        first, was_first = False, first
        return chat("x", held) if was_first else chat("x")

    async with FaultServer(script) as a, Registry(env={"LLM_A": a.dsn(max_concurrency=1)}) as reg:
        holder = asyncio.create_task(reg.generate("a/m", "hi"))
        await held.reached()

        async def one(number: int):
            await reg.generate("a/m", "hi")
            order.append(number)

        tasks = []
        for number in range(waiters):
            tasks.append(asyncio.create_task(one(number)))
            while reg.limits()[0].waiting <= number:  # noqa: ASYNC110 - nothing says so
                await asyncio.sleep(0)
        for task in random.sample(tasks, leavers):
            task.cancel()
        held.open()
        await holder
        await asyncio.gather(*tasks, return_exceptions=True)
        (limits,) = reg.limits()
    print(
        f"{waiters} waiters, {leavers} cancelled: {len(order)} served, "
        f"{'in order' if order == sorted(order) else 'OUT OF ORDER'}, held {limits.held}, "
        f"waiting {limits.waiting}"
    )


async def cost(attempts: int = 20_000, rounds: int = 15):
    """Enter and leave the gate at a healthy target, without and with limits."""
    limited = Limits(rpm=1e9, tpm=1e9, max_concurrency=50)
    demand, usage = Demand(Request("hi")), Usage(5, 5, certainty="exact")
    best = {}
    for name, limits in (("without limits", None), ("with limits", limited)):
        async with Registry(env={}) as reg:
            reg.register("a", "openai+http://127.0.0.1:9", limits=limits)
            target, provider = Target("a", "m"), reg.provider("a")
            gate = reg._gate
            for _ in range(rounds):
                began = time.process_time()
                for number in range(attempts):
                    admission = gate.try_enter(gate.line(target, provider), number, demand)
                    admission.first_output(0.1)
                    admission.success(usage)
                took = (time.process_time() - began) / attempts
                best[name] = min(took, best.get(name, took))
    print("an attempt's CPU:", ", ".join(f"{name} {x * 1e6:.1f} us" for name, x in best.items()))


CASES: dict[str, list[Callable]] = {
    "burst": [partial(burst, kind) for kind in ("declared", "headers", "unknown")],
    "loop": [partial(loop, kind) for kind in ("declared", "headers", "unknown")],
    "blip": [partial(blip, s, r, t) for t in (1, 2) for s in (1, 3, 8) for r in (0.5, 10, 100)],
    "dead": [partial(dead, 503), partial(dead, 401)],
    "spread": [
        partial(spread, "a/m&b/m"),
        partial(spread, "a/m,b/m"),
        partial(spread, "3*a/m&b/m"),
        partial(spread, "a/m&b/m", dies=True),
        partial(spread, "3*a/m&b/m", calls=8, slots=None),
    ],
    "fair": [fair],
    "cost": [cost],
}


async def main() -> None:
    for name in sys.argv[1:] or CASES:
        for case in CASES[name]:
            await case()


if __name__ == "__main__":
    asyncio.run(main())
