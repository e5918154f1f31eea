"""A fleet of other processes, as the gate sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from aiollm._failover.lines import Line
from aiollm._failover.tickets import Demand
from aiollm.provider import Provider
from aiollm.types import Target

if TYPE_CHECKING:
    from aiollm._failover.breaker import Breaker
    from aiollm._wire.quota import Kind, Quota
    from aiollm.prices import Budget

GrantState: TypeAlias = Literal["asked", "granted", "busy", "full", "aside", "alone", "over"]
"""What became of the question whether a call may go: it may at some time, not in time, not before
another call of the fleet ends, not before its model may be asked, while the slots are for others;
or the fleet did not answer, and this process decides alone."""

Verdict: TypeAlias = Literal["", "answered", "refused"]
"""How an attempt ended, for slots whose number is found."""


class Grant:
    """What one call asks of the limits that a fleet shares, and what it gets.

    `bookings`: (field, kind, limit, units) of each meter. `wait`: seconds until it may go, or until
    it could have gone; they count from `at`, this process's time of the answer. `ahead`: the moment
    up to which each meter was booked then. `spent`: what was taken, None for nothing, where it was
    over before the answer came.
    """

    __slots__ = ("ahead", "at", "bookings", "line", "spent", "state", "wait")

    def __init__(self, line: Line) -> None:
        self.line = line
        self.state: GrantState = "asked"
        self.bookings: list[tuple[str, Kind, float, float]] = []
        self.spent: dict[Kind, float] | None = None
        self.wait = 0.0
        self.at = 0.0
        self.ahead: list[float] = []


class Limiter(Protocol):
    """The limits that a fleet shares; nothing here waits, and nothing raises."""

    def declare(self, line: Line) -> None:
        """Note a target that this process uses."""

    def use(self, line: Line) -> None:
        """Note that a call wants to go to a target: what is not used is forgotten."""

    def bounds(self, line: Line) -> bool:
        """Return whether the fleet decides when a target is asked."""

    def ask(
        self, line: Line, demand: Demand, patience: float, then: Callable[[Grant], None]
    ) -> Grant:
        """Ask for the right to one attempt within `patience` seconds; `then` takes the answer."""

    def promised(self, line: Line) -> float:
        """Return until when the fleet has promised moments to calls of this process."""

    def used(self, grant: Grant) -> None:
        """Note that an attempt begins with what was granted."""

    def give_back(self, grant: Grant) -> None:
        """Return what was asked for or granted, and not used."""

    def leave(self, grant: Grant, spent: dict[Kind, float] | None, verdict: Verdict = "") -> None:
        """Note the end of an attempt with the units that it took, {} for those booked.

        None means that nothing was sent.
        """

    def quit(self, line: Line) -> None:
        """Note that no call of this process waits for the scope of a target any more."""

    def learnt(self, line: Line, quota: Quota) -> None:
        """Tell the others a limit that a target announced."""

    def estimated(self, line: Line) -> None:
        """Tell the others what was learnt of the tokens that requests take."""

    def blocked(self, line: Line, seconds: float) -> None:
        """Tell the others that a 429 keeps a target back."""


class Joinable(Protocol):
    """A fleet that a call joins before it asks anything of it."""

    @property
    def is_open(self) -> bool:
        """Whether it was opened on the running loop."""

    async def open(self) -> None:
        """Join the fleet, or go on alone where it does not answer. Raises: ConfigError."""


class Sharing(Joinable, Protocol):
    """A fleet, as calls see it; only `open` waits or raises."""

    def declare(self, line: Line) -> None:
        """Note a target that this process uses."""

    def use(self, line: Line) -> None:
        """Note that a call wants to go to a target: what is not used is forgotten."""

    def failed(
        self, line: Line, error: Exception, *, opened: Collection[Breaker], took: float
    ) -> None:
        """Note a failure after `took` seconds; `opened` are the breakers that it opened here."""

    def closed(self, line: Line) -> None:
        """Note that a target answers again."""

    def released(self, line: Line) -> None:
        """Note that a probe ended without a verdict."""

    def claim(self, line: Line, *, waiting: bool) -> None:
        """Ask for the right to probe where it is time; `Gate.heard` brings the answer."""


class Purse(Joinable, Protocol):
    """The budgets that a fleet shares."""

    def share(self, budget: Budget) -> None:
        """Let a budget with a name draw on the sum that all processes share."""


class SessionMemory(Joinable, Protocol):
    """What a fleet knows of warm caches."""

    async def warm(
        self, key: str, providers: Mapping[Target, Provider]
    ) -> list[tuple[Target, float]]:
        """Return the targets that are warm for a session and for how many seconds, last used first.

        It takes a moment at most.
        """

    def used(self, key: str, target: Target, provider: Provider, seconds: float) -> None:
        """Tell the others that a target has read a session's prompt, and keeps it for so long."""
