"""Embeddings: CPU of decoding beside the openai SDK's, memory and stalls of 100,000 vectors.

`python benchmarks/embed.py [decode] [large]` prints a line for each figure, with its bar. `decode`
reads 100 x 1,536 numbers in base64, in interleaved rounds of one run; the SDK's part needs
`.venv-peers`, and is a whole call over a transport in memory less one for a single short vector.
`large` embeds 100,000 texts, each time in a new process: as it is, after `gc.freeze()` as services
do it once they have started, and with aiohttp alone, which reads as many replies and drops them.
The server has a process of its own (`serve`).
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from array import array
from base64 import b64encode
from pathlib import Path

ROOT = Path(__file__).parent.parent
WIDTH = 1536
COUNT = 100_000
VECTOR = b64encode(array("f", [n / 7 for n in range(WIDTH)]).tobytes()).decode()
ROUNDS = 25


def reply(count: int, vector: str = VECTOR) -> bytes:
    """Return a reply of vectors."""
    items = [{"object": "embedding", "index": n, "embedding": vector} for n in range(count)]
    usage = {"prompt_tokens": count, "total_tokens": count}
    body = {"object": "list", "model": "m", "data": items, "usage": usage}
    return json.dumps(body).encode()


SDK = """
import sys, time, httpx2, openai
def client(body):
    kind = {"content-type": "application/json"}
    answer = lambda request: httpx2.Response(200, content=body, headers=kind)
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="k", http_client=http)
large, small = (client(open(name, "rb").read()) for name in sys.argv[1:])
def best(asked):
    begin = time.process_time()
    found = asked.embeddings.create(model="m", input="x")
    return time.process_time() - begin
for line in sys.stdin:
    print(best(large), best(small), flush=True)
"""


def decode() -> None:
    """Print milliseconds of CPU, the minima of interleaved rounds."""
    import tempfile

    from aiollm._http.retrieving import _embeddings
    from aiollm.provider import HttpResponse
    from aiollm.providers.openai.embed_codec import OpenAIEmbeddings
    from aiollm.retrieval import EmbedRequest

    body, codec, request = reply(100), OpenAIEmbeddings(), EmbedRequest(["x"] * 100)

    def ours() -> float:
        reading = _embeddings(codec, HttpResponse(200, {}, body), request)
        began = time.process_time()
        try:
            while True:
                reading.send(None)
        except StopIteration:
            return time.process_time() - began

    peer = ROOT / ".venv-peers" / "bin" / "python"
    mine, theirs, fixed = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder, "large"), Path(folder, "small")]
        names[0].write_bytes(body)
        names[1].write_bytes(reply(1, b64encode(bytes(4)).decode()))
        command = [str(peer), "-c", SDK, *map(str, names)]
        with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
            for _ in range(ROUNDS):
                mine.append(ours())
                print(file=process.stdin, flush=True)
                large, small = map(float, process.stdout.readline().split())
                theirs.append(large)
                fixed.append(small)
            process.stdin.close()
    one, other = min(mine) * 1e3, (min(theirs) - min(fixed)) * 1e3
    print(f"decode  aiollm {one:.2f} ms (bar 1.3)  openai {other:.2f} ms  {one / other:.3f} (0.15)")


async def serve() -> None:
    """Serve until standard input ends; print the address first."""
    from aiollm.testing import Answer, FaultServer

    bodies = {}

    def script(request):
        count = len(request.json()["input"])
        return Answer(200, {}, bodies.setdefault(count, reply(count)))

    async with FaultServer(default=script) as server:
        print(server.dsn("openai", path="/v1"), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def resident() -> int:
    """Return the bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Watch:
    """The longest time between two turns of the loop, and in full garbage collections."""

    def __init__(self) -> None:
        self.longest = self.work = self.full = 0.0
        self.count = 0
        self._began = 0.0
        gc.callbacks.append(self._collecting)

    def _collecting(self, phase, info) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = time.thread_time()
            return
        self.count += 1
        self.full = max(self.full, time.thread_time() - self._began)

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            before, used = time.monotonic(), time.thread_time()
            await asyncio.sleep(0)
            self.work = max(self.work, time.thread_time() - used)
            self.longest = max(self.longest, time.monotonic() - before)

    async def over(self, work):
        """Return what it gives, its last turn measured, too."""
        watcher = asyncio.create_task(self.run())
        await asyncio.sleep(0)
        found = await work
        await asyncio.sleep(0)
        watcher.cancel()
        gc.callbacks.remove(self._collecting)
        return found

    def print(self, how: str) -> None:
        """Print a line."""
        print(
            f"large   {how:8} longest stall {self.longest * 1e3:.1f} ms, of CPU "
            f"{self.work * 1e3:.1f} ms (bar 10); {self.count} full collections, of "
            f"{self.full * 1e3:.1f} ms at most"
        )


async def embed(dsn: str, how: str) -> None:
    """Print what the vectors take, and the longest time that the loop stood still."""
    from aiollm import Registry

    texts = [f"text number {n}" for n in range(COUNT)]
    async with Registry(env={"LLM_A": dsn}) as reg:
        await reg.embed("a/m", texts[:64])
        gc.collect()
        if how == "frozen":
            gc.freeze()
        watch, before, began = Watch(), resident(), time.monotonic()
        found = await watch.over(reg.embed("a/m", texts))
        seconds = time.monotonic() - began
        ratio = (resident() - before) / (len(found.vectors) * found.dimensions * 4)
        watch.print(how)
        print(
            f"large   {how:8} {COUNT} vectors in {seconds:.1f} s  resident {ratio:.3f} x their "
            "bytes (bar 1.2)"
        )


async def alone(dsn: str, how: str) -> None:
    """Print the stalls of aiohttp alone, which reads as many replies by eight connections."""
    import aiohttp

    url = f"http://{dsn.partition('@')[2]}/embeddings"
    asked = {"model": "m", "input": ["x"] * 32}
    left = iter(range(COUNT // 32))

    async def read(session) -> None:
        for _ in left:
            async with session.post(url, json=asked) as reply:
                await reply.read()

    async with aiohttp.ClientSession() as session:
        gc.collect()
        watch = Watch()
        await watch.over(asyncio.gather(*(read(session) for _ in range(8))))
        watch.print(how)


def large() -> None:
    """Embed at a server in a process of its own."""
    command = [sys.executable, __file__]
    with subprocess.Popen([*command, "serve"], stdin=-1, stdout=-1, text=True) as server:
        dsn = server.stdout.readline().strip()
        for how in HOW:
            subprocess.run([*command, how, dsn], check=True)
        server.stdin.close()


HOW = {"plain": embed, "frozen": embed, "aiohttp": alone}


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    elif sys.argv[1:2] and sys.argv[1] in HOW:
        asyncio.run(HOW[sys.argv[1]](sys.argv[2], sys.argv[1]))
    else:
        for name in sys.argv[1:] or ["decode", "large"]:
            {"decode": decode, "large": large}[name]()
