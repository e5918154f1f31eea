"""What the decoders of all codecs share: how tool calls are counted and named."""

from __future__ import annotations

import os

from aiollm.errors import ProtocolError

MAX_CALLS = 4096
"""Tool calls in one answer at most."""


def one_more_call(calls: int) -> int:
    """Return the count of an answer's tool calls with one more. Raises: ProtocolError."""
    if calls >= MAX_CALLS:
        raise ProtocolError(f"the answer has more than {MAX_CALLS} tool calls")
    return calls + 1


def new_call_id() -> str:
    """Return an id for a tool call that came without one."""
    return f"call_{os.urandom(8).hex()}"
