"""Health: a pure state machine of circuit breakers per target and per host (an origin).

No IO, no tasks; clock and random source are injected. Outcomes are booked synchronously through
the `Permit` that every attempt holds. A breaker is closed (healthy), open (cooling) or, once its
cooldown is over, half-open: it then lets exactly one probe through.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from aiollm._failover.breaker import Breaker, SharedState, hang_of, is_connection_failure
from aiollm._failover.jitter import uniform
from aiollm.errors import (
    LLMError,
    LocalError,
    ProtocolError,
    ProviderError,
    TransportError,
    classify,
)
from aiollm.types import Target

if TYPE_CHECKING:
    from aiollm._failover.snapshots import HealthState, TargetHealth

MAX_COOLDOWN = 300.0
"""Seconds a cooldown lasts at most, so that a recovery is noticed within five minutes."""

MISCONFIGURED = 300.0
"""Seconds a target is set aside after 401, 402, 403 or 404, which last until a person acts."""

MAX_RETRY_AFTER = 3600.0
"""Seconds of a provider's own wait that are honoured: one wrong header must not end its use."""

MAX_TARGETS = 4096
"""Breakers remembered; beyond it the one used longest ago is forgotten."""

MIN_LATENCIES = 20
"""Latencies below which their 95th percentile is not trusted: it would be just the slowest."""

PROBE_EVERY = 2.0
"""Seconds after which a target that failed is probed if calls wait for it: a request every two
seconds burdens no server, and a recovery is noticed soon."""

MISCONFIGURED_PROBE_EVERY = 5.0
"""The same after 401, 402, 403 or 404: who has fixed a key or a model should not wait long."""

PROBE_LEASE = 15.0
"""Seconds a probe may take while its caller pauses; then another call may probe, so that a caller
who has stopped reading does not keep the target closed."""

LEASE_CHECK = 0.1
"""Seconds between two checks whether that caller pauses by now: nothing reports when it does."""


