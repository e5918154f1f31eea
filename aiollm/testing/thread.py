"""Run servers in a thread with an event loop: for fixtures, benchmarks and synchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar


class Server(Protocol):
    """An async context manager that reserves its port before it is entered."""

    def bind(self) -> None:
        """Reserve the port and let connections queue."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> Any: ...


S = TypeVar("S", bound=Server)


class LoopThread:
    """Runs servers in a thread; an error in one is raised when the block ends."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "aiollm-testing")
        self._entering: list[asyncio.Task[Any]] = []

    def __enter__(self) -> Self:
        ready: Future[None] = Future()
        self._running = self._executor.submit(lambda: asyncio.run(self._run(ready)))
        ready.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._executor.shutdown()
        if error is None:
            self._running.result()

    def serve(self, server: S) -> S:
        """Start a server without waiting for it; it has its port, and connections queue."""
        server.bind()
        self._loop.call_soon_threadsafe(self._enter, server)
        return server

    def _enter(self, server: Server) -> None:
        self._entering.append(self._loop.create_task(self._stack.enter_async_context(server)))

    async def _run(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with AsyncExitStack() as self._stack:
            ready.set_result(None)
            await self._stop.wait()
            for failure in await asyncio.gather(*self._entering, return_exceptions=True):
                if isinstance(failure, BaseException):
                    raise failure


@contextmanager
def in_thread(server: S) -> Iterator[S]:
    """Run one server in a thread; an error in it is raised when the block ends."""
    with LoopThread() as thread:
        yield thread.serve(server)
