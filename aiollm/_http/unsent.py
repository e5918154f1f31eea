"""Cancellations that came before there was a connection, and so before any byte of a request."""

from __future__ import annotations

_MARK = "aiollm_unsent"


def note_unsent(error: BaseException) -> None:
    """Note on what ends a request that nothing of it was sent."""
    vars(error)[_MARK] = True


def is_unsent(error: BaseException) -> bool:
    """Return whether that was noted."""
    return _MARK in vars(error)
