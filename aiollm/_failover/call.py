"""The facts of one call: its targets, its clock, its attempts, and what has arrived so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from aiollm._failover.deadlines import Watchdog
from aiollm._failover.gate import Gate
from aiollm._failover.openers import TargetOpener
from aiollm.errors import ProtocolError, ProviderError, StreamInterrupted, TransportError
from aiollm.events import Event
from aiollm.types import Attempt, Item, Response, Target, UsageUpdate


class Call:
    """What the attempts of one call share, and what they have brought so far."""

    preferred: Sequence[Target] = ()
    """The targets whose cache is warm for the call's session."""

    __slots__ = (
        "_accumulated",
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
        accumulated: Callable[[Call], Response],
        emit: Callable[[Event], None] | None = None,
        number: int = 0,
        total: float | None = None,
        refusals_move_on: bool = False,
    ) -> None:
        """Begin the call now.

        `accumulated` returns what the caller has so far, `emit` passes events to the hooks, and
        `total` is the seconds that the call may take. `refusals_move_on` says whether an
        answer that a filter ended before any output is a failure.
        """
        self.opener = opener
        self.gate = gate
        self.watchdog = watchdog
        self.number = number
        self.attempts: list[Attempt] = []
        self.prefix = ""
        self.held: list[Item] = []
        self.target: Target | None = None
        self.started = now = watchdog.time()
        self.total_at = None if total is None else now + total
        self.refusals_move_on = refusals_move_on
        self._accumulated = accumulated
        self.emit = emit

    def elapsed(self) -> float:
        """Return the seconds since the call began."""
        return self.watchdog.time() - self.started

    def partial(self) -> Response:
        """Return what the caller has so far, with the counts that came before any output."""
        response = self._accumulated(self)
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
            case TransportError() | ProviderError() | ProtocolError() if error.partial is None:
                error.partial = partial
            case _:
                pass
