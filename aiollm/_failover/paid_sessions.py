"""Calls of a session that count money."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from aiollm._failover.chain import Chain
from aiollm._failover.paid import PaidChain
from aiollm._failover.sessions import SessionChain


class PaidSessionChain(PaidChain, SessionChain):
    """The batches of a call that prefers warm caches and has prices or a budget."""


def paid_session(make: Callable[..., Chain]) -> Callable[..., Chain]:
    """Return a function that makes a call of the same session, but counts money."""
    assert isinstance(make, partial)
    return partial(PaidSessionChain, *make.args)
