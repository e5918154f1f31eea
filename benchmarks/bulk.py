"""What bulk runs keep, in time, CPU, memory and lines, beside the openai SDK on the same rows.

`python benchmarks/bulk.py [case ...]` prints a line for each figure. The cases: `pace` (2,000 rows
at a server of 100 a second that fails and cuts 1 % each), `cpu` (100,000 short rows beside single
calls), `kills` (50 processes killed at random moments), `shards` (four processes of a fleet on a
`redis-server` of its own). A further case, `serve`, is the server, in a process of its own.
The `openai` part of `pace` needs `.venv-peers`, and its `async-batch-llm` part an interpreter that
has that package: `RIVAL=path/to/python`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

ROOT = Path(__file__).parent.parent
RATE = 100.0
ROWS = 2000
WHOLE = {"choices": [{"index": 0, "message": {"content": "ok"}, "finish_reason": "stop"}]}
BUSY = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}


class Service:
    """A token bucket of one second's worth, with faults; without a rate it takes everything."""

    def __init__(self, rate: float, faults: float, seconds: float) -> None:
        self.rate, self.faults, self.seconds = rate, faults, seconds
        self.tokens, self.at = rate, time.monotonic()
        self.counts: Counter[str] = Counter()
        self.random = random.Random(7)

    def __call__(self, request):
        from aiollm.testing import Answer, Cut, Pause, chat

        if request.path == "/counts":
            return Answer(200, {}, dict(self.counts))
        if self.rate:
            now = time.monotonic()
            self.tokens = min(self.rate, self.tokens + (now - self.at) * self.rate)
            self.at = now
            if self.tokens < 1:
                self.counts["429"] += 1
                return Answer(429, {"retry-after": "1"}, BUSY)
            self.tokens -= 1
        chance = self.random.random()
        if chance < self.faults:
            self.counts["500"] += 1
            return Answer(500, {}, {"error": {"message": "oops"}})
        if b'"stream":true' not in request.body.replace(b" ", b""):
            self.counts["ok"] += 1
            return Answer(200, {}, WHOLE)
        answer = chat(*((Pause(self.seconds),) if self.seconds else ()), "ok", usage=(9, 1))
        if chance < 2 * self.faults:
            self.counts["cut"] += 1
            return Cut(300, answer)
        self.counts["ok"] += 1
        return replace(answer, headers={**answer.headers})


