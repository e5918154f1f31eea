"""What the shared states of a fleet ask of this process as its member."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Protocol

from aiollm._failover.lines import Line
from aiollm._fleet.link import Argument
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
        """Run a script; call `then` with its reply, or `failed` where there will be none."""

    def late(self, seconds: float) -> None:
        """Note that no answer came within so many seconds."""


def scope_name(line: Line, member: Membership) -> str:
    """Return the name of a target's host and key, which does not show the key."""
    return f"{line.provider.host}:{account_of(line.provider, member.namespace)}"


def account_of(provider: Provider, namespace: str) -> str:
    """Return what stands for a provider's key in a fleet: 40 bits of a keyed hash."""
    token = provider.token
    plain = "" if token is None else provider.name if token.changes else token.reveal()
    return blake2b(plain.encode(), key=namespace.encode(), digest_size=5).hexdigest()
