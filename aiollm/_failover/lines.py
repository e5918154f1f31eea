"""What the gate keeps: scopes with their slots and meters, lines of targets, tickets of calls."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from aiollm._failover.meter import BURST, MOST, Meter, set_meter, used
from aiollm._failover.pace import Pace
from aiollm._failover.tickets import Demand, Queue, Ticket
from aiollm.dsn import Limits
from aiollm.errors import BusyError, BusyKind, ProviderError, RateLimitError
from aiollm.provider import Provider
from aiollm.types import Target, Usage

if TYPE_CHECKING:
    from aiollm._failover.estimate import Estimate
    from aiollm._failover.slots import Slots
    from aiollm._failover.snapshots import TargetLimits
    from aiollm._wire.quota import Kind, Quota

_log = logging.getLogger("aiollm")

WINDOW = 64
"""Attempts that may wait for their first output at a server of one's own that is not known yet; one
more with each that gets it, so the number doubles from round to round."""

FIRST_WINDOW = 8
"""The same at a service that may have limits. Up to `WINDOW`, each output makes room for half of
one more: doubling from round to round would overshoot by all that is allowed."""

WIDENS_EVERY = 1.0
"""Seconds after which that number doubles where it is in use, for first outputs may take long."""

MAX_WINDOW = 1 << 20
"""A window that bounds nothing."""

LOCAL_SCHEMES = frozenset({"fake", "foreman", "llama-swap", "llama-swaps", "ollama"})
"""Schemes of servers that announce no limits."""

KINDS: dict[str, Kind] = {
    "rpm": "requests",
    "tpm": "tokens",
    "itpm": "input_tokens",
    "otpm": "output_tokens",
}
"""The meters that the fields of `Limits` make."""


Booking: TypeAlias = "tuple[Kind, Meter, float]"
"""What an attempt took: the kind of limit, its meter, and the units."""


class Scope:
    """A host with one key: what its provider counts together."""

    __slots__ = (
        "_declared",
        "is_bounded",
        "is_stuck",
        "key",
        "meters",
        "shared",
        "slots",
        "timer",
        "waiting",
    )

    def __init__(self, key: Any) -> None:
        self.key = key
        self.slots: Slots | None = None
        self.meters: dict[Kind, Meter] = {}
        self.waiting: dict[Line, None] = {}
        self.is_stuck = False
        """Whether the first call that could go waits for the scope itself."""
        self.is_bounded = False
        """Whether slots or limits bound it."""
        self.timer: tuple[float, asyncio.Handle] | None = None  # uvloop's may not know its time
        self.shared: Any = None
        """What a fleet knows of it."""
        self._declared: dict[str, Limits] = {}

    def declare(self, name: str, limits: Limits) -> None:
        """Take what is declared under a provider's name; of several names the lowest counts."""
        if self._declared.get(name) == limits:
            return
        self._declared[name] = limits
        if len(set(self._declared.values())) > 1:
            _log.warning(
                "%s share a host and a key, so the lowest of their limits apply to all of them",
                " and ".join(sorted(self._declared)),
            )
        all_limits = tuple(self._declared.values())
        for field, kind in KINDS.items():
            given = [each for limit in all_limits if (each := getattr(limit, field)) is not None]
            set_meter(self.meters, kind, min(given, default=None))
        numbers = [each.max_concurrency for each in all_limits]
        counts = [each for each in numbers if isinstance(each, int)]
        if counts or "auto" in numbers:
            self._resize(min(counts, default=None))
        else:
            self.slots = None
        self.is_bounded = self.slots is not None or bool(self.meters)

    def _resize(self, limit: int | None) -> None:
        if self.slots is not None:
            self.slots.resize(limit)
            return
        from aiollm._failover.slots import Slots  # for declared numbers alone

        self.slots = Slots(limit)

    def wait(self, line: Line, demand: Demand, now: float) -> float:
        """Return the seconds until a call may go, inf until another call ends."""
        if self.slots is not None and self.slots.free <= 0:
            return math.inf
        if not self.meters:
            return 0.0
        return max(meter.wait(now, units) for _, meter, units in line.needs(demand, self.meters))

    def forget_loop(self) -> None:
        """Forget who holds and waits: their loop is gone."""
        self.stop_timer()
        self.waiting.clear()
        self.is_stuck = False
        if self.slots is not None:
            self.slots.clear()

    def stop_timer(self) -> None:
        """Stop the timer."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer[1].cancel()


class Line:
    """One target of a scope: the calls that wait for it, and what is known of its limits."""

    __slots__ = (
        "_estimate",
        "_is_aside",
        "_learnt",
        "_widened_at",
        "fleet_says",
        "is_bounded",
        "is_new",
        "meters",
        "origin",
        "pace",
        "pending",
        "provider",
        "running",
        "scope",
        "target",
        "tickets",
        "unlimited",
        "window",
    )

    def __init__(self, target: Target, provider: Provider, scope: Scope, now: float) -> None:
        """Begin with a slow start."""
        from aiollm._wire.quota import announces_limits  # from the first call on

        self.target = target
        self.provider = provider
        self.origin = provider.origin
        self.scope = scope
        self.meters: dict[Kind, Meter] = {}
        self.pace = Pace()
        self._estimate: Estimate | None = None
        self.pending = self.running = 0
        self.is_bounded = False
        """Whether limits or a pace bound it."""
        self.tickets: Queue[Line] = Queue()
        self.is_new = announces_limits(provider.host) or provider.scheme not in LOCAL_SCHEMES
        """Whether it may have limits, and has not taken `WINDOW` attempts at a time yet."""
        self.window: float = FIRST_WINDOW if self.is_new else WINDOW
        self._widened_at = now
        self._is_aside = False
        self._learnt: set[Kind] = set()
        self.unlimited: tuple[Booking, ...] = ()
        """What an attempt books where there are no limits."""
        self.fleet_says: tuple[BusyKind, str, float] | None = None
        """Why the fleet had no room, of late."""

    @property
    def estimate(self) -> Estimate:
        """What is known of the tokens that a request takes here."""
        if self._estimate is None:
            from aiollm._failover.estimate import Estimate  # for token limits alone

            self._estimate = Estimate()
        return self._estimate

    def learn_always(self) -> None:
        """Let the estimate learn from every answer, for `count_tokens`, with limits or not."""
        self.unlimited = (("requests", Meter(MOST), 0.0),)  # what is booked is settled

    def declare(self, of_target: Limits, of_provider: Limits) -> None:
        """Take what is declared for the target alone."""
        for field, kind in KINDS.items():
            if (limit := getattr(of_target, field)) is not None or kind not in self._learnt:
                set_meter(self.meters, kind, limit)
        self.is_bounded = bool(self.meters) or self.pace.is_active
        if "off" in (of_target.max_concurrency, of_provider.max_concurrency):
            self.window = MAX_WINDOW

    def wait(self, demand: Demand, now: float) -> float:
        """Return the seconds until the target may be asked, by its pace, limits and window."""
        wait = self.own_wait(now)
        if wait > 0 or not self.meters:
            return wait
        return max(meter.wait(now, units) for _, meter, units in self.needs(demand, self.meters))

    def own_wait(self, now: float) -> float:
        """Return the same by its pace, and its window unless it is probed: no fleet shares them."""
        pace = self.pace
        if pace.is_active and (wait := pace.wait(now)) > 0:
            return wait
        return 0.0 if self.pending < self.window or self._is_aside else self._window_wait(now)

    def _window_wait(self, now: float) -> float:
        """Return the seconds until the window opens wider by itself; inf if it no longer does."""
        if not self.is_new:
            return math.inf
        if now - self._widened_at >= WIDENS_EVERY:
            self._widened_at = now
            self._widen(self.window)
        return 0.0 if self.pending < self.window else self._widened_at + WIDENS_EVERY - now

    def _widen(self, by: float) -> None:
        self.window += by
        if self.is_new and self.window >= WINDOW:
            self.is_new = False

    def needs(self, demand: Demand, meters: dict[Kind, Meter] | None = None) -> Iterator[Booking]:
        """Yield what a request takes of the given meters, by default of all that count it."""
        every = (meters,) if meters is not None else (self.scope.meters, self.meters)
        for each in every:
            for kind, meter in each.items():
                units = 1.0
                if kind != "requests":
                    units = self.estimate.share(kind, demand.request, demand.size_at(self))
                    if units > meter.limit >= self._least(kind, demand):
                        units = meter.limit  # the estimate may be too high: wait for all of it
                yield kind, meter, units

    def load(self, weight: int) -> float:
        """Return how full the target is for its weight."""
        if (slots := self.scope.slots) is None:
            return self.running / (WINDOW * weight)
        return slots.held / (max(1, int(slots.limit)) * weight)

    def _least(self, kind: Kind, demand: Demand) -> float:
        return self.estimate.least(kind, demand.request, demand.size_at(self))

    def never_fits(self, demand: Demand) -> BusyError | None:
        """Return the error of a request that exceeds a limit by itself, None for any other."""
        for meters in (self.scope.meters, self.meters):
            for kind, meter in meters.items():
                if kind == "requests":
                    continue
                least = self._least(kind, demand)
                if least > meter.limit:
                    reason = (
                        f"the request takes at least {least:,.0f} tokens, and the limit is "
                        f"{meter.limit:,.0f} a minute"
                    )
                    return BusyError(reason, kind="limit", target=self.target)
        return None

    def settle(self, booked: Sequence[Booking], demand: Demand, usage: Usage) -> None:
        """Correct what was booked for tokens by what was used."""
        if usage.certainty == "missing":
            return
        self.estimate.learn(demand.size_at(self), usage)
        for kind, meter, units in booked:
            if kind != "requests":
                meter.settle(units, used(kind, usage))

    def announced(self, quotas: Sequence[Quota], now: float) -> None:
        """Note the limits that an answer announces: they only tighten what is declared."""
        is_lower = False
        if quotas and self.is_new:
            self.is_new = False
            self.window = MAX_WINDOW  # from now on its limits bound it
        for quota in quotas:
            meter = self.meters.get(quota.kind)
            if meter is None:
                meter = self.meters[quota.kind] = Meter(quota.per_minute, burst=BURST)
                self._learnt.add(quota.kind)
                is_lower = True
            elif quota.kind in self._learnt or quota.per_minute < meter.limit:
                is_lower = is_lower or quota.per_minute < meter.limit
                meter.set_limit(quota.per_minute)
            if quota.remaining is not None:
                meter.hold(now, quota.remaining)
            self.is_bounded = True
        if is_lower:
            self.drop_what_never_fits()

    def block(self, now: float, until: float) -> None:
        """Let nothing go before that time: another process of the fleet got a 429."""
        self.is_bounded = True
        self.pace.block(now, until, is_paced=bool(self.meters or self.scope.meters))

    def heard_limit(self, kind: Kind, per_minute: float) -> None:
        """Take a limit that another process of the fleet was told."""
        if kind in KINDS.values():
            from aiollm._wire.quota import Quota  # for fleets alone

            self.announced([Quota(kind, per_minute)], 0.0)

    def set_aside(self, *, is_sick: bool) -> bool:
        """Note whether the target is set aside, return whether it came back: it is not stormed."""
        if came_back := self._is_aside and not is_sick:
            self.is_new = False
            self.window = self.pending + 1
        self._is_aside = is_sick
        return came_back

    def gave_output(self) -> None:
        """Note a first output: one more may wait for theirs, or half of one at first."""
        self.pending -= 1
        if self.window < MAX_WINDOW:
            self._widen(0.5 if self.is_new else 1.0)
        if self.pace.is_active:
            self.pace.answered()

    def refused(self, error: ProviderError, now: float, bucket: list[float]) -> None:
        """Note that the service wants fewer requests."""
        if self.scope.slots is not None:
            self.scope.slots.refused(now)
        if isinstance(error, RateLimitError):
            self.window = MAX_WINDOW  # from now on its pace bounds it
            self.is_bounded = True
            self.pace.refused(now, error.retry_after, bucket, in_vain=self.pending <= 1)

    def forget_refusals(self) -> None:
        """Forget what 429s blocked, paced and announced."""
        if self.pace.is_active:
            self.pace = Pace(is_shared=self.pace.is_shared)
            for kind in self._learnt:
                del self.meters[kind]
            self._learnt.clear()
            self.window = FIRST_WINDOW if self.is_new else WINDOW
            of_provider, of_target = self.provider.limits_of(self.target.model)
            self.declare(of_target, of_provider)

    def snapshot(self, now: float) -> TargetLimits:
        """Return what bounds the target now."""
        from aiollm._failover.snapshots import TargetLimits  # for users alone

        slots, pace = self.scope.slots, self.pace.meter
        meters = {**self.scope.meters, **self.meters}
        return TargetLimits(
            self.target,
            *self.provider.limits_of(self.target.model),
            learnt={kind: self.meters[kind].limit for kind in self._learnt},
            used={kind: meter.used(now) for kind, meter in meters.items()},
            pace=None if pace is None else pace.limit,
            slots=None if slots is None else int(slots.limit),
            held=self.pending if slots is None else slots.held,
            waiting=len(self.live_tickets()),
            blocked_for=max(0.0, self.pace.blocked_until - now),
        )

    def head(self) -> Ticket[Line] | None:
        """Return the first ticket that still waits."""
        return self.tickets.first(self)

    @property
    def is_idle(self) -> bool:
        """Whether no call runs or waits here."""
        return not self.running and self.head() is None

    def of_new_loop(self) -> Line:
        """Return an empty line for the same target; calls in this one may still end."""
        from copy import copy  # few programs have a second loop

        line = copy(self)
        line.pending = line.running = 0
        line.tickets = Queue()
        return line

    def prober(self, now: float) -> tuple[float, Ticket[Line] | None]:
        """Return the seconds until a ticket may probe, inf if none may, and the first that may."""
        head = self.head()
        if head is not None and head.probes_at(self.target) <= now:
            return 0.0, head  # as most do: in short
        first, at = None, math.inf
        for ticket in self.live_tickets():
            may = ticket.probes_at(self.target)
            if may > now:
                at = min(at, may)
            elif first is None or ticket.number < first.number:
                first = ticket
        return (at - now if first is None else 0.0), first

    @property
    def has_prober(self) -> bool:
        """Whether one of those who wait may probe, now or later."""
        return any(ticket.probes_at(self.target) < math.inf for ticket in self.tickets.live(self))

    def live_tickets(self) -> list[Ticket[Line]]:
        """Return all tickets that still wait."""
        return [*self.tickets.live(self)]

    def first(self, count: int) -> list[Ticket[Line]]:
        """Return the first tickets that still wait, in their order."""
        number_of = attrgetter("number")
        return heapq.nsmallest(count, self.tickets.live(self), key=number_of)

    def drop_what_never_fits(self) -> None:
        """Let calls go elsewhere whose request exceeds a limit that has become lower."""
        for ticket in self.live_tickets():
            if (error := self.never_fits(ticket.demand)) is not None:
                ticket.drop(self, error)

    def why_busy(self, demand: Demand, waited: float, now: float) -> BusyError:
        """Return the error of a call that found no room here."""
        kind, reason, wait = self._what_is_full(demand, now)
        within = f" within {waited:.3g} s" if waited else ""
        message = f"no room{within}: {reason}; the setting `patience` says how long a call waits"
        return BusyError(message, kind=kind, wait=wait, target=self.target)

    def _what_is_full(self, demand: Demand, now: float) -> tuple[BusyKind, str, float]:
        if self.fleet_says is not None:
            return self.fleet_says
        pace = self.pace.wait(now)
        if pace > 0:
            return "pace", f"its pace allows the next request in {pace:.3g} s", pace
        slots = self.scope.slots
        if slots is not None and slots.free <= 0:
            return "slots", slots.describe(), 0.0
        needs = self.needs(demand)
        waits = [(meter.wait(now, units), kind, meter.limit) for kind, meter, units in needs]
        wait, kind, limit = max(waits, default=(0.0, "", 0.0))
        if wait > 0:
            name = f"its limit of {limit:,.0f} {kind.replace('_', ' ')} a minute"
            return "pace", f"{name} allows the next request in {wait:.3g} s", wait
        if self.pending >= self.window:
            return "window", f"{self.pending} requests to it wait for their first output", 0.0
        return "slots", "other calls are before this one in its line", 0.0