async def serve(rate: str, faults: str, seconds: str) -> None:
    """Serve until standard input ends; print the address first."""
    from aiollm.testing import FaultServer

    async with FaultServer(Service(float(rate), float(faults), float(seconds))) as server:
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextmanager
def served(rate: float = 0.0, faults: float = 0.0, seconds: float = 0.0) -> Iterator[str]:
    """Run the server in a process of its own; yield its address."""
    command = [sys.executable, __file__, "serve", str(rate), str(faults), str(seconds)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


def dsn(url: str) -> str:
    """Return the DSN of the server."""
    return f"openai+{url}?api=chat".replace("//", "//key@")


def counts(url: str) -> dict[str, int]:
    """Return what the server did."""
    from urllib.request import urlopen

    return json.load(urlopen(f"{url}/counts"))


async def pace() -> None:
    """Print what became of the rows, and how long they took beside the ideal time."""
    from aiollm import Registry

    ideal = (ROWS - RATE) / RATE + 0.2
    with served(RATE, 0.01, 0.2) as url, tempfile.TemporaryDirectory() as folder:
        async with Registry(env={"LLM_M": dsn(url)}) as reg:
            began = time.monotonic()
            into = Path(folder, "out.jsonl")
            async with reg.map("m/x", (f"row {n}" for n in range(ROWS)), into=into) as run:
                failed = [row async for row in run if row.error]
            took = time.monotonic() - began
        print(f"aiollm  answered {ROWS - len(failed)}  {took / ideal:.2f} x ideal  {counts(url)}")
    peers = {
        "openai": (ROOT / ".venv-peers" / "bin" / "python", OPENAI),
        "async-batch-llm": (Path(os.environ.get("RIVAL", "-")), RIVAL),
    }
    for name, (python, code) in peers.items():
        if not python.exists():
            continue
        with served(RATE, 0.01, 0.2) as url:
            command = [python, "-c", code, url, str(ROWS)]
            out = await asyncio.to_thread(subprocess.run, command, check=True, stdout=-1)
            answered, took = json.loads(out.stdout.splitlines()[-1])
            print(f"{name}  answered {answered}  {took / ideal:.2f} x ideal  {counts(url)}")


RIVAL = """
import asyncio, json, logging, sys, time
from async_batch_llm import llm, process_prompts

async def main(url, rows):
    logging.disable()
    model = llm("openai-compatible:x", base_url=url + "/v1", api_key="key")
    began = time.monotonic()
    batch = await process_prompts(model, [f"row {n}" for n in range(rows)], concurrency=64)
    print(json.dumps([batch.succeeded, time.monotonic() - began]))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""

OPENAI = """
import asyncio, json, sys, time
from openai import AsyncOpenAI

async def main(url, rows):
    client = AsyncOpenAI(base_url=url + "/v1", api_key="key", max_retries=5)
    room, answered = asyncio.Semaphore(64), 0
    async def ask(row):
        nonlocal answered
        async with room:
            try:
                text = ""
                async for chunk in await client.chat.completions.create(
                    model="x", messages=[{"role": "user", "content": row}], stream=True):
                    text += chunk.choices[0].delta.content or "" if chunk.choices else ""
                answered += text == "ok"
            except Exception:
                pass
    began = time.monotonic()
    await asyncio.gather(*(ask(f"row {n}") for n in range(rows)))
    print(json.dumps([answered, time.monotonic() - began]))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def cpu() -> None:
    """Print the CPU of a row beside that of a single call, and how memory grows."""
    from aiollm import Registry

    rows, singles, at_once = 100_000, 4_000, 32
    with served() as url, tempfile.TemporaryDirectory() as folder:
        async with Registry(env={"LLM_M": dsn(url)}) as reg:

            async def caller(count: int) -> None:
                for number in range(count):
                    await reg.generate("m/x", f"row {number}")

            async def single() -> float:
                began = time.process_time()
                await asyncio.gather(*(caller(singles // at_once) for _ in range(at_once)))
                return (time.process_time() - began) / singles

            await single()
            bare = await single()
            into, memory = Path(folder, "out.jsonl"), []
            source = (f"row {number}" for number in range(rows))
            began = time.process_time()
            async with reg.map("m/x", source, into=into, concurrency=at_once) as run:
                number = 0
                async for _ in run:
                    number += 1
                    if number % 20_000 == 0:
                        memory.append(resident())
            own = (time.process_time() - began) / rows
            bare = (bare + await single()) / 2
        lines = len(keys_in(into))
    print(f"a call {bare * 1e6:.0f} us, a row {own * 1e6:.0f} us: {own / bare:.2f} x")
    print(f"{lines} lines; MB after each 20,000 rows: {memory}")


def resident() -> float:
    """Return the megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 1e6, 1)


CHILD = """
import asyncio, sys
from aiollm import Registry

async def main(dsn, rows, into, shard, fleet):
    async with Registry(env={"LLM_M": dsn}, fleet=fleet) as reg:
        source = ((f"k{number}", f"row {number}") for number in range(int(rows)))
        async with reg.map("m/x", source, into=into, resume=True, shard=shard or None) as run:
            await run.finish()

asyncio.run(main(*sys.argv[1:]))
"""


def start(url: str, rows: int, into: Path, shard: str = "", fleet: str = "", query: str = ""):
    """Start a process that asks the rows, or goes on with them."""
    arguments = [dsn(url) + query, str(rows), str(into), shard, fleet]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments])


def keys_in(path: Path) -> list[str]:
    """Return the keys of the complete lines of a file."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line)["key"] for line in lines]


async def kills() -> None:
    """Kill a run 50 times at random moments; print what was lost, repeated and asked too often."""
    rows, times, dice = 20_000, 50, random.Random(11)
    with served(seconds=0.02) as url, tempfile.TemporaryDirectory() as folder:
        into, done = Path(folder, "out.jsonl"), 0
        for _ in range(times):
            with start(url, rows, into) as child:
                await asyncio.sleep(dice.uniform(0.3, 2.5))
                child.send_signal(signal.SIGKILL)
            now = len(keys_in(into))
            assert now >= done, "lines were lost"
            done = now
        with start(url, rows, into) as child:
            await asyncio.to_thread(child.wait)
        keys = keys_in(into)
        asked = counts(url)["ok"]
        print(f"{len(set(keys))} of {rows} rows, {len(keys) - len(set(keys))} twice in the file,")
        print(f"{asked - rows} asked again in {times} kills ({(asked - rows) / times:.1f} each)")


def started(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a quiet process."""
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


async def shards() -> None:
    """Ask rows in four processes of a fleet under one limit; merge, and print what is there."""
    rows, count = 2_000, 4
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    redis = [shutil.which("redis-server"), "--port", str(port), "--save", "", "--appendonly", "no"]
    with (
        served(RATE, 0.0, 0.2) as url,
        tempfile.TemporaryDirectory() as folder,
        started(redis) as server,
    ):
        await asyncio.sleep(0.5)
        began = time.monotonic()
        fleet, query = f"redis://127.0.0.1:{port}", f"&rpm={RATE * 60:.0f}"
        files = [Path(folder, f"{number}.jsonl") for number in range(1, count + 1)]
        children = [
            start(url, rows, file, f"{number}/{count}", fleet, query)
            for number, file in enumerate(files, 1)
        ]
        for child in children:
            await asyncio.to_thread(child.wait)
        took = time.monotonic() - began
        server.terminate()
        command = [sys.executable, "-m", "aiollm", "map", "--merge", *files]
        joined = Path(folder, "all.jsonl")
        await asyncio.to_thread(subprocess.run, [*command, "-o", joined], check=True)
        keys, said = keys_in(joined), counts(url)
    refused = said.get("429", 0)
    print(f"{len(set(keys))} of {rows} rows, {len(keys) - len(set(keys))} twice; {said}")
    print(f"429s {refused / (rows + refused):.2%}, {took / (rows / RATE):.2f} x ideal")


CASES = {"pace": pace, "cpu": cpu, "kills": kills, "shards": shards}


async def main(names: list[str]) -> None:
    """Run the cases."""
    for name in names or [*CASES]:
        print(f"-- {name}")
        await CASES[name]()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(*sys.argv[2:]))
    else:
        asyncio.run(main(sys.argv[1:]))
