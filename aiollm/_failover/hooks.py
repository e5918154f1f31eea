"""Passing events to the hooks of a registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiollm.events import Event, Hook


def emit(hooks: Sequence[Hook], event: Event) -> None:
    """Call every hook with an event; an exception in one is logged and changes nothing."""
    for hook in tuple(hooks):
        try:
            hook(event)
        except Exception:
            from logging import getLogger  # few programs need it at their start

            getLogger("aiollm").exception("an event hook failed")
