"""What the shared states of a fleet ask of this process as its member."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from aiollm._failover.lines import Line
from aiollm._fleet.link import Argument
from aiollm._fleet.refusals import Refusals
from aiollm._fleet.scripts import Script
from aiollm.provider import Provider


class Membership(Protocol):
    """What is asked of the process as a member of its fleet."""

    namespace: str
    machine: str
    process: str
    channel: str
    open_ones: str
    timeout: float
    away: bool
    is_slow: bool
    processes: int
    refusals: Refusals

    @property
    def is_open(self) -> bool:
        """Whether the fleet was opened on the running loop."""

    async def open(self) -> None:
        """Join the fleet. Raises: ConfigError."""

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        then: Callable[[Any], None] | None,
        failed: Callable[[], None] | None = None,
    ) -> None:
        """Run a script; call `then` with its reply, or `failed` where there will be none.

        Where Redis refuses the keys, the first of them is among `refusals` for a time, and no
        script runs with it.
        """

    def late(self, seconds: float) -> None:
        """Note that no answer came within so many seconds."""


def scope_name(line: Line, member: Membership) -> str:
    """Return the name of a target's host and key, which does not show the key."""
    provider = line.provider
    return f"{provider.host}:{_digest([_who(provider)], member.namespace)}"


def service_name(provider: Provider, namespace: str) -> str:
    """Return the name of what answers a provider's requests, which shows no more than its host.

    Behind one host and key, a gateway chooses by path, headers and parameters who that is.
    """
    path = provider.base_url.partition("://")[2].partition("/")[2]
    added = [*sorted(provider.headers.items()), *sorted(provider.query.items())]
    return f"{provider.host}:{_digest([_who(provider), path, added], namespace)}"


def _who(provider: Provider) -> str:
    token = provider.token
    if token is None:
        return ""
    return provider.name if token.changes else token.reveal()


def _digest(facts: Any, namespace: str) -> str:
    """Return what tells keys apart and does not show them: 40 bits of a keyed hash."""
    data = msgspec.json.encode(facts)
    return blake2b(data, key=namespace.encode(), digest_size=5).hexdigest()
