"""An admission under limits that a fleet shares: what it booked there is settled with the rest."""

from __future__ import annotations

from collections.abc import Sequence

from aiollm._failover.admission import Admission, Admitting
from aiollm._failover.lines import Booking, Line
from aiollm._failover.meter import used
from aiollm._failover.sharing import Grant, Limiter, Verdict
from aiollm._failover.tickets import Demand
from aiollm._wire.quota import Kind
from aiollm.errors import OverloadedError, RateLimitError
from aiollm.types import Usage


class SharedAdmission(Admission):
    """The right to one attempt, granted by the fleet."""

    __slots__ = ("_grant", "_limiter", "_spent", "_verdict")

    def __init__(
        self,
        gate: Admitting,
        line: Line,
        number: int,
        demand: Demand,
        bucket: list[float],
        booked: Sequence[Booking],
        *,
        limiter: Limiter,
        grant: Grant,
    ) -> None:
        super().__init__(gate, line, number, demand, bucket, booked)
        self._limiter = limiter
        self._grant = grant
        self._spent: dict[Kind, float] | None = {}
        self._verdict: Verdict = ""
        limiter.used(grant)

    def _refund(self) -> None:
        super()._refund()
        self._spent = None

    def success(self, usage: Usage) -> None:
        """Book a success."""
        if usage.certainty != "missing":
            tokens = [kind for _, kind, _, _ in self._grant.bookings if kind != "requests"]
            self._spent = {kind: used(kind, usage) for kind in tokens}
        self._verdict = "answered"
        super().success(usage)
        if self._spent:
            self._limiter.estimated(self.line)

    def _refused(self, error: RateLimitError | OverloadedError) -> None:
        self._verdict = "refused"
        super()._refused(error)

    def _leave(self) -> None:
        super()._leave()
        self._limiter.leave(self._grant, self._spent, self._verdict)
