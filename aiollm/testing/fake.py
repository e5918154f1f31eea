"""FakeProvider: an in-process provider with scripted answers; no network, no key."""

from __future__ import annotations

import asyncio
import binascii
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from aiollm.images import ImageRequest, ImageResult, PartialImage
from aiollm.provider import Operation, Provider, Transport
from aiollm.providers.hosted_calls import FAKE
from aiollm.retrieval import Embeddings, EmbedRequest, Ranking, RerankRequest
from aiollm.testing.connection import Sleep
from aiollm.testing.fake_codec import FakeCodec
from aiollm.testing.fake_retrieval import checked_result, embeddings_for, ranking_for
from aiollm.testing.faults import Pause
from aiollm.testing.gate import WITHIN, Gate, Signal
from aiollm.types import (
    Finish,
    ImageChunk,
    ImagePart,
    Item,
    OpaquePart,
    PartChunk,
    ProviderData,
    Request,
    Target,
    TextDelta,
    Timeouts,
    TokenCount,
    ToolCallDelta,
)


class Never(Enum):
    """A step that never ends."""

    NEVER = "never"


NEVER: Final = Never.NEVER
"""Wait until the stream is closed: a hanging provider."""

PIXEL: Final = ImagePart(
    binascii.a2b_base64(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
    ),
    mime="image/png",
)
"""A PNG of one red pixel, the answer to an image call without a script."""


class ToolCallStep(msgspec.Struct, frozen=True):
    """A complete tool call in a script; without an `index` it gets the next free one.

    Without an `id` that is `call_` and the index, which repeats in every answer.
    """

    name: str
    arguments: str = "{}"
    index: int | None = None
    id: str = ""


Said: TypeAlias = str | Item | ImagePart | ToolCallStep
Drawn: TypeAlias = ImagePart | PartialImage | ImageResult
Found: TypeAlias = Embeddings | Ranking
Shown: TypeAlias = Said | Drawn | Found
Wait: TypeAlias = Gate | Pause | Literal[Never.NEVER]
ScriptStep: TypeAlias = Shown | Exception | Wait | Sequence[Said | Drawn]
"""Text, an item, an image, vectors or scores, an error to raise, a wait, or several items at once.

An empty list is a sign of life without output.
"""
Script: TypeAlias = (
    str | Drawn | Found | Exception | Sequence[ScriptStep] | Callable[[Target, Any], "Script"]
)
"""One answer: text, an image, vectors, an error, steps, or a choice by target and request."""

Counted: TypeAlias = int | Exception | Callable[[Target, Request], int | Exception]
"""What a count is answered: tokens, an error to raise, or a choice by target and request."""

Played: TypeAlias = Exception | Wait | Sequence[Item | PartialImage | ImageResult | Found]
"""A step as it is played: a batch, an error or a wait."""


class FakeCall(msgspec.Struct):
    """A call that a FakeProvider received; `closed` means its caller left before the end."""

    target: Target
    request: Any
    """The Request, or the ImageRequest, EmbedRequest or RerankRequest of another operation."""
    at: float
    outcome: Literal["running", "finished", "failed", "closed"] = "running"


