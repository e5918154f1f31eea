"""What a fleet keeps: limits, slots and cooldowns of real processes that share a Redis server.

`python benchmarks/fleet.py [case ...]` prints counts and ratios; it starts a `redis-server` of its
own. The provider counts as that of `crowd.py`: a token bucket of one second's worth. The cases:
`load` (what 100 members take of the server, idle and for each call under three limits), `rate`
(declared, in a fleet and without one), `slots`, `opening` (how long until the others know),
`killed` (a process with all slots dies), `away` (Redis dies and comes back in mid-run), `counting`
(200 members ask for three times a token limit, of providers that count in three ways), `faults`
(what goes wrong with Redis in mid-run, and what callers see of it).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from aiollm import BusyError, FailoverError, Limits, Registry
from aiollm.testing import Answer, FakeProvider, FaultServer, Gate, Pause, chat

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("crowd", HERE / "crowd.py")
crowd = importlib.util.module_from_spec(spec)
spec.loader.exec_module(crowd)

PROCESSES = 8
RATE = 40.0

TOKENS = 20_000.0
"""Tokens a second of the provider that counts them: some 30 requests."""

ANSWER_TOKENS = 100

SECONDS = 60.0

MEMBERS, CALLS_EACH, IDLE = 100, 100, 20.0
"""Of `load`; `IDLE` in seconds."""

WELL = {"choices": [{"index": 0, "message": {"content": "ok"}, "finish_reason": "stop"}]}


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

    def __init__(
        self,
        dsn: str,
        fleet: str,
        calls: int,
        patience: float,
        count: int,
        seconds: float | None = None,
    ) -> None:
        """Take calls and patience of `worker`, or with `seconds` members and callers of `asker`."""
        kind = "worker" if seconds is None else "asker"
        self.arguments = (kind, dsn, fleet, *map(str, (calls, patience, seconds)))
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


async def asker(dsn: str, fleet: str, members: int, callers: int, seconds: float) -> None:
    """Ask without a pause for some seconds with several members; print what became of it."""
    seen: Counter = Counter()
    served = [0] * members
    async with AsyncExitStack() as stack:
        env = {"LLM_A": dsn} | ({"AIOLLM_FLEET": fleet} if fleet else {})
        regs = [await stack.enter_async_context(Registry(env=env)) for _ in range(members)]
        for reg in regs:
            await reg.preload("a/m")
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        end = time.monotonic() + seconds

        async def ask(number: int) -> None:
            picks = random.Random()
            while (left := end - time.monotonic()) > 0:
                prompt = "x" * picks.randrange(400, 4000)
                try:
                    await regs[number].generate("a/m", prompt, patience=left)
                except FailoverError as error:
                    if isinstance(error.last, BusyError):
                        return  # its time is over
                    seen["lost"] += 1
                    seen[type(error.last).__name__] += 1
                    await asyncio.sleep(0.05)
                else:
                    served[number] += 1

        await asyncio.gather(*(ask(number) for number in range(members) for _ in range(callers)))
        seen["linked"] = sum(reg.fleet is not None and reg.fleet.state == "linked" for reg in regs)
        seen["held"] = sum(each.held for reg in regs for each in reg.limits())
    print(json.dumps(seen | {"served": served}), flush=True)


class Counting:
    """A provider that counts tokens: `room` says how many may go now."""

    def __init__(self, per_second: float, way: str) -> None:
        self.per_second = per_second
        self.way = way
        self.began = self.at = time.monotonic()
        self.left = per_second
        self.window = -1
        self.used = self.accepted = self.refused = 0

    def _room(self, now: float) -> float:
        if self.way == "bucket":
            self.left = min(self.per_second, self.left + (now - self.at) * self.per_second)
            self.at = now
            return self.left
        seconds = {"window": 60, "quantum": 3}[self.way]
        if (window := int((now - self.began) / seconds)) != self.window:
            self.window, self.left = window, self.per_second * seconds
        return self.left

    def __call__(self, request):
        prompt = len(request.body) // 4
        tokens = prompt + ANSWER_TOKENS
        room = self._room(time.monotonic())
        if room < min(tokens, self.per_second / 2):
            self.refused += 1
            return Answer(429, {"retry-after": "1"}, crowd.BUSY)
        self.left -= tokens
        self.used += tokens
        self.accepted += 1
        counts = {"prompt_tokens": prompt, "completion_tokens": ANSWER_TOKENS}
        return Answer(200, {}, WELL | {"usage": counts})


async def counting(url: str) -> None:
    for way in ("bucket", "window", "quantum"):
        provider = Counting(TOKENS, way)
        async with FaultServer(provider) as server:
            dsn = server.dsn(tpm=TOKENS * 60)
            workers = Workers(dsn, f"{url}?namespace={way}&timeout=1", 20, 4, 10, SECONDS)
            await workers.start()
            provider.began = time.monotonic()
            workers.go()
            found = await workers.results()
        print(f"counting, {way}, 200 members: {_summary(provider, found, SECONDS)}", flush=True)


def _summary(provider: Counting, found: list[dict], seconds: float) -> str:
    served = [each for one in found for each in one.get("served", ())]
    jain = sum(served) ** 2 / (len(served) * sum(each**2 for each in served) or 1)
    used = provider.used / (TOKENS * seconds)
    refused = provider.refused / (provider.refused + provider.accepted)
    lost = sum(each.get("lost", 0) for each in found)
    return (
        f"used {used:.1%}, 429s {provider.refused} ({refused:.1%}), Jain {jain:.3f}, served "
        f"{min(served)}-{max(served)} each, lost {lost}, "
        f"held at the end {sum(each.get('held', 0) for each in found)}"
    )


async def faults(_: str) -> None:
    for name, fault in FAULTS.items():
        redis = Redis()
        proxy = await Slow.before(redis.port)
        provider = Counting(TOKENS, "bucket")
        async with FaultServer(provider) as server:
            url = f"redis://127.0.0.1:{proxy.port}/0?namespace=faults"
            workers = Workers(server.dsn(tpm=TOKENS * 60), url, 1, 40, PROCESSES, 12)
            await workers.start()
            workers.go()
            await asyncio.sleep(3)
            mend = fault(redis, proxy)
            await asyncio.sleep(4)
            if mend is not None:
                mend()
            found = await workers.results()
        linked = sum(each.get("linked", 0) for each in found)
        print(
            f"{name}: {_summary(provider, found, 12)}, linked {linked} of {PROCESSES}", flush=True
        )
        proxy.server.close()
        redis.kill()


class Slow:
    """A proxy before Redis that can delay what comes back; order is kept."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @classmethod
    async def before(cls, port: int) -> Slow:
        self = cls()
        self.behind = port
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader, writer) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.behind)
        except OSError:
            writer.close()
            return
        loop = asyncio.get_running_loop()

        async def pump(source, sink, slow) -> None:
            with suppress(OSError):
                while data := await source.read(65536):
                    if slow and self.seconds:
                        loop.call_later(self.seconds, sink.write, data)
                    else:
                        sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, inner_writer, False), pump(inner_reader, writer, True))