class Permit:
    """The right to one attempt; exactly one of its verdicts counts, later ones do nothing."""

    __slots__ = (
        "_breaker",
        "_generations",
        "_health",
        "_host",
        "_settled",
        "is_paused",
        "is_probe",
        "pause",
        "started",
    )

    def __init__(self, health: Health, breaker: Breaker, host: Breaker) -> None:
        self._health = health
        self._breaker = breaker
        self._host = host
        self._generations = (breaker.generation, host.generation)
        self._settled = False
        self.is_paused: Callable[[], bool] | None = None
        """Says whether the caller pauses; set by a probe's attempt."""
        self.pause: float = 0.0
        """Seconds for which a target wants to be left alone that is not set aside."""
        self.started: float = health.clock()
        self.is_probe: bool = False
        """Whether this attempt decides if the target or its host is well again."""
        if breaker.openings and not health.has_probe(breaker):
            breaker.probe = self
            self.is_probe = True
        if host.openings and not health.has_probe(host):
            host.probe = self
            self.is_probe = True

    def begin(self) -> None:
        """Note that the request goes only now: what it took to prepare is not the target's time."""
        self.started = self._health.clock()

    def first_output(self, seconds: float) -> bool:
        """Note the latency of the first output; return whether it closed a breaker.

        A probe has its verdict now: an answer that streams for minutes delays no other call.
        """
        breaker = self._breaker
        breaker.latencies.append(seconds)
        breaker.answered_from = self.started
        return (breaker.failures > 0 or self._host.failures > 0) and self._answered()

    def success(self) -> bool:
        """Book a success; return whether it closed a breaker."""
        if self._settle():
            breaker = self._breaker
            breaker.succeeded += 1
            if breaker.failures > 0 or self._host.failures > 0:
                return self._answered()
        return False

    def _answered(self) -> bool:
        """Close the breakers of a target that answers; return whether one was open."""
        breaker, host = self._breaker, self._host
        closed = breaker.failures > 0 and self._recover(breaker)
        closed_host = host.failures > 0 and self._recover(host)
        self._hand_on()
        return closed or closed_host

    def failure(self, error: BaseException, *, had_output: bool = False) -> tuple[Breaker, ...]:
        """Book a failure as `error` deserves; return the breakers that it opened."""
        if not self._settle():
            return ()
        verdict = classify(error)
        if verdict.harms == "no":
            if isinstance(error, ProviderError):
                self._answered()  # a refusal is an answer: the target is well
            elif isinstance(error, LocalError) and self.is_probe:
                self._postpone()
            return ()
        self._breaker.failed += 1
        stated, is_unreachable = stated_wait(error), is_connection_failure(error)
        if not is_unreachable:
            self._recover(self._host)
        is_telling = bool(stated or is_unreachable)
        is_stray = self._breaker.is_stray(self._health.clock(), is_telling=is_telling)
        if is_stray and not _is_long(error):
            self.pause = stated
            return ()
        hang = self.hang(error, had_output=had_output)
        opened = self._open(self._host, error, hang) if is_unreachable else ()
        return opened + self._open(self._breaker, error, hang)

    def abandoned(self) -> None:
        """Give the permit back without a verdict: the caller or a race ended the attempt."""
        self._settle()

    def hang(self, error: BaseException, *, had_output: bool) -> float:
        """Return for how long the target had kept silent when `error` ended the attempt."""
        silent = self._health.clock() - max(self.started, self._breaker.answered_at)
        return hang_of(error, silent, answered=had_output)

    def _postpone(self) -> None:
        """Let the next probe wait its turn: this one never got to the target."""
        health = self._health
        for breaker in (self._breaker, self._host):
            if breaker.is_open:
                wait = min(PROBE_EVERY, health.full_cooldown(breaker.openings))
                breaker.probe_at = max(breaker.probe_at, health.clock() + wait)

    def _settle(self) -> bool:
        if self._settled:
            return False
        self._settled = True
        if self.is_probe:
            self._hand_on()
        return True

    def _hand_on(self) -> None:
        """Let another attempt be the probe."""
        self.is_paused = None
        if self._breaker.probe is self:
            self._breaker.probe = None
        if self._host.probe is self:
            self._host.probe = None

    def _is_current(self, breaker: Breaker) -> bool:
        """Return whether the attempt began after the breaker's latest opening."""
        known = self._generations[0 if breaker is self._breaker else 1]
        return known == breaker.generation

    def _recover(self, breaker: Breaker) -> bool:
        was_open = breaker.is_open
        # An older attempt's answer says nothing of the time after an opening, or that was stated.
        if self._is_current(breaker) and not breaker.rests(self.started, self._health.clock()):
            breaker.close()
        return was_open and not breaker.is_open

    def _open(self, breaker: Breaker, error: BaseException, hang: float) -> tuple[Breaker, ...]:
        health = self._health
        now = health.clock()
        breaker.failures += 1
        breaker.last_error = type(error).__name__
        stated, long = stated_wait(error), _is_long(error)
        if not (health.base or stated or long):
            return ()
        # Attempts that ran beside the one that opened it report the same outage: from them, only
        # a time that the server itself states counts.
        opens = self._is_current(breaker) or bool(stated and not breaker.is_open)
        if opens:
            breaker.openings += 1
            breaker.generation += 1
            breaker.error = _remembered(error)
            cooldown = MISCONFIGURED if long else health.cooldown(breaker.openings)
            breaker.until = max(breaker.until, now + max(cooldown, hang))
            every = MISCONFIGURED_PROBE_EVERY if long else PROBE_EVERY
            # No jitter: one call probes, and the others wait for its verdict.
            breaker.probe_at = now + (
                every if long else min(every, health.full_cooldown(breaker.openings))
            )
            breaker.not_before = max(breaker.not_before, now + hang)
        breaker.rest(now, stated)
        return (breaker,) if opens else ()


