"""The protocol of reading that streams and runs share: one task reads, any task may close."""

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
        """Return what comes next to the task that waits for it, None at the end."""

    def close(self) -> None:
        """End the work now; synchronous and idempotent."""


class SingleReader(Generic[Got]):
    """Reads a source that does not exist before the first read, and closes it without awaiting."""

    __slots__ = ("__weakref__", "_closed", "_left", "_loop", "_reader", "_source", "_start")

    _noun: ClassVar[str]

    def __init__(self, start: Callable[[], Source[Got]]) -> None:
        """Make the source with `start` at the first read.

        Neither may hold a reference back: it would keep this from closing when it is dropped.
        """
        self._start = start
        self._source: Source[Got] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[Any] | None = None
        self._left: asyncio.Event | None = None
        self._closed = False

    async def _read(self) -> Got:
        """Return what comes next. Raises: StopAsyncIteration, ClosedError, what the source does."""
        if self._closed:
            raise StopAsyncIteration
        if self._reader is not None:
            raise ClosedError(f"this {self._noun} is already being read by another task")
        # To find out the running loop is a system call in Python 3.11: once is enough.
        self._reader = task = asyncio.current_task(self._loop)
        if task is None:
            raise ClosedError(f"a {self._noun} is read outside of any task")
        try:
            if self._source is None:
                self._loop = asyncio.get_running_loop()
                self._source = self._start()
            got = await self._source.next(task)
        except asyncio.CancelledError:
            # A cancellation by aclose() in another task is this reader's own.
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
        """End, and wait until nothing runs any more."""
        self._end()

    async def aclose(self) -> None:
        """Close the connection now, and end the tools of a run; idempotent.

        A task that is reading sees the end.
        """
        reader = self._reader
        self._closed = True
        if reader is not None and reader is not asyncio.current_task():
            if self._left is None:
                self._left = asyncio.Event()
                reader.cancel()
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
