"""The Stream handle and the one accumulator that adds chunks up to a Response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import msgspec

from aiollm.errors import ClosedError
from aiollm.types import (
    Attempt,
    Chunk,
    Citation,
    CitationChunk,
    Finish,
    FinishReason,
    ImageChunk,
    Item,
    Message,
    Notice,
    Part,
    PartChunk,
    ProviderData,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    RefusalPart,
    Response,
    Restart,
    Status,
    Target,
    TextDelta,
    TextPart,
    Timings,
    ToolCallDelta,
    ToolCallPart,
    Usage,
    UsageUpdate,
)

_HIDDEN = frozenset({UsageUpdate, Notice})
"""Items that only the response keeps."""


class _Text:
    __slots__ = ("citations", "pieces")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.citations: list[Citation] = []

    def part(self) -> TextPart:
        return TextPart("".join(self.pieces), tuple(self.citations))


class _Reasoning:
    __slots__ = ("data", "pieces")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.data: ProviderData | None = None

    def part(self) -> ReasoningPart:
        return ReasoningPart("".join(self.pieces), self.data)


class _Refusal:
    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def part(self) -> RefusalPart:
        return RefusalPart("".join(self.pieces))


class _Call:
    __slots__ = ("data", "id", "name", "pieces")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.pieces: list[str] = []
        self.data: ProviderData | None = None

    def part(self) -> ToolCallPart:
        arguments = "".join(self.pieces).strip() or "{}"
        valid = bool(self.name) and _is_object(arguments)
        return ToolCallPart(self.id, self.name, arguments, valid, self.data)


class _Whole:
    __slots__ = ("_part",)

    def __init__(self, part: Part) -> None:
        self._part = part

    def part(self) -> Part:
        return self._part


_Builder: TypeAlias = _Text | _Reasoning | _Refusal | _Call | _Whole


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (ValueError, RecursionError):
        return False


class Accumulator:
    """Adds items up to a message; `Restart` makes it begin anew."""

    def __init__(self) -> None:
        self.warnings: dict[str, None] = {}
        self._begin()

    def _begin(self) -> None:
        self._builders: list[_Builder] = []
        self._calls: dict[int, _Call] = {}
        self._text: list[str] | None = None
        self.finish_reason: FinishReason | None = None
        self.raw_finish_reason = ""
        self.usage = Usage()

    def add(self, items: Sequence[Item]) -> None:
        """Add the items of one batch."""
        text = self._text
        for item in items:
            if type(item) is TextDelta and item.provider_data is None:
                if text is None:
                    text = self._open(_Text).pieces
                text.append(item.text)
            else:
                _ADDERS[type(item)](self, item)
                last = self._builders[-1] if self._builders else None
                text = last.pieces if type(last) is _Text else None
        self._text = text

    def message(self) -> Message:
        """Return the assistant message so far."""
        return Message("assistant", tuple(builder.part() for builder in self._builders))

    def response(self, source: Source | None = None, ended_at: float | None = None) -> Response:
        """Return what has been added up, with what `source` knows of its attempts."""
        attempts = tuple(source.attempts) if source is not None else ()
        if ended_at is None:
            ended_at = source.elapsed() if source is not None else 0.0
        firsts = [each.first_output for each in attempts if each.first_output is not None]
        return Response(
            message=self.message(),
            finish_reason=self.finish_reason,
            raw_finish_reason=self.raw_finish_reason,
            usage=self.usage,
            target=source.target if source is not None else None,
            attempts=attempts,
            warnings=tuple(self.warnings),
            timings=Timings(min(firsts, default=None), ended_at),
        )

    def _open(self, kind: Callable[[], Any]) -> Any:
        if not self._builders or type(self._builders[-1]) is not kind:
            self._builders.append(kind())
        return self._builders[-1]

    def _whole(self, part: Part) -> None:
        self._builders.append(_Whole(part))

    def _finish(self, finish: Finish) -> None:
        self.finish_reason = finish.reason
        self.raw_finish_reason = finish.raw_reason
        if finish.usage.certainty != "missing":
            self.usage = finish.usage

    def _update_usage(self, update: UsageUpdate) -> None:
        self.usage = update.usage

    def _warn(self, notice: Notice) -> None:
        self.warnings[notice.message] = None

    def _reason(self, delta: ReasoningDelta) -> None:
        last = self._builders[-1] if self._builders else None
        if delta.provider_data is None or delta.reasoning:
            if not isinstance(last, _Reasoning) or last.data is not None:
                last = _Reasoning()
                self._builders.append(last)
            last.pieces.append(delta.reasoning)
            last.data = delta.provider_data
            return
        # Some servers send a block's signature after the next block has begun.
        unsealed = (
            builder
            for builder in reversed(self._builders)
            if isinstance(builder, _Reasoning) and builder.data is None
        )
        sealed = next(unsealed, None)
        if sealed is None:
            sealed = _Reasoning()
            self._builders.append(sealed)
        sealed.data = delta.provider_data

    def _call(self, delta: ToolCallDelta) -> None:
        call = self._calls.get(delta.index)
        if call is None:
            call = self._calls[delta.index] = _Call()
            self._builders.append(call)
        call.id = call.id or delta.id
        call.name = call.name or delta.name
        call.data = delta.provider_data or call.data
        if delta.arguments:
            call.pieces.append(delta.arguments)


_ADDERS: dict[type[Item], Callable[[Accumulator, Any], None]] = {
    TextDelta: lambda total, item: total._whole(
        TextPart(item.text, provider_data=item.provider_data)
    ),
    ReasoningDelta: Accumulator._reason,
    RefusalDelta: lambda total, item: total._open(_Refusal).pieces.append(item.refusal),
    ToolCallDelta: Accumulator._call,
    ImageChunk: lambda total, item: total._whole(item.image),
    PartChunk: lambda total, item: total._whole(item.part),
    CitationChunk: lambda total, item: total._open(_Text).citations.append(item.citation),
    Status: lambda total, item: None,
    Restart: lambda total, item: total._begin(),
    Finish: Accumulator._finish,
    UsageUpdate: Accumulator._update_usage,
    Notice: Accumulator._warn,
}


class Source(Protocol):
    """Where a stream's batches come from: a failover over the targets of a plan."""

    attempts: list[Attempt]

    @property
    def target(self) -> Target | None:
        """The target the stream is committed to."""

    def elapsed(self) -> float:
        """Return the seconds since the call began."""

    async def next(self) -> Sequence[Item] | None:
        """Return the next batch, None at the end."""

    def close(self) -> None:
        """End the call now."""


