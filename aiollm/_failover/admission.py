"""An admission: the right to one attempt, and what becomes of it for the gate and its breakers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from aiollm._failover.health import Health, Permit
from aiollm._failover.lines import Booking, Line, Scope
from aiollm._failover.tickets import Demand
from aiollm.errors import OverloadedError, RateLimitError, classify
from aiollm.types import Usage

if TYPE_CHECKING:
    from aiollm._failover.sharing import Limiter, Sharing
    from aiollm._wire.quota import Quota


class Admitting(Protocol):
    """What an admission asks of the gate that made it."""

    health: Health
    sharing: Sharing | None
    limiter: Limiter | None
    now: Callable[[], float]

    def pump(self, scope: Scope) -> None:
        """Admit all that can go now."""

    def changed_health(self, origin: str) -> None:
        """Let those who wait at a host look again."""

    def share_verdict(self, line: Line, error: Exception) -> None:
        """End all waits for a target that is misconfigured."""


class Admission:
    """The right to one attempt: its permit, its slot, and what it booked; all given back once."""

    __slots__ = (
        "_booked",
        "_bucket",
        "_demand",
        "_gate",
        "_is_pending",
        "line",
        "number",
        "permit",
    )

    def __init__(
        self,
        gate: Admitting,
        line: Line,
        number: int,
        demand: Demand,
        bucket: list[float],
        booked: Sequence[Booking],
    ) -> None:
        self._gate = gate
        self._demand = demand
        self._bucket = bucket
        self._booked = booked
        self._is_pending = True
        self.line = line
        self.number = number
        self.permit: Permit = gate.health.admit(line.target, line.origin)

    def announced(self, quotas: Sequence[Quota]) -> None:
        """Note the limits that an answer announces."""
        self.line.announced(quotas, self._gate.now())
        if self._gate.limiter is not None:
            for quota in quotas:
                self._gate.limiter.learnt(self.line, quota)
        self._gate.pump(self.line.scope)

    def first_output(self, seconds: float) -> bool:
        """Note the first output; return whether it closed the target's breaker."""
        line = self.line
        closed = self.permit.first_output(seconds)
        self._is_pending = False
        line.gave_output()
        if closed:
            self._closed()
        elif self.permit.is_probe:
            self._probe_ended()  # another attempt was told how long the target has to rest
        elif line.scope.waiting:
            self._gate.pump(line.scope)
        return closed

    def success(self, usage: Usage) -> None:
        """Book a success: the slot is free, whatever the caller does with the answer."""
        if self.permit.success():
            self._closed()
        slots = self.line.scope.slots
        if slots is not None:
            slots.succeeded()
        if self._booked:
            self._settle(usage)
        self._leave()

    def failure(self, error: Exception, *, was_sent: bool) -> bool:
        """Book a failure as `error` deserves; return whether it opened a breaker."""
        line, gate, permit = self.line, self._gate, self.permit
        if not was_sent:
            self._refund()
        had_output = not self._is_pending
        opened = permit.failure(error, had_output=had_output)
        if gate.sharing is not None:
            took = permit.hang(error, had_output=had_output)
            gate.sharing.failed(line, error, opened=opened, took=took)
        if isinstance(error, RateLimitError | OverloadedError):
            self._refused(error)
        if permit.pause:
            line.is_bounded = True
            line.pace.pause(gate.now() + permit.pause)
        if self._is_pending:
            self._is_pending = False
            line.pending -= 1
        if opened or permit.is_probe:
            gate.changed_health(line.origin)
        self._leave()
        if opened and classify(error).harms == "long":
            gate.share_verdict(line, error)
        return bool(opened)

    def _refused(self, error: RateLimitError | OverloadedError) -> None:
        """Slow down, and let the fleet do so."""
        line, limiter, now = self.line, self._gate.limiter, self._gate.now()
        line.refused(error, now, self._bucket)
        if limiter is not None and line.pace.blocked_until > now:
            limiter.blocked(line, line.pace.blocked_until - now)

    def abandoned(self, *, was_sent: bool) -> None:
        """Give everything back without a verdict; what was sent stays spent."""
        if not was_sent:
            self._refund()
        self.permit.abandoned()
        self._leave()
        if self.permit.is_probe:
            self._probe_ended()

    def _closed(self) -> None:
        """Let all know of a target that answers again."""
        if self._gate.sharing is not None:
            self._gate.sharing.closed(self.line)
        self._gate.changed_health(self.line.origin)

    def _probe_ended(self) -> None:
        """Hand on after a probe that closed nothing."""
        if self._gate.sharing is not None:
            self._gate.sharing.released(self.line)
        # Any call that waits at the host, under any key, may be the next to probe.
        self._gate.changed_health(self.line.origin)

    def _leave(self) -> None:
        line = self.line
        scope = line.scope
        line.running -= 1
        if self._is_pending:
            self._is_pending = False
            line.pending -= 1
        if scope.slots is not None:
            scope.slots.release(self)
        if scope.waiting:
            self._gate.pump(scope)

    def _refund(self) -> None:
        booked, self._booked = self._booked, ()
        for _, meter, units in booked:
            meter.refund(units)
        self.line.pace.refund(self._bucket)

    def _settle(self, usage: Usage) -> None:
        booked, self._booked = self._booked, ()
        self.line.settle(booked, self._demand, usage)
