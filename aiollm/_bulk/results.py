"""Rows that have ended and wait to be taken: as they came, or in the order of the rows."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from aiollm._bulk.row import Row

T = TypeVar("T")


class Results(Generic[T]):
    """Holds rows that have ended; how many there may be is their owner's business."""

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._ready: deque[Row[T]] = deque()
        self._early: dict[int, Row[T]] = {}
        self._next = 0

    def __bool__(self) -> bool:
        return bool(self._ready)

    def add(self, place: int, row: Row[T]) -> None:
        """Add the row that was the `place`-th to be asked, from 0."""
        if not self._ordered:
            self._ready.append(row)
            return
        self._early[place] = row
        while self._next in self._early:
            self._ready.append(self._early.pop(self._next))
            self._next += 1

    def flush(self) -> None:
        """Hold nothing back any longer: the rows before it will not come."""
        self._ready.extend(self._early[place] for place in sorted(self._early))
        self._early.clear()

    def take(self) -> Row[T]:
        """Return the next row."""
        return self._ready.popleft()
