"""The targets of one call as failover sees them: hosts, deadlines, slots, prepared requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import msgspec
from msgspec.structs import replace

from aiollm._failover.loading import in_thread, load_modules
from aiollm._failover.tickets import Demand
from aiollm.capabilities import Capabilities
from aiollm.errors import LLMError, LocalError, UnsupportedError
from aiollm.provider import Adapter, Provider, Transport, Transports
from aiollm.providers.lazy import LazyCodec, loader_of
from aiollm.types import (
    ImagePart,
    Item,
    Notice,
    Request,
    Target,
    TextPart,
    Timeouts,
    ToolResultPart,
    assistant,
    user,
)

if TYPE_CHECKING:
    from aiollm._failover.estimate import AnyRequest
    from aiollm.images import ImageRequest

LONG = 24
"""Messages from which on a conversation is remembered; to encode fewer takes less than 0.1 ms."""

_DRAWING = ("aiollm._http.image_streaming", "aiollm._wire.base64_stream")
"""What reads images."""

Batches: TypeAlias = AsyncGenerator[Sequence[Item], None]
"""What an attempt reads: each batch is what one read brought, an empty one a sign of life."""


class Preparing(list[Item]):
    """An empty batch: up to the next one, and with that, this process prepares what it will send.

    That takes no time of the server's and is no sign of its life, and who leaves meanwhile has sent
    nothing.
    """


class SharedResources(Transport, Transports, Protocol):
    """What the calls of a registry share."""

    def bind_loop(self) -> object:
        """Bind to the running loop. Raises: ClosedError, ConfigError."""

    async def fit(
        self, request: Request, capabilities: Capabilities
    ) -> tuple[Request, tuple[str, ...]]:
        """Make the images of a request fit; return the request and what was left out."""


class TargetOpener(Demand, ABC):
    """Opens the targets of one call: their providers, deadlines and clean errors."""

    __slots__ = ("_resources", "providers", "timeouts")

    operation: ClassVar[str]
    """What kind of call it is, for events."""

    def __init__(
        self,
        request: AnyRequest,
        providers: Mapping[Target, Provider],
        timeouts: Mapping[Target, Timeouts],
        resources: SharedResources,
    ) -> None:
        """Take a checked request, and the providers and deadlines of the plan's targets."""
        self.request = request  # as `Demand` does, at each call
        self._size = None
        self.providers = providers
        self.timeouts = timeouts
        self._resources = resources

    @property
    def asked(self) -> AnyRequest:
        """The request as the caller made it, for events."""
        return self.request

    @abstractmethod
    def open(self, target: Target, prefix: str) -> Batches:
        """Return the target's unstarted stream; nothing is sent before it is iterated.

        `prefix` is the answer so far, from which the target has to go on. Raises: LLMError.
        """

    def takes_prefill(self, target: Target) -> bool:
        """Return whether the target continues an assistant message at the end."""
        return self.providers[target].capabilities(target.model).prefill

    def clean(self, target: Target, error: LLMError) -> None:
        """Put the target on the error and take its secrets out."""
        error.target = target
        if isinstance(error, LocalError):
            return  # it quotes no server, and may be for want of a file to open
        from aiollm._wire.redaction import redacted  # for failures alone

        redacted(error, self.providers[target].secrets)

    def forget(self, error: BaseException) -> None:
        """Clear the variables of the frames that a cancellation has ended: they hold answers."""
        if isinstance(error, GeneratorExit):
            return  # nobody gets it; and a program that ends cannot import any more
        from aiollm._wire.redaction import forget_variables  # for failures alone

        forget_variables(error)


