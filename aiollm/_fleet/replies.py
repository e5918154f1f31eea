"""What Redis replies about limits, as values."""

from __future__ import annotations

from typing import Any

from aiollm._failover.sharing import GrantState

_SECOND = 1e6

_STATES: dict[bytes, GrantState] = {
    b"granted": "granted",
    b"busy": "busy",
    b"full": "full",
    b"later": "full",
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