class FakeProvider:
    """Answers each call with the next script; a script without a `Finish` gets one at its end.

    After the last script `default` answers, or without it the call fails with AssertionError.
    Without any script, each call is answered `Hello`, or with what it asks for: images, a vector of
    length 1 for each input (made of hashes, so equal in each run), documents by shared words.
    `tokens` is what each request takes, for `count_tokens`; without it the provider cannot count.
    `sleep` replaces `asyncio.sleep`.

        reg.register("fake", FakeProvider("Hello", RateLimitError("slow down")).provider())
    """

    def __init__(
        self,
        *scripts: Script,
        default: Script | None = None,
        name: str = "fake",
        family: str = "fake",
        tokens: Counted | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.name = name
        self.family = family
        self.calls: list[FakeCall] = []
        self.tokens = tokens
        self.counted: list[Request] = []
        self._scripts: deque[Script] = deque(scripts)
        self._default = _greet if default is None and not scripts else default
        self._sleep = sleep
        self._signal = Signal()

    def provider(
        self, *, images: bool = True, embed: bool = True, rerank: bool = True, **fields: Any
    ) -> Provider:
        """Return the row to register; `fields` are those of `Provider`, such as `facts`.

        It cannot make images with `images=False`, vectors with `embed=False`, nor rank documents
        with `rerank=False`.
        """
        wanted = {"chat": True, "count": True, "images": images, "embed": embed, "rerank": rerank}
        row = Provider(
            name=self.name,
            scheme="fake",
            base_url=f"fake://{self.name}",
            codec=FakeCodec(self.family),
            operations={name: each for name, each in self._operations().items() if wanted[name]},
        )
        return replace(row, **fields)

    def _operations(self) -> dict[str, Operation]:
        return {
            "chat": Operation(adapter=self.stream),
            "count": Operation(adapter=self.count),
            "images": Operation(adapter=self.draw),
            "embed": Operation(adapter=self.embed),
            "rerank": Operation(adapter=self.rerank),
        }

    def push(self, *scripts: Script) -> None:
        """Append scripts to the queue."""
        self._scripts.extend(scripts)

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests of all chat calls, in order."""
        return tuple(each.request for each in self.calls if isinstance(each.request, Request))

    @property
    def image_requests(self) -> tuple[ImageRequest, ...]:
        """The requests of all image calls, in order."""
        return tuple(each.request for each in self.calls if isinstance(each.request, ImageRequest))

    @property
    def embed_requests(self) -> tuple[EmbedRequest, ...]:
        """The requests of all calls that embed, one for each batch, in order."""
        return tuple(each.request for each in self.calls if isinstance(each.request, EmbedRequest))

    @property
    def rerank_requests(self) -> tuple[RerankRequest, ...]:
        """The requests of all calls that rank documents, in order."""
        return tuple(each.request for each in self.calls if isinstance(each.request, RerankRequest))

    @property
    def running(self) -> int:
        """The number of calls that have not ended."""
        return sum(call.outcome == "running" for call in self.calls)

    async def wait_calls(self, count: int = 1, within: float | None = WITHIN) -> None:
        """Wait until `count` calls have arrived. Raises: TimeoutError after `within` s."""
        await self._signal.until(
            lambda: len(self.calls) >= count,
            lambda: f"{count} calls of {self.name!r}; so far {len(self.calls)}",
            within,
        )

    async def wait_idle(self, within: float | None = WITHIN) -> None:
        """Wait until no call is running. Raises: TimeoutError after `within` s."""
        await self._signal.until(
            lambda: not self.running, lambda: f"{self.running} calls of {self.name!r}", within
        )

    def stream(
        self,
        _: Provider,
        transport: Transport | None,
        target: Target,
        request: Request,
        timeouts: Timeouts,
    ) -> AsyncGenerator[Sequence[Item], None]:
        """Play the next script; this is the row's chat adapter."""
        del transport, timeouts
        return self._play(target, request, _said)

    def draw(
        self,
        _: Provider,
        transport: Transport | None,
        target: Target,
        request: ImageRequest,
        timeouts: Timeouts,
    ) -> AsyncGenerator[Sequence[Item | PartialImage | ImageResult], None]:
        """Play the next script as images; this is the row's image adapter."""
        del transport, timeouts
        return self._play(target, request, _drawn)

    def embed(
        self,
        _: Provider,
        transport: Transport | None,
        target: Target,
        request: EmbedRequest,
        timeouts: Timeouts,
    ) -> AsyncGenerator[Sequence[Item | Embeddings], None]:
        """Play the next script as vectors; this is the row's adapter for embedding."""
        del transport, timeouts
        return self._play(target, request, partial(_found, lambda: embeddings_for(request)))

    def rerank(
        self,
        _: Provider,
        transport: Transport | None,
        target: Target,
        request: RerankRequest,
        timeouts: Timeouts,
    ) -> AsyncGenerator[Sequence[Item | Ranking], None]:
        """Play the next script as scores; this is the row's adapter for reranking."""
        del transport, timeouts
        return self._play(target, request, partial(_found, lambda: ranking_for(request)))

    async def count(
        self,
        _: Provider,
        transport: Transport | None,
        target: Target,
        request: Request,
        timeouts: Timeouts,
    ) -> AsyncGenerator[Sequence[TokenCount], None]:
        """Count with `tokens`; this is the row's adapter for counting."""
        del transport, timeouts
        self.counted.append(request)
        found = self.tokens(target, request) if callable(self.tokens) else self.tokens
        if isinstance(found, Exception):
            raise _fresh(found)
        if found is not None:
            yield [TokenCount(found, "exact", target)]

    async def _play(
        self,
        target: Target,
        request: Any,
        played: Callable[[Sequence[ScriptStep]], Iterator[Played]],
    ) -> AsyncGenerator[Any, None]:
        call = FakeCall(target, request, asyncio.get_running_loop().time())
        self.calls.append(call)
        self._signal.changed()
        outcome: Literal["finished", "failed", "closed"] = "closed"
        try:
            for step in played(self._next(target, request)):
                match step:
                    case Exception():
                        outcome = "failed"
                        raise _fresh(step)
                    case Gate() | Pause() | Never():
                        await self._wait(step)
                    case _:
                        if any(isinstance(item, Finish) for item in step):
                            outcome = "finished"
                        yield step
        finally:
            call.outcome = outcome
            self._signal.changed()

    async def _wait(self, step: Gate | Pause | Never) -> None:
        match step:
            case Gate():
                await step.passes()
            case Pause(seconds):
                await self._sleep(seconds)
            case Never():
                await asyncio.get_running_loop().create_future()

    def _next(self, target: Target, request: Any) -> Sequence[ScriptStep]:
        script = self._scripts.popleft() if self._scripts else self._default
        while callable(script):
            script = script(target, request)
        match script:
            case None:
                raise AssertionError(
                    f"FakeProvider {self.name!r} got call {len(self.calls)}, "
                    "but its scripts are used up: add one, or set a default"
                )
            case str() | Exception() | ImagePart() | PartialImage() | ImageResult():
                return (script,)
            case Embeddings() | Ranking():
                return (script,)
            case _:
                return script


def _greet(_: Target, request: Any) -> Script:
    match request:
        case ImageRequest():
            return [PIXEL] * request.count
        case EmbedRequest() | RerankRequest():
            return ()
        case _:
            return "Hello"


def _said(script: Sequence[ScriptStep]) -> Iterator[Played]:
    """Play the steps, then `Finish` unless the script has one."""
    reason: Literal["stop", "tool_calls"] = "stop"
    indices: set[int] = set()
    for step in script:
        if isinstance(step, Exception | Gate | Pause | Never):
            yield step
            continue
        batch = [_item(each, indices) for each in _several(step)]
        if any(isinstance(item, ToolCallDelta) for item in batch):
            reason = "tool_calls"
        yield batch
        if any(isinstance(item, Finish) for item in batch):
            return
    yield [Finish(reason, reason)]


def _drawn(script: Sequence[ScriptStep]) -> Iterator[Played]:
    """Play the drafts, then the result: the one in the script, or one made of its images."""
    result = ImageResult(())
    for step in script:
        if isinstance(step, Exception | Gate | Pause | Never):
            yield step
            continue
        drafts: list[PartialImage] = []
        for each in _several(step):
            match each:
                case PartialImage():
                    drafts.append(each)
                case ImagePart():
                    result = replace(result, images=(*result.images, each))
                case ImageResult():
                    result = each
                case _:
                    raise AssertionError(f"an image call cannot yield {each!r:.80}")
        if drafts or not step:
            yield drafts
    if not result.images:
        raise AssertionError("the script of an image call has no image")
    yield [result, Finish("stop", "stop", result.usage)]


def _found(make: Callable[[], Found], script: Sequence[ScriptStep]) -> Iterator[Played]:
    """Play the errors and waits, then the result: the one in the script, or else what is made."""
    own = make()
    result = own
    for step in script:
        if isinstance(step, Exception | Gate | Pause | Never):
            yield step
        elif isinstance(step, type(own)):
            result = step
        elif step != []:
            wanted = f"a call for a result of type {type(own).__name__} cannot yield {step!r:.80}"
            raise AssertionError(f"{wanted}: script it with a function of the request")
    yield [checked_result(result, own), Finish("stop", "stop", result.usage)]


def _several(step: Shown | Sequence[Said | Drawn]) -> Sequence[Shown]:
    return step if isinstance(step, Sequence) and not isinstance(step, str) else (step,)


def _item(said: Shown, indices: set[int]) -> Item:
    """Return the item of a step; `indices` are those of the answer's tool calls so far."""
    match said:
        case str():
            return TextDelta(said)
        case ToolCallStep():
            return _call(said, indices)
        case ToolCallDelta(index):
            indices.add(index)
            return said
        case ImagePart():
            return ImageChunk(said)
        case PartialImage() | ImageResult():
            raise AssertionError(f"only image calls can yield {type(said).__name__}")
        case Embeddings() | Ranking():
            raise AssertionError(f"a chat cannot yield {type(said).__name__}")
        case _:
            return said


def _call(step: ToolCallStep, indices: set[int]) -> ToolCallDelta:
    index = max(indices, default=-1) + 1 if step.index is None else step.index
    if index in indices:
        raise AssertionError(f"two tool calls of the script have the index {index}: leave it out")
    indices.add(index)
    return ToolCallDelta(index, step.id or f"call_{index}", step.name, step.arguments)


def _fresh(error: Exception) -> Exception:
    """Copy an error, so that a script used twice does not share its traceback and target."""
    kind = type(error)
    copied = kind.__new__(kind, *error.args)
    copied.args = error.args
    copied.__dict__.update(error.__dict__)
    return copied


def tool_call(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    index: int | None = None,
    id: str = "",  # noqa: A002 - the field's name
) -> ToolCallStep:
    """Return a complete tool call as a step of a script; its id is `id`, or `call_` and its index.

    `index`: its place among the calls of the answer; None means the next free one. A script in
    which two calls have the same index fails with AssertionError.
    """
    return ToolCallStep(name, msgspec.json.encode(arguments or {}).decode(), index, id)


def hosted_call(
    name: str, arguments: Mapping[str, Any] | None = None, result: Any = None
) -> PartChunk:
    """Return what the provider ran itself, as an item of a script; `hosted_calls` reads it."""
    call = {"name": name, "arguments": dict(arguments or {}), "result": result}
    return PartChunk(OpaquePart(ProviderData("fake", {FAKE: call})))
