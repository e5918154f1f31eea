"""A stream of a typed answer: its value at the end, and as far as it has come before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Self, TypeVar

import msgspec

from aiollm._agent.typed_output import Shape, shape_of
from aiollm._streams.stream import Stream
from aiollm._user_types.hooks import plain
from aiollm._validation import RequestLike, as_request
from aiollm._wire.growing_json import GrowingJson
from aiollm.types import Item, Restart, TextDelta

T = TypeVar("T")


class Partial(msgspec.Struct, Generic[T], frozen=True):
    """A typed answer as far as it has come.

    `data`: what has come, as plain JSON values: fields by their names on the wire, lists and texts
    as long as they are so far, numbers and constants once they are complete. A field that has not
    begun is not in it; None before anything came. Do not change it: it shares what is complete with
    later ones.
    `growing`: where it still grows, as a path of names and numbers; None when all of it has come.
    `complete`: whether it is the last one, which alone has the `value`.
    `restarts`: how often the answer began again (`on_interrupt="restart"`), and `data` with it.
    """

    data: Any
    growing: tuple[str | int, ...] | None = ()
    complete: bool = False
    value: T | None = None
    restarts: int = 0

    def is_final(self, *path: str | int) -> bool:
        """Return whether what `data` has at a path of names and numbers will not change."""
        return self.growing is None or self.growing[: len(path)] != path


class TypedStream(Stream, Generic[T]):
    """A stream of a typed answer; iterated, it yields chunks like any other.

    async for partial in reg.stream("openai/gpt-6.1-sol", "Plan a trip", output=Trip).partials():
        show(partial.data)
    """

    __slots__ = ("_shape", "_value")

    def __init__(self, stream: Stream, shape: Shape) -> None:
        """Make the call of a stream that nobody has read."""
        super().__init__(stream._call())  # noqa: SLF001 - a stream like this one
        self._shape = shape
        self._value: list[T] = []

    @property
    def value(self) -> T:
        """The answer as its type. Raises: ClosedError before the end, OutputError."""
        if not self._value:
            self._value.append(self._shape.read(self.response))
        return self._value[0]

    def partials(self) -> AsyncIterator[Partial[T]]:
        """Iterate the value as far as it has come; the last one has it as its type.

        There is one for each piece that is read from the network, fewer where the value is so long
        that copying it costs more than reading. It begins with all text that has come so far.
        Nothing is asked again: a reply that does not fit is an OutputError after its partials.
        Raises: as iterating the stream, OutputError.
        """
        self._ready, text = (), self.partial.text
        return _Partials(self._shape, text, self._next_batch, self._last)

    async def _next_batch(self) -> Sequence[Item] | None:
        try:
            batch = await self._read()
        except StopAsyncIteration:
            return None
        self._total.add(batch)
        return batch

    def _last(self) -> list[T]:
        """Return the value, or nothing after an end by `aclose`. Raises: OutputError."""
        return [] if self._total.finish_reason is None else [self.value]


class _Partials(Generic[T]):
    """Iterates a typed stream; it holds the stream, which does not know of it."""

    __slots__ = (
        "_cleared",
        "_data",
        "_ended",
        "_growing",
        "_last",
        "_next_batch",
        "_restarts",
        "_shape",
    )

    def __init__(
        self,
        shape: Shape,
        text: str,
        next_batch: Callable[[], Awaitable[Sequence[Item] | None]],
        last: Callable[[], list[T]],
    ) -> None:
        self._shape = shape
        self._next_batch = next_batch
        self._last = last
        self._growing = GrowingJson(shape.openers)
        self._growing.feed(text)
        self._data: Any = None
        self._restarts = 0
        self._cleared = False
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Partial[T]:
        while not self._ended:
            if self._cleared:
                self._cleared, self._data = False, None
                return Partial(None, restarts=self._restarts)
            while not self._growing.read():  # noqa: ASYNC110 - it only lets the loop turn
                await asyncio.sleep(0)
            if (partial := self._partial()) is not None:
                return partial
            batch = await self._next_batch()
            if batch is None:
                self._ended = True
                return await self._final()
            self._take(batch)
        raise StopAsyncIteration

    def _take(self, batch: Sequence[Item]) -> None:
        texts: list[str] = []
        for item in batch:
            match item:
                case TextDelta(text=text):
                    texts.append(text)
                case Restart():
                    texts.clear()
                    self._restarts += 1
                    self._cleared = True
                    self._growing = GrowingJson(self._shape.openers)
                case _:
                    pass
        self._growing.feed("".join(texts))

    def _partial(self) -> Partial[T] | None:
        growing = self._growing
        if not growing.is_due:
            return None
        found, path = self._shape.unwrapped(growing.value(), growing.growing())
        if not found:
            return None
        self._data = found[0]
        return Partial(found[0], path, restarts=self._restarts)

    async def _final(self) -> Partial[T]:
        last = self._last()
        if not last:
            raise StopAsyncIteration
        await asyncio.sleep(0)  # both are of the order of a millisecond for each 100 KB
        (value,) = last
        data = self._said(value)
        if self._data is not None and not _continues(self._data, data):
            self._restarts += 1  # words around it made another value of it
        return Partial(data, None, complete=True, value=value, restarts=self._restarts)

    def _said(self, value: T) -> Any:
        """Return what the answer said, or else how the value that it was taken for is written."""
        if self._growing.whole:
            root = self._growing.value()
            found, _ = self._shape.unwrapped(root, None)
            if found and self._shape.means(root, value):
                return found[0]
        try:
            return msgspec.json.decode(msgspec.json.encode(value, enc_hook=plain))
        except (TypeError, ValueError, NotImplementedError):
            return self._data


def _continues(part: Any, whole: Any) -> bool:
    """Return whether a value begins as an earlier part of it."""
    match part, whole:
        case str(), str():
            return whole.startswith(part)
        case list(), list():
            return len(part) <= len(whole) and all(map(_continues, part, whole))
        case dict(), dict():
            return all(
                name in whole and _continues(each, whole[name]) for name, each in part.items()
            )
        case _:
            return bool(part == whole)


def typed_stream(
    stream: Callable[..., Stream], request: RequestLike, options: Mapping[str, Any]
) -> TypedStream[Any]:
    """Return what `stream` makes of a request whose `options` have an output. Raises: as it."""
    others = {name: value for name, value in options.items() if name != "output"}
    shape = shape_of(options["output"])
    asked = msgspec.structs.replace(as_request(request), output=shape.wire)
    return TypedStream(stream(asked, **others), shape)
