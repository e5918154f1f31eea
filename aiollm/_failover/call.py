"""The facts of one call: its targets, its clock, its attempts, and what has arrived so far."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aiollm._failover.deadlines import Watchdog
from aiollm._failover.gate import Gate
from aiollm._failover.openers import TargetOpener
from aiollm._streams.accumulator import Accumulator
from aiollm.errors import (
    BudgetError,
    ProtocolError,
    ProviderError,
    StreamInterrupted,
    TransportError,
)
from aiollm.types import (
    Attempt,
    Cost,
    Item,
    Outcome,
    Response,
    Target,
    Usage,
    UsageUpdate,
)

if TYPE_CHECKING:
    from aiollm.events import CallEnded, Event


class Call(ABC):
    """What the attempts of one call share, and what they have brought so far."""

    preferred: Sequence[Target] = ()
    """The targets whose cache is warm for the call's session."""

    __slots__ = (
        "accumulated",
        "attempts",
        "emit",
        "gate",
        "held",
        "number",
        "opener",
        "prefix",
        "refusals_move_on",
        "started",
        "target",
        "total_at",
        "watchdog",
    )

    def __init__(
        self,
        opener: TargetOpener,
        gate: Gate,
        watchdog: Watchdog,
        *,
        accumulated: Accumulator,
        emit: Callable[[Event], None] | None = None,
        number: int = 0,
        total: float | None = None,
        refusals_move_on: bool = False,
    ) -> None:
        """Begin the call now.

        `accumulated` is what the caller has so far, `emit` passes events to the hooks, and
        `total` is the seconds that the call may take. `refusals_move_on` says whether an
        answer that a filter ended before any output is a failure.
        """
        self.opener = opener
        self.gate = gate
        self.watchdog = watchdog
        self.number = number
        self.attempts: list[Attempt] = []
        self.prefix = ""
        self.held: Sequence[Item] = ()
        self.target: Target | None = None
        self.started = now = watchdog.time()
        self.total_at = None if total is None else now + total
        self.refusals_move_on = refusals_move_on
        self.accumulated = accumulated
        self.emit = emit

    @abstractmethod
    def next(self, task: asyncio.Task[Any]) -> Awaitable[Sequence[Item] | None]:
        """Return an awaitable that brings the next batch to `task`, None at the end."""

    @abstractmethod
    def ends_with(self, error: Exception) -> bool:
        """Decide whether the error of an attempt ends the call; else prepare what comes next."""

    def elapsed(self) -> float:
        """Return the seconds since the call began."""
        return self.watchdog.time() - self.started

    def cost(self, usage: Usage, images: Callable[[], int]) -> Cost:
        """Return what the call has cost, if its answer has these counts and images."""
        del images  # without prices only a bill says something
        billed = usage.billed_usd
        return Cost(billed, "unknown" if billed is None else "billed", self._lost())

    def is_answered(self) -> bool:
        """Return whether the answer has come to its end."""
        own = self._own()
        return own is not None and own.outcome == "success"

    def _own(self) -> Attempt | None:
        """Return the attempt whose answer the caller has."""
        return next((each for each in reversed(self.attempts) if each.target == self.target), None)

    def _lost(self) -> float | None:
        """Return what attempts have cost that did not answer, None where that is not known."""
        own, total = self._own(), 0.0
        for attempt in self.attempts:
            if attempt is not own and attempt.outcome != "running":
                if attempt.usd is None:
                    return None
                total += attempt.usd
        return total

    def partial(self) -> Response:
        """Return what the caller has so far, with the counts that came before any output."""
        response = self.accumulated.response(self)
        for item in reversed(self.held):
            if isinstance(item, UsageUpdate):
                return msgspec.structs.replace(response, usage=item.usage)
        return response

    def attach_partial(self, error: Exception) -> None:
        """Put what had arrived, if anything, on an error that has room for it and has none yet."""
        partial = self.partial()
        match error:
            case StreamInterrupted() if error.partial is None:
                error.partial = partial
            case _ if not partial.message.parts and partial.usage.certainty == "missing":
                pass
            case TransportError() | ProviderError() | ProtocolError() | BudgetError() if (
                error.partial is None
            ):
                error.partial = partial
            case _:
                pass


def ended(
    number: int, seconds: float, response: Response, error: BaseException | None
) -> CallEnded:
    """Return the event of the end of a call, by what its caller has then."""
    from aiollm.events import CallEnded  # for hooks alone

    outcome: Outcome = "success" if response.finish_reason is not None else "abandoned"
    return CallEnded(
        number,
        outcome if error is None else "failed",
        seconds,
        response.target,
        response.finish_reason,
        response.usage,
        error,
        response,
    )
