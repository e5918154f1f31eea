"""A server in a thread with a loop of its own: for benchmarks and for code that is not async."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, TypeVar


class Server(Protocol):
    """An async context manager; what entering it gives is not used."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> Any: ...


S = TypeVar("S", bound=Server)
_Started = Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]


@contextmanager
def in_thread(server: S) -> Iterator[S]:
    """Run `server` in a thread; an error that its end raises is raised here."""
    started: _Started = Future()
    with ThreadPoolExecutor(1, "aiollm-testing") as executor:
        running = executor.submit(lambda: asyncio.run(_hold(server, started)))
        running.add_done_callback(lambda ended: _never_started(ended, started))
        loop, stop = started.result()
        try:
            yield server
        finally:
            loop.call_soon_threadsafe(stop.set)
        running.result()


async def _hold(server: Server, started: _Started) -> None:
    stop = asyncio.Event()
    async with server:
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()


def _never_started(ended: Future[None], started: _Started) -> None:
    if not started.done() and (error := ended.exception()) is not None:
        started.set_exception(error)
