"""Keeps the breakers of this process in step with those of its fleet.

Each process answers "may I?" from its own memory. Changes are published; what a message lost is
found by the beat, which asks for the states of all targets in use.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import msgspec

from aiollm import errors
from aiollm._failover.breaker import Breaker, SharedState, is_connection_failure
from aiollm._failover.gate import Gate
from aiollm._failover.health import (
    MISCONFIGURED_PROBE_EVERY,
    PROBE_EVERY,
    PROBE_LEASE,
    stated_wait,
)
from aiollm._failover.lines import Line
from aiollm._fleet import scripts
from aiollm._fleet.in_use import InUse
from aiollm._fleet.membership import Membership, service_name
from aiollm._fleet.scripts import Script
from aiollm.errors import LLMError, ProviderError, ServerError, TransportError, classify
from aiollm.types import Target

UNUSED = 1.0
"""Seconds that a claim is kept for a next call where none waits for it."""

MAX_KEYS = 4096
"""Breakers of others that are known."""

ASKS = 256
"""Breakers that are asked for at a time: Redis does nothing else meanwhile."""

_SECOND = 1e6

_SAME = 50_000
"""Microseconds by which a moment may seem to differ: what messages take on their way."""


class Message(msgspec.Struct, array_like=True):
    """A breaker's state as Redis sends it; times in microseconds from now."""

    key: str
    seq: int
    generation: int
    openings: int
    reopens: int
    probes: int
    not_before: int
    claim: int
    holder: str
    error: str
    status: str
    heard: float = 0.0

    @property
    def status_code(self) -> int:
        """The status of the error, 0 where there is none."""
        is_code = len(self.status) == 3 and self.status.isdecimal()
        return int(self.status) if is_code else 0


decode = msgspec.json.Decoder(Message, strict=False).decode


class _Report:
    """A failure that was reported to Redis, which has not answered yet."""

    __slots__ = ("was_closed",)

    def __init__(self) -> None:
        self.was_closed = False
        """Whether the breaker was closed meanwhile."""