class Health:
    """All breakers of a registry."""

    def __init__(
        self,
        *,
        base: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = uniform,
    ) -> None:
        """Take `base`, the first cooldown in seconds; 0 turns cooldowns off."""
        self.base = base
        self.clock = clock
        self.uniform = uniform
        self._targets: OrderedDict[Target, Breaker] = OrderedDict()
        self._hosts: OrderedDict[str, Breaker] = OrderedDict()

    def ready_in(self, target: Target, origin: str, *, waiting: bool = False) -> float:
        """Return the seconds until `target` may be tried, 0 for now, inf while it is probed.

        A call that is `waiting` for it may probe earlier than one that can go elsewhere.
        """
        mine, hosts = self._targets.get(target), self._hosts.get(origin)
        if not (mine is not None and mine.openings) and not (hosts is not None and hosts.openings):
            return 0.0
        for breaker in (mine, hosts):
            if breaker is not None and breaker.is_open and self._is_probed(breaker):
                return float("inf")
        if self.unclaimed(target, origin, waiting=waiting):
            return float("inf")
        return self.recovers_in(target, origin, waiting=waiting)

    def unclaimed(self, target: Target, origin: str, *, waiting: bool) -> list[Target | str]:
        """Return which of a target and its host the fleet lets be probed, but not this process yet.

        None of them before all cooldowns are over.
        """
        named: tuple[tuple[Target | str, Breaker | None], ...] = (
            (target, self._targets.get(target)),
            (origin, self._hosts.get(origin)),
        )
        found = [place for place, each in named if each is not None and each.is_unclaimed]
        return [] if found and self.recovers_in(target, origin, waiting=waiting) > 0 else found

    def recovers_in(self, target: Target, origin: str, *, waiting: bool = False) -> float:
        """Return the seconds until the cooldowns of `target` and its host are over."""
        now = self.clock()
        breakers = (self._targets.get(target), self._hosts.get(origin))
        times = (each.half_open_at(waiting=waiting) for each in breakers if each and each.is_open)
        return max([0.0, *(at - now for at in times)])

    def lease_left(self, target: Target, origin: str) -> float:
        """Return the seconds until a probe that is out may be overtaken, inf where none is."""
        breakers = (self._targets.get(target), self._hosts.get(origin))
        opened = [each for each in breakers if each is not None and each.is_open]
        if not opened:
            return float("inf")
        ends = [each.probe.started + PROBE_LEASE for each in opened if each.probe]
        ends += [each.claim_ends for each in opened if each.claim_ends]
        return max(LEASE_CHECK, min(ends, default=float("inf")) - self.clock())

    def remembered(self, target: Target, origin: str) -> Exception | None:
        """Return the error that set the target or its host aside, None where they are well."""
        mine, host = self._targets.get(target), self._hosts.get(origin)
        if mine is not None and mine.openings:
            return mine.error
        return host.error if host is not None and host.openings else None

    def is_probed(self, target: Target, origin: str) -> bool:
        """Return whether a probe of the target or its host is under way."""
        breakers = (self._targets.get(target), self._hosts.get(origin))
        return any(each and each.is_open and self._is_probed(each) for each in breakers)

    def _is_probed(self, breaker: Breaker) -> bool:
        return (
            self.clock() < breaker.claim_ends if breaker.probe is None else self.has_probe(breaker)
        )

    def has_probe(self, breaker: Breaker) -> bool:
        """Return whether a probe is out, and no caller who does not read keeps it."""
        probe = breaker.probe
        if probe is None or probe.is_paused is None:
            return probe is not None
        return self.clock() < probe.started + PROBE_LEASE or not probe.is_paused()

    def admit(self, target: Target, origin: str) -> Permit:
        """Return a permit for one attempt, the probe where a breaker is open without one."""
        return Permit(self, _get(self._targets, target), _get(self._hosts, origin))

    def cooldown(self, opening: int) -> float:
        """Return the length of the n-th cooldown in a row: doubled each time, equal jitter."""
        full = self.full_cooldown(opening)
        return full / 2 + self.uniform(0.0, full / 2)

    def full_cooldown(self, opening: int) -> float:
        """Return the length of the n-th cooldown in a row without jitter."""
        return min(MAX_COOLDOWN, self.base * 2.0 ** min(opening - 1, 40))

    def stagger(self, target: Target) -> float | None:
        """Return the 95th percentile of first-output latency, None while too few are known."""
        breaker = self._targets.get(target)
        if breaker is None or len(breaker.latencies) < MIN_LATENCIES:
            return None
        return breaker.first_output(0.95)

    def usual_first_output(self, target: Target) -> float:
        """Return the median latency of a target's first outputs, 0 while none is known."""
        breaker = self._targets.get(target)
        return breaker.first_output(0.5) if breaker is not None and breaker.latencies else 0.0

    def snapshot(self) -> tuple[TargetHealth, ...]:
        """Return the health of all targets used so far."""
        return tuple(self._snap(target, breaker) for target, breaker in self._targets.items())

    def of(self, target: Target, origin: str) -> TargetHealth:
        """Return the health of a target, used or not, and of its host."""
        own = self._snap(target, self._targets.get(target) or Breaker())
        host = self._hosts.get(origin)
        if host is None or not host.is_open:
            return own
        shared = self._snap(target, host)
        if own.reopens_in > shared.reopens_in:
            return own
        return replace(
            own, state=shared.state, reopens_in=shared.reopens_in, last_error=shared.last_error
        )

    def reset(self, target: Target | None = None, origin: str = "") -> None:
        """Forget the failures of one target and of its host, or of everything."""
        if target is None:
            self._targets.clear()
            self._hosts.clear()
        else:
            self._targets.pop(target, None)
            self._hosts.pop(origin, None)

    def breaker_of(self, place: Target | str) -> Breaker | None:
        """Return the breaker of a target, or of a host; None where it was not used yet."""
        return self._hosts.get(place) if isinstance(place, str) else self._targets.get(place)

    def hear(
        self, place: Target | str, state: SharedState, error: Exception, *, is_mine: bool
    ) -> None:
        """Take the fleet's state of a target, or of a host, as `Breaker.hear` does."""
        breaker = self.breaker_of(place)
        if breaker is None and state.openings:
            if isinstance(place, str):
                breaker = _get(self._hosts, place)
            else:
                breaker = _get(self._targets, place)
        if breaker is not None:
            breaker.hear(state, error, self.clock(), is_mine=is_mine)

    def forget_fleet(self) -> None:
        """Let this process decide alone about what is open for its fleet."""
        for breaker in (*self._targets.values(), *self._hosts.values()):
            breaker.shared = None

    def forget_probes(self) -> None:
        """Let others probe: the loop is gone that the attempts ran on which did."""
        for breaker in (*self._targets.values(), *self._hosts.values()):
            breaker.probe = None

    def _snap(self, target: Target, breaker: Breaker) -> TargetHealth:
        from aiollm._failover.snapshots import TargetHealth  # for users alone

        left = max(0.0, breaker.until - self.clock()) if breaker.is_open else 0.0
        state: HealthState = "healthy"
        if breaker.is_open:
            state = "probing" if breaker.probe is not None else "cooling"
        return TargetHealth(
            target=target,
            state=state,
            failures=breaker.failures,
            reopens_in=left,
            succeeded=breaker.succeeded,
            failed=breaker.failed,
            first_output=breaker.first_output(0.5) if breaker.latencies else None,
            first_output_p95=self.stagger(target),
            last_error=breaker.last_error,
        )


