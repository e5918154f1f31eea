"""Who is asked next: the steps of the plan in order, then the target that recovers first."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Literal, TypeAlias, get_args

import msgspec

from aiollm._failover.health import Health
from aiollm._failover.openers import TargetOpener
from aiollm._validation import check_seconds
from aiollm.errors import ConfigError, GenerationError, ProviderError, classify
from aiollm.spec import Plan, Step
from aiollm.types import Attempt, Target

OnInterrupt: TypeAlias = Literal["raise", "restart", "continue"]
"""What happens when an answer is cut after its first output: fail, begin again, or go on."""

UNKNOWN_STAGGER = 1.0
"""Seconds between the starts of a race while latencies are unknown (design: race)."""

STAGGER_RANGE = (0.25, 10.0)
"""Seconds to which the observed stagger is clamped (design: race)."""


class Policy(msgspec.Struct, frozen=True):
    """How a call fails over. `retries`: more attempts after the last target failed.

    `max_wait`: seconds such a retry waits at most. `stagger`: seconds between the starts of a
    race, None to learn them. `total`: seconds of the whole call.
    """

    on_interrupt: OnInterrupt = "raise"
    retries: int = 2
    max_wait: float = 10.0
    stagger: float | None = None
    total: float | None = None

    def __post_init__(self) -> None:
        if self.on_interrupt not in get_args(OnInterrupt):
            words = ", ".join(get_args(OnInterrupt))
            raise ConfigError(f"on_interrupt is {self.on_interrupt!r:.80}: expected one of {words}")
        if type(self.retries) is not int or self.retries < 0:
            raise ConfigError(f"retries is {self.retries!r:.80}: expected an integer from 0 up")
        check_seconds("max_wait", self.max_wait)
        if self.stagger is not None:
            check_seconds("stagger", self.stagger)


class Candidates:
    """The targets that a call may still ask."""

    __slots__ = ("_health", "_opener", "_retries", "_steps", "plan", "policy")

    def __init__(self, plan: Plan, policy: Policy, opener: TargetOpener, health: Health) -> None:
        self.plan = plan
        self.policy = policy
        self._opener = opener
        self._health = health
        self._retries = policy.retries
        self._steps: Iterator[Step] = iter(plan.steps)

    def next_step(self) -> list[Target]:
        """Return the targets to ask at the next step that has any, [] once no step is left."""
        for step in self._steps:
            ready = [*filter(self._is_ready, step.targets)]
            if len(ready) > 1 and step.mode == "spread":
                siblings = _only(step, {*step.targets} - {ready[0]})
                self._steps = chain((siblings,), self._steps)
                return ready[:1]
            if ready:
                return ready
        return []

    def first_ready(self) -> Target:
        """Return the target of the whole plan that is ready first."""
        return min(self.plan.targets, key=self._ready_in)

    def next_retry(
        self, attempts: Sequence[Attempt], time_left: float
    ) -> tuple[float, Target] | None:
        """Return the target to retry and the seconds to wait for it, None where none may pass.

        A wait that does not end within `time_left` seconds is no retry.
        """
        hopeless = {each.target for each in attempts if each.error and not _may_pass(each.error)}
        hopeful = [target for target in self.plan.targets if target not in hopeless]
        if not hopeful or self._retries <= 0:
            return None
        target = min(hopeful, key=self._recovers_in)
        wait = self._recovers_in(target)
        if wait > self.policy.max_wait:
            return None
        # Jitter: calls that failed together do not return together.
        wait += self._health.uniform(0.0, wait / 10)
        if wait >= time_left:
            return None
        self._retries -= 1
        return wait, target

    def keep_prefilled(self) -> bool:
        """Keep the targets that can go on from a cut answer, without retries; False if none can."""
        takes_prefill = self._opener.takes_prefill
        kept = [_only(step, {*filter(takes_prefill, step.targets)}) for step in self._steps]
        self._steps = iter(kept)
        if any(step.targets for step in kept):
            self._retries = 0
            return True
        return False

    def stagger(self, target: Target) -> float:
        """Return the seconds after which the next target of a race joins `target`."""
        if self.policy.stagger is not None:
            return self.policy.stagger
        observed = self._health.stagger(target)
        low, high = STAGGER_RANGE
        return UNKNOWN_STAGGER if observed is None else min(high, max(low, observed))

    def _is_ready(self, target: Target) -> bool:
        return self._health.ready_in(target, self._opener.providers[target].host) <= 0

    def _ready_in(self, target: Target) -> float:
        return self._health.ready_in(target, self._opener.providers[target].host)

    def _recovers_in(self, target: Target) -> float:
        return self._health.recovers_in(target, self._opener.providers[target].host)


def _only(step: Step, kept: Collection[Target]) -> Step:
    """Return a step with those of its targets that are kept."""
    indices = [index for index, target in enumerate(step.targets) if target in kept]
    targets = tuple(step.targets[index] for index in indices)
    weights = tuple(step.weights[index] for index in indices) if step.weights else ()
    return Step(targets, step.mode, weights)


def _may_pass(error: Exception) -> bool:
    """Say whether the same target may succeed a little later."""
    if classify(error).harms != "target" and not isinstance(error, GenerationError):
        return False
    return not isinstance(error, ProviderError) or error.may_retry
