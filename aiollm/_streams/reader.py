"""The reading rules that streams and runs share: one task reads, any task may close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from aiollm.errors import ClosedError

Got = TypeVar("Got")
Got_co = TypeVar("Got_co", covariant=True)


class Source(Protocol[Got_co]):
    """Where a reader's items come from."""

    async def next(self, task: asyncio.Task[Any], /) -> Got_co | None:
        """Return the next item, None at the end; `task` is the one that waits for it."""

    def close(self) -> None:
        """End the work now; synchronous and idempotent."""


class SingleReader(Generic[Got]):
    """Reads a source that is made at the first read, and closes it without awaiting."""

    __slots__ = ("__weakref__", "_closed", "_left", "_loop", "_reader", "_source", "_start")

    _noun: ClassVar[str]

    def __init__(self, start: Callable[[], Source[Got]]) -> None:
        """Make the source by calling `start` at the first read.

        Neither may refer to this reader: a reference cycle would keep it from closing when the
        last outside reference is dropped.
        """
        self._start = start
        self._source: Source[Got] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[Any] | None = None
        self._left: asyncio.Event | None = None
        self._closed = False

    async def _read(self) -> Got:
        """Return the next item. Raises: StopAsyncIteration, ClosedError, the source's errors."""
        if self._closed:
            raise StopAsyncIteration
        if self._reader is not None:
            raise ClosedError(f"this {self._noun} is already being read by another task")
        # Looking up the running loop is a system call in Python 3.11, so do it once.
        self._reader = task = asyncio.current_task(self._loop)
        if task is None:
            raise ClosedError(f"a {self._noun} can be read only inside an asyncio task")
        try:
            if self._source is None:
                self._loop = asyncio.get_running_loop()
                self._source = self._start()
            got = await self._source.next(task)
        except asyncio.CancelledError:
            # aclose() in another task cancels this one: swallow only that cancellation.
            if self._left is None or task.uncancel() > 0:
                self._end()
                raise
            got = None
        except BaseException:
            self._end()
            raise
        finally:
            self._reader = None
            if self._left is not None:
                self._left.set()
        if got is None:
            self._end()
            raise StopAsyncIteration
        return got

    def _end(self) -> None:
        """Release everything; synchronous, so that no second cancellation can break it."""
        self._closed = True
        if self._source is not None:
            self._source.close()

    async def _leave(self) -> None:
        """End, and wait until nothing runs any longer."""
        self._end()

    async def aclose(self) -> None:
        """Close the connection now, and end a run's tools; idempotent.

        A task that is reading gets the end of the iteration.
        """
        reader = self._reader
        self._closed = True
        if reader is not None and reader is not asyncio.current_task():
            if self._left is None:
                self._left = asyncio.Event()
                reader.cancel()  # nothing else wakes a task that waits for bytes
            await self._left.wait()
        await self._leave()

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave()

    def __del__(self) -> None:
        if not self._closed:
            self._end()
