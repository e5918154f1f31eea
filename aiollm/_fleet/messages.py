"""What is said to Redis about limits, and what it replies, as values."""

from __future__ import annotations

from typing import Any

from aiollm._failover.sharing import Grant, GrantState
from aiollm._failover.slots import Slots
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


def changes_of(grant: Grant, spent: dict[Kind, float] | None) -> list[Any]:
    """Return what was booked too little or too much, for the script."""
    changes: list[Any] = []
    for field, kind, limit, units in grant.bookings:
        real = 0.0 if spent is None else spent.get(kind, units)
        if real != units:
            changes += [field, limit, real - units]
    return changes
