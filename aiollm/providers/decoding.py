"""Shared by all decoders: counting tool calls and making their ids."""

from __future__ import annotations

import os

from aiollm.errors import ProtocolError

MAX_CALLS = 4096
"""The most tool calls in one answer."""


def one_more_call(calls: int) -> int:
    """Return `calls` + 1. Raises: ProtocolError if an answer may not have so many."""
    if calls >= MAX_CALLS:
        raise ProtocolError(f"the answer has more than {MAX_CALLS} tool calls")
    return calls + 1


def new_call_id() -> str:
    """Return a new id for a tool call that came without one."""
    return f"call_{os.urandom(8).hex()}"