def _stopped(redis, _):
    redis.process.send_signal(signal.SIGSTOP)
    return lambda: redis.process.send_signal(signal.SIGCONT)


def _killed(redis, _):
    redis.kill()
    return redis.start


def _restarted(redis, _):
    redis.kill()
    redis.start()


def _slow(_, proxy):
    proxy.seconds = 0.2
    return lambda: setattr(proxy, "seconds", 0.0)


def _told(*commands: str, then: tuple[str, ...] = ()):
    def do(redis, _):
        for command in commands:
            subprocess.run(["redis-cli", "-p", str(redis.port), *command.split()], check=True)
        if then:
            return lambda: subprocess.run(["redis-cli", "-p", str(redis.port), *then], check=True)
        return None

    return do


FAULTS = {
    "nothing": lambda *_: None,
    "killed for 4 s": _killed,
    "restarted empty": _restarted,
    "SIGSTOP for 4 s": _stopped,
    "paused for 4 s": _told("CLIENT PAUSE 4000"),
    "flushed": _told("FLUSHALL", "SCRIPT FLUSH"),
    "200 ms slow for 4 s": _slow,
    "no memory for 4 s": _told("CONFIG SET maxmemory 1", then=("CONFIG", "SET", "maxmemory", "0")),
    "another password": _told("CONFIG SET requirepass new"),
}


def _info(url: str) -> tuple[float, int]:
    """Return the CPU seconds that the server has taken, and the bytes that it holds."""
    found = subprocess.run(
        ["redis-cli", "-u", url, "INFO"], capture_output=True, text=True, check=True
    )
    info = dict(line.split(":", 1) for line in found.stdout.splitlines() if ":" in line)
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"]), int(info["used_memory"])


async def load(url: str) -> None:
    async with AsyncExitStack() as stack:
        _, empty = _info(url)
        regs = []
        for _ in range(MEMBERS):
            reg = await stack.enter_async_context(
                Registry(env={}, fleet=f"{url}?namespace=load&timeout=1")
            )
            limits = Limits(rpm=9e6, tpm=9e8, max_concurrency=10_000)
            reg.register("a", FakeProvider(default="ok").provider(), limits=limits)
            await reg.generate("a/m", "hi")
            regs.append(reg)
        before, held = _info(url)
        await asyncio.sleep(IDLE)
        idle = _info(url)[0] - before
        before, _ = _info(url)
        await asyncio.gather(*(_ask(reg, CALLS_EACH) for reg in regs))
        asked = _info(url)[0] - before
    print(
        f"load: a member takes {idle / IDLE / MEMBERS * 1e3:.2f} ms of the server's CPU a second "
        f"and {(held - empty) / MEMBERS / 1024:.0f} KiB of its memory, a call under three limits "
        f"{asked / MEMBERS / CALLS_EACH * 1e6:.0f} us",
        flush=True,
    )


async def _ask(reg: Registry, calls: int) -> None:
    for _ in range(calls):
        await reg.generate("a/m", "hi")


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
        regs = [Registry(env={"LLM_A": server.dsn()}, fleet=fleet, retries=0) for _ in range(1000)]
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
    cases = {"load": load, "rate": rate, "slots": slots, "opening": opening, "killed": killed}
    cases |= {"counting": counting, "faults": faults}
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
        _, _, dsn, fleet, calls, patience, _ = sys.argv
        asyncio.run(worker(dsn, fleet, int(calls), float(patience)))
    elif sys.argv[1:2] == ["asker"]:
        _, _, dsn, fleet, members, callers, seconds = sys.argv
        asyncio.run(asker(dsn, fleet, int(members), int(callers), float(seconds)))
    else:
        asyncio.run(main(sys.argv[1:]))
