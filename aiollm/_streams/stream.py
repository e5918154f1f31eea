"""The Stream handle: an answer as it arrives, closed as soon as nobody needs it."""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from aiollm._streams.accumulator import Accumulator, CallProgress
from aiollm._streams.reader import SingleReader, Source
from aiollm._wire.batch import Batch
from aiollm.errors import ClosedError, StreamInterrupted
from aiollm.types import Attempt, Chunk, Item, Response, Target


class Answering(Protocol):
    """An answer that is being read."""

    def take(self, task: asyncio.Task[Any], /) -> list[Item] | Awaitable[None] | None:
        """Return a batch that is there, or what `task` has to await before it calls this again.

        None if the source's `next` has to bring the next batch.
        """

    def is_for_caller(self, error: BaseException, /) -> bool:
        """Handle an error of `take` or of what it returned; `next` has handled its own.

        Returns whether the error ends the call; else `next` brings what comes after it.
        """


class CallSource(CallProgress, Source[Sequence[Item]], Protocol):
    """Where a stream's batches come from: a failover over the targets of a plan."""

    @property
    def answering(self) -> Answering | None:
        """The answer that the call is committed to; None before and while it starts again."""


_GOES_ON, _FAILED = (), object()
"""Results in place of a batch: an error did not end the call, so the next one is read; or did."""


Y = TypeVar("Y")


class BaseStream(SingleReader[Sequence[Item], Y], Generic[Y]):
    """The base of all streams: reads batches of items and yields them one at a time."""

    __slots__ = ("_ended_at", "_ready", "_total")

    _noun = "stream"
    _source: CallSource | None
    _start: Callable[[Accumulator], CallSource]

    _accumulator: ClassVar[type[Accumulator]] = Accumulator

    def __init__(self, start: Callable[[Accumulator], CallSource]) -> None:
        """Make the source by calling `start` at the first chunk.

        The source may use the accumulator but not the stream: a reference cycle would keep the
        stream from closing when the last outside reference is dropped.
        """
        self._total = self._accumulator()
        SingleReader.__init__(self, start)
        self._ready: Iterable[Any] = ()
        self._ended_at: float | None = None

    def _call(self) -> Callable[[Accumulator], CallSource]:
        """Return the function that starts the call, for a stream of another kind to use."""
        return self._start

    def _opened(self) -> CallSource:
        self._loop = get_running_loop()
        self._source = source = self._start(self._total)
        del self._start  # five objects less for the collector while the stream is open
        return source

    async def __anext__(self) -> Y:
        """Return the next chunk. Raises: LLMError, FailoverError, StopAsyncIteration."""
        for item in self._ready:
            return item  # type: ignore[no-any-return]
        while True:
            # As `_read`, less the coroutines of it and of what it awaits.
            task = self._begin()
            batch: Any
            try:
                source: CallSource = self._source or self._opened()
                answering = source.answering
                if answering is None:
                    batch = await source.next(task)
                else:
                    while type(batch := answering.take(task)) is not Batch:
                        if batch is None:
                            batch = await source.next(task)
                            break
                        await batch
            except BaseException as error:
                if (batch := self._instead(error, task)) is _FAILED:
                    raise
            if not batch or self._left is not None:
                batch = (
                    self._read_is_over(batch)
                    if batch is None or batch
                    else await self._read(task)  # the next one, in place of an empty one
                )
            self._reader = None
            batch = self._total.add(batch)
            if len(batch) == 1:  # as at most reads of a slow stream
                return batch[0]  # type: ignore[no-any-return]
            self._ready = ready = iter(batch)
            for item in ready:
                return item  # type: ignore[no-any-return]

    def _instead(self, error: BaseException, task: asyncio.Task[Any]) -> object:
        """Return what to use instead of a batch after an error; None means the end."""
        answering = self._source.answering if self._source is not None else None
        if answering is not None and not answering.is_for_caller(error):
            return _GOES_ON
        return None if self._is_closed_by(error, task) else _FAILED

    async def _wait_for_output(self) -> None:
        held: list[Item] = []
        while self.target is None:
            try:
                batch = await self._read()
            except StopAsyncIteration:
                raise ClosedError("the stream was closed before its first output") from None
            held += self._total.add(batch)
            self._ready = iter(held)

    async def _exhaust(self) -> None:
        try:
            while True:
                self._total.add(await self._read())
        except StopAsyncIteration:
            return

    def _was_cut(self) -> StreamInterrupted:
        error = super()._was_cut()
        error.partial, error.target = self._partial(), self.target
        return error

    def _partial(self) -> Response:
        return self._total.response(self._source, self._ended_at)

    def _end(self) -> None:
        self._closed = True
        source = self._source
        if source is not None:
            if self._ended_at is None:
                self._ended_at = source.elapsed()
            source.close()

    async def _leave(self) -> None:
        self._ready = ()
        self._end()

    @property
    def target(self) -> Target | None:
        """The target that answers, None before the first output."""
        return self._source.target if self._source is not None else None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All attempts so far, in order, with their timings."""
        return tuple(self._source.attempts) if self._source is not None else ()


class Stream(BaseStream[Chunk]):
    """An answer as it arrives: iterate it, or `collect()` it.

    Nothing is sent until it is iterated. Leaving an `async with`, `aclose()`, cancellation, an
    error, or dropping the last reference closes the connection at once.

        async with registry.stream("openai/gpt-6.1-sol", "Hello") as stream:
            async for chunk in stream:
                print(chunk.text, end="")
    """

    __slots__ = ()

    async def collect(self) -> Response:
        """Exhaust the stream and return the response. Raises: LLMError, FailoverError."""
        await self._exhaust()
        return self.response

    @property
    def response(self) -> Response:
        """The complete response. Raises: ClosedError before the stream has ended."""
        if self._total.finish_reason is None:
            raise ClosedError(f"{self._not_over}: use `partial` for what has arrived")
        return self._partial()

    @property
    def partial(self) -> Response:
        """What has arrived so far; after the end, the complete response."""
        return self._partial()
