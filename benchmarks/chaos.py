"""Chaos: streams over three flaky targets, cut, hung, refused and cancelled at random moments.

Sequence and race mixed; a fifth of the answers has a fault at a random phase, a fifth of the
callers leaves at a random moment. Afterwards nothing may be left: no task, no connection on
either side, no held slot or probe, and health must equal the genuine outcomes.
Usage: python benchmarks/chaos.py [--streams 50000] [--at-once 100] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter

import msgspec

from aiollm import DeadlineError, FailoverError, LLMError, Registry, Timeouts, classify
from aiollm.testing import Answer, Cut, FaultServer, Hang, Pause, Reset, Truncate, chat

SPECS = (
    "a/{0},b/{0},c/{0}",
    "b/{0}|c/{0},a/{0}",
    "c/{0},a/{0}|b/{0}",
    "a/{0}|b/{0}|c/{0}",
    "b/{0}",
)
MODELS = 200
"""Half of the streams share a model, which is often set aside; each other asks one of these."""

OK = chat("one ", Pause(0.002), "two ", Pause(0.002), "three")
BODY = 600
"""Bytes within which the faults cut an answer of some 800."""


class Figures(msgspec.Struct):
    """What became of a run; the last group must be zero."""

    streams: int = 0
    ends: Counter[str] = msgspec.field(default_factory=Counter)
    requests: int = 0
    opened: int = 0
    seconds: float = 0.0
    tasks_left: int = 0
    connections_left: int = 0
    slots_held: int = 0
    probes_held: int = 0
    watches_left: int = 0
    outcomes_wrong: int = 0
    """Targets whose counters differ from the outcomes that the streams' attempts had."""
    more_than_served: int = 0
    """Servers with more successes than they had answered in full, or failures than they caused."""


class Target:
    """A server that fails at random, and counts what it meant to do."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.meant: Counter[str] = Counter()

    def __call__(self, _: object) -> object:
        if self._dice.random() >= 0.2:
            self.meant["whole"] += 1
            return OK
        self.meant["fault"] += 1
        after = self._dice.randrange(BODY)
        return self._dice.choice(
            (
                Cut(),
                Cut(after),
                Reset(),
                Reset(after),
                Truncate(after),
                Hang(after=after),
                Hang(),
                Answer(500, {}, {"error": {"message": "no"}}),
                Answer(429, {"retry-after-ms": "5"}, {"error": {"message": "no"}}),
                Answer(200, {"content-type": "text/html"}, "<html>"),
            )
        )


async def _one(reg: Registry, spec: str, dice: random.Random, seen: Counter[str]) -> str:
    """Read one stream to its end, or leave it; return how it ended."""
    interrupt = dice.choice(("raise", "restart"))
    stream = reg.stream(spec, "hi", on_interrupt=interrupt)
    leave_after = dice.randrange(4) if dice.random() < 0.1 else None
    try:
        if leave_after is None:
            await stream.collect()
            return "complete"
        async with stream:
            for _ in range(leave_after):
                await anext(stream)
            return "left"
    except StopAsyncIteration:
        return "complete"
    except FailoverError:
        return "all failed"
    except LLMError as error:
        return type(error).__name__
    finally:
        for attempt in stream.attempts:
            # A refusal fails without any harm.
            harmless = attempt.error is not None and classify(attempt.error).harms == "no"
            seen[f"{attempt.target} {'harmless' if harmless else attempt.outcome}"] += 1
            # On a busy machine a sound answer may be late: a deadline is an outcome of its own.
            seen[f"{attempt.target} late"] += isinstance(attempt.error, DeadlineError)


async def _caller(reg: Registry, dice: random.Random, figures: Figures, seen: Counter[str]) -> None:
    model = "m" if dice.random() < 0.5 else f"m{dice.randrange(MODELS)}"
    task = asyncio.create_task(_one(reg, dice.choice(SPECS).format(model), dice, seen))
    if dice.random() < 0.2:
        await asyncio.sleep(dice.uniform(0, 0.02))
        task.cancel()
        if dice.random() < 0.5:
            await asyncio.sleep(0)
            task.cancel()
    try:
        end = await task
    except asyncio.CancelledError:
        end = "cancelled"
    figures.streams += 1
    figures.ends[end] += 1


async def run(streams: int, at_once: int = 50, seed: int = 1) -> Figures:
    """Run that many streams, so many at once, and count what is left."""
    dice = random.Random(seed)
    figures, seen = Figures(), Counter[str]()
    before = asyncio.all_tasks()
    began = time.perf_counter()
    targets = [Target(random.Random(seed + number)) for number in range(3)]
    async with (
        FaultServer(default=targets[0]) as a,
        FaultServer(default=targets[1]) as b,
        FaultServer(default=targets[2]) as c,
    ):
        servers = (a, b, c)
        env = {
            f"LLM_{name}": f"openai+{server.url}/v1?max_concurrency=40"
            for name, server in zip("ABC", servers, strict=True)
        }
        limits = Timeouts(first_output=0.5, idle=0.3, connect=2)
        async with Registry(
            env=env, retries=1, max_wait=0.02, cooldown=0.01, stagger=0.002, timeouts=limits
        ) as reg:
            left = iter(range(streams))

            async def worker() -> None:
                for _ in left:
                    await _caller(reg, dice, figures, seen)

            await asyncio.gather(*(worker() for _ in range(at_once)))
            figures.slots_held = sum(each.held + each.waiting for each in reg.limits())
            figures.probes_held = sum(
                each.probe is not None
                for breakers in (reg._health._targets, reg._health._hosts)
                for each in breakers.values()
            )
            figures.watches_left = len(reg._resources._watchdog._attempts)
            _compare(reg, dict(zip("abc", targets, strict=True)), seen, figures)
        for server in servers:
            await server.wait_idle()
            figures.connections_left += server.counts.open
            figures.requests += server.counts.requests
            figures.opened += server.counts.opened
    figures.seconds = time.perf_counter() - began
    figures.tasks_left = len(asyncio.all_tasks() - before)
    return figures


def _compare(
    reg: Registry, targets: dict[str, Target], seen: Counter[str], figures: Figures
) -> None:
    succeeded, failed = Counter[str](), Counter[str]()
    for health in reg.health():
        name, provider = str(health.target), health.target.provider
        wrong = (health.succeeded, health.failed) != (
            seen[f"{name} success"],
            seen[f"{name} failed"],
        )
        figures.outcomes_wrong += wrong
        succeeded[provider] += health.succeeded
        failed[provider] += health.failed - seen[f"{name} late"]
    for provider, target in targets.items():
        meant = target.meant
        figures.more_than_served += succeeded[provider] > meant["whole"] + meant["fault"]
        figures.more_than_served += failed[provider] > meant["fault"]


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=50_000)
    parser.add_argument("--at-once", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    figures = asyncio.run(run(given.streams, given.at_once, given.seed))
    for name, value in msgspec.to_builtins(figures).items():
        print(f"{name:17} {value}")


if __name__ == "__main__":
    _main()
