"""The gate of a process in a fleet: who may go when, where others use the same limits.

A target without limits is admitted at once, as without a fleet. For any other the fleet is asked:
it books the moment at which the call may go, or a slot.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial

from aiollm._failover.admission import Admission
from aiollm._failover.gate import TICK, Gate
from aiollm._failover.lines import Line, Scope
from aiollm._failover.shared_admission import SharedAdmission
from aiollm._failover.sharing import Grant, Limiter
from aiollm._failover.tickets import Demand, Ticket

ASKS = 8
"""Calls in a line that ask the fleet at a time: each answer takes a round trip."""

ASKS_AGAIN = 1.0
"""Seconds after which a call that waits for a slot of the fleet asks again by itself."""

_WAITS = frozenset({"full", "aside"})


class FleetGate(Gate):
    """A gate whose limits hold for all processes of a fleet together."""

    def is_shared(self, line: Line) -> bool:
        """Return whether the fleet decides when a target is asked."""
        return self.limiter is not None and self.limiter.bounds(line)

    def try_enter(self, line: Line, number: int, demand: Demand) -> Admission | None:  # noqa: ARG002 - it asks
        """Return None: `ask` decides."""
        return None

    async def ask(self, line: Line, number: int, demand: Demand) -> Admission | None:
        """Admit a call now, as `try_enter` does, where the fleet has to be asked."""
        limiter = self.limiter
        if self.sharing is not None:
            self.sharing.use(line)
        if limiter is not None:
            limiter.use(line)
        if limiter is None or not limiter.bounds(line):
            is_early = limiter is not None and limiter.promised(line) > self.now() + TICK
            return None if is_early else super().try_enter(line, number, demand)
        if line.scope.waiting and line.head() is not None:
            return None
        if line.never_fits(demand) is not None:
            return None
        if self._own_wait(line, self.now()) > 0:
            if self.sharing is not None:
                self.sharing.claim(line, waiting=False)
            return None
        grant = await self._asked(limiter, line, demand)
        now = self.now()
        # Its health may have changed meanwhile.
        if self._grant_wait(line, demand, grant, now) > TICK or self._own_wait(line, now) > 0:
            limiter.give_back(grant)
            return None
        return self._admit_granted(line, number, demand, now, grant)

    @staticmethod
    async def _asked(limiter: Limiter, line: Line, demand: Demand) -> Grant:
        """Return the fleet's answer about a call that goes now or not at all."""
        answered = asyncio.get_running_loop().create_future()

        def then(_: Grant) -> None:
            if not answered.done():
                answered.set_result(None)

        grant = limiter.ask(line, demand, 0.0, then)
        try:
            await answered
        except BaseException:
            limiter.give_back(grant)
            raise
        return grant

    def _own_wait(self, line: Line, now: float, *, waiting: bool = False) -> float:
        """Return the seconds until a target may be asked as far as this process alone decides."""
        wait = self.health.ready_in(line.target, line.origin, waiting=waiting)
        return wait if wait > 0 else line.own_wait(now)

    def _grant_wait(self, line: Line, demand: Demand, grant: Grant, now: float) -> float:
        """Return the seconds until a call may go by the fleet's answer, inf where it may not."""
        match grant.state:
            case "granted":
                return grant.at + grant.wait - now
            case "alone":
                return self._wait_alone(line, demand, now)
            case "full" | "aside":
                return max(TICK * 2, grant.at + ASKS_AGAIN - now)
            case _:
                return math.inf

    def _line_wait(self, line: Line, demand: Demand, now: float, *, waiting: bool = False) -> float:
        wait = super()._line_wait(line, demand, now, waiting=waiting)
        return wait if self.limiter is None else max(wait, self.limiter.promised(line) - now)

    def _wait_alone(self, line: Line, demand: Demand, now: float) -> float:
        """Return the seconds until a call may go that this process decides about alone."""
        return max(self._line_wait(line, demand, now), line.scope.wait(line, demand, now))

    def _admit_granted(
        self, line: Line, number: int, demand: Demand, now: float, grant: Grant
    ) -> Admission:
        assert self.limiter is not None
        make = partial(SharedAdmission, limiter=self.limiter, grant=grant)
        return self._admit(line, number, demand, now, make)

    def _end(self, ticket: Ticket[Line], lines: Sequence[Line]) -> None:
        super()._end(ticket, lines)
        grants, ticket.grants = ticket.grants or {}, {}
        if self.limiter is None:
            return
        for line, grant in grants.items():
            self.limiter.give_back(grant)
            if all(each.head() is None for each in line.scope.waiting):
                self.limiter.quit(line)

    def _least_wait(self, line: Line, ticket: Ticket[Line], now: float) -> float:
        if not self.is_shared(line):
            return super()._least_wait(line, ticket, now)
        waits = [self.health.ready_in(line.target, line.origin, waiting=True), line.own_wait(now)]
        grant = (ticket.grants or {}).get(line)
        if grant is not None and grant.state == "busy":
            waits.append(grant.at + grant.wait - now)
        return max((each for each in waits if each < math.inf), default=math.inf)

    def _turn(
        self, line: Line, ticket: Ticket[Line], now: float
    ) -> tuple[float, Ticket[Line] | None]:
        if not self.is_shared(line):
            return super()._turn(line, ticket, now)
        wait = self._own_wait(line, now, waiting=True)
        if wait > 0:
            return self._kept(line, wait), None
        if not self.is_sick(line):
            return self._granted(line, line.first(ASKS), now)
        wait, prober = self._prober(line, ticket, now)
        return (wait, None) if prober is None else self._granted(line, [prober], now)

    def _granted(
        self, line: Line, tickets: Sequence[Ticket[Line]], now: float
    ) -> tuple[float, Ticket[Line] | None]:
        """Return the seconds until the first of a line's tickets may go, or the one that may now.

        Those that have not asked the fleet yet do so; with slots one at a time, for each call that
        ends lets one go.
        """
        least = math.inf
        for ticket in tickets:
            wait = self._ticket_wait(line, ticket, now)
            if wait <= TICK:
                return 0.0, ticket
            least = min(least, wait)
            if line.scope.slots is not None:
                break
        return least, None

    def _ticket_wait(self, line: Line, ticket: Ticket[Line], now: float) -> float:
        grants = ticket.grants = {} if ticket.grants is None else ticket.grants
        grant = grants.get(line)
        if grant is None or (grant.state in _WAITS and now - grant.at >= ASKS_AGAIN):
            assert self.limiter is not None
            then = partial(self._answered, ticket)
            grants[line] = self.limiter.ask(line, ticket.demand, ticket.until - now, then)
            return math.inf
        wait = self._grant_wait(line, ticket.demand, grant, now)
        if wait > TICK and grant.state == "alone":
            assert self.limiter is not None
            self.limiter.give_back(grants.pop(line))  # the fleet is asked again
            return min(wait, ASKS_AGAIN)
        return wait

    def _answered(self, ticket: Ticket[Line], grant: Grant) -> None:
        """Take the fleet's answer to a ticket."""
        if ticket.is_done or (ticket.grants or {}).get(grant.line) is not grant:
            if self.limiter is not None:
                self.limiter.give_back(grant)
            return
        if grant.state == "busy":
            ticket.wake()
        self.pump(grant.line.scope)

    def _scope_wait(self, line: Line, ticket: Ticket[Line], now: float) -> float:
        # What the fleet has granted is booked, even if it cannot be asked any more.
        if _is_granted(line, ticket, now) or self.is_shared(line):
            return 0.0
        return super()._scope_wait(line, ticket, now)

    def _admit_first(self, line: Line, ticket: Ticket[Line], now: float) -> Admission:
        if ticket.grants and (_is_granted(line, ticket, now) or self.is_shared(line)):
            grant = ticket.grants.pop(line)
            return self._admit_granted(line, ticket.number, ticket.demand, now, grant)
        return super()._admit_first(line, ticket, now)

    def wants_slot(self, scope: Scope) -> bool:
        """Return whether a call waits for a slot of the fleet, and for nothing else."""
        now = self.now()
        for line in scope.waiting:
            head = line.head()
            if head is not None and self._own_wait(line, now, waiting=True) <= 0:
                grant = (head.grants or {}).get(line)
                if grant is None or grant.state != "aside":
                    return True
        return False

    def take_back(self, line: Line) -> None:
        """Return what calls that wait for a target were promised: it may not be asked by then."""
        for ticket in line.live_tickets():
            grants = ticket.grants or {}
            grant = grants.get(line)
            if grant is not None and grant.state == "granted" and self.limiter is not None:
                self.limiter.give_back(grants.pop(line))

    def has_room(self, scope: Scope) -> None:
        """Let those ask again whom the fleet had no slot for."""
        for line in scope.waiting:
            for ticket in line.live_tickets():
                grant = (ticket.grants or {}).get(line)
                if ticket.grants and grant is not None and grant.state == "full":
                    del ticket.grants[line]
        self.pump(scope)


def _is_granted(line: Line, ticket: Ticket[Line], now: float) -> bool:
    """Return whether the fleet has booked this moment, or an earlier one, for a ticket."""
    grant = (ticket.grants or {}).get(line)
    if grant is None or grant.state != "granted":
        return False
    wait: float = grant.at + grant.wait - now
    return wait <= TICK