class ChatOpener(TargetOpener):
    """Opens the targets of one chat call.

    `leaves_out`: files of a kind that a target does not take become placeholders.
    """

    __slots__ = ("leaves_out",)

    request: Request
    leaves_out: bool

    operation: ClassVar[str] = "chat"

    def open(self, target: Target, prefix: str) -> Batches:
        """Return the target's unstarted stream. Raises: LLMError."""
        provider = self.providers[target]
        if provider.codec.__class__ is LazyCodec:
            return self._opened(provider.codec, target, prefix)
        request = self.request
        if request.extra:
            request = _request_for(target, provider, request)
        if prefix:
            request = replace(request, messages=(*request.messages, assistant(prefix)))
        if request.tools and not provider.capabilities(target.model).tools:
            raise UnsupportedError(
                f"{target.model} does not support tools: send the request without them, or name a "
                "model that calls tools"
            )
        if self.leaves_out:
            return self._without_unsupported(provider, target, request)
        if self.has_images(request):
            return self._fitted(provider, target, request, [])
        return self._run(provider, target, request)

    async def _opened(self, codec: object, target: Target, prefix: str) -> Batches:
        """Load what answers are made with, as a first call does, then open."""
        load = loader_of(codec)
        await load_modules("aiollm._http.streaming")
        if load is not None:
            await in_thread(load)
        batches = self.open(target, prefix)
        try:
            async for batch in batches:
                yield batch
        finally:
            close_now(batches)

    def _without_unsupported(self, provider: Provider, target: Target, request: Request) -> Batches:
        from aiollm._failover.left_out import without_unsupported  # few calls leave files out

        facts = provider.capabilities(target.model)
        request, notices = without_unsupported(request, facts)
        if notices or self.has_images(request):
            return self._fitted(provider, target, request, notices)
        return self._run(provider, target, request)

    @staticmethod
    def has_images(request: Request) -> bool:
        """Return whether a message of a request has an image, or the result of a tool."""
        for message in request.messages:
            for part in message.parts:
                if type(part) is TextPart:  # as most are
                    continue
                match part:
                    case ImagePart():
                        return True
                    case ToolResultPart(content=content) if any(
                        isinstance(each, ImagePart) for each in content
                    ):
                        return True
        return False

    def _run(self, provider: Provider, target: Target, request: Request) -> Batches:
        chat = provider.operations.get("chat")
        run = (chat and chat.adapter) or _streaming()
        if provider.is_ordinary:
            return run(provider, self._resources, target, request, self.timeouts[target])
        transport = self._resources.transport_of(provider)
        return run(provider, transport, target, request, self.timeouts[target])

    async def _fitted(
        self, provider: Provider, target: Target, request: Request, notices: list[Notice]
    ) -> Batches:
        """Make the images fit the target, note what was left out, then run."""
        yield Preparing()
        if self.has_images(request):
            facts = provider.capabilities(target.model)
            request, left_out = await self._resources.fit(request, facts)
            notices += (Notice(message, image_elided=True) for message in left_out)
        yield notices
        batches = self._run(provider, target, request)
        try:
            async for batch in batches:
                yield batch
        finally:
            close_now(batches)


class ImageOpener(TargetOpener):
    """Opens the targets of one call that makes images."""

    __slots__ = ()

    request: ImageRequest

    operation: ClassVar[str] = "generate_content"

    def open(self, target: Target, prefix: str) -> Batches:  # noqa: ARG002 - not gone on with
        """Return the unstarted stream of drafts and result. Raises: LLMError."""
        provider = self.providers[target]
        if "images" not in provider.operations:
            raise UnsupportedError(f"{provider.name} does not make images")
        return self._drawn(provider, target)

    async def _drawn(self, provider: Provider, target: Target) -> Batches:
        own = provider.operations["images"]
        if own.adapter is None and (load := loader_of(own.codecs)) is not None:
            await load_modules(*_DRAWING)
            await in_thread(load)
        yield Preparing()
        request = await self._fitted(provider, target)
        yield ()
        run = own.adapter or _drawing()
        transport = self._resources.transport_of(provider)
        batches = run(provider, transport, target, request, self.timeouts[target])
        try:
            async for batch in batches:
                yield batch
        finally:
            close_now(batches)

    async def _fitted(self, provider: Provider, target: Target) -> ImageRequest:
        request = self.request
        if request.extra:
            from aiollm.providers.extra_fields import image_request_for  # most calls have none

            request = image_request_for(request, provider.codec.family, target)
        if not request.images or request.mask is not None:
            # A mask must keep the size of its image: both go as they are.
            return request
        inputs = Request((user(*request.images),))
        fitted, left_out = await self._resources.fit(inputs, provider.capabilities(target.model))
        if left_out:
            # In a conversation old images may go; here each is part of what is asked.
            raise UnsupportedError(f"the input images do not fit: {left_out[0]}")
        images = tuple(part for part in fitted.messages[0].parts if isinstance(part, ImagePart))
        return msgspec.structs.replace(request, images=images)


def _request_for(target: Target, provider: Provider, request: Request) -> Request:
    from aiollm.providers.extra_fields import request_for  # most calls have none

    return request_for(request, provider.codec.family, target)


@cache
def _streaming() -> Adapter[Request]:
    from aiollm._http.streaming import stream  # from the first call on

    return stream


def _drawing() -> Adapter[ImageRequest]:
    from aiollm._http.image_streaming import draw  # for calls that make images alone

    return draw


def close_now(batches: Batches) -> None:
    """Close a generator without a loop: an adapter's teardown does not await."""
    closing: Any = batches.aclose()
    try:
        closing.send(None)
    except (StopIteration, StopAsyncIteration):
        return
    except Exception:  # noqa: BLE001 - a fault of that adapter must not keep what is held
        return
    closing.close()
