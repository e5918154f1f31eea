"""Which target is asked next: the first free one of the plan, else the first to be ready."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from aiollm._failover.admission import Admission
from aiollm._failover.gate import TICK, Gate
from aiollm._failover.health import PROBE_EVERY
from aiollm._failover.lines import Line
from aiollm._failover.openers import TargetOpener
from aiollm._failover.policy import Policy
from aiollm._failover.tickets import Patience
from aiollm.errors import GenerationError, LocalError, RateLimitError, classify
from aiollm.spec import Plan, Step
from aiollm.types import Target

UNKNOWN_STAGGER = 1.0
"""Seconds between the starts of a race while latencies are unknown; each start may be billed."""

STAGGER_RANGE = (0.25, 10.0)
"""Seconds to which the observed stagger is clamped: below, nearly every call would start, and may
pay for, all targets; above, a race would not save the caller from a slow one."""

DEFAULT_PATIENCE = 60.0
"""Seconds a call waits for room if it has no first-output deadline: that one's default."""

Admitted: TypeAlias = tuple[Sequence[Target], Admission]
"""What is asked next: a target that was admitted, and those that race it."""


class Candidates:
    """The targets that a call may still ask, and its patience.

    A target leaves its step when it is asked. One that may succeed later can be asked again: after
    a 429 at no cost but time, after a failure that may pass at the cost of one retry.
    """

    __slots__ = (
        "_again",
        "_gate",
        "_number",
        "_opener",
        "_patience",
        "_rests_until",
        "_retries",
        "_retry_from",
        "_steps",
        "_waited_at",
        "plan",
        "policy",
    )

    def __init__(
        self, plan: Plan, policy: Policy, opener: TargetOpener, gate: Gate, number: int
    ) -> None:
        """Take the number of the call: of those that wait, who began first goes first."""
        self._number = number
        self.plan = plan
        self.policy = policy
        self._opener = opener
        self._gate = gate
        self._retries = policy.retries
        self._retry_from = 0.0  # no retry begins before this time
        self._steps: Sequence[Step] = plan.steps  # less the targets that were asked
        # Targets that can be asked again; True where that uses up no retry.
        self._again: dict[Target, bool] | None = None
        self._patience: Patience | None = None
        self._waited_at: set[Target] | None = None  # their own `wait` (of the DSN) is spent
        # When this call may ask a target again that failed, but is not set aside.
        self._rests_until: dict[Target, float] | None = None

    def next_free(self) -> Admitted | None:
        """Return the first target of the plan that can be asked now.

        A race brings all of its targets, a spread the one with the most room. None if nothing is
        free, or if a step wants to be waited for before those behind it.
        """
        steps = self._steps
        if steps and len(steps[0].targets) == 1:  # most plans: the same as below, in short
            admission = self.enter(steps[0].targets[0])
            if admission is not None:
                self._steps = steps[1:]
                return steps[0].targets, admission
            if len(steps) == 1:
                return None
        for place, step in enumerate(steps):
            targets = step.targets
            for target in targets if step.mode == "race" else self._by_room(step):
                admission = self.enter(target)
                if admission is not None:
                    return self._asked_at(place, target), admission
            if self._lines_to_wait_at(step):
                return None
        return None

    async def asked(self, target: Target) -> Admission | None:
        """Admit a target now, None where it would have to wait; ask the fleet if it limits it."""
        return await self._gate.ask(self._line(target), self._number, self._opener)

    async def ask(self) -> Admitted | None:
        """Do what `next_free` does, but ask the fleet about each target that it limits."""
        for place, step in enumerate(self._steps):
            for target in step.targets if step.mode == "race" else self._by_room(step):
                admission = await self.asked(target)
                if admission is not None:
                    return self._asked_at(place, target), admission
            if self._lines_to_wait_at(step):
                return None
        return None

    async def wait(
        self, seconds: float, on_wait: Callable[[], None] | None
    ) -> Admitted | list[Exception]:
        """Wait for the target that is ready first; return it, or the reasons why there is none.

        `seconds` are left of the call's own deadline. `on_wait` is called if it has to wait.
        """
        total_at = self._gate.now() + seconds
        patience = self._patience = self._patience or self._full_patience()
        patience.on_wait = on_wait
        for step in self._steps:
            if waits := self._lines_to_wait_at(step):
                found = await self._wait_at(waits, patience, total_at)
                if found is None and self._gate.now() >= total_at - TICK:
                    return []
                found = found or await self.ask()
                if found is not None:
                    return found
        lines, aside, errors = self._fitting(self._all_left())
        if not lines:
            return [*errors]
        before = patience.room
        again = self._again
        retried = [target for target, is_free in again.items() if not is_free] if again else ()
        rests = self._rests_until
        if aside:  # it is asked only if others find it well
            rests = (rests or {}) | dict.fromkeys((line.target for line in aside), math.inf)
        lines = [*aside, *lines]
        verdicts = await self._gate.wait(
            self._number,
            lines,
            self._opener,
            patience,
            total_at,
            retried,
            self._retry_from if self._retries > 0 else math.inf,
            rests,
        )
        if isinstance(verdicts, Admission):
            if not verdicts.permit.is_probe:
                patience.recovering = 0.0  # it is well: should it fail again, that counts anew
            return self._took(verdicts)
        waited = before - patience.room
        return [*errors, *verdicts, *self._reasons(lines, verdicts, waited)]

    async def _wait_at(
        self, lines: Sequence[Line], patience: Patience, total_at: float
    ) -> Admitted | None:
        """Spend what a step wants to be waited for before the steps behind it are asked."""
        self._waited_at = (self._waited_at or set()) | {line.target for line in lines}
        wanted = max(line.provider.options.wait or 0.0 for line in lines)
        own = Patience(min(wanted, patience.room), 0.0, patience.on_wait)
        spent = own.room
        found = await self._gate.wait(self._number, lines, self._opener, own, total_at)
        patience.on_wait = own.on_wait
        patience.room -= spent - own.room
        return self._took(found) if isinstance(found, Admission) else None

    @property
    def has_waited(self) -> bool:
        """Whether the latest `wait`, which may not be over, had to wait."""
        return self._patience is not None and self._patience.on_wait is None

    @property
    def room(self) -> float:
        """The seconds that the call may still wait for room."""
        return (self._patience or self._full_patience()).room

    def waited(self, seconds: float) -> None:
        """Subtract from the call's patience what it has waited elsewhere."""
        patience = self._patience = self._patience or self._full_patience()
        patience.room = max(0.0, patience.room - seconds)

    @property
    def waiting_for(self) -> tuple[Target, ...]:
        """The targets that the call can still go to."""
        return tuple(self._all_left())

    def failed(self, target: Target, error: Exception) -> None:
        """Note that a target failed, and whether it may be asked again."""
        again = self._again = self._again or {}
        if isinstance(error, RateLimitError) and error.may_retry and self.policy.retries:
            again[target] = True
        elif _may_pass(error):
            again[target] = False
            if not self._gate.is_sick(self._line(target)):  # nothing else slows this call down
                self._rest(target)
        else:
            again.pop(target, None)

    def _rest(self, target: Target) -> None:
        """Keep this call away from a healthy target for as long as a cooldown would last."""
        health = self._gate.health
        seconds = health.cooldown(1 + self.policy.retries - self._retries)
        self._rests_until = self._rests_until or {}
        self._rests_until[target] = health.clock() + seconds

    def put_back(self, targets: Sequence[Target]) -> None:
        """Put back targets of a race as a step, in the place that they have in the plan."""
        place_of = self.plan.targets.index
        steps = [*self._steps, Step(targets)]
        self._steps = sorted(steps, key=lambda step: place_of(step.targets[0]))

    def rejoin(self, cut: Target | None, had_turn: Collection[Target]) -> None:
        """Put back those that lost a race to a target that was `cut`, except `had_turn`."""
        gone = {*had_turn, *(target for step in self._steps for target in step.targets)}
        raced = next((each.targets for each in self.plan.steps if cut in each.targets), ())
        left = tuple(target for target in raced if target not in gone)
        if left:
            self.put_back(left)

    def give_up(self) -> None:
        """Ask no target any more."""
        self._steps, self._again = (), None

    def keep_prefilled(self) -> bool:
        """Keep the targets that can go on from a cut answer, without retries; False if none can."""
        takes_prefill = self._opener.takes_prefill
        without = [
            [each for each in step.targets if not takes_prefill(each)] for step in self._steps
        ]
        kept = (_without(*pair) for pair in zip(self._steps, without, strict=True))
        self._steps = tuple(filter(None, kept))
        self._again = None
        self._retries = 0
        return bool(self._steps)

    def stagger(self, target: Target) -> float:
        """Return the seconds after which the next target of a race joins `target`."""
        if self.policy.stagger is not None:
            return self.policy.stagger
        observed = self._gate.health.stagger(target)
        low, high = STAGGER_RANGE
        return UNKNOWN_STAGGER if observed is None else min(high, max(low, observed))

    def enter(self, target: Target) -> Admission | None:
        """Admit a target now, None where it would have to wait."""
        return self._gate.try_enter(self._line(target), self._number, self._opener)

    def _line(self, target: Target) -> Line:
        return self._gate.line(target, self._opener.providers[target])

    def _by_room(self, step: Step) -> Sequence[Target]:
        """Return the targets of a spread, the one with the most room first."""
        weights = step.weights or (1,) * len(step.targets)
        usual = self._gate.health.usual_first_output
        loads = {
            target: (self._line(target).load(weight), usual(target))
            for target, weight in zip(step.targets, weights, strict=True)
        }
        return sorted(step.targets, key=loads.__getitem__)

    def _lines_to_wait_at(self, step: Step) -> list[Line]:
        """Return the lines of a step whose own wait is still to be spent."""
        waited_at = self._waited_at or ()
        return [
            line
            for target in step.targets
            if self._opener.providers[target].options.wait and target not in waited_at
            if not self._gate.is_sick(line := self._line(target))
        ]

    def _asked_at(self, place: int, target: Target) -> Sequence[Target]:
        """Take an admitted target out of its step, with those that race it; return them all."""
        step = self._steps[place]
        asked: tuple[Target, ...] = (target,)
        if step.mode == "race":
            asked += tuple(each for each in step.targets if each != target)
        self._leave(place, asked)
        return asked

    def _leave(self, place: int, targets: Sequence[Target]) -> None:
        step = self._steps[place]
        left = _without(step, targets) if len(targets) < len(step.targets) else None
        kept = () if left is None else (left,)
        self._steps = (*self._steps[:place], *kept, *self._steps[place + 1 :])

    def _took(self, admission: Admission) -> Admitted:
        target = admission.line.target
        for place, step in enumerate(self._steps):
            if target in step.targets:
                self._leave(place, (target,))
                return (target,), admission
        if not (self._again or {}).pop(target, True):
            self._retries -= 1
            # The targets of a chain recover side by side; its retries come one after another.
            health = self._gate.health
            again = health.full_cooldown(1 + self.policy.retries - self._retries)
            self._retry_from = health.clock() + min(PROBE_EVERY, again)
        return (target,), admission

    def _all_left(self) -> list[Target]:
        left = [target for step in self._steps for target in step.targets]
        for target, costs_nothing in (self._again or {}).items():
            if (costs_nothing or self._may_retry(target)) and target not in left:
                left.append(target)
        return left

    def _may_retry(self, target: Target) -> bool:
        """Return whether a target that failed may be asked again.

        Without retries left, a call only waits for what others find out about one that is set
        aside.
        """
        return self._retries > 0 or (
            self.policy.retries > 0 and self._gate.is_sick(self._line(target))
        )

    def _fitting(
        self, targets: Sequence[Target]
    ) -> tuple[Sequence[Line], Sequence[Line], Sequence[Exception]]:
        """Return the lines to wait in, those not to, and the errors of targets that never take it.

        A misconfigured target is waited for only if there is no other.
        """
        lines: list[Line] = []
        errors: list[Exception] = []
        for line in map(self._line, targets):
            error = line.never_fits(self._opener)
            if error is None:
                lines.append(line)
            else:
                errors.append(error)
        aside = [each for each in lines if self._gate.is_misconfigured(each)]
        if len(aside) == len(lines):
            return lines, (), errors
        return [each for each in lines if each not in aside], aside or (), errors or ()

    def _reasons(
        self, lines: Sequence[Line], verdicts: Sequence[Exception], waited: float
    ) -> list[Exception]:
        """Return why each target that this call has not asked could not be asked."""
        known = {getattr(each, "target", None) for each in verdicts} | set(self._again or ())
        return [
            self._gate.remembered(line) or line.why_busy(self._opener, waited, self._gate.now())
            for line in lines
            if line.target not in known
        ]

    def _full_patience(self) -> Patience:
        room = self.policy.patience
        if room is None:
            limits = [each.first_output for each in self._opener.timeouts.values()]
            room = max((each for each in limits if each is not None), default=DEFAULT_PATIENCE)
        return Patience(room, self.policy.max_wait)


def _without(step: Step, targets: Sequence[Target]) -> Step | None:
    """Return what is left of a step without some of its targets."""
    kept = tuple(each for each in step.targets if each not in targets)
    if not kept:
        return None
    weights = tuple(
        weight
        for target, weight in zip(step.targets, step.weights, strict=False)
        if target not in targets
    )
    return Step(kept, step.mode, weights)


def _may_pass(error: Exception) -> bool:
    """Return whether the same target may succeed a little later."""
    passes = isinstance(error, GenerationError | LocalError) or classify(error).harms == "target"
    return passes and getattr(error, "may_retry", True)
