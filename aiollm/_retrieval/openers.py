"""The targets of calls that embed or rerank, as failover sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from msgspec.structs import replace

from aiollm._failover.loading import in_thread
from aiollm._failover.openers import Batches, Preparing, SharedResources, TargetOpener, close_now
from aiollm._http import retrieving
from aiollm.errors import UnsupportedError
from aiollm.provider import Adapter, Provider
from aiollm.providers.extra_fields import fields_of, wires_of
from aiollm.providers.lazy import loader_of
from aiollm.retrieval import Embeddings, EmbedInput, EmbedRequest, RerankRequest
from aiollm.types import ImagePart, Request, Target, Timeouts, user

AskedT = TypeVar("AskedT", EmbedRequest, RerankRequest)


class Space:
    """The space of vectors that all batches of one call share."""

    __slots__ = ("dimensions",)

    def __init__(self) -> None:
        self.dimensions: int | None = None

    def check(self, found: Embeddings, target: Target) -> None:
        """Refuse vectors of another width than the first. Raises: UnsupportedError."""
        self.dimensions = self.dimensions or found.dimensions
        if found.dimensions != self.dimensions:
            raise UnsupportedError(
                f"its vectors have {found.dimensions} numbers, the others of this call "
                f"{self.dimensions}: {target.model} is another model there"
            )


class RetrievalOpener(TargetOpener, Generic[AskedT]):
    """Opens the targets of one request."""

    __slots__ = ()

    key: ClassVar[str]
    """The operation of a provider."""
    what: ClassVar[str]
    adapter: Adapter[Any]

    request: AskedT

    def open(self, target: Target, prefix: str) -> Batches:  # noqa: ARG002 - not gone on with
        """Return the unstarted stream, of the result alone. Raises: LLMError."""
        provider = self.providers[target]
        if self.key not in provider.operations:
            raise UnsupportedError(f"{provider.name} does not {self.what}")
        return self._asked(provider, target)

    async def _asked(self, provider: Provider, target: Target) -> Batches:
        request: Any = self.request
        if request.extra:
            wires = wires_of(provider.codec.family)[:1]
            request = replace(request, extra=fields_of(request.extra, wires, target))
        if self._has_images(request):
            yield Preparing()
            request = await self._fitted(request, provider, target)
            yield ()
        operation = provider.operations[self.key]
        if operation.adapter is None and (load := loader_of(operation.codecs)) is not None:
            await in_thread(load)
        run = operation.adapter or self.adapter
        transport = self._resources.transport_of(provider)
        batches = run(provider, transport, target, request, self.timeouts[target])
        try:
            async for batch in batches:
                self._check(batch, target)
                yield batch
        finally:
            close_now(batches)

    @staticmethod
    def _has_images(request: Any) -> bool:  # noqa: ARG004
        return False

    async def _fitted(self, request: AskedT, provider: Provider, target: Target) -> AskedT:  # noqa: ARG002
        return request

    def _check(self, batch: Sequence[Any], target: Target) -> None:
        """Refuse a result that does not go with others."""


class EmbedOpener(RetrievalOpener[EmbedRequest]):
    """Opens the targets of one batch of inputs."""

    __slots__ = ("_first", "_space")

    key = "embed"
    what = "embed: it has no wire for it"
    adapter = staticmethod(retrieving.embed)
    operation: ClassVar[str] = "embeddings"

    def __init__(
        self,
        request: EmbedRequest,
        providers: Mapping[Target, Provider],
        timeouts: Mapping[Target, Timeouts],
        resources: SharedResources,
        space: Space,
        first: int,
    ) -> None:
        """Open for the inputs from the `first` one of the call on."""
        super().__init__(request, providers, timeouts, resources)
        self._space = space
        self._first = first

    def _check(self, batch: Sequence[Any], target: Target) -> None:
        for item in batch:
            if isinstance(item, Embeddings):
                self._space.check(item, target)

    @staticmethod
    def _has_images(request: EmbedRequest) -> bool:
        return not all(isinstance(each, str) for each in request.inputs)

    async def _fitted(
        self, request: EmbedRequest, provider: Provider, target: Target
    ) -> EmbedRequest:
        facts = provider.capabilities(target.model)
        # Each alone: a batch may hold more images than a conversation.
        inputs: list[EmbedInput] = [
            await self._fit(place, each, facts) if isinstance(each, ImagePart) else each
            for place, each in enumerate(request.inputs, self._first)
        ]
        return replace(request, inputs=tuple(inputs))

    async def _fit(self, place: int, image: ImagePart, facts: Any) -> ImagePart:
        request, reason = Request((user(image),)), ""
        try:
            request, left_out = await self._resources.fit(request, facts)
            reason = left_out[0] if left_out else ""
        except UnsupportedError as error:
            reason = error.message
        if reason:
            raise UnsupportedError(f"inputs[{place}]: {reason}")
        (part,) = request.messages[0].parts
        assert isinstance(part, ImagePart)
        return part


class RerankOpener(RetrievalOpener[RerankRequest]):
    """Opens the targets of one ranking."""

    __slots__ = ()

    key = "rerank"
    what = "rerank: it has no wire for it"
    adapter = staticmethod(retrieving.rerank)
    operation: ClassVar[str] = "rerank"
