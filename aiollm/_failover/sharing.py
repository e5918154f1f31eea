"""A fleet of other processes, as the gate sees it."""

from __future__ import annotations

from typing import Protocol

from aiollm._failover.lines import Line


class Sharing(Protocol):
    """A fleet, as calls see it; only `open` waits or raises."""

    @property
    def is_open(self) -> bool:
        """Whether it was opened on the running loop."""

    async def open(self) -> None:
        """Join the fleet, or go on alone where it does not answer. Raises: ConfigError."""

    def declare(self, line: Line) -> None:
        """Note a target that this process uses."""

    def failed(self, line: Line, error: Exception, *, opened: bool, took: float) -> None:
        """Note a failure after `took` seconds; `opened` says whether it opened the breaker here."""

    def closed(self, line: Line) -> None:
        """Note that a target answers again."""

    def released(self, line: Line) -> None:
        """Note that a probe ended without a verdict."""

    def claim(self, line: Line, *, waiting: bool) -> None:
        """Ask for the right to probe where it is time; `Gate.heard` brings the answer."""