class Stream:
    """An answer as it arrives: iterate it, or `collect()` it.

    Nothing is sent until the first chunk is asked for. Leaving an `async with`, `aclose()`,
    cancellation, an error, or dropping the last reference closes the connection at once.
    """

    def __init__(self, start: Callable[[Accumulator], Source]) -> None:
        """`start` makes the source at the first chunk; it may ask the accumulator, not the stream.

        A reference back to the stream would keep it from closing when it is dropped.
        """
        self._start = start
        self._source: Source | None = None
        self._total = Accumulator()
        self._ready: Iterator[Item] = iter(())
        self._reader: asyncio.Task[Any] | None = None
        self._closed = False
        self._ended_at: float | None = None

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Chunk:
        """Return the next chunk. Raises: LLMError, FailoverError, StopAsyncIteration."""
        for item in self._ready:
            if type(item) not in _HIDDEN:
                return item  # type: ignore[return-value]
        while True:
            self._ready = iter(await self._next_batch())
            for item in self._ready:
                if type(item) not in _HIDDEN:
                    return item  # type: ignore[return-value]

    async def collect(self) -> Response:
        """Exhaust the stream and return the whole response. Raises: LLMError, FailoverError."""
        try:
            while True:
                await self._next_batch()
        except StopAsyncIteration:
            return self.response

    async def _next_batch(self) -> Sequence[Item]:
        if self._closed:
            raise StopAsyncIteration
        if self._reader is not None:
            raise ClosedError("this stream is already being read by another task")
        self._reader = task = asyncio.current_task()
        try:
            if self._source is None:
                self._source = self._start(self._total)
            batch = await self._source.next()
        except asyncio.CancelledError:
            # Our own aclose() from another task, and not the reader's cancellation?
            if not self._closed or task is None or task.uncancel() > 0:
                self._end()
                raise
            batch = None
        except BaseException:
            self._end()
            raise
        finally:
            self._reader = None
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
            reader.cancel()
            while self._reader is reader:
                await asyncio.sleep(0)
        self._ready = iter(())
        self._end()

    async def __aenter__(self) -> Stream:
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
    def response(self) -> Response:
        """The whole response. Raises: ClosedError before the stream has come to its end."""
        if self._total.finish_reason is None:
            raise ClosedError("the stream has not come to its end: `partial` has what arrived")
        return self._snapshot()

    @property
    def partial(self) -> Response:
        """What has arrived so far; after the end, the whole response."""
        return self._snapshot()

    @property
    def target(self) -> Target | None:
        """The target that answers, None before its first output."""
        return self._source.target if self._source is not None else None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All attempts so far, in order, with their timings."""
        return tuple(self._source.attempts) if self._source is not None else ()

    def _snapshot(self) -> Response:
        return self._total.response(self._source, self._ended_at)
