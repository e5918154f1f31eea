"""A process that is forked leaves the connections of its parent alone, and makes its own."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import warnings
from collections.abc import Iterator

import pytest

from aiollm import Registry, Timeouts

TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
ANSWER = HEAD % len(TEXT + END) + TEXT + END


class Server:
    """Answers in threads, which go on while a test's loop stands still."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"openai+http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        with client, client.makefile("rwb") as wire:
            while line := wire.readline():
                head = b"".join([line, *iter(wire.readline, b"\r\n")]).lower()
                size = int(head.partition(b"content-length:")[2].split()[0])
                if b"slow" in wire.read(size):
                    self.asked.set()
                    self.go_on.wait()
                wire.write(ANSWER)
                wire.flush()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.go_on.set()
    made.listener.close()


def in_a_child(work) -> int:
    """Run an async function in a process that is forked; return the code of its exit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: there are threads
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        asyncio.run(work())
    except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as a test
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("is_running", [False, True], ids=["between runs", "inside a task"])
@pytest.mark.parametrize("is_asked", [False, True], ids=["closed at once", "used"])
def test_a_stream_survives_what_a_forked_process_does(server, is_running, is_asked):
    # The parent's stream has the only slot, which in its child is nobody's.
    env = {"LLM_A": f"{server.url}?max_concurrency=1"}
    reg = Registry(env=env, retries=0, timeouts=Timeouts(first_output=5))

    async def child() -> None:
        if is_asked:
            assert (await reg.generate("a/m", "hi")).text == "Hello"
        await reg.aclose()

    async def begin() -> asyncio.Task:
        assert (await reg.generate("a/m", "hi")).text == "Hello"
        task = asyncio.create_task(reg.generate("a/m", "slow"))
        await asyncio.to_thread(server.asked.wait)
        if is_running:
            assert in_a_child(child) == 0
        return task

    async def end(task: asyncio.Task) -> None:
        server.go_on.set()
        assert (await task).text == "Hello"
        await reg.aclose()

    with asyncio.Runner() as runner:
        task = runner.run(begin())
        if not is_running:
            assert in_a_child(child) == 0
        runner.run(end(task))
