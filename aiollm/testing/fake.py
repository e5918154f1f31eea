"""FakeProvider: an in-process provider with scripted answers; no network, no key."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from aiollm.images import ImageRequest, ImageResult, PartialImage
from aiollm.provider import Operation, Provider, Transport
from aiollm.retrieval import Embeddings, EmbedRequest, Ranking, RerankRequest
from aiollm.testing.connection import Sleep
from aiollm.testing.fake_codec import FakeCodec
from aiollm.testing.fake_retrieval import embeddings_for, ranking_for
from aiollm.testing.fake_script import (
    Never,
    Played,
    Script,
    ScriptStep,
    checked,
    drawn,
    found,
    greeting,
    is_function,
    said,
    steps_of,
)
from aiollm.testing.faults import Pause
from aiollm.testing.gate import WITHIN, Gate, Signal
from aiollm.types import Finish, Item, Request, Target, Timeouts, TokenCount

Counted: TypeAlias = int | Exception | Callable[[Target, Request], int | Exception]
"""What a count is answered: tokens, an error to raise, or a choice by target and request."""


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
        self._scripts: deque[Script] = deque(map(checked, scripts))
        self._default = greeting if default is None and not scripts else default
        if default is not None:
            checked(default)
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
        self._scripts.extend(map(checked, scripts))

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
        return self._play(target, request, said)

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
        return self._play(target, request, drawn)

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
        return self._play(target, request, partial(found, lambda: embeddings_for(request)))

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
        return self._play(target, request, partial(found, lambda: ranking_for(request)))

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
        while is_function(script):
            script = script(target, request)
        if script is None:
            raise AssertionError(
                f"FakeProvider {self.name!r} got call {len(self.calls)}, "
                "but its scripts are used up: add one, or set a default"
            )
        return steps_of(script)


def _fresh(error: Exception) -> Exception:
    """Copy an error, so that a script used twice does not share its traceback and target."""
    kind = type(error)
    copied = kind.__new__(kind, *error.args)
    copied.args = error.args
    copied.__dict__.update(error.__dict__)
    return copied
