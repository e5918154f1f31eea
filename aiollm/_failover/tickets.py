"""What waits in line: a call's demand and patience, tickets in lines, queues, an alarm."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec

from aiollm._time_limits import BEAT, LATE
from aiollm.types import Target

if TYPE_CHECKING:
    from aiollm._failover.estimate import AnyRequest
    from aiollm.provider import Provider

LineT = TypeVar("LineT")


class Patience(msgspec.Struct):
    """The seconds that a call may still wait, and of these for all its targets to recover."""

    room: float
    max_wait: float
    on_wait: Callable[[], None] | None = None
    """Called once, before the call waits for the first time."""
    recovering: float = 0.0
    """Seconds of `max_wait` that it has waited since one of the targets was last well."""

    @property
    def recovery(self) -> float:
        """The seconds that it may still wait for a target to recover."""
        return self.max_wait - self.recovering

    def begins(self) -> None:
        """Note that the call waits now."""
        on_wait, self.on_wait = self.on_wait, None
        if on_wait is not None:
            on_wait()

    def waited(self, seconds: float, *, recovers: bool) -> None:
        """Take off what a call has waited for room, or for targets that all have to recover.

        Each outage counts anew: a target that fails now and then answers most calls of a crowd.
        """
        self.room -= seconds
        self.recovering = self.recovering + seconds if recovers else 0.0


class Place(Protocol):
    """Where a request goes to."""

    provider: Provider
    target: Target


class Demand:
    """What a call asks of limits: its request, measured once and only where tokens count."""

    __slots__ = ("_size", "request")

    def __init__(self, request: AnyRequest) -> None:
        self.request = request
        self._size: tuple[float, int, float] | None = None

    def size_at(self, place: Place) -> float:
        """Return the bytes of text in the request, files counted as if they were text.

        Images that the target is not sent, because they are too many for it, are left out.
        """
        if self._size is None:
            from aiollm._failover.estimate import measure  # for token limits alone

            self._size = measure(self.request)
        size, images, their_size = self._size
        if not images:
            return size
        facts = place.provider.capabilities(place.target.model)
        most = facts.max_images_per_request if facts.images else 0
        left_out = 0 if most is None else max(0, images - most)
        return size - their_size * left_out / images


class Ticket(Generic[LineT]):
    """A call that waits in the lines of one or more targets; the first grant wins.

    Targets that it has `retried` it probes from `probe_from` on; until then, as where its retries
    are used up, it waits for what others find out. From those that are well, and failed for what
    is wrong with this process, it keeps away until `rests_until`: their lines are `outside`. So are
    those of the targets that it keeps away from as long as they are set aside: until inf.
    """

    __slots__ = (
        "admission",
        "demand",
        "errors",
        "future",
        "grants",
        "is_done",
        "lines",
        "number",
        "outside",
        "probe_from",
        "rests_until",
        "retried",
        "until",
        "wakes_at",
    )

    def __init__(
        self,
        number: int,
        demand: Demand,
        lines: Sequence[LineT],
        retried: Container[Target] = (),
        probe_from: float = 0.0,
        rests_until: Mapping[Target, float] | None = None,
    ) -> None:
        self.number = number
        self.demand = demand
        self.lines = lines
        self.outside = lines
        self.rests_until = rests_until
        self.retried = retried
        self.probe_from = probe_from
        self.admission: Any = None
        self.errors: Sequence[Exception] = ()
        self.future: asyncio.Future[None] | None = None
        self.grants: dict[LineT, Any] | None = None
        """What a fleet says to it, line by line."""
        self.until = math.inf
        self.wakes_at = math.inf
        """When its alarm goes off, by the loop's clock; inf for never."""
        self.is_done = False

    def waits_at(self, line: LineT) -> bool:
        """Return whether the call still waits in that line."""
        return not self.is_done and line in self.lines

    def probes_at(self, target: Target) -> float:
        """Return the time from which on the call may probe a target, inf for never."""
        return self.probe_from if target in self.retried else -math.inf

    def rest(self, target: Target, now: float) -> float:
        """Return the seconds for which the call keeps away from a target, 0 or less for none."""
        return self.rests_until.get(target, now) - now if self.rests_until else 0.0

    def ends_rest(self, back: Container[Target]) -> None:
        """Join the lines of targets that are back, of those that were to be kept away from."""
        rests = self.rests_until or {}
        if ended := [each for each, until in rests.items() if until == math.inf and each in back]:
            self.rests_until = {each: rests[each] for each in rests if each not in ended}
            self.wake()

    def wake(self) -> None:
        """Wake the call, so that it checks again."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def give_back(self) -> None:
        """Wait no longer, and give back an admission that the call did not get to use."""
        self.is_done = True
        admission, self.admission = self.admission, None
        if admission is not None:
            admission.abandoned(was_sent=False)

    def drop(self, line: LineT, error: Exception) -> None:
        """Leave a line whose target cannot be asked."""
        if line in self.lines:
            self.lines = [each for each in self.lines if each != line]
            self.errors = [*self.errors, error]
            self.wake()


class Queue(Generic[LineT]):
    """The tickets of a line, by the numbers of their calls; it soon forgets those that left."""

    __slots__ = ("_joined", "_tickets", "waiting")

    def __init__(self) -> None:
        self._tickets: list[tuple[int, int, Ticket[LineT]]] = []
        self._joined = 0
        self.waiting = 0
        """Tickets that were pushed and have not left."""

    def __len__(self) -> int:
        return len(self._tickets)

    def live(self, line: LineT) -> Iterator[Ticket[LineT]]:
        """Iterate the tickets that still wait at their line, in no order."""
        return (each for _, _, each in self._tickets if each.waits_at(line))

    def push(self, ticket: Ticket[LineT]) -> None:
        """Put a ticket behind those of earlier calls, and of the same call."""
        self._joined += 1
        self.waiting += 1
        heapq.heappush(self._tickets, (ticket.number, self._joined, ticket))

    def first(self, line: LineT) -> Ticket[LineT] | None:
        """Return the first ticket that still waits."""
        tickets = self._tickets
        while tickets and not tickets[0][2].waits_at(line):
            heapq.heappop(tickets)
        return tickets[0][2] if tickets else None

    def left(self, line: LineT) -> None:
        """Note that the wait of a ticket is over; a request is kept only for a call that waits."""
        self.waiting -= 1
        if len(self._tickets) > 2 * self.waiting:
            self._tickets = [each for each in self._tickets if each[2].waits_at(line)]
            heapq.heapify(self._tickets)


class Alarm:
    """The one timer of all tickets: it wakes each when that has waited long enough.

    A timer for each would take more time, and be one more object for the collector. Tickets that
    leave early are soon forgotten.
    """

    __slots__ = ("_at", "_entries", "_joined", "_set", "_timer", "stood_still")

    def __init__(self) -> None:
        self.stood_still = 0.0
        """Seconds for which this process ran nothing while calls waited: stopped, or busy."""
        self._entries: list[tuple[float, int, Ticket[Any]]] = []
        self._joined = self._set = 0
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf  # uvloop's handle of a timer that is due cannot say when

    def set(self, loop: asyncio.AbstractEventLoop, ticket: Ticket[Any], seconds: float) -> None:
        """Wake a ticket after so long, unless it is taken off before."""
        now = loop.time()
        if self._timer is not None:
            self._notice(now)  # what passed before this one waited
        ticket.wakes_at = when = now + seconds
        self._joined += 1
        self._set += 1
        heapq.heappush(self._entries, (when, self._joined, ticket))
        if self._timer is None or when < self._at:
            self._start(loop, when)

    def take_off(self, ticket: Ticket[Any]) -> None:
        """Forget a ticket that was woken, by the alarm or otherwise."""
        ticket.wakes_at = math.inf
        self._set -= 1
        if len(self._entries) > 2 * self._set:
            self._entries = [each for each in self._entries if each[2].wakes_at == each[0]]
            heapq.heapify(self._entries)
            if not self._entries:
                self.stop()

    def _start(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        self.stop()
        self._at = when = min(when, loop.time() + BEAT)
        self._timer = loop.call_at(when, self._ring, loop, when)

    def stop(self) -> None:
        """Wake no one from now on."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _notice(self, now: float) -> None:
        """Note how long the process has stood still if the timer should have gone off before."""
        if now - self._at > LATE:
            self.stood_still += now - self._at
            self._at = now

    def _ring(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        entries = self._entries
        self._timer = None
        now = max(loop.time(), when)  # a loop may be a little early by its own clock
        self._notice(now)
        while entries and entries[0][0] <= now:
            at, _, ticket = heapq.heappop(entries)
            if ticket.wakes_at == at:
                ticket.wake()
        if entries:
            self._start(loop, entries[0][0])
