"""A call that looks into the response cache before it asks anyone, and keeps a complete answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from aiollm._failover.call import ended
from aiollm._failover.chain import Chain
from aiollm._failover.openers import ChatOpener
from aiollm._response_cache.answers import answer_of
from aiollm._response_cache.cache import PATIENCE, ResponseCache
from aiollm._response_cache.keys import Asked
from aiollm._streams.accumulator import Accumulator
from aiollm._streams.stream import Answering
from aiollm.errors import ConfigError
from aiollm.spec import Plan
from aiollm.types import (
    Attempt,
    Cost,
    Item,
    ResponseCacheUse,
    Target,
    Usage,
)

FREE = Cost(0.0, "billed", 0.0)
"""What a call costs that asked nobody: it is certain, as a bill is."""


class CachedCall:
    """The batches of one call: those of an answer that was kept, else those of its chain.

    The chain exists from the start, since its clocks and its number are those of the call.
    """

    __slots__ = (
        "_accumulated",
        "_cache",
        "_chain",
        "_error",
        "_is_closed",
        "_is_new",
        "_kept",
        "_targets",
        "attempts",
    )

    def __init__(
        self,
        cache: ResponseCache,
        use: ResponseCacheUse,
        make: Callable[..., Chain],
        plan: Plan,
        *parts: Any,
        accumulated: Accumulator,
        **named: Any,
    ) -> None:
        """Take what `make` takes to make the chain."""
        self._cache = cache
        self._accumulated = accumulated
        self._chain = make(plan, *parts, accumulated=accumulated, **named)
        self.attempts: list[Attempt] = self._chain.attempts
        # An answer of a later step is for a call whose first targets could not answer, which
        # nobody knows before they are asked.
        self._targets = plan.steps[0].targets if use == "use" else ()
        self._is_new = True
        self._is_closed = False
        self._kept: Target | None = None
        self._error: ConfigError | None = None

    @property
    def answering(self) -> Answering | None:
        """What a target answers with, None while nothing is known to be."""
        return self._chain.answering

    async def next(self, task: asyncio.Task[Any]) -> Sequence[Item] | None:
        """Return the next batch to `task`, None at the end. Raises: LLMError, FailoverError."""
        if self._is_new:
            self._is_new = False
            if (items := await self._look_up()) is not None:
                return items
        return None if self._kept is not None else await self._chain.next(task)

    async def _look_up(self) -> Sequence[Item] | None:
        chain = self._chain
        left = PATIENCE if chain.total_at is None else chain.total_at - chain.watchdog.time()
        try:
            found = await self._cache.find([*map(self._asked, self._targets)], left)
        except ConfigError as error:
            self._error = error
            raise
        if found is None:
            return None
        self._kept, items = found
        now = self.elapsed()
        self.attempts.append(
            Attempt(self._kept, 0.0, "success", None, now, now, usd=0.0, cached=True)
        )
        return items

    def close(self) -> None:
        """End the call now, and keep its answer if it is complete. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        chain = self._chain
        if self._kept is None and self._error is None:
            self._keep()
        elif chain.emit is not None:
            response = self._accumulated.response(self)
            chain.emit(ended(chain.number, self.elapsed(), response, self._error))
            chain.emit = None  # the chain has asked nobody, and knows of no answer
        chain.close()
        self._error = None  # its frames hold the stream, and with it this call

    def _keep(self) -> None:
        """Keep the answer, unless it is not complete or is one of two targets."""
        chain = self._chain
        if chain.target is None or chain.prefix or not chain.is_answered():
            return
        asked = self._asked(chain.target)
        if (answer := answer_of(chain.partial(), asked.request)) is not None:
            self._cache.keep(asked, answer)

    def _asked(self, target: Target) -> Asked:
        opener = self._chain.opener
        assert isinstance(opener, ChatOpener)
        provider = opener.providers[target]
        return Asked(target, provider, opener.request, opener.leaves_out, self._cache.max_pixels)

    @property
    def target(self) -> Target | None:
        """The target whose answer it is."""
        return self._kept or self._chain.target

    def elapsed(self) -> float:
        """Return the seconds since the call began."""
        return self._chain.elapsed()

    def cost(self, usage: Usage, images: Callable[[], int]) -> Cost:
        """Return what the call has cost: nothing where its answer was kept."""
        return FREE if self._kept is not None else self._chain.cost(usage, images)
