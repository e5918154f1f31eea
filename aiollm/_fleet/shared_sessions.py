"""Sessions that all processes of a fleet share: where the cache of a conversation is warm."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiollm._fleet import shared_scripts
from aiollm._fleet.membership import Membership, service_name
from aiollm.provider import Provider
from aiollm.types import Target

_SECOND = 1e6


class SharedSessions:
    """What the processes of a fleet know of warm caches; see `SessionMemory`."""

    def __init__(self, member: Membership) -> None:
        self._member = member

    @property
    def is_open(self) -> bool:
        """Whether the fleet was opened on the running loop."""
        return self._member.is_open

    async def open(self) -> None:
        """Join the fleet. Raises: ConfigError."""
        await self._member.open()

    async def warm(
        self, key: str, providers: Mapping[Target, Provider]
    ) -> list[tuple[Target, float]]:
        """Return the targets that are warm for a session and for how many seconds, last used first.

        An answer that does not come in time is as good as none: the call should not wait for it.
        """
        if self._member.away:
            return []
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()

        def answer(reply: Any = ()) -> None:
            if not answered.done():
                answered.set_result(reply)

        timer = loop.call_later(self._member.timeout, answer)
        self._member.run(shared_scripts.warm, [self._key(key)], [], answer, answer)
        try:
            reply = await answered
        finally:
            timer.cancel()
        known = {self._place(target, provider): target for target, provider in providers.items()}
        pairs = zip(reply[::2], reply[1::2], strict=False)
        return [
            (known[place], int(left) / _SECOND)
            for place, left in ((bytes(each).decode(), left) for each, left in pairs)
            if place in known
        ]

    def used(self, key: str, target: Target, provider: Provider, seconds: float) -> None:
        """Tell the others that a target has read a session's prompt, and keeps it for so long."""
        if not self._member.away:
            arguments = (self._place(target, provider), int(seconds * _SECOND))
            self._member.run(shared_scripts.warmed, [self._key(key)], arguments, None)

    def _place(self, target: Target, provider: Provider) -> str:
        return f"{service_name(provider, self._member.namespace)}:{target.model}"

    def _key(self, key: str) -> str:
        return f"{{aiollm:1:{self._member.namespace}:{key}}}s"
