"""What a fleet keeps: limits, slots and cooldowns of real processes that share a Redis server.

`python benchmarks/fleet.py [case ...]` prints counts and ratios; it starts a `redis-server` of its
own. The provider counts as that of `crowd.py`: a token bucket of one second's worth. The cases:
`rate` (declared, in a fleet and without one), `slots`, `opening` (how long until the others know),
`killed` (a process with all slots dies), `away` (Redis dies and comes back in mid-run).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from aiollm import FailoverError, Registry
from aiollm.testing import Answer, FaultServer, Gate, Pause, chat

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("crowd", HERE / "crowd.py")
crowd = importlib.util.module_from_spec(spec)
spec.loader.exec_module(crowd)

PROCESSES = 8
RATE = 40.0


async def worker(dsn: str, fleet: str, calls: int, patience: float) -> None:
    """Make all calls at once, as one process of the fleet; print what became of them."""
    seen: Counter = Counter()
    env = {"LLM_A": dsn} | ({"AIOLLM_FLEET": fleet} if fleet else {})
    async with Registry(env=env, patience=patience) as reg:
        await reg.preload("a/m")
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await asyncio.gather(*(crowd.outcome(reg, "a/m", seen) for _ in range(calls)))
        if reg.fleet is not None:
            seen[reg.fleet.state] += 1
        seen["held"] += sum(each.held for each in reg.limits())
    print(json.dumps(seen), flush=True)


class Workers:
    """Processes that begin together."""

    def __init__(self, dsn: str, fleet: str, calls: int, patience: float, count: int) -> None:
        self.arguments = ("worker", dsn, fleet, str(calls), str(patience))
        self.count = count
        self.running: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        """Start them and wait until each is ready."""
        pipe = asyncio.subprocess.PIPE
        for _ in range(self.count):
            command = (sys.executable, __file__, *self.arguments)
            self.running.append(
                await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
            )
        for each in self.running:
            await each.stdout.readline()

    def go(self) -> None:
        for each in self.running:
            each.stdin.write(b"\n")

    async def results(self) -> list[dict]:
        """Return what each counted; a killed one counted nothing."""
        outputs = [await each.communicate() for each in self.running]
        return [json.loads(out or b"{}") for out, _ in outputs]


async def rate(url: str) -> None:
    for name, fleet in (("fleet", url), ("each alone", "")):
        limiter = crowd.Limiter(RATE)
        calls = 60
        async with FaultServer(limiter) as server:
            dsn = server.dsn(rpm=RATE * 60)
            workers = Workers(dsn, fleet and f"{fleet}?namespace=rate", calls, 120, PROCESSES)
            await workers.start()
            began = time.monotonic()
            workers.go()
            found = await workers.results()
            took = time.monotonic() - began
        total = calls * PROCESSES
        ideal = (total - RATE) / RATE + crowd.ANSWER
        refused = limiter.refused / (limiter.refused + limiter.accepted)
        answered = [each.get("ok", 0) for each in found]
        print(
            f"rate, {name}: {sum(answered)}/{total} answered, {took / ideal:.2f} x ideal, "
            f"429s {limiter.refused} ({refused:.1%})",
            flush=True,
        )


async def slots(url: str) -> None:
    gauge = Gauge(0.1)
    async with FaultServer(gauge) as server:
        dsn = server.dsn(max_concurrency=10)
        workers = Workers(dsn, f"{url}?namespace=slots", 40, 120, PROCESSES)
        await workers.start()
        began = time.monotonic()
        workers.go()
        found = await workers.results()
        took = time.monotonic() - began
    total = 40 * PROCESSES
    ideal = total * gauge.seconds / 10
    print(
        f"slots: {sum(each.get('ok', 0) for each in found)}/{total} answered, at most {gauge.most} "
        f"of 10 at once, {took / ideal:.2f} x ideal, left held {sum(e['held'] for e in found)}",
        flush=True,
    )


class Gauge:
    """Answers after some seconds, and notes how many requests it had at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.most = 0
        self._ends: list[float] = []

    def __call__(self, _):
        now = time.monotonic()
        self._ends = [end for end in self._ends if end > now] + [now + self.seconds]
        self.most = max(self.most, len(self._ends))
        return chat(Pause(self.seconds), "ok")


