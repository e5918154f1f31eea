"""The targets of one call as failover sees them: hosts, deadlines, slots, prepared requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from aiollm import engine
from aiollm.attempt import Batches
from aiollm.capabilities import Capabilities
from aiollm.errors import LLMError
from aiollm.provider import Provider, Transport
from aiollm.replies import redacted
from aiollm.slots import Slots
from aiollm.types import (
    ImagePart,
    Item,
    Notice,
    Request,
    Target,
    Timeouts,
    ToolResultPart,
    assistant,
)

Fit = Callable[[Request, Capabilities], Awaitable[tuple[Request, tuple[str, ...]]]]
"""Makes the images of a request fit; returns the request and what was left out."""


class CallRoute:
    """Opens the targets of one call."""

    __slots__ = ("_fit", "_has_images", "_open_transport", "_providers", "_request", "_slots")

    def __init__(
        self,
        providers: Mapping[Target, Provider],
        request: Request,
        slots: dict[str, Slots],
        open_transport: Callable[[], Awaitable[Transport]],
        fit: Fit,
    ) -> None:
        """Take the resolved providers of the plan, and the registry's slots by provider name."""
        self._providers = providers
        self._request = request
        self._slots = slots
        self._open_transport = open_transport
        self._fit = fit
        self._has_images = _has_images(request)

    def host(self, target: Target) -> str:
        """Return the host that the target's connection failures count against."""
        return self._providers[target].host

    def timeouts(self, target: Target) -> Timeouts:
        """Return the deadlines of one attempt."""
        return self._providers[target].timeouts

    def slots(self, target: Target) -> Slots | None:
        """Return the slots of the target's provider, None where they are not limited."""
        provider = self._providers[target]
        limit = provider.max_concurrency
        if limit is None:
            return None
        slots = self._slots.get(provider.name)
        if slots is None:
            slots = self._slots[provider.name] = Slots(limit)
        return slots

    def takes_prefill(self, target: Target) -> bool:
        """Say whether the target goes on from an assistant message at the end."""
        return self._providers[target].capabilities(target.model).prefill

    async def open(self, target: Target, prefix: str) -> tuple[Batches, Sequence[Item]]:
        """Fit the request to the target; return its unstarted stream and what there is to note.

        Raises: LLMError.
        """
        provider = self._providers[target]
        request = self._request
        if prefix:
            messages = (*request.messages, assistant(prefix))
            request = msgspec.structs.replace(request, messages=messages)
        notes: Sequence[Item] = ()
        if self._has_images:
            request, left_out = await self._fit(request, provider.capabilities(target.model))
            notes = [Notice(message) for message in left_out]
        run = provider.adapter or engine.stream
        return run(provider, await self._open_transport(), target, request), notes

    def clean(self, target: Target, error: LLMError) -> None:
        """Put the target on the error and take its secret out."""
        error.target = target
        redacted(error, self._providers[target].token)


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
