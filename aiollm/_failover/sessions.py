"""Sessions: where the cache of a conversation is warm, and calls that prefer such a target.

It is a preference and never a pin. A target that is set aside, full or paced is not preferred, and
after a failure a call goes on as any other. With nothing remembered, a call is an ordinary one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from aiollm._failover.attempt import ActiveAttempt
from aiollm._failover.candidates import Admitted, Candidates
from aiollm._failover.chain import Chain
from aiollm._failover.keywords import CallOptions
from aiollm._failover.openers import ChatOpener
from aiollm.errors import ConfigError
from aiollm.types import Item, Target, _shown

MAX_SESSIONS = 10_000
"""Sessions remembered by name, about 300 bytes each; beyond it, the one unused longest goes."""

MAX_TARGETS = 4
"""Targets remembered for a session: a conversation may use a few models in turn."""

LIFETIME = 300.0
"""Seconds that a cache stays warm after a use, at least, with most providers (2026)."""


class Session:
    """The targets whose cache is warm for one conversation, the one used last first."""

    __slots__ = ("_warm", "key")

    def __init__(self, key: str = "") -> None:
        """Begin with nothing warm; `key` names it in a fleet, "" for one that is not shared."""
        self.key = key
        self._warm: tuple[tuple[Target, float], ...] = ()

    def warm(self, now: float) -> list[Target]:
        """Return the targets that are warm at the time `now`, the one used last first."""
        return [target for target, until in self._warm if until > now]

    def used(self, target: Target, until: float) -> None:
        """Note that a target has read the prompt, and keeps it until the time `until`."""
        others = tuple(each for each in self._warm if each[0] != target)
        self._warm = ((target, until), *others[: MAX_TARGETS - 1])


class Sessions:
    """The sessions of a registry that have names."""

    __slots__ = ("_sessions",)

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def chain(self, session: object, opener: ChatOpener) -> Callable[..., Chain]:
        """Return a function that makes the chain of a call in a session, which is named or given.

        The request gets the key of a named session. Raises: ConfigError.
        """
        own = session if isinstance(session, Session) else None
        if own is None and (not isinstance(session, str) or not session):
            raise ConfigError(f"session is {_shown(session)}: expected a name")
        request = opener.request
        if request.prompt_cache == "off":
            return Chain
        if own is None:
            key = key_of(str(session))
            own = self._named(key)
            if not request.cache_key:
                opener.request = msgspec.structs.replace(request, cache_key=key)
        return partial(SessionChain, own, _lifetime(request.prompt_cache))

    def _named(self, key: str) -> Session:
        sessions = self._sessions
        session = sessions.pop(key, None) or Session(key)
        sessions[key] = session
        if len(sessions) > MAX_SESSIONS:
            sessions.popitem(last=False)
        return session


def _lifetime(prompt_cache: str | None) -> float:
    """Return the seconds for which a provider keeps a prompt."""
    if prompt_cache is None:
        return LIFETIME
    from aiollm.providers.cache_points import SECONDS  # few requests say so

    return SECONDS.get(prompt_cache, LIFETIME)


def key_of(name: str) -> str:
    """Return the key of a session's name: providers do not get the name itself.

    It is the same in every process, because caches outlive them.
    """
    from hashlib import blake2s  # it takes a millisecond, and connections bring it

    data = name.encode("utf-8", "surrogatepass")
    return blake2s(data, digest_size=16, person=b"aiollm").hexdigest()


def in_session(options: CallOptions) -> dict[str, Any]:
    """Return the options of a run's calls, which are a session of their own without a name.

    Such a session is not sent anywhere: a key that changed with each run would break recordings.
    """
    named: dict[str, Any] = {**options}
    if named.get("session") is None:
        named["session"] = Session()
    return named


class SessionChain(Chain):
    """The batches of a call that prefers the targets whose cache is warm."""

    __slots__ = ("_lifetime", "_parts", "_session", "preferred")

    def __init__(self, session: Session, lifetime: float, *parts: Any, **others: Any) -> None:
        """Take the session, the seconds that its cache lives, and what a chain takes."""
        super().__init__(*parts, **others)
        self._session = session
        self._lifetime = lifetime
        self._parts: tuple[Any, ...] | None = parts
        self.preferred: Sequence[Target] = ()
        if self.gate.memory is None or not session.key:
            self._prefer_warm()

    async def _start(self) -> ActiveAttempt:
        if self._parts is not None:
            await self._ask_fleet()
            self._prefer_warm()
        return await super()._start()

    async def _ask_fleet(self) -> None:
        """Learn where other processes of the fleet have left the conversation."""
        memory = self.gate.memory
        assert memory is not None
        if not memory.is_open:
            await memory.open()
        warm = await memory.warm(self._session.key, self.opener.providers)
        now = self.gate.now()
        for target, seconds in reversed(warm):
            self._session.used(target, now + seconds)

    def _prefer_warm(self) -> None:
        """Look at the warm targets first; do it before any target is asked."""
        parts, self._parts = self._parts, None
        targets = self._candidates.plan.targets
        warm = [target for target in self._session.warm(self.gate.now()) if target in targets]
        self.preferred = warm
        if warm and parts is not None:
            plan, opener, gate, policy = parts
            room = self._candidates.room
            self._candidates = WarmCandidates(warm, plan, policy, opener, gate, self.number)
            if (waited := self._candidates.room - room) > 0:
                self._candidates.waited(waited)

    def _commit(self, active: ActiveAttempt, batch: Sequence[Item]) -> Sequence[Item]:
        # A provider's time begins when it reads the prompt, not when it has answered.
        session, target = self._session, active.target
        session.used(target, self.gate.now() + self._lifetime)
        if self.gate.memory is not None and session.key:
            provider = self.opener.providers[target]
            self.gate.memory.used(session.key, target, provider, self._lifetime)
        return super()._commit(active, batch)


class WarmCandidates(Candidates):
    """The targets that a call may still ask, the warm ones first while they are well and free."""

    __slots__ = ("_warm",)

    def __init__(self, warm: Sequence[Target], *parts: Any) -> None:
        """Take the warm targets, and what candidates take."""
        super().__init__(*parts)
        self._warm = [*warm]

    def next_free(self) -> Admitted | None:
        """Do as the others, but look at the warm targets first."""
        for target in self._well():
            if (admission := self.enter(target)) is not None:
                return self._preferred(target), admission
        return super().next_free()

    async def ask(self) -> Admitted | None:
        """Do as the others, but look at the warm targets first."""
        for target in self._well():
            if (admission := await self.asked(target)) is not None:
                return self._preferred(target), admission
        return await super().ask()

    def _well(self) -> list[Target]:
        left = {target for step in self._steps for target in step.targets}
        return [
            target
            for target in self._warm
            if target in left and not self._gate.is_sick(self._line(target))
        ]

    def _preferred(self, target: Target) -> Sequence[Target]:
        """Take a warm target out of its step, with the others if they race it."""
        self._warm.remove(target)
        for place, step in enumerate(self._steps):
            if target in step.targets:
                return self._asked_at(place, target)
        raise AssertionError("it is one of those left")
