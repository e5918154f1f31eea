"""A meter: how soon so many requests or tokens may go under a limit of so many a minute.

A generic cell rate algorithm (ITU-T I.371) that counts in units, so that the limit can change. No
IO and no clock: every time is given in seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from aiollm.types import Usage

if TYPE_CHECKING:
    from aiollm._wire.quota import Kind

MINUTE = 60.0

MAX_DEBT = 180.0
"""Seconds' worth of bookings that are kept; a clock set back by more empties the meter."""

BURST = 0.5
"""Seconds of a limit that may go at once: half of what the strictest services allow, since requests
bunch on their way."""

LEAST = 1 / 1440
"""Units a minute that a limit may be at least: one a day."""

MOST = 1e12
"""Units a minute that count as no limit at all."""

_TICK = 1e-6
"""Seconds that are not worth a wait; above what rounding can do to a clock."""


class Meter:
    """A limit of so many units a minute, as a virtual arrival time (GCRA).

    Units flow off at `limit / (60 + burst)` a second, and `burst` seconds' worth may go at once:
    both together are the limit, so no minute holds more, wherever the provider lets it begin. A
    booking above the burst waits until all before it have flowed off and until the last minute has
    room for it; for that the bookings of a minute are remembered, in slots of a burst's length.
    """

    __slots__ = (
        "_at",
        "_burst",
        "_debt",
        "_minute",
        "_most",
        "_rate",
        "_reported",
        "_room",
        "_share",
        "_slots",
        "_top",
        "limit",
    )

    def __init__(self, per_minute: float, *, burst: float = 1.0) -> None:
        """Take the limit and `burst` in seconds. A limit that is not above 0 counts as none."""
        self._burst = min(MINUTE, burst) if burst > 0 else 0.0
        self._at = 0.0
        # Units that had not flowed off at `_at`: those booked, and as many as the server counts.
        self._debt = 0.0
        self._reported = 0.0
        # [end, units], oldest first, and the sum of their units.
        self._slots: deque[list[float]] = deque()
        self._minute = 0.0
        self._share = 1
        self._set(MOST)
        self.set_limit(per_minute)

    limit: float
    """Units a minute; `set_limit` changes it."""

    def set_limit(self, per_minute: float) -> None:
        """Keep what is booked and let it flow off at another rate; ignore what is not above 0."""
        if per_minute > 0 and per_minute != self.limit:
            self._set(min(MOST, max(LEAST, per_minute)))

    def set_share(self, processes: int) -> None:
        """Let units flow off as if so many processes shared the limit equally."""
        self._share = max(1, processes)
        self._set(self.limit)

    @property
    def burst(self) -> float:
        """Seconds' worth of units that may go at once."""
        return self._burst

    def wait(self, now: float, units: float) -> float:
        """Return the seconds until `units` may go, inf if they exceed the limit of a minute."""
        if not units > 0:
            return 0.0
        if units > self._most:
            return math.inf
        since = now - self._at
        if not since >= -MAX_DEBT:
            return 0.0
        room, most = self._room, self._most
        owed = self._debt if units > room else self._debt + units - room
        wait = max(owed, self._reported + units - most) / self._rate - since
        if units > room and self._minute + units > most:
            wait = max(wait, self._until_room(units) - now)
        return wait if wait > _TICK else 0.0

    def book(self, now: float, units: float) -> None:
        """Take `units` now, whatever `wait` says."""
        if not units > 0:
            return
        self._flow(now)
        slots = self._slots
        if not slots or slots[-1][0] <= self._at:
            while slots and slots[0][0] + MINUTE <= self._at:
                self._minute -= slots.popleft()[1]
            if not slots:
                self._minute = 0.0
            self._open_slot()
        self._add(units)

    def refund(self, units: float) -> None:
        """Give back what was booked and never sent."""
        if not units > 0:
            return
        self._debt = max(0.0, self._debt - units)
        self._reported = max(self._debt, self._reported - units)
        slots = self._slots
        while slots and units > 0:
            part = min(units, slots[-1][1])
            units -= part
            self._minute -= part
            slots[-1][1] -= part
            if slots[-1][1] <= 0:
                slots.pop()

    def settle(self, booked: float, real: float) -> None:
        """Correct a booking of `booked` units to `real` ones, as if they had been booked."""
        if real > booked:
            if not self._slots:
                self._open_slot()
            self._add(real - booked)
        else:
            self.refund(booked - real)

    def hold(self, now: float, available: float) -> None:
        """Let no more than `available` units go now, for the server has no more; only tightens."""
        if available < self._most:
            self._flow(now)
            gone = min(self._top, self._most - max(0.0, available))
            self._reported = max(self._reported, gone)

    def used(self, now: float) -> float:
        """Return the units that are booked and have not flowed off."""
        since = now - self._at
        if not since >= -MAX_DEBT:
            return 0.0
        return max(0.0, self._debt - self._rate * since)

    def _set(self, limit: float) -> None:
        self.limit = limit
        self._rate = limit / (MINUTE + self._burst) / self._share
        self._room = self._rate * self._burst
        self._top = self._rate * MAX_DEBT
        # One request must be able to go even where less than one a minute may.
        self._most = max(1.0, limit)
        self._clamp()

    def _flow(self, now: float) -> None:
        """Move to `now`; stay where it is a little earlier, for callers read clocks out of turn."""
        since = now - self._at
        if 0 < since < math.inf:
            gone = self._rate * since
            self._debt = self._debt - gone if self._debt > gone else 0.0
            self._reported = self._reported - gone if self._reported > gone else 0.0
            self._at = now
        elif -math.inf < since < -MAX_DEBT:
            self._at = now
            self._debt = self._reported = self._minute = 0.0
            self._slots.clear()

    def _open_slot(self) -> None:
        self._slots.append([self._at + max(1.0, self._burst), 0.0])

    def _add(self, units: float) -> None:
        units = min(units, self._top)
        self._minute += units
        self._slots[-1][1] += units
        self._debt += units
        self._reported += units
        if self._reported > self._top:
            self._clamp()

    def _clamp(self) -> None:
        self._debt = min(self._top, self._debt)
        self._reported = min(self._top, self._reported)

    def _until_room(self, units: float) -> float:
        """Return when enough of the last minute's slots have left it for `units`."""
        left, until = self._minute, -math.inf
        for end, held in self._slots:
            if left + units <= self._most * (1 + 1e-9):
                break
            left -= held
            until = end + MINUTE
        return until


def set_meter(meters: dict[Kind, Meter], kind: Kind, limit: float | None) -> None:
    """Let one of the meters of a scope or line have a limit, None for none."""
    meter = meters.get(kind)
    if limit is None:
        meters.pop(kind, None)
    elif meter is None:
        meters[kind] = Meter(limit, burst=BURST)
    elif meter.limit != limit:
        meter.set_limit(limit)


def used(kind: Kind, usage: Usage) -> float:
    """Return the tokens that a limit counts of an answer."""
    match kind:
        case "input_tokens":
            # Anthropic, which counts input alone, leaves out what its cache held (its rate limit
            # page, November 2026).
            return max(0, usage.input_tokens - (usage.cached_tokens or 0))
        case "output_tokens":
            return usage.output_tokens
        case _:
            return usage.input_tokens + usage.output_tokens
