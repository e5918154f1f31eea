"""Imports in a thread: the event loop goes on while what a first call needs is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

from aiollm.errors import LocalError
from aiollm.providers.lazy import is_imported

T = TypeVar("T")


async def in_thread(make: Callable[[], T]) -> T:
    """Return what `make` makes. Raises: LocalError where this process lacks what that takes."""
    try:
        return await asyncio.to_thread(make)
    except (OSError, RuntimeError, ImportError, MemoryError) as error:
        reason = f"what sends requests cannot be loaded: {type(error).__name__}: {error}"
    raise LocalError(reason)


async def load_modules(*names: str) -> None:
    """Import those modules that have not been imported yet. Raises: LocalError."""
    missing = [name for name in names if not is_imported(name)]
    if missing:
        await in_thread(lambda: [import_module(name) for name in missing])
