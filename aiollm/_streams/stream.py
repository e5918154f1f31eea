"""The Stream handle: an answer as it arrives, closed the moment nobody wants it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from aiollm._streams.accumulator import Accumulator, CallProgress
from aiollm.errors import ClosedError
from aiollm.types import Attempt, Chunk, Item, Notice, Response, Target, UsageUpdate


class Source(CallProgress, Protocol):
    """Where a stream's batches come from: a failover over the targets of a plan."""

    async def next(self, task: asyncio.Task[Any]) -> Sequence[Item] | None:
        """Return the next batch to the task that waits for it, None at the end."""

    def close(self) -> None:
        """End the call now."""


Y = TypeVar("Y")


class BaseStream(Generic[Y]):
    """What every stream is: lazy, read by one task at a time, closed without awaiting."""

    __slots__ = (
        "__weakref__",
        "_closed",
        "_ended_at",
        "_left",
        "_loop",
        "_reader",
        "_ready",
        "_source",
        "_start",
        "_total",
    )

    _hidden: ClassVar[frozenset[type]] = frozenset({UsageUpdate, Notice})
    """Items that only the result keeps."""

    _accumulator: ClassVar[type[Accumulator]] = Accumulator

    def __init__(self, start: Callable[[Accumulator], Source]) -> None:
        """Make the source with `start` at the first chunk.

        It may ask the accumulator, not the stream: a reference back would keep the stream from
        closing when it is dropped.
        """
        self._start = start
        self._source: Source | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._total = self._accumulator()
        self._ready: Iterator[Any] = iter(())
        self._reader: asyncio.Task[Any] | None = None
        self._left: asyncio.Event | None = None
        self._closed = False
        self._ended_at: float | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Y:
        """Return the next chunk. Raises: LLMError, FailoverError, StopAsyncIteration."""
        hidden = self._hidden
        while True:
            for item in self._ready:
                if type(item) not in hidden:
                    return item  # type: ignore[no-any-return]
            self._ready = iter(await self._next_batch())

    async def _exhaust(self) -> None:
        try:
            while True:
                await self._next_batch()
        except StopAsyncIteration:
            return

    async def _next_batch(self) -> Sequence[Item]:
        if self._closed:
            raise StopAsyncIteration
        if self._reader is not None:
            raise ClosedError("this stream is already being read by another task")
        # To find out the running loop is a system call in Python 3.11: once is enough.
        self._reader = task = asyncio.current_task(self._loop)
        if task is None:
            raise ClosedError("a stream is read outside of any task")
        try:
            if self._source is None:
                self._loop = asyncio.get_running_loop()
                self._source = self._start(self._total)
            batch = await self._source.next(task)
        except asyncio.CancelledError:
            # A cancellation by aclose() in another task is this stream's own.
            if self._left is None or task.uncancel() > 0:
                self._end()
                raise
            batch = None
        except BaseException:
            self._end()
            raise
        finally:
            self._reader = None
            if self._left is not None:
                self._left.set()
        if batch is None:
            self._end()
            raise StopAsyncIteration
        self._total.add(batch)
        return batch

    def _end(self) -> None:
        """Release everything; synchronous, so that no second cancellation can break it."""
        self._closed = True
        source = self._source
        if source is not None:
            if self._ended_at is None:
                self._ended_at = source.elapsed()
            source.close()

    async def aclose(self) -> None:
        """Close the connection now; idempotent. A task that is reading sees the end."""
        reader = self._reader
        self._closed = True
        if reader is not None and reader is not asyncio.current_task():
            if self._left is None:
                self._left = asyncio.Event()
                reader.cancel()
            await self._left.wait()
        self._ready = iter(())
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ready = iter(())
        self._end()

    def __del__(self) -> None:
        if not self._closed:
            self._end()

    @property
    def target(self) -> Target | None:
        """The target that answers, None before its first output."""
        return self._source.target if self._source is not None else None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All attempts so far, in order, with their timings."""
        return tuple(self._source.attempts) if self._source is not None else ()


class Stream(BaseStream[Chunk]):
    """An answer as it arrives: iterate it, or `collect()` it.

    Nothing is sent until the first chunk is asked for. Leaving an `async with`, `aclose()`,
    cancellation, an error, or dropping the last reference closes the connection at once.
    """

    __slots__ = ()

    async def collect(self) -> Response:
        """Exhaust the stream and return the whole response. Raises: LLMError, FailoverError."""
        await self._exhaust()
        return self.response

    @property
    def response(self) -> Response:
        """The whole response. Raises: ClosedError before the stream has come to its end."""
        if self._total.finish_reason is None:
            raise ClosedError("the stream has not come to its end: `partial` has what arrived")
        return self._snapshot()

    @property
    def partial(self) -> Response:
        """What has arrived so far; after the end, the whole response."""
        return self._snapshot()

    def _snapshot(self) -> Response:
        return self._total.response(self._source, self._ended_at)
