"""What is said to Redis about limits, and what it replies, as values."""

from __future__ import annotations

from typing import Any

from aiollm._failover.lines import Line
from aiollm._failover.sharing import Grant, GrantState
from aiollm._failover.slots import Slots
from aiollm._failover.tickets import Demand
from aiollm._wire.quota import Kind

_SECOND = 1e6

_STATES: dict[bytes, GrantState] = {
    b"granted": "granted",
    b"busy": "busy",
    b"full": "full",
    b"later": "full",
    b"aside": "aside",
}


def answer_in(reply: Any) -> tuple[GrantState, float, list[float]]:
    """Return what Redis grants, in how many seconds, and how far ahead each meter is booked.

    "alone" stands for a reply that says nothing of use.
    """
    match reply:
        case [bytes(word), *times] if times and all(map(_is_time, times)):
            wait, *ahead = (int(each) / _SECOND for each in times)
            return _STATES.get(word, "alone"), wait, ahead
        case _:
            return "alone", 0.0, []


def _is_time(value: Any) -> bool:
    return isinstance(value, bytes) and value.isdigit()


def number_of(slots: Slots | None) -> str:
    """Return how many slots there are, for Redis: "~8" where it finds the number itself."""
    if slots is None:
        return "0"
    return f"~{int(slots.limit)}" if slots.is_auto else str(int(slots.limit))


def bookings_of(line: Line, demand: Demand) -> list[tuple[str, Kind, float, float]]:
    """Return the field, kind, limit and units of each meter that an attempt takes of."""
    model = line.target.model
    return [
        (f"at|{prefix}{kind}", kind, meter.limit, units)
        for meters, prefix in ((line.scope.meters, ""), (line.meters, f"{model}|"))
        for kind, meter, units in line.needs(demand, meters)
    ]


def explain(grant: Grant) -> None:
    """Note why there is no room, for the error of a call whose patience ends."""
    wait = f"{grant.wait:.3g} s"
    match grant.state:
        case "busy":
            reason = f"the limits that the fleet shares allow the next request in {wait}"
            grant.line.fleet_says = "pace", reason, grant.wait
        case "aside":
            reason = f"the limits that the fleet shares hold it back for {wait}"
            grant.line.fleet_says = "pace", reason, grant.wait
        case "full":
            reason = "all slots are held by calls of the fleet (`max_concurrency`)"
            grant.line.fleet_says = "slots", reason, 0.0
        case _:
            grant.line.fleet_says = None


def changes_of(grant: Grant, spent: dict[Kind, float] | None) -> list[Any]:
    """Return what was booked too little or too much, for the script."""
    changes: list[Any] = []
    for field, kind, limit, units in grant.bookings:
        real = 0.0 if spent is None else spent.get(kind, units)
        if real != units:
            changes += [field, limit, real - units]
    return changes
