"""The gate: who may go when. Calls wait in line for targets that are full, paced or set aside.

A scope is what a provider counts together: a host with one key. It has slots and limits, and a
line for each of its models. Everything here is synchronous: a call that may go goes at once, and
whatever changes (a slot, a verdict, a limit, the time) admits the first in line that can go now.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiollm._failover.admission import Admission
from aiollm._failover.health import Health, without_frames
from aiollm._failover.lines import Booking, Line, Scope
from aiollm._failover.tickets import Alarm, Demand, Patience, Ticket
from aiollm.errors import ClosedError, LLMError, ProviderError, classify
from aiollm.provider import Provider
from aiollm.types import Target

if TYPE_CHECKING:
    from aiollm._failover.sharing import Limiter, Purse, SessionMemory, Sharing
    from aiollm._failover.snapshots import TargetLimits

MAX_LINES = 4096
"""Targets remembered; beyond it, unused ones are forgotten."""

TICK = 1e-6
"""Seconds that are not worth a wait: a clock may not resolve so short a time."""


class Gate:
    """The scopes of a registry, and the calls that wait at them."""

    purse: Purse | None = None
    """The budgets that the processes of a fleet share."""
    memory: SessionMemory | None = None
    """What they know of warm caches."""

    def __init__(self, health: Health) -> None:
        """Take the breakers."""
        self.health = health
        self.now = health.clock
        self.sharing: Sharing | None = None
        """The health that the processes of a fleet share."""
        self.limiter: Limiter | None = None
        """The limits that they share."""
        self._lines: dict[Target, Line] = {}
        self._scopes: dict[Any, Scope] = {}
        self._declared: dict[str, Provider] = {}
        """Providers that were declared again: calls that began before that bring the old row."""
        self._tickets: set[Ticket[Line]] = set()
        self._alarm = Alarm()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    def bind_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve `loop`; calls of another loop no longer hold or wait for anything."""
        self._loop = loop
        self._tickets.clear()
        self._alarm.stop()
        self._alarm = Alarm()
        for scope in self._scopes.values():
            scope.forget_loop()
        self._lines = {target: line.of_new_loop() for target, line in self._lines.items()}
        self.health.forget_probes()

    def close(self) -> None:
        """End all waits, including later ones."""
        self._is_closed = True
        for scope in self._scopes.values():
            scope.stop_timer()
        self._alarm.stop()
        for ticket in self._tickets:
            ticket.wake()

    def line(self, target: Target, provider: Provider) -> Line:
        """Return the line of a target."""
        line = self._lines.get(target)
        if line is None or line.provider is not provider:
            line = self._declare(target, provider, line)
        return line

    def _declare(self, target: Target, provider: Provider, line: Line | None) -> Line:
        key = (provider.host, provider.token)
        if line is None or line.scope.key != key:
            scope = self._scopes.get(key)
            if scope is None:
                scope = self._scopes[key] = Scope(key)
            line = self._lines[target] = Line(target, provider, scope, self.now())
            line.set_aside(is_sick=self.is_sick(line))
            if self.sharing is not None:
                self.sharing.declare(line)
            if len(self._lines) > MAX_LINES:
                self._forget_idle()
        line.provider = provider
        line.origin = provider.origin
        declared = self._declared.get(target.provider, provider)
        of_provider, of_target = declared.limits_of(target.model)
        line.scope.declare(provider.name, of_provider)
        line.declare(of_target, of_provider)
        if self.limiter is not None:
            self.limiter.declare(line)
        for each in line.scope.waiting:
            each.drop_what_never_fits()
        self.pump(line.scope)
        return line

    def declare_again(
        self, name: str, provider: Provider, loop: asyncio.AbstractEventLoop | None
    ) -> None:
        """Apply what a provider declares now; on the gate's own loop also to calls that wait."""
        self._declared[name] = provider
        for target in [*self._lines] if loop is self._loop else ():
            if target.provider == name:
                self.line(target, provider)

    def _forget_idle(self) -> None:
        for target, line in list(self._lines.items())[: MAX_LINES // 8]:
            if line.is_idle:
                del self._lines[target]
        used = {line.scope.key for line in self._lines.values()}
        used |= {key for key, scope in self._scopes.items() if scope.waiting}
        for key in [*self._scopes.keys() - used]:
            self._scopes.pop(key).stop_timer()

    def try_enter(self, line: Line, number: int, demand: Demand) -> Admission | None:
        """Admit call number `number` at once, None where it would have to wait."""
        scope = line.scope
        if scope.waiting and (scope.is_stuck or line.head() is not None):
            return None
        if self.health.ready_in(line.target, line.origin) > 0:
            if self.sharing is not None:
                self.sharing.claim(line, waiting=False)
            return None
        now = self.now()
        is_bounded = line.is_bounded or scope.is_bounded or line.pending >= line.window
        if is_bounded and (line.wait(demand, now) > 0 or scope.wait(line, demand, now) > 0):
            return None
        return self._admit(line, number, demand, now)

    async def ask(self, line: Line, number: int, demand: Demand) -> Admission | None:
        """Admit a call now, as `try_enter` does; a fleet may have to be asked."""
        return self.try_enter(line, number, demand)

    def _line_wait(self, line: Line, demand: Demand, now: float, *, waiting: bool = False) -> float:
        """Return the seconds until the target itself may be asked, inf where that is unknown."""
        wait = self.health.ready_in(line.target, line.origin, waiting=waiting)
        return wait if wait > 0 else line.wait(demand, now)

    def _admit(
        self,
        line: Line,
        number: int,
        demand: Demand,
        now: float,
        make: Callable[..., Admission] = Admission,
    ) -> Admission:
        booked: Sequence[Booking] = line.unlimited
        scope = line.scope
        if scope.meters or line.meters:
            booked = tuple(line.needs(demand))
            for _, meter, units in booked:
                meter.book(now, units)
        line.pending += 1
        line.running += 1
        admission = make(self, line, number, demand, line.pace.book(now), booked)
        if scope.slots is not None:
            scope.slots.take(admission)
        return admission

    async def wait(
        self,
        number: int,
        lines: Sequence[Line],
        demand: Demand,
        patience: Patience,
        total_at: float,
        retried: Container[Target] = (),
        probe_from: float = 0.0,
        rests_until: Mapping[Target, float] | None = None,
    ) -> Admission | list[Exception]:
        """Wait in line for the first of several targets that may be asked.

        `number` is the call's: who began first goes first. It probes `retried` targets only from
        `probe_from` on, and goes to some only from `rests_until` on. `total_at`: its own deadline.
        Returns the verdicts of probes if they ended the wait, [] if time did. Raises: ClosedError.
        """
        ticket = Ticket(number, demand, lines, retried, probe_from, rests_until)
        self._tickets.add(ticket)
        try:
            self._join(ticket, patience, total_at)
            while ticket.admission is None and ticket.lines and not ticket.is_done:
                began, alarm = self.now(), self._alarm
                left, recovers = self._seconds_left(ticket, patience, total_at, began)
                if left <= 0:
                    break
                patience.begins()
                sleep = self._sleep(ticket, left)
                began -= alarm.stood_still  # what it adds to that is not waited
                try:
                    await sleep
                finally:
                    alarm.take_off(ticket)
                    patience.waited(self.now() - began - alarm.stood_still, recovers=recovers)
                self._join(ticket, patience, total_at)
        except BaseException:
            ticket.give_back()
            self._pump_all(lines)
            raise
        finally:
            self._end(ticket, lines)
        admission = ticket.admission
        if admission is None or len(lines) > 1:
            self._pump_all(lines)  # where it leaves without going, others may be the first now
        return admission if isinstance(admission, Admission) else [*ticket.errors]

    def _end(self, ticket: Ticket[Line], lines: Sequence[Line]) -> None:
        """Forget a ticket that waits no longer."""
        ticket.is_done = True
        self._tickets.discard(ticket)
        for line in lines:
            if line not in ticket.outside:
                line.tickets.left(line)

    def _join(self, ticket: Ticket[Line], patience: Patience, total_at: float) -> None:
        """Put a ticket into those lines `outside` that it need not keep away from any longer."""
        ticket.until = min(self.now() + patience.room, total_at)
        lines = ticket.outside
        if ticket.is_done or not lines:
            return
        ticket.outside = ()
        if ticket.rests_until:
            now = self.now()
            ticket.outside = [line for line in lines if ticket.rest(line.target, now) > 0]
            lines = [line for line in lines if line not in ticket.outside]
        for line in lines:
            line.tickets.push(ticket)
            line.scope.waiting[line] = None
        # Only the first in a line goes, apart from probes and where a fleet says who goes.
        self._pump_all(
            line
            for line in lines
            if self.limiter is not None or line.head() is ticket or self.is_sick(line)
        )

    def _seconds_left(
        self, ticket: Ticket[Line], patience: Patience, total_at: float, now: float
    ) -> tuple[float, bool]:
        """Return the seconds that a ticket may sleep, and whether all its targets must recover.

        0 seconds if nothing can change in time. Raises: ClosedError.
        """
        if self._is_closed or self._loop is None:
            raise ClosedError("the registry was closed")
        recovers = all(self.is_sick(line) or line in ticket.outside for line in ticket.lines)
        left = min(patience.room, total_at - now)
        if recovers:
            left = min(left, patience.recovery)
        is_hopeless = recovers and self._is_hopeless(ticket)
        if left <= TICK or is_hopeless or self._known_wait(ticket, now) > left:
            return 0.0, recovers
        rests = [ticket.rest(line.target, now) for line in ticket.outside]
        # A rest that has just ended does not end the wait: the line is joined in the next turn.
        return max(TICK, min(left, *rests) if rests else left), recovers

    def _sleep(self, ticket: Ticket[Line], left: float) -> asyncio.Future[None]:
        """Return a future that ends when something changes for a ticket, or its time is over."""
        assert self._loop is not None
        ticket.future = future = self._loop.create_future()
        self._alarm.set(self._loop, ticket, left)
        return future

    def _known_wait(self, ticket: Ticket[Line], now: float) -> float:
        """Return the seconds for which none of the targets can be free, 0 if that is unknown."""
        known = math.inf
        for line in ticket.lines:
            wait = self._least_wait(line, ticket, now)
            if line.is_new and line.pending >= line.window:
                wait = 0.0  # a first output may make room before that
            wait = max(ticket.rest(line.target, now), wait if math.isfinite(wait) else 0.0)
            known = min(known, wait)
        return known

    def _least_wait(self, line: Line, ticket: Ticket[Line], now: float) -> float:
        """Return the seconds for which a target cannot be free, inf where that is unknown."""
        wait = self.health.ready_in(line.target, line.origin, waiting=True)
        waits = wait, line.wait(ticket.demand, now), line.scope.wait(line, ticket.demand, now)
        return max((each for each in waits if each < math.inf), default=math.inf)

    def _is_hopeless(self, ticket: Ticket[Line]) -> bool:
        """Return whether no call will find out if one of the ticket's targets is well again."""
        return all(
            self.is_sick(line)
            and (line not in ticket.outside or ticket.rest(line.target, 0.0) == math.inf)
            and not line.has_prober
            and not self.health.is_probed(line.target, line.origin)
            for line in ticket.lines
        )

    def pump(self, scope: Scope) -> None:
        """Admit, in the order of their calls, all that can go now."""
        if not scope.waiting:
            return
        now = self.now()
        scope.is_stuck = False
        wake = math.inf
        while True:
            wake = math.inf
            first: tuple[Line, Ticket[Line]] | None = None
            for line in tuple(scope.waiting):
                ticket = line.head()
                if ticket is None:
                    del scope.waiting[line]
                    continue
                wait, ticket = self._turn(line, ticket, now)
                if ticket is None:
                    wake = min(wake, wait)
                elif first is None or ticket.number < first[1].number:
                    first = line, ticket
            if first is None:
                break
            line, ticket = first
            wait = self._scope_wait(line, ticket, now)
            if wait > 0:
                scope.is_stuck = True
                wake = min(wake, wait)
                break
            ticket.is_done = True
            ticket.admission = self._admit_first(line, ticket, now)
            ticket.wake()
        self._set_timer(scope, wake)

    def _turn(
        self, line: Line, ticket: Ticket[Line], now: float
    ) -> tuple[float, Ticket[Line] | None]:
        """Return the seconds until a line is to be looked at again, or the ticket that may go.

        `ticket` is the first of the line. Whether the scope has room is not asked yet.
        """
        wait = self._line_wait(line, ticket.demand, now, waiting=True)
        return self._prober(line, ticket, now) if wait <= 0 else (self._kept(line, wait), None)

    def _kept(self, line: Line, wait: float) -> float:
        """Return when to look at a line again: after its `wait`, or once its probe is overdue."""
        if self.sharing is not None and line.has_prober:
            self.sharing.claim(line, waiting=True)
        return min(wait, self.health.lease_left(line.target, line.origin))

    def _prober(
        self, line: Line, ticket: Ticket[Line], now: float
    ) -> tuple[float, Ticket[Line] | None]:
        """Return what `_turn` does, for a line that need not wait: a sick target is probed."""
        return line.prober(now) if self.is_sick(line) else (0.0, ticket)

    def _scope_wait(self, line: Line, ticket: Ticket[Line], now: float) -> float:
        return line.scope.wait(line, ticket.demand, now)

    def _admit_first(self, line: Line, ticket: Ticket[Line], now: float) -> Admission:
        return self._admit(line, ticket.number, ticket.demand, now)

    def _pump_all(self, lines: Iterable[Line]) -> None:
        for scope in {line.scope: None for line in lines}:
            self.pump(scope)

    def _set_timer(self, scope: Scope, wait: float) -> None:
        loop = self._loop
        if wait == math.inf or loop is None or self._is_closed or loop.is_closed():
            scope.stop_timer()
            return
        # A little late rather than early: a timer that fires early finds nothing to do.
        when = loop.time() + wait + 0.001
        if scope.timer is None or scope.timer[0] > when + TICK:
            scope.stop_timer()
            scope.timer = when, loop.call_at(when, self._wake, scope)

    def _wake(self, scope: Scope) -> None:
        scope.timer = None
        self.pump(scope)

    def is_sick(self, line: Line) -> bool:
        """Return whether a target is set aside: its breaker, or that of its host, is open."""
        return self.health.remembered(line.target, line.origin) is not None

    def changed_health(self, origin: str) -> None:
        """Let all calls that wait at a host look again at how long they may wait, and for what."""
        lines = [line for line in self._all_lines() if line.origin == origin]
        if back := {line.target for line in lines if line.set_aside(is_sick=self.is_sick(line))}:
            for ticket in self._tickets:
                ticket.ends_rest(back)
        for each in lines:
            for ticket in each.live_tickets():
                ticket.wake()
            self.pump(each.scope)

    def is_misconfigured(self, line: Line) -> bool:
        """Return whether a target is set aside for what only a person can fix."""
        error = self.health.remembered(line.target, line.origin)
        return error is not None and classify(error).harms == "long"

    def remembered(self, line: Line) -> Exception | None:
        """Return the error that set a target aside, with when it may be asked again."""
        error = self.health.remembered(line.target, line.origin)
        if error is None:
            return None
        wait = self.health.recovers_in(line.target, line.origin, waiting=True)
        error = without_frames(error)
        if isinstance(error, LLMError):
            error.target = line.target  # that of a host was met at another one
        error.add_note(f"{line.target} is set aside and may be asked again in {wait:.3g} s")
        if isinstance(error, ProviderError) and error.retry_after is None:
            error.retry_after = wait
        return error

    def share_verdict(self, line: Line, error: Exception) -> None:
        """End all waits for a target whose probe was refused as misconfigured."""
        for ticket in line.live_tickets():
            ticket.drop(line, without_frames(error))

    def _all_lines(self) -> dict[Line, None]:
        """Return all lines, with those that calls wait in though they were replaced."""
        lines = dict.fromkeys(self._lines.values())
        for scope in self._scopes.values():
            lines.update(scope.waiting)
        return lines

    def reset(self, target: Target | None = None, origin: str = "") -> None:
        """Forget failures and 429s, of one target and its host or of all; let those who wait go."""
        self.health.reset(target, origin)
        if self.sharing is not None:
            for line in self._all_lines():
                self.sharing.closed(line)
        for line in self._all_lines():
            if target in (None, line.target):
                line.forget_refusals()
        for each in {line.origin for line in self._all_lines()}:
            self.changed_health(each)

    def crowd(self, targets: Iterable[Target]) -> tuple[int, bool]:
        """Return how many calls wait for one of the targets, and whether limits bound them all."""
        lines = [line for each in targets if (line := self._lines.get(each)) is not None]
        waiting = max((line.tickets.waiting for line in lines), default=0)
        bounded = all(line.is_bounded or line.scope.is_bounded for line in lines)
        return waiting, bounded and bool(lines)

    def snapshot(self) -> tuple[TargetLimits, ...]:
        """Return the limits of the targets used so far."""
        return tuple(line.snapshot(self.now()) for line in self._lines.values())
