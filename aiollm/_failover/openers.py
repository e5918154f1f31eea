"""The targets of one call as failover sees them: hosts, deadlines, slots, prepared requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar, Generic, TypeVar, cast

import msgspec

from aiollm._failover.attempt import Batches, close_now
from aiollm._failover.slots import Slots
from aiollm._http import streaming
from aiollm._http.image_streaming import draw
from aiollm.capabilities import Capabilities
from aiollm.errors import LLMError, UnsupportedError
from aiollm.images import ImageRequest
from aiollm.provider import Provider, Transport
from aiollm.providers.error_replies import redacted
from aiollm.types import (
    ImagePart,
    Notice,
    Request,
    Target,
    ToolResultPart,
    assistant,
    user,
)

Fit = Callable[[Request, Capabilities], Awaitable[tuple[Request, tuple[str, ...]]]]
"""Makes the images of a request fit; returns the request and what was left out."""


class Shared:
    """What the calls of a registry share: its transport, its slots by provider name, its fit."""

    __slots__ = ("fit", "slots", "transport")

    def __init__(self, transport: Transport, fit: Fit) -> None:
        self.transport = transport
        self.slots: dict[str, Slots] = {}
        self.fit = fit


R = TypeVar("R", bound=Request | ImageRequest)


class TargetRoute(Generic[R]):
    """What chat and images share: resolved providers, deadlines, slots, clean errors."""

    __slots__ = ("_shared", "providers", "request")

    def __init__(self, request: R, providers: Mapping[Target, Provider], shared: Shared) -> None:
        """Take a checked request and the resolved `providers` of the plan's targets."""
        self.request: R = request
        self.providers = providers
        self._shared = shared

    def slots(self, target: Target) -> Slots | None:
        """Return the slots of the target's provider, None where they are not limited."""
        provider = self.providers[target]
        limit = provider.options.max_concurrency
        if limit is None:
            return None
        known = self._shared.slots
        slots = known.get(provider.name)
        if slots is None:
            slots = known[provider.name] = Slots(limit)
        return slots

    def takes_prefill(self, target: Target) -> bool:
        """Say whether the target goes on from an assistant message at the end."""
        return self.providers[target].capabilities(target.model).prefill

    def clean(self, target: Target, error: LLMError) -> None:
        """Put the target on the error and take its secret out."""
        error.target = target
        redacted(error, self.providers[target].token)


class CallRoute(TargetRoute[Request]):
    """Opens the targets of one chat call."""

    __slots__ = ()

    operation: ClassVar[str] = "chat"

    def open(self, target: Target, prefix: str) -> Batches:
        """Return the target's unstarted stream. Raises: LLMError."""
        provider = self.providers[target]
        request = self.request
        if prefix:
            messages = (*request.messages, assistant(prefix))
            request = msgspec.structs.replace(request, messages=messages)
        if request.tools and not provider.capabilities(target.model).tools:
            raise UnsupportedError(f"{target.model} takes no tools")
        if _has_images(request):
            return self._fitted(provider, target, request)
        return self._run(provider, target, request)

    def _run(self, provider: Provider, target: Target, request: Request) -> Batches:
        run = provider.adapter or streaming.stream
        return run(provider, self._shared.transport, target, request)

    async def _fitted(self, provider: Provider, target: Target, request: Request) -> Batches:
        """Make the images fit the target, note what was left out, then run."""
        request, left_out = await self._shared.fit(request, provider.capabilities(target.model))
        if left_out:
            yield [Notice(message, image_elided=True) for message in left_out]
        batches = self._run(provider, target, request)
        try:
            async for batch in batches:
                yield batch
        finally:
            close_now(batches)


class ImageRoute(TargetRoute[ImageRequest]):
    """Opens the targets of one call that makes images."""

    __slots__ = ()

    operation: ClassVar[str] = "generate_content"

    def open(self, target: Target, prefix: str) -> Batches:  # noqa: ARG002 - not gone on with
        """Return the unstarted stream of drafts and result. Raises: LLMError."""
        provider = self.providers[target]
        if provider.image_codecs is None and provider.image_adapter is None:
            raise UnsupportedError(f"{provider.name} makes no images")
        return self._drawn(provider, target)

    async def _drawn(self, provider: Provider, target: Target) -> Batches:
        request = await self._fitted(provider, target)
        run = provider.image_adapter or draw
        batches = cast("Batches", run(provider, self._shared.transport, target, request))
        try:
            async for batch in batches:
                yield batch
        finally:
            close_now(batches)

    async def _fitted(self, provider: Provider, target: Target) -> ImageRequest:
        request = self.request
        if not request.images or request.mask is not None:
            # A mask must keep the size of its image: both go as they are.
            return request
        inputs = Request((user(*request.images),))
        fitted, left_out = await self._shared.fit(inputs, provider.capabilities(target.model))
        if left_out:
            # In a conversation old images may go; here each is part of what is asked.
            raise UnsupportedError(f"the input images do not fit: {left_out[0]}")
        images = tuple(part for part in fitted.messages[0].parts if isinstance(part, ImagePart))
        return msgspec.structs.replace(request, images=images)


def _has_images(request: Request) -> bool:
    for message in request.messages:
        for part in message.parts:
            match part:
                case ImagePart():
                    return True
                case ToolResultPart(content=content) if any(
                    isinstance(each, ImagePart) for each in content
                ):
                    return True
    return False
