"""What this process knows of a host with one key whose limits a fleet shares."""

from __future__ import annotations

import random

from aiollm._failover.lines import Line, Scope
from aiollm._failover.sharing import Grant
from aiollm._failover.slots import Slots
from aiollm._fleet.alone import meters_of, sent_until, turn
from aiollm._wire.quota import Kind
from aiollm.types import Target


class SharedScope:
    """What others count together with calls of this process; `name` is what keys begin with.

    `told` and `sizes` are what this process has told the others of each target: limits, and when
    and how many tokens a request takes. `sent` has up to when each meter is booked by what was
    sent while Redis was away, and `alone_from` when the first call may go that nobody granted.
    """

    __slots__ = (
        *("alone_from", "asked", "granted", "lines", "name"),
        *("scopes", "sent", "sizes", "told"),
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.scopes: list[Scope] = []
        self.lines: dict[Target, Line] = {}
        self.asked: set[Grant] = set()
        self.granted: set[Grant] = set()
        self.told: dict[tuple[Target, Kind], float] = {}
        self.sizes: dict[Target, tuple[float, float]] = {}
        self.sent: dict[str, float] = {}
        self.alone_from: float | None = None

    def take(self, scope: Scope) -> None:
        """Count the calls of another scope of the gate, too.

        A provider whose token changes may be registered anew while calls of it still run.
        """
        self.scopes = [*(each for each in self.scopes if _is_used(each)), scope]

    @property
    def slots(self) -> Slots | None:
        """The slots that are declared now."""
        return self.scopes[-1].slots

    @property
    def held(self) -> int:
        """The slots that calls of this process hold, or are about to."""
        return len(self.granted) + sum(each.slots.held for each in self.scopes if each.slots)

    @property
    def is_busy(self) -> bool:
        """Whether a call holds something here, waits, or was promised something."""
        return bool(self.asked or self.granted) or any(map(_is_used, self.scopes))

    def promised(self, now: float) -> dict[str, float]:
        """Return up to when each meter is booked, as far as it is known here: Redis may forget it.

        Only calls that wait count, for others may have returned what they had booked.
        """
        found = {field: until for field, until in self.sent.items() if until > now}
        for grant in self.granted:
            for (field, _, _, _), moment in zip(grant.bookings, grant.ahead, strict=False):
                found[field] = max(found.get(field, 0.0), moment)
        return found

    def divide(self, share: int, *, is_shared: bool) -> None:
        """Let calls that nobody grants use an equal share of each limit."""
        for scope in self.scopes:
            if scope.slots is not None:
                scope.slots.share, scope.slots.is_shared = share, is_shared
        every = [scope.meters for scope in self.scopes]
        every += [line.meters for line in self.lines.values()]
        for meters in every:
            for meter in meters.values():
                meter.set_share(share)

    def joins(self, share: int, now: float) -> bool:
        """Begin anew in a fleet; return whether anything of before counts there."""
        self.told.clear()
        self.sizes.clear()
        self.alone_from = None
        meters = meters_of([*self.lines.values()])
        self.sent = {field: sent_until(meter, share, now) for field, meter in meters.items()}
        return self.is_busy or any(until > now for until in self.sent.values())

    def decides_alone(self, share: int, since: float) -> None:
        """Begin to decide without the fleet, which was lost at the time `since`."""
        lines = [*self.lines.values()]
        for line in lines:
            line.fleet_says = None
        if self.alone_from is None:
            self.alone_from = since + random.uniform(0.0, turn(lines, share))


def _is_used(scope: Scope) -> bool:
    """Return whether a call of this process holds a slot of a scope, or waits for it."""
    is_held = scope.slots is not None and scope.slots.held > 0
    return is_held or any(line.head() is not None for line in scope.waiting)
