"""What ends badly in a fleet, and what it leaves behind: cancelled calls, probes, dead processes.

`python benchmarks/fleet_ends.py [case ...]`, with a `redis-server` of its own. The cases:
`cancelled` (50,000 calls of 10 processes end at any moment: what is held and booked afterwards),
`probes` (10 processes want one target that came back, 100 times: how many probe it), `died` (a
process with the probe dies: how long until another probes). `FLEET_CALLS`, `FLEET_ROUNDS` and
`FLEET_PROCESSES` change the numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

from aiollm import FailoverError, Registry
from aiollm.testing import Answer, FaultServer, Gate, Pause, chat

spec = importlib.util.spec_from_file_location("fleet", Path(__file__).parent / "fleet.py")
fleet = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fleet)

CALLS = int(os.environ.get("FLEET_CALLS", "50000"))
ROUNDS = int(os.environ.get("FLEET_ROUNDS", "100"))
PROCESSES = int(os.environ.get("FLEET_PROCESSES", "10"))

AT_ONCE = 100
"""Calls of a process at a time."""

LONGEST = 1.0
"""Seconds after which a call is cancelled at the latest."""

RPM, SLOTS = 6000, 20


class Process:
    """One process of the fleet, which does what it reads a line of."""

    def __init__(self, *arguments: object) -> None:
        self._arguments = tuple(map(str, arguments))

    async def start(self) -> Process:
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, __file__, *self._arguments)
        self.running = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        await self.read()
        return self

    def go(self, word: str = "") -> None:
        self.running.stdin.write(f"{word}\n".encode())

    async def read(self) -> dict:
        return json.loads(await self.running.stdout.readline() or b"{}")

    async def end(self) -> None:
        self.running.stdin.close()
        await self.running.wait()


async def _lines():
    """Say that this process is ready, then yield each line that it is given."""
    print("{}", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line.strip()


async def canceller(dsn: str, url: str, calls: int) -> None:
    """Make calls that are cancelled at any moment, with two registries."""
    seen: Counter = Counter()
    async with contextlib.AsyncExitStack() as stack:
        regs = [
            await stack.enter_async_context(Registry(env={"LLM_A": dsn}, fleet=url))
            for _ in range(2)
        ]
        for reg in regs:
            await reg.preload("a/m")

        async def one() -> None:
            call = asyncio.ensure_future(random.choice(regs).generate("a/m", "hi", patience=60))
            after = random.choice((0.0, 0.001, 0.01, 0.1, LONGEST, LONGEST)) * random.random()
            if after < 0.0002:
                for _ in range(random.randrange(20)):
                    await asyncio.sleep(0)
            else:
                await asyncio.sleep(after)
            call.cancel()
            try:
                await call
                seen["answered"] += 1
            except asyncio.CancelledError:
                seen["cancelled"] += 1
            except FailoverError as error:
                seen[type(error.last).__name__] += 1

        async def caller() -> None:
            while sum(seen.values()) < calls - AT_ONCE:
                await one()

        async for _ in _lines():
            await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
            seen["held"] = sum(each.held for reg in regs for each in reg.limits())
            seen["waiting"] = sum(each.waiting for reg in regs for each in reg.limits())
            print(json.dumps(seen), flush=True)


async def cancelled(redis: object) -> None:
    gauge = fleet.Gauge(0.05)
    async with FaultServer(gauge) as server:
        dsn = server.dsn(rpm=RPM, max_concurrency=SLOTS)
        url = f"redis://127.0.0.1:{redis.port}/0?namespace=cancelled&timeout=1"
        calls = CALLS // PROCESSES
        every = [await Process("canceller", dsn, url, calls).start() for _ in range(PROCESSES)]
        began = time.monotonic()
        for each in every:
            each.go()
        seen: Counter = Counter()
        for each in every:
            seen.update(await each.read())
        took = time.monotonic() - began
        client = _client(redis)
        found = await asyncio.to_thread(_left, client)
        sent, limit = len(server.requests), RPM / 60 * (took + 1)
        print(
            f"cancelled: {dict(seen)} in {took:.0f} s; sent {sent}, {sent / limit:.1%} of the "
            f"limit, at most {gauge.most} of {SLOTS} at once; in Redis {found}",
            flush=True,
        )
        for each in every:
            await each.end()


def _client(redis):
    from redis import Redis as Client

    return Client(port=redis.port, decode_responses=True)


def _left(client) -> dict:
    """Return what Redis has for the scope at once, and what for slots a second later."""
    (quota,) = client.keys("{aiollm:1:cancelled:*q")
    seconds, micros = client.time()
    now = seconds + micros / 1e6
    ahead = float(client.hget(quota, "at|requests")) / 1e6 - now
    time.sleep(3)
    held = client.hgetall(quota[:-1] + "n")
    return {
        "booked ahead s": round(ahead, 3),
        "held": sum(int(value) for value in held.values()),
        "waiting": client.zcard(quota[:-1] + "w"),
    }


async def prober(dsn: str, url: str) -> None:
    """Fail once, or wait for what failed."""
    async with Registry(env={"LLM_A": dsn}, fleet=url, retries=0, cooldown=0.2) as reg:
        await reg.preload("a/m")
        async for word in _lines():
            waits = 0 if word == "fail" else 30
            try:
                await reg.generate("a/m", "hi", max_wait=waits, patience=60)
                outcome = "ok"
            except FailoverError as error:
                outcome = type(error.last).__name__
            print(json.dumps({outcome: 1}), flush=True)


class Probed:
    """A server that counts what arrives before its first answer of a round."""

    def __init__(self) -> None:
        self.fails = False
        self.arrived = 0
        self.probes: Counter = Counter()
        self.probed_at = 0.0

    def __call__(self, _):
        if self.fails:
            return Answer(503)
        self.arrived += 1
        if self.arrived == 1:
            self.probed_at = time.monotonic()
            return chat(Pause(0.2), "ok")
        if time.monotonic() - self.probed_at < 0.2:
            self.probes["early"] += 1
        return chat("ok")


async def probes(redis: object) -> None:
    probed = Probed()
    async with FaultServer(probed) as server:
        url = f"redis://127.0.0.1:{redis.port}/0?namespace=probes&timeout=1"
        every = [await Process("prober", server.dsn(), url).start() for _ in range(PROCESSES)]
        seen: Counter = Counter()
        for number in range(ROUNDS):
            probed.fails, probed.arrived = True, 0
            first = every[number % PROCESSES]
            first.go("fail")
            seen.update({f"first {key}": n for key, n in (await first.read()).items()})
            probed.fails = False
            await asyncio.sleep(random.uniform(0.15, 0.5))  # all know; some come when it is over
            for each in every:
                each.go()
            for each in every:
                seen.update(await each.read())
        print(
            f"probes: {ROUNDS} rounds of {PROCESSES} processes: {probed.probes['early']} requests "
            f"beside the {ROUNDS} probes; {dict(seen)}",
            flush=True,
        )
        for each in every:
            await each.end()


async def died(redis: object) -> None:
    gate = Gate()
    async with FaultServer(Answer(503)) as server:
        url = f"redis://127.0.0.1:{redis.port}/0?namespace=died&timeout=1"
        first = await Process("prober", server.dsn(), url).start()
        second = await Process("prober", server.dsn(), url).start()
        first.go("fail")
        await first.read()
        server.behave(chat(gate, "ok"))
        first.go()
        await gate.reached()
        began = time.monotonic()
        first.running.kill()
        second.go()
        await gate.reached(2, within=40)
        took = time.monotonic() - began
        gate.open()
        print(f"died: another process probed {took:.1f} s later; {await second.read()}", flush=True)
        await second.end()
        await first.running.wait()


async def main(names: list[str]) -> None:
    redis = fleet.Redis()
    cases = {"cancelled": cancelled, "probes": probes, "died": died}
    try:
        for name, case in cases.items():
            if not names or name in names:
                await case(redis)
    finally:
        redis.kill()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["canceller", dsn, url, calls]:
            asyncio.run(canceller(dsn, url, int(calls)))
        case ["prober", dsn, url]:
            asyncio.run(prober(dsn, url))
        case names:
            asyncio.run(main(names))