K = TypeVar("K", bound=Hashable)


def _get(breakers: OrderedDict[K, Breaker], key: K) -> Breaker:
    breaker = breakers.get(key)
    if breaker is None:
        if len(breakers) >= MAX_TARGETS:
            breakers.popitem(last=False)
        breaker = breakers[key] = Breaker()
    else:
        breakers.move_to_end(key)
    return breaker


def without_frames(error: Exception) -> Exception:
    """Return a copy: the frames of an error that is raised hold the stream that holds its call."""
    from copy import copy  # for failures alone

    try:
        return copy(error)
    except Exception:  # noqa: BLE001 - a foreign error that cannot be copied
        return error


def _is_long(error: BaseException) -> bool:
    return isinstance(error, LLMError) and error.harms == "long"


def stated_wait(error: BaseException) -> float:
    """Return the seconds that the server asks to be left alone."""
    if isinstance(error, ProviderError) and error.retry_after is not None:
        return min(error.retry_after, MAX_RETRY_AFTER)
    return 0.0


def _remembered(error: BaseException) -> Exception | None:
    """Return a copy of an error that holds neither frames nor what had arrived."""
    if not isinstance(error, Exception):
        return None
    kept = without_frames(error)
    if isinstance(kept, TransportError | ProviderError | ProtocolError):
        kept.partial = None
    return kept