class SharedHealth:
    """The breakers of a gate that others share; see `Sharing`."""

    def __init__(self, gate: Gate, member: Membership) -> None:
        self._gate = gate
        self._member = member
        # The places of each key, with their origins; and the key of each place.
        self._local: dict[str, dict[Target | str, str]] = {}
        self.places: InUse[Target | str, str] = InUse(gate.now)
        self._known: dict[str, Message] = {}
        self._asked: set[str] = set()
        self._reports: dict[str, _Report] = {}
        self.learnt = asyncio.Event()
        """Whether what others have found open is known."""

    @property
    def is_open(self) -> bool:
        """Whether the fleet was opened on the running loop."""
        return self._member.is_open

    async def open(self) -> None:
        """Join the fleet. Raises: ConfigError."""
        await self._member.open()

    def declare(self, line: Line) -> None:
        """Note a target that this process uses, and ask for its state."""
        namespace = self._member.namespace
        service = service_name(line.provider, namespace)
        found = (
            (line.target, f"{{aiollm:1:{namespace}:{service}}}h:{line.target.model}"),
            (line.origin, f"{{aiollm:1:{namespace}:{line.origin}}}h"),
        )
        new = []
        for place, key in found:
            if self.places.use(place) != key and not self.places.is_full:
                self._forget(place)
                self.places.add(place, key)
                self._local.setdefault(key, {})[place] = line.origin
                new.append(key)
        for key in new:
            if key in self._known:
                self._apply(self._known[key])
        self._ask(new)

    def use(self, line: Line) -> None:
        """Note that a call wants to go to a target; what was forgotten of it is asked for."""
        places = self.places
        is_known = places.use(line.target) is not None
        if places.use(line.origin) is None or not is_known:
            self.declare(line)

    def _forget(self, place: Target | str) -> None:
        """Forget a target, or a host, that is not used any more."""
        if (key := self.places.pop(place)) is not None:
            self._left(place, key)

    def _left(self, place: Target | str, key: str) -> None:
        rest = self._local.get(key, {})
        rest.pop(place, None)
        if not rest:
            self._local.pop(key, None)
            if key in self._known and not self._known[key].openings:
                del self._known[key]

    def ask(self) -> None:
        """Ask for the states of the breakers in use; those of others are known by messages."""
        self._ask([*self.places.active.values()])
        for place in [*self.places.active]:
            if not self._is_open(place):
                self.places.rest(place)
        for place, key in self.places.forget():
            self._left(place, key)

    def _ask(self, keys: Sequence[str]) -> None:
        wanted = [key for key in dict.fromkeys(keys) if key not in self._member.refusals]
        for start in range(0, len(wanted), ASKS):
            some = wanted[start : start + ASKS]
            self._send(scripts.states, some, [], self._heard_all, partial(self._ask_each, some))

    def _ask_each(self, keys: Sequence[str]) -> None:
        """Ask for the states of some keys one by one, for Redis refuses one of them at least."""
        for key in keys:
            self._send(scripts.states, [key], [], self._heard_all)

    def failed(
        self, line: Line, error: Exception, *, opened: Collection[Breaker], took: float
    ) -> None:
        """Tell the fleet of a failure after `took` seconds."""
        if classify(error).harms != "no":
            self._report(line.target, error, opened=opened, took=took)
            if is_connection_failure(error):
                self._report(line.origin, error, opened=opened, took=took)
        self.closed(line)
        self.released(line)

    def _report(
        self, place: Target | str, error: Exception, *, opened: Collection[Breaker], took: float
    ) -> None:
        stated, is_long = stated_wait(error), classify(error).harms == "long"
        opens = self._gate.health.breaker_of(place) in opened
        if (key := self.places.get(place)) is None or not (opens or stated):
            return
        generation = self._known[key].generation if key in self._known else 0
        arguments = (
            generation,
            int(opens),
            int(_is_own(error)),
            self._member.machine,
            _us(self._gate.health.base),
            random.uniform(0.5, 1.0),
            _us(took),
            _us(stated),
            _us(MISCONFIGURED_PROBE_EVERY if is_long else PROBE_EVERY),
            int(is_long),
            type(error).__name__,
            getattr(error, "status", 0) or "",
        )
        then = self._heard
        if opens and self._is_open(place):
            self._reports[key] = report = _Report()
            then = partial(self._reported, key, report)
        self._send(scripts.opened, [key], (self._member.channel, *arguments), then)

    def _reported(self, key: str, report: _Report, reply: bytes) -> None:
        if self._reports.get(key) is report:
            del self._reports[key]
        self._heard(reply)
        if report.was_closed and (known := self._known.get(key)) is not None and known.openings:
            self._tell_closed(key, known)

    def _tell_closed(self, key: str, known: Message) -> None:
        known.openings = 0
        self._send(scripts.closed, [key], (self._member.channel, known.generation), None)

    def closed(self, line: Line) -> None:
        """Tell the fleet of a target, and a host, that answer again."""
        for place in (line.target, line.origin):
            key = self.places.get(place) or ""
            known, report = self._known.get(key), self._reports.get(key)
            if not (known or report) or self._is_open(place):
                continue
            if report is not None:  # the answer brings what has to be closed
                report.was_closed = True
            if known is not None and known.openings:
                self._tell_closed(key, known)

    def _is_open(self, place: Target | str) -> bool:
        breaker = self._gate.health.breaker_of(place)
        return breaker is not None and breaker.is_open

    def _is_claimed(self, place: Target | str, *, probes: bool) -> bool:
        """Return whether this process holds the claim, with or without a probe that uses it."""
        breaker = self._gate.health.breaker_of(place)
        if breaker is None or breaker.shared is None or not breaker.shared.is_claimed:
            return False
        return (breaker.probe is not None) == probes

    def released(self, line: Line) -> None:
        """Give claims back that no probe uses."""
        for place in (line.target, line.origin):
            self._give_back(place)

    def _give_back(self, place: Target | str) -> None:
        if self._is_claimed(place, probes=False):
            arguments = (self._member.channel, self._member.process)
            self._send(scripts.released, [self._key(place)], arguments, self._heard)

    def claim(self, line: Line, *, waiting: bool) -> None:
        """Ask for the right to probe where it is time."""
        for place in self._gate.health.unclaimed(line.target, line.origin, waiting=waiting):
            key = self.places.get(place)
            if key is None or key in self._asked:
                continue
            self._asked.add(key)
            arguments = (self._member.channel, self._member.process, _us(PROBE_LEASE), int(waiting))
            self._send(scripts.claimed, [key], arguments, partial(self._claimed, key, place))

    def _claimed(self, key: str, place: Target | str, reply: Any) -> None:
        self._asked.discard(key)
        self._heard(reply)
        if self._is_claimed(place, probes=False):
            asyncio.get_running_loop().call_later(UNUSED, self._give_back, place)

    def renew(self) -> None:
        """Keep the claims whose probes still run."""
        for place, key in [*self.places.active.items()]:
            if self._is_claimed(place, probes=True):
                arguments = (self._member.channel, self._member.process, _us(PROBE_LEASE), 1)
                self._send(scripts.claimed, [key], arguments, None)

    def hear(self, data: bytes) -> None:
        """Take a message that another process published."""
        self._heard(data, is_push=True)

    def joined(self) -> None:
        """Bring what was found open alone, and ask for all else."""
        for place in self.places.active:
            breaker = self._gate.health.breaker_of(place)
            if breaker is not None and breaker.is_open and not _is_own(breaker.error):
                self._restore(place, breaker, 1)
        self.ask()
        learnt = self.learnt = asyncio.Event()

        def heard(reply: Sequence[bytes]) -> None:
            self._heard_all(reply)
            learnt.set()

        self._send(scripts.open_ones, [], [], heard, learnt.set)

    def _restore(self, place: Target | str, breaker: Breaker, generation: int) -> None:
        """Put the state of a breaker into a Redis that does not have it."""
        now = self._gate.now()
        arguments = (
            generation,
            breaker.openings,
            _us(max(0.0, breaker.until - now)),
            _us(max(0.0, breaker.probe_at - now)),
            _us(max(0.0, breaker.not_before - now)),
            breaker.last_error,
            getattr(breaker.error, "status", 0) or "",
        )
        keys = [self._key(place)]
        self._send(scripts.restored, keys, (self._member.channel, *arguments), self._heard)

    def lost(self) -> None:
        """Decide alone from now on."""
        origins = {origin for key in self._known for origin in self._local.get(key, {}).values()}
        self._asked.clear()
        self._reports.clear()
        self._known.clear()
        self._gate.health.forget_fleet()
        for origin in origins:
            self._gate.changed_health(origin)

    def _heard_all(self, reply: Sequence[bytes]) -> None:
        for each in reply:
            self._heard(each)

    def _heard(self, data: bytes, *, is_push: bool = False) -> None:
        """Take a state; a reply is Redis's word, a message may come twice or out of order."""
        if self._member.away:
            return  # a late reply: who decides alone must not wait for the fleet's leave
        try:
            state = decode(data)
        except msgspec.DecodeError:
            return  # another program's message
        if self._is_news(state, is_push=is_push):
            state.heard = self._gate.now()
            self._known[state.key] = state
            self._apply(state)
            if not state.openings and state.key not in self._local:
                del self._known[state.key]  # of others' targets, only what is open matters

    def _is_news(self, state: Message, *, is_push: bool) -> bool:
        known = self._known.get(state.key)
        if known is None:
            return bool(state.openings) and len(self._known) < MAX_KEYS
        if (is_push and state.seq <= known.seq) or self._agree(state, known):
            return False
        return not (state.generation < known.generation and self._brings_back(known))

    def _brings_back(self, known: Message) -> bool:
        """Restore what Redis lost in a restart or a flush; return whether it is open here."""
        for place in self._local.get(known.key, ()) if known.openings else ():
            breaker = self._gate.health.breaker_of(place)
            if breaker is not None and breaker.is_open:
                self._restore(place, breaker, known.generation)
                known.seq, known.generation = -1, 0  # whatever Redis says next counts
                return True
        return False

    def _agree(self, state: Message, known: Message) -> bool:
        """Return whether a state is the one that is known, with moments that have not moved.

        They do where a claim was renewed, or a message was long on its way.
        """
        if (state.seq, state.generation, state.holder) != (
            known.seq,
            known.generation,
            known.holder,
        ):
            return False
        passed = (self._gate.now() - known.heard) * _SECOND
        moments = (
            (state.reopens, known.reopens),
            (state.probes, known.probes),
            (state.not_before, known.not_before),
            (state.claim, known.claim),
        )
        return all(abs(max(0, old - passed) - new) < _SAME for new, old in moments)

    def _apply(self, state: Message) -> None:
        """Let the breakers here be as the fleet has them."""
        error = _error_of(state)
        age = self._gate.now() - state.heard
        shared = SharedState(
            state.generation,
            state.openings,
            max(0.0, state.reopens / _SECOND - age),
            max(0.0, state.probes / _SECOND - age),
            max(0.0, state.not_before / _SECOND - age),
            max(0.0, state.claim / _SECOND - age),
            state.holder,
        )
        is_mine = state.holder == self._member.process
        for place, origin in self._local.get(state.key, {}).items():
            if state.openings:
                self.places.use(place)
            self._gate.health.hear(place, shared, error, is_mine=is_mine)
            self._gate.changed_health(origin)

    def _key(self, place: Target | str) -> str:
        return self.places.get(place) or ""

    def _send(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Any],
        then: Callable[[Any], None] | None,
        failed: Callable[[], None] | None = None,
    ) -> None:
        if not self._member.away:
            every = [*keys] if script is scripts.states else [*keys, self._member.open_ones]
            self._member.run(script, every, arguments, then, failed or partial(self._failed, keys))

    def _failed(self, keys: Sequence[str]) -> None:
        """Decide alone about breakers that Redis keeps from this process."""
        for key in keys:
            if key in self._member.refusals:
                self._asked.discard(key)
                self._reports.pop(key, None)
                self._known.pop(key, None)
                for place, origin in self._local.get(key, {}).items():
                    breaker = self._gate.health.breaker_of(place)
                    if breaker is not None:
                        breaker.shared = None
                    self._gate.changed_health(origin)


def _is_own(error: Exception | None) -> bool:
    """Return whether a failure may be this machine's own: it may have lost its network."""
    return isinstance(error, TransportError)


def _us(seconds: float) -> int:
    return int(seconds * _SECOND)


def _error_of(state: Message) -> Exception:
    """Return an error of the class that another process met."""
    reason = "another process of the fleet found that it fails"
    kind = getattr(errors, state.error, None)
    if isinstance(kind, type) and issubclass(kind, ProviderError):
        return kind(reason, status=state.status_code)
    if isinstance(kind, type) and issubclass(kind, LLMError):
        try:
            return kind(reason)
        except TypeError:
            pass
    return ServerError(reason)
