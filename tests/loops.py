"""The event loops that tests marked `loops` run on, and a loop that shows its callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

FACTORIES: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
"""How to make each loop: uvloop's where it is installed."""

try:
    import uvloop
except ImportError:
    pass
else:

    class ObservedLoop(uvloop.Loop):
        """Runs `look` before each callback, as far as that is not a read or a write."""

        look: Callable[[], None] | None = None

        def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
            return super().call_soon(self._run, callback, args, context=context)

        def call_at(
            self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
        ) -> Any:
            return super().call_at(when, self._run, callback, args, context=context)

        def _run(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
            if self.look is not None:
                self.look()
            callback(*args)

    FACTORIES["uvloop"] = ObservedLoop


def own_sockets(loop: asyncio.AbstractEventLoop) -> set[str]:
    """Return the names of all unix sockets on uvloop: it has two for signals, new in each run."""
    if type(loop) is not FACTORIES.get("uvloop"):
        return set()
    _, *lines = Path("/proc/net/unix").read_text().splitlines()
    return {f"socket:[{line.split()[6]}]" for line in lines}
