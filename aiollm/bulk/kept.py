"""The rows of a run that are kept to be looked at: the slowest, and failed ones of each class."""

from __future__ import annotations

import heapq
from collections import deque

import msgspec

from aiollm._wire.printable import one_line, printable
from aiollm.bulk.record import Record
from aiollm.bulk.report import RowReport
from aiollm.bulk.subtotal import LONGEST

KEPT = 50
"""Rows of each kind."""
MOST_KEY, MOST_MESSAGE, MOST_EXCERPT = 200, 1000, 1000
"""Characters of a key or a name, of an error's message, and of an answer."""


class KeptRows:
    """At most `KEPT` answers, the slowest, and as many failed rows, the latest of each class."""

    def __init__(self) -> None:
        self._slowest: list[tuple[float, int, RowReport]] = []
        self._failed: dict[str, deque[tuple[int, RowReport]]] = {}
        self._failures = 0
        self._added = 0

    def add(self, record: Record) -> None:
        """Keep a row if it is one of them."""
        self._added += 1
        if record.failure is not None:
            self._add_failure(record.failure.kind, record)
        elif record.cached:
            return
        elif len(self._slowest) < KEPT:
            heapq.heappush(self._slowest, (_bounded(record.seconds), -self._added, _row(record)))
        elif record.seconds > self._slowest[0][0]:
            heapq.heapreplace(self._slowest, (_bounded(record.seconds), -self._added, _row(record)))

    def _add_failure(self, kind: str, record: Record) -> None:
        kind = kind[:MOST_KEY]
        if self._failures >= KEPT:
            # The class with the most rows gives one up, so that rare ones are not lost among them.
            largest = max(self._failed, key=lambda each: len(self._failed[each]))
            if kind not in self._failed and len(self._failed[largest]) == 1:
                return
            self._drop(largest, 0)
        self._failed.setdefault(kind, deque()).append((self._added, _row(record)))
        self._failures += 1

    def _drop(self, kind: str, at: int) -> None:
        rows = self._failed[kind]
        del rows[at]
        self._failures -= 1
        if not rows:
            del self._failed[kind]

    def take_back(self, record: Record) -> None:
        """Forget a row that was asked again."""
        if record.failure is None:
            return
        kind = record.failure.kind[:MOST_KEY]
        key = one_line(_cut(record.key, MOST_KEY))
        for at, (_, row) in enumerate(self._failed.get(kind, ())):
            if row.key == key:
                self._drop(kind, at)
                return

    def slowest(self) -> tuple[RowReport, ...]:
        """Return the slowest answers, the slowest first."""
        return tuple(row for *_, row in sorted(self._slowest, key=lambda each: each[:2])[::-1])

    def failures(self) -> tuple[RowReport, ...]:
        """Return failed rows, in the order in which they ended."""
        found = [each for rows in self._failed.values() for each in rows]
        return tuple(row for _, row in sorted(found, key=lambda each: each[0]))


def _row(record: Record) -> RowReport:
    failure = record.failure
    text = _text(record)
    last = record.attempts[-1].target if record.attempts else ""
    return RowReport(
        key=one_line(_cut(record.key, MOST_KEY)),
        target=one_line(_cut(record.target or last, MOST_KEY)),
        seconds=_bounded(record.seconds),
        first_output=None if record.first_output is None else _bounded(record.first_output),
        waited=_bounded(record.waited),
        attempts=len(record.attempts),
        error=one_line(_cut(failure.kind, MOST_KEY)) if failure else "",
        message=printable(_cut(failure.message, MOST_MESSAGE)) if failure else "",
        excerpt=printable(_cut(text, MOST_EXCERPT)),
        characters=len(text),
        output_tokens=record.usage.output_tokens,
    )


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), LONGEST)


def _text(record: Record) -> str:
    if record.text is not None or record.value is None:
        return record.text or ""
    return msgspec.json.encode(record.value, enc_hook=str).decode()


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} \u2026 ({len(text):,} characters)"
