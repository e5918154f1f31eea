"""Counts the turns of the event loop: tests show with it that others run meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def turns() -> AsyncIterator[list[None]]:
    """Yield a list that grows by one with each turn of the loop."""
    seen: list[None] = []

    async def count() -> None:
        while True:
            seen.append(None)
            await asyncio.sleep(0)

    task = asyncio.create_task(count())
    try:
        yield seen
    finally:
        task.cancel()
