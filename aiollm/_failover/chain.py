"""Failover: who is tried when, until one target's first output commits the stream to it."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import msgspec

from aiollm._failover.attempt import Route, Run, is_total
from aiollm._failover.deadlines import Clock, Waiter
from aiollm._failover.health import Health
from aiollm.errors import ConfigError, FailoverError, GenerationError, ProviderError, classify
from aiollm.events import CallEnded, CallStarted, Event
from aiollm.spec import Plan
from aiollm.types import (
    Attempt,
    Item,
    Outcome,
    Response,
    Restart,
    Status,
    Target,
    TextPart,
    UsageUpdate,
)

OnInterrupt: TypeAlias = Literal["raise", "restart", "continue"]

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


def check_seconds(name: str, value: object) -> None:
    """Refuse what is no number of seconds from 0 up. Raises: ConfigError."""
    if type(value) not in (int, float) or not 0 <= value < float("inf"):  # type: ignore[operator]
        raise ConfigError(f"{name} is {value!r:.80}: expected seconds from 0 up")


class Failover:
    """The batches of one call, over as many targets as it takes."""

    __slots__ = (
        "_closed",
        "_committed",
        "_emit",
        "_error",
        "_errors",
        "_held",
        "_interruption",
        "_partial",
        "_plan",
        "_policy",
        "_retries",
        "_run",
        "_steps",
        "_target",
        "_uniform",
        "attempts",
        "clock",
        "health",
        "hooked",
        "number",
        "prefix",
        "route",
        "started",
        "total_at",
    )

    def __init__(  # noqa: PLR0913 - all that a call consists of
        self,
        plan: Plan,
        route: Route,
        health: Health,
        policy: Policy,
        *,
        clock: Clock,
        partial: Callable[[Failover], Response],
        emit: Callable[[Event], None] | None = None,
        number: int = 0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`partial` returns what the caller has so far, `emit` tells the hooks."""
        self.route = route
        self.health = health
        self.clock = clock
        self._emit = emit
        self.number = number
        self.attempts: list[Attempt] = []
        self.prefix = ""
        self.total_at: float | None = None
        self._plan = plan
        self._policy = policy
        self._partial = partial
        self._uniform = uniform
        self._steps = deque(plan.steps)
        self._errors: list[Exception] = []
        self._retries = policy.retries
        self._run: Run | None = None
        self._held: list[Item] = []
        self._committed = False
        self._interruption: Exception | None = None
        self.started = clock.time()
        if policy.total is not None:
            self.total_at = self.started + policy.total
        self._target: Target | None = None
        self._closed = False
        self._error: BaseException | None = None
        self.hooked = emit is not None
        if self.hooked:
            self.emit(CallStarted(number, str(plan), route.operation, route.request))

    @property
    def target(self) -> Target | None:
        """The target the stream is, or was last, committed to."""
        return self._target

    def elapsed(self) -> float:
        """Return the seconds since the call began."""
        return self.clock.time() - self.started

    def partial(self) -> Response:
        """Return what the caller has so far, with the counts that came before any output."""
        response = self._partial(self)
        for item in reversed(self._held):
            if isinstance(item, UsageUpdate):
                return msgspec.structs.replace(response, usage=item.usage)
        return response

    def emit(self, event: Event) -> None:
        """Tell the hooks, if there are any."""
        if self._emit is not None:
            self._emit(event)

    async def next(self, task: Waiter) -> Sequence[Item] | None:
        """Return the next batch to `task`, None at the end. Raises: LLMError, FailoverError."""
        while True:
            run = self._run
            if run is None:
                try:
                    run = self._run = await self._start()
                except Exception as error:
                    self._error = error
                    raise
                if self._committed:
                    return self._commit(run, ())
            try:
                batch = await run.next(task)
            except Exception as error:  # noqa: BLE001 - classified below
                failure = error
            else:
                if self._committed or batch is None:
                    return batch
                if run.record.first_output is not None:
                    return self._commit(run, batch)
                self._held += [item for item in batch if type(item) is not Status]
                status = [item for item in batch if type(item) is Status]
                if status:
                    return status
                continue
            final = self._failed(failure)
            if final is not None:
                try:
                    raise final
                finally:
                    # Its traceback holds this frame, and the frame would hold it: a cycle.
                    del failure, final

    def close(self) -> None:
        """End the call now; what still runs is abandoned. Idempotent."""
        run, self._run = self._run, None
        if run is not None:
            run.close("abandoned")
        if self.hooked and not self._closed:
            self._closed = True
            self.emit(self._ended())
        # The frames of a raised error hold the stream, and with it this call.
        self._error = None
        self._errors = []

    def _ended(self) -> CallEnded:
        response = self.partial()
        outcome: Outcome = "success" if response.finish_reason is not None else "abandoned"
        return CallEnded(
            self.number,
            outcome if self._error is None else "failed",
            self.elapsed(),
            response.target,
            response.finish_reason,
            response.usage,
            self._error,
            response,
        )

    def _commit(self, run: Run, batch: Sequence[Item]) -> Sequence[Item]:
        held, self._held = self._held, []
        self._committed = True
        self._error = None
        self._target = run.target
        interruption, self._interruption = self._interruption, None
        if interruption is not None and not self.prefix:
            held.insert(0, Restart(run.target, str(interruption)))
        return [*held, *batch] if held else batch

    def _failed(self, error: Exception) -> Exception | None:
        """Decide after a failed attempt: return the error to raise, None where the call goes on."""
        self._error = error
        committed, self._committed = self._committed, False
        self._run = None
        self._held = []
        if not classify(error).moves_on or is_total(error):
            return error
        if committed and not self._goes_on(error):
            return error
        # A recorded error keeps no frames, and with them this call, alive.
        error.__traceback__ = None
        self._errors.append(error)
        return None

    def _goes_on(self, error: Exception) -> bool:
        """Say whether the call goes on after output that was cut, and prepare it."""
        match self._policy.on_interrupt:
            case "restart":
                self._interruption = error
                self.prefix = ""
            case "continue" if prefix := _continuable(self.partial()):
                targets = [
                    tuple(target for target in step if self.route.takes_prefill(target))
                    for step in self._steps
                ]
                self._steps = deque(filter(None, targets))
                if not self._steps:
                    return False
                self._retries = 0
                self._interruption = error
                self.prefix = prefix
            case _:
                return False
        return True

    async def _start(self) -> Run:
        """Return the next attempt: unstarted, or in a race the winner. Raises: LLMError."""
        while self._steps:
            step = self._steps.popleft()
            ready = [target for target in step if self._ready_in(target) <= 0]
            if len(ready) == 1:
                return self._admit(ready[0])
            if ready and (run := await self._race(ready)) is not None:
                return run
        if not self.attempts:
            return self._admit(min(self._plan.targets, key=self._ready_in))
        return self._admit(await self._retry())

    def _ready_in(self, target: Target) -> float:
        return self.health.ready_in(target, self.route.providers[target].host)

    def _recovers_in(self, target: Target) -> float:
        return self.health.recovers_in(target, self.route.providers[target].host)

    def _admit(self, target: Target) -> Run:
        provider = self.route.providers[target]
        return Run(self, target, provider, self.health.admit(target, provider.host))

    async def _retry(self) -> Target:
        """Wait for the target that recovers first. Raises: FailoverError when none may."""
        hopeless = {
            each.target for each in self.attempts if each.error and not _may_pass(each.error)
        }
        hopeful = [target for target in self._plan.targets if target not in hopeless]
        target = min(hopeful, key=self._recovers_in, default=None)
        wait = self._recovers_in(target) if target is not None else 0.0
        if target is None or self._retries <= 0 or wait > self._policy.max_wait:
            raise self._all_failed()
        wait += self._uniform(0.0, wait / 10)
        if self.total_at is not None and self.clock.time() + wait >= self.total_at:
            raise self._all_failed()
        self._retries -= 1
        await asyncio.sleep(wait)
        return target

    def _all_failed(self) -> FailoverError:
        count = len(self._errors)
        tries = "1 attempt" if count == 1 else f"{count} attempts"
        message = f"every target of {self._plan} failed ({tries})"
        return FailoverError(message, self._errors, self.attempts)

    def _stagger(self, target: Target) -> float:
        if self._policy.stagger is not None:
            return self._policy.stagger
        observed = self.health.stagger(target)
        low, high = STAGGER_RANGE
        return UNKNOWN_STAGGER if observed is None else min(high, max(low, observed))

    async def _race(self, targets: Sequence[Target]) -> Run | None:
        """Return the run that gave output first, all others closed; None when all failed."""
        from aiollm._failover.race import Race  # only races pay for the import of anyio, some 20 ms

        race = Race()
        try:
            await race.run(targets, self._admit, self._stagger)
        except BaseException:
            race.abandon()
            raise
        self._errors += race.errors
        fatal, race.fatal = race.fatal, None
        if fatal is not None:
            try:
                raise fatal
            finally:
                del fatal  # its traceback holds this frame: a cycle
        if race.winner is None:
            return None
        self._held = race.items
        self._committed = True
        return race.winner


def _may_pass(error: Exception) -> bool:
    """Say whether the same target may succeed a little later."""
    if classify(error).harms != "target" and not isinstance(error, GenerationError):
        return False
    return not isinstance(error, ProviderError) or error.may_retry


def _continuable(partial: Response) -> str:
    """Return the text to go on from, "" where a part is more than plain text."""
    parts = partial.message.parts
    if all(isinstance(part, TextPart) and part.provider_data is None for part in parts):
        return partial.text
    return ""
