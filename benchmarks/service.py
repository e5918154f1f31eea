"""A FastAPI service under its users: is every answer whole, or does it say that it is not?

`python benchmarks/service.py` runs `examples/12_fastapi.py` with two uvicorn workers and 200
clients who ask again and again. A third of them leave early. One of two targets dies, breaks
answers off, and comes back. At the end the service gets SIGTERM with streams open. It prints what
became of the answers, and how many connections to the targets are left.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

from aiollm.testing import Cut, FaultServer, Pause, Reset, chat

ROOT = Path(__file__).parents[1]
CLIENTS = 200
SECONDS = float(os.environ.get("SECONDS", "10"))
WORDS = [f"word{number} " for number in range(20)]
TEXT = "".join(WORDS)


def slowly():
    return chat(*(step for word in WORDS for step in (word, Pause(0.02))))


async def ask(port: int, seen: Counter) -> None:
    """Ask once, perhaps leave early, and count what came."""
    patience = random.uniform(0.0, 0.6) if random.random() < 1 / 3 else None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        seen["no connection"] += 1
        return
    try:
        writer.write(b"GET /ask?q=hi HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        reply = await asyncio.wait_for(reader.read(-1), patience)
        seen[verdict(reply)] += 1
    except TimeoutError:
        seen["left early"] += 1
    except OSError:
        seen["cut, and seen as cut"] += 1
    finally:
        writer.close()


def verdict(reply: bytes) -> str:
    head, _, body = reply.partition(b"\r\n\r\n")
    if not head:
        return "no reply"
    if b" 200 " not in head.split(b"\r\n")[0]:
        return f"status {head.split(b' ')[1].decode()}"
    said = [line[6:] for line in body.split(b"\n") if line.startswith(b'data: {"text"')]
    text = "".join(json.loads(each)["text"] for each in said)
    if b"event: error" in body:
        return "an error event"
    if not body.endswith(b"0\r\n\r\n"):
        return "cut, and seen as cut"
    return "whole" if text == TEXT else "WRONG: looks whole and is not"


async def client(port: int, seen: Counter) -> None:
    while True:
        await ask(port, seen)


async def trouble(one: FaultServer) -> None:
    """Take a target through its bad day."""
    part = SECONDS / 5
    for script in (slowly(), Reset(), Cut(after=1000, answer=slowly()), slowly()):
        one.behave(script)
        await asyncio.sleep(part)
    await asyncio.sleep(part)


async def main() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    seen: Counter = Counter()
    async with FaultServer(slowly()) as one, FaultServer(slowly()) as two:
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LLM_M5": one.dsn("openai", path="/v1", api="chat"),
            "LLM_M1": two.dsn("openai", path="/v1", api="chat"),
        }
        service = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "12_fastapi:app", "--port", str(port)),
            *("--app-dir", str(ROOT / "examples"), "--workers", "2", "--no-access-log"),
            *("--timeout-graceful-shutdown", "2"),
            env=env,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.1)
            clients = [asyncio.create_task(client(port, seen)) for _ in range(CLIENTS)]
            await trouble(one)
            opened = one.counts.open + two.counts.open
            service.send_signal(signal.SIGTERM)
            await service.wait()
            for each in clients:
                each.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            await asyncio.sleep(0.2)
            left = one.counts.open + two.counts.open
        finally:
            if service.returncode is None:
                service.kill()
    seen.pop("no connection", None)  # while it stops
    for what, count in seen.most_common():
        print(f"{count:6}  {what}")
    print(f"{opened:6}  connections to the targets at SIGTERM, {left} afterwards")
    return int(any(what.startswith("WRONG") for what in seen) or left > 0)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
