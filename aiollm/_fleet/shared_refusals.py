"""Tells a fleet what this process saw of refusals, and takes what all of its processes saw.

Each sees a part of the requests and hears of every refusal: alone, it would take a service that
refuses a share of all for one that counts, and one that counts for the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from aiollm._failover.lines import Line
from aiollm._failover.pace import Seen
from aiollm._fleet import shared_scripts
from aiollm._fleet.membership import Membership
from aiollm._fleet.shared_scopes import SharedScope

LATEST = 0.5
"""Seconds after which the sum is asked for at the latest; in short blocks after half of them."""


class SharedRefusals:
    """What is told and heard while a 429 keeps a target back."""

    def __init__(self, member: Membership, run: Callable[..., None]) -> None:
        """Take what sends a script about a scope."""
        self._member = member
        self._run = run

    def blocked(self, shared: SharedScope, line: Line, seconds: float) -> None:
        """Tell what was seen before a 429 that keeps a target back for so many seconds.

        Where the fleet shares limits, a refusal slows only those who met it.
        """
        if not line.pace.may_tell or line.meters or line.scope.meters:
            return
        self._tell(shared, line, None)
        loop = asyncio.get_running_loop()
        loop.call_later(min(LATEST, seconds / 2), self._ask, shared, line)

    def _ask(self, shared: SharedScope, line: Line) -> None:
        """Tell what was refused meanwhile, and take what all saw."""
        if not self._member.away:
            self._tell(shared, line, partial(_heard, line))

    def _tell(self, shared: SharedScope, line: Line, then: Callable[[Any], None] | None) -> None:
        arguments = [line.target.model, *line.pace.tell()]
        self._run(shared_scripts.seen, shared, arguments, then, count=1)


def _heard(line: Line, reply: Any) -> None:
    line.pace.hear(Seen(*map(float, reply)))
