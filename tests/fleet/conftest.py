"""A Redis server of the tests' own, and registries that share it."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiollm import Registry
from tests.programs import ending_with_us, free_port

NAMES = itertools.count()


class Redis:
    """One `redis-server` on a port of its own, ended by its process."""

    def __init__(
        self, folder: Path, *arguments: str, port: int = 0, config: Path | None = None
    ) -> None:
        """Start it; `config` makes it a sentinel."""
        self.port = port or free_port()
        self._config = config
        self.folder = folder
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0?namespace=n{next(NAMES)}&timeout=5"

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        listening = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder))
        quiet = ("--save", "", "--appendonly", "no", "--loglevel", "notice")
        watches = [] if self._config is None else [str(self._config), "--sentinel"]
        options = () if watches else quiet
        self._process = subprocess.Popen(
            ending_with_us(_server(), *watches, *listening, *options, *self._arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if b"eady to accept connections" in line or b"Sentinel ID is" in line:
                return
        raise RuntimeError("redis-server did not start")

    def kill(self) -> None:
        """End it at once, as a crash does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def ask(self, *command: str, password: str = "") -> Any:
        """Send one command over a connection of its own; return the reply."""
        return await asyncio.to_thread(self._ask, command, password)

    def _ask(self, command: tuple[str, ...], password: str) -> Any:
        from redis import Redis as Client

        with Client(port=self.port, password=password or None, decode_responses=True) as client:
            return client.execute_command(*command)


class SlowWay:
    """A way to Redis on which replies take `seconds` more; their order is kept."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def to(self, port: int) -> AsyncIterator[SlowWay]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            there, back = await asyncio.open_connection("127.0.0.1", port)
            try:
                await asyncio.gather(self._pump(reader, back, 0), self._pump(there, writer, 1))
            finally:
                for each in (writer, back):
                    each.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, share: int
    ) -> None:
        while data := await source.read(65536):
            asyncio.get_running_loop().call_later(self.seconds * share, sink.write, data)


def _server() -> str:
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        reason = "redis-server is not installed: apt-get install redis-server"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory) -> Iterator[Redis]:
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def redis(shared_redis) -> Redis:
    return shared_redis


@pytest.fixture
def own_redis(tmp_path) -> Iterator[Callable[..., Redis]]:
    """Start servers that a test may break."""
    started: list[Redis] = []

    def start(*arguments: str) -> Redis:
        started.append(Redis(tmp_path, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
async def members() -> AsyncIterator[Callable[..., Registry]]:
    """Make registries of one fleet; each stands for a process."""
    made: list[Registry] = []

    def make(fleet: str, servers: dict[str, Any], **settings: Any) -> Registry:
        env = {
            f"LLM_{name.upper()}": f"openai+http://secret-key@127.0.0.1:{server.port}/v1"
            for name, server in servers.items()
        }
        made.append(Registry(env=env, fleet=fleet, **{"retries": 0} | settings))
        return made[-1]

    yield make
    for each in made:
        await each.aclose()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until a condition holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def state(registry: Registry, spec: str = "a/m") -> str:
    """Return the state of a target in a registry."""
    return registry.health(spec)[0].state