async def opening(url: str) -> None:
    fleet = f"{url}?namespace=opening"
    async with FaultServer(Answer(503)) as server:
        regs = [Registry(env={"LLM_A": server.dsn()}, fleet=fleet, retries=0) for _ in range(200)]
        for reg in regs:
            await reg._resources._member.open()
        waits = []
        heard = [asyncio.Event() for _ in regs]
        for reg, event in zip(regs, heard, strict=True):
            health = reg._resources._member.health
            take = health.hear
            health.hear = lambda data, take=take, event=event: (take(data), event.set())
        began = time.monotonic()
        try:
            await regs[0].generate("a/m", "hi", max_wait=0)
        except FailoverError:
            began = time.monotonic()
        for event in heard:
            await event.wait()
            waits.append(time.monotonic() - began)
        print(f"opening: all of {len(regs)} registries know within {max(waits) * 1e3:.0f} ms")
        for reg in regs:
            await reg.aclose()


async def killed(url: str) -> None:
    gate = Gate()
    async with FaultServer(chat(gate, "ok")) as server:
        dsn = server.dsn(max_concurrency=4)
        first = Workers(dsn, f"{url}?namespace=killed", 4, 60, 1)
        await first.start()
        first.go()
        await gate.reached(4)
        second = Workers(dsn, f"{url}?namespace=killed", 4, 60, 1)
        await second.start()
        second.go()
        first.running[0].send_signal(signal.SIGKILL)
        began = time.monotonic()
        await gate.reached(8)
        free = time.monotonic() - began
        gate.open()
        found = (await second.results())[0]
        await first.running[0].wait()
    print(f"killed: the slots of a dead process were used again after {free:.1f} s; {found}")


async def away(url: str, server_of_redis: Redis) -> None:
    limiter = crowd.Limiter(RATE)
    async with FaultServer(limiter) as server:
        dsn = server.dsn(rpm=RATE * 60)
        workers = Workers(dsn, f"{url}?namespace=away", 60, 120, PROCESSES)
        await workers.start()
        began = time.monotonic()
        workers.go()
        await asyncio.sleep(2)
        server_of_redis.kill()
        await asyncio.sleep(4)
        server_of_redis.start()
        found = await workers.results()
        took = time.monotonic() - began
    total = 60 * PROCESSES
    ideal = (total - RATE) / RATE + crowd.ANSWER
    share = limiter.refused / (limiter.refused + limiter.accepted)
    print(
        f"away: {sum(each.get('ok', 0) for each in found)}/{total} answered, "
        f"{took / ideal:.2f} x ideal, 429s {limiter.refused} ({share:.1%}), "
        f"linked again {sum(each.get('linked', 0) for each in found)} of {PROCESSES}",
        flush=True,
    )


class Redis:
    """A server of our own on a free port."""

    def __init__(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        program = shutil.which("valkey-server") or shutil.which("redis-server")
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "")
        self.process = subprocess.Popen([program, *options], stdout=subprocess.PIPE)
        while b"eady to accept" not in self.process.stdout.readline():
            pass

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


async def main(names: list[str]) -> None:
    redis = Redis()
    url = f"redis://127.0.0.1:{redis.port}/0"
    cases = {"rate": rate, "slots": slots, "opening": opening, "killed": killed}
    try:
        for name, case in cases.items():
            if not names or name in names:
                await case(url)
        if not names or "away" in names:
            await away(url, redis)
    finally:
        redis.kill()


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        _, _, dsn, fleet, calls, patience = sys.argv
        asyncio.run(worker(dsn, fleet, int(calls), float(patience)))
    else:
        asyncio.run(main(sys.argv[1:]))
