"""One call that embeds a batch or ranks documents: a stream that has its result alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

from msgspec.structs import replace

from aiollm._failover.gate import Gate
from aiollm._failover.keywords import CallOptions
from aiollm._failover.openers import TargetOpener
from aiollm._failover.policy import Policy
from aiollm._resources import Resources
from aiollm._streams.accumulator import Accumulator
from aiollm._streams.stream import BaseStream, CallSource
from aiollm._validation import checked_timeouts
from aiollm.providers.catalog import Catalog, Resolved
from aiollm.retrieval import Embeddings, Ranking
from aiollm.spec import Plan
from aiollm.types import Attempt


class ResultAccumulator(Accumulator):
    """Keeps the one result."""

    __slots__ = ("result",)

    def __init__(self) -> None:
        super().__init__()
        self.result: Embeddings | Ranking | None = None

    def _result(self, result: Embeddings | Ranking) -> None:
        self.result = result

    adders: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        **Accumulator.adders,
        Embeddings: _result,
        Ranking: _result,
    }


class ResultStream(BaseStream[Any]):
    """Reads a call to its result."""

    __slots__ = ()

    _accumulator = ResultAccumulator
    _total: ResultAccumulator

    async def collect(self) -> Any:
        """Return the result with the facts of its call. Raises: LLMError, FailoverError."""
        await self._exhaust()
        result, response = self._total.result, self._partial()
        assert result is not None
        return replace(
            result,
            target=response.target,
            warnings=(*result.warnings, *response.warnings),
            attempts=response.attempts,
            timings=response.timings,
            cost=response.cost,
        )


class Calls(NamedTuple):
    """What calls of a registry take of it."""

    catalog: Catalog
    resources: Resources
    gate: Gate
    policy: Policy
    start: Callable[[Callable[..., CallSource], Accumulator], CallSource]

    def resolve(self, spec: str | Plan, options: CallOptions) -> tuple[Policy, Resolved]:
        """Return the policy and the targets of a call. Raises: ConfigError, TypeError."""
        policy = self.policy.overridden(options) if options else self.policy
        return policy, self.catalog.resolve(spec, checked_timeouts(options.get("timeouts")))

    async def ask(
        self,
        plan: Plan,
        opener: TargetOpener,
        policy: Policy,
        tried: list[Attempt] | None = None,
    ) -> Any:
        """Return the result of one call; its attempts, failed or not, are added to `tried`.

        Raises: LLMError, FailoverError.
        """
        chain = partial(self.resources.chain_of(policy), plan, opener, self.gate, policy)
        start = self.start
        async with ResultStream(lambda total: start(chain, total)) as stream:
            try:
                return await stream.collect()
            finally:
                if tried is not None:
                    tried += stream.attempts
