"""A thread that does the blocking work of a bulk run: reading rows, or writing lines."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class WorkThread:
    """Runs functions one after another, in a daemon thread that the first of them starts.

    In asyncio's default executor, a source that blocks for ever would keep name lookups waiting and
    the interpreter from ending. One thread for all: generators may hold what belongs to a thread.
    """

    def __init__(self, name: str) -> None:
        """Belong to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._jobs: SimpleQueue[Any] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run `work` after all that came before; a future that is cancelled does not stop it."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((work, future))
        if self._thread is None:
            context = contextvars.copy_context()
            serve = (_serve, self._jobs, self._loop)
            self._thread = threading.Thread(
                target=context.run, args=serve, name=f"aiollm {self._name}", daemon=True
            )
            self._thread.start()
        return future

    def stop(self) -> None:
        """End the thread once it has done what it was given; it is not waited for."""
        self._jobs.put(None)
        self._thread = None

    def __del__(self) -> None:
        self.stop()  # what is collected with it may still come, and then has another thread


def _serve(jobs: SimpleQueue[Any], loop: asyncio.AbstractEventLoop) -> None:
    while (job := jobs.get()) is not None:
        work, future = job
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:  # noqa: BLE001 - raised where it is awaited
            error = raised
        # Where the loop has been closed nobody waits, but files are still to be written and closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, future, value, error)
        del job, work, future, value, error


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
