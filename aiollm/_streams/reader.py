"""The reading rules that streams and runs share: one task reads, any task may close."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from asyncio import current_task
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from aiollm.errors import ClosedError, StreamInterrupted
from aiollm.types import Status

Got = TypeVar("Got")
Got_co = TypeVar("Got_co", covariant=True)
Y = TypeVar("Y")


class Source(Protocol[Got_co]):
    """Where a reader's items come from."""

    def next(self, task: asyncio.Task[Any], /) -> Awaitable[Got_co | None]:
        """Return an awaitable of the next item, None at the end; `task` awaits it at once."""

    def close(self) -> None:
        """End the work now; synchronous and idempotent."""


class SingleReader(ABC, Generic[Got, Y]):
    """Reads a source that is made at the first read, and closes it without awaiting."""

    __slots__ = ("__weakref__", "_closed", "_cut", "_left", "_loop", "_reader", "_source", "_start")

    _noun: ClassVar[str]

    _start: Callable[..., Source[Got]]

    def __init__(self, start: Callable[..., Source[Got]]) -> None:
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
        self._cut = False

    async def _read(self, task: asyncio.Task[Any] | None = None) -> Got:
        """Return the next item, to `task` if a read of it has begun.

        Raises: StopAsyncIteration, ClosedError, the source's errors; StreamInterrupted after a
        read that was cancelled, because the end of the iteration would look like a whole answer.
        """
        task = task or self._begin()
        try:
            got = await (self._source or self._opened()).next(task)
        except BaseException as error:
            if not self._is_closed_by(error, task):
                raise
            got = None
        return self._read_is_over(got)

    def _begin(self) -> asyncio.Task[Any]:
        """Begin a read; return the task that reads. Raises: as `_read`."""
        if self._closed:
            if self._cut:
                raise self._was_cut()
            raise StopAsyncIteration
        if self._reader is not None:
            raise ClosedError(f"this {self._noun} is already being read by another task")
        # Looking up the running loop is a system call in Python 3.11, so do it once.
        self._reader = task = current_task(self._loop)
        if task is None:
            where = "inside an asyncio task, on the event loop that began it"
            raise ClosedError(f"a {self._noun} can be read only {where}")
        return task

    def _opened(self) -> Source[Got]:
        """Make and return the source, at the first read."""
        self._loop = asyncio.get_running_loop()
        self._source = source = self._start()
        return source

    def _is_closed_by(self, error: BaseException, task: asyncio.Task[Any]) -> bool:
        """End after a read that failed; return whether that was only how `aclose()` woke it."""
        try:
            is_cancelled = isinstance(error, asyncio.CancelledError)
            # aclose() in another task cancels this one: swallow only that cancellation.
            if is_cancelled and self._left is not None and task.uncancel() <= 0:
                return True
            self._cut = is_cancelled
            self._end()
            return False
        finally:
            self._reader = None
            if self._left is not None:
                self._left.set()

    def _read_is_over(self, got: Got | None) -> Got:
        """Return what a read brought. Raises: StopAsyncIteration at the end."""
        self._reader = None
        if self._left is not None:
            self._left.set()
        if got is None:
            self._end()
            raise StopAsyncIteration
        return got

    @property
    def _not_over(self) -> str:
        """The reason why there is no result, as the beginning of a message."""
        ended = "ended before it was complete" if self._closed else "has not ended yet"
        return f"the {self._noun} {ended}"

    def _was_cut(self) -> StreamInterrupted:
        """Return the error for reading on after a cancelled read."""
        return StreamInterrupted(
            f"an earlier read of this {self._noun} was cancelled, which closed it; to wait with a "
            "time limit and then go on, iterate `.heartbeat(seconds)`"
        )

    async def ready(self, unless: Awaitable[object] | None = None) -> None:
        """Wait until a target answers: for a web handler that must choose an HTTP status first.

        Returns at the first output, which iterating then yields as usual; a failure before it is
        raised here. If `unless` ends first, for example a wait for the client to leave, the stream
        is closed. Raises: LLMError, FailoverError; ClosedError if the stream was closed.
        """
        if unless is None:
            return await self._wait_for_output()
        from aiollm._streams.background import BackgroundRead

        output, left = BackgroundRead(self._wait_for_output), asyncio.ensure_future(unless)
        try:
            await asyncio.wait((output.task, left), return_when=asyncio.FIRST_COMPLETED)
            if nobody_waits := not output.task.done():
                left.result()
        except BaseException:
            await self._break_off(output.task)
            raise
        finally:
            left.cancel()
        if nobody_waits:
            await self._break_off(output.task)
            reason = "`unless` ended before its first output"
            raise ClosedError(f"this {self._noun} was closed, because {reason}")
        return output.outcome()

    @abstractmethod
    async def _wait_for_output(self) -> None:
        """Read, and keep, as far as the first output."""

    def heartbeat(self, seconds: float) -> AsyncIterator[Y | Status]:
        """Iterate the same items, with a `Status` whenever none came for `seconds`.

        Each `Status` says how long nothing has come, and the wait goes on: for web handlers that
        must write something now and then, or look whether their client is still there.
        Raises: ConfigError for seconds that are not above 0.

            async for chunk in stream.heartbeat(15):
                await reply.write(b": ping" if isinstance(chunk, Status) else chunk.text.encode())
        """
        from aiollm._streams.heartbeat import Heartbeat

        return Heartbeat(self, self._break_off, seconds)

    def _end(self) -> None:
        """Release everything; synchronous, so that no second cancellation can break it."""
        self._closed = True
        if self._source is not None:
            self._source.close()

    async def _break_off(self, read: asyncio.Task[Any]) -> None:
        """End as a cancelled read does, also where `read` has just brought what nobody will see."""
        read.add_done_callback(lambda _: self._cut_off())  # after a second cancellation, too
        read.cancel()
        await asyncio.wait((read,))
        await self._leave()

    def _cut_off(self) -> None:
        if not self._closed:
            self._cut = True
            self._end()

    async def _leave(self) -> None:
        """End, and wait until nothing runs any longer."""
        self._end()

    async def aclose(self) -> None:
        """Close the connection now, and end a run's tools; idempotent.

        A task that is reading gets the end of the iteration.
        """
        reader = self._reader
        self._closed = True
        if reader is not None and reader is not current_task():
            if self._left is None:
                self._left = asyncio.Event()
                reader.cancel()  # nothing else wakes a task that waits for bytes
            await self._left.wait()
        await self._leave()

    def __aiter__(self) -> Self:
        return self

    @abstractmethod
    async def __anext__(self) -> Y: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()  # a heartbeat's read may still run in its task

    def __del__(self) -> None:
        if self._closed:
            return
        loop, source = self._loop, self._source
        if loop is not None and source is not None and loop.is_running():
            try:
                here = asyncio.get_running_loop()
            except RuntimeError:
                here = None
            if here is not loop:
                # The last reference was dropped in another thread, where nothing of the loop may
                # be touched: asyncio's debug mode refuses it.
                with contextlib.suppress(RuntimeError):  # the loop has just been closed
                    loop.call_soon_threadsafe(source.close)
                return
        self._end()
