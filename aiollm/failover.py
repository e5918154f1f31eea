"""Failover: who is tried when, until one target's first output commits the stream to it."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from aiollm.errors import (
    ConfigError,
    DeadlineError,
    FailoverError,
    LLMError,
    ProtocolError,
    ProviderError,
    StreamInterrupted,
    TransportError,
    classify,
)
from aiollm.events import (
    AttemptEnded,
    AttemptStarted,
    CallEnded,
    CallStarted,
    Event,
    FirstOutput,
    TargetClosed,
    TargetOpened,
)
from aiollm.health import Health, Permit
from aiollm.spec import Plan
from aiollm.types import (
    Attempt,
    Finish,
    ImageChunk,
    Item,
    Outcome,
    PartChunk,
    ReasoningDelta,
    RefusalDelta,
    Response,
    Restart,
    Status,
    Target,
    TextDelta,
    TextPart,
    Timeouts,
    ToolCallDelta,
)
from aiollm.watch import Clock, Watch

OnInterrupt: TypeAlias = Literal["raise", "restart", "continue"]
Batches: TypeAlias = AsyncGenerator[Sequence[Item], None]

OUTPUT = frozenset(
    {TextDelta, ReasoningDelta, RefusalDelta, ToolCallDelta, ImageChunk, PartChunk, Finish}
)
"""What commits a stream to its target (design: commit gate)."""

UNKNOWN_STAGGER = 1.0
"""Seconds between the starts of a race while latencies are unknown (design: race)."""

STAGGER_RANGE = (0.25, 10.0)
"""Seconds to which the observed stagger is clamped (design: race)."""


class Slots:
    """At most `limit` streams at once; waiters are served in order."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self._free

    async def acquire(self) -> None:
        """Take a slot, waiting for it if need be; a cancelled wait takes none."""
        if self._free > 0 and not self._waiters:
            self._free -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def release(self) -> None:
        """Give a slot back: to the first waiter, if there is one."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(None)
                return
        self._free += 1


class Route(Protocol):
    """What failover asks about a target."""

    def host(self, target: Target) -> str:
        """Return the host that its connection failures count against."""

    def timeouts(self, target: Target) -> Timeouts:
        """Return the deadlines of one attempt."""

    def slots(self, target: Target) -> Slots | None:
        """Return the slots of its provider, None where their number is not limited."""

    def takes_prefill(self, target: Target) -> bool:
        """Say whether it continues an assistant message that ends the request."""

    async def open(self, target: Target, prefix: str) -> tuple[Batches, Sequence[Item]]:
        """Prepare the request; return its unstarted stream and what there is to note.

        `prefix` is the answer so far that the target has to go on from. Raises: LLMError.
        """

    def clean(self, target: Target, error: LLMError) -> None:
        """Put the target on the error and take its secret out."""


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


class _Run:
    """One attempt: owns a generator, a slot, a permit and the record of what became of it."""

    __slots__ = (
        "_batches",
        "_call",
        "_permit",
        "_queued",
        "_released",
        "_slots",
        "_watch",
        "record",
        "target",
    )

    def __init__(self, call: Failover, target: Target, permit: Permit) -> None:
        self._call = call
        self._permit = permit
        self._batches: Batches | None = None
        self._slots: Slots | None = None
        self._queued = False
        self._released = False
        self.target = target
        self.record = Attempt(target, call.elapsed())
        self._watch = Watch(call.clock, call.route.timeouts(target), call.total_at)
        call.attempts.append(self.record)
        if call.hooked:
            call.emit(AttemptStarted(call.number, target))

    async def next(self) -> Sequence[Item] | None:
        """Return the next batch that is not empty, None at the end.

        Raises: Exception, after closing itself.
        """
        watch = self._watch
        try:
            batches = self._batches
            if batches is None:
                batches, notes = await self._open()
                self._batches = batches
                if notes:
                    return notes
            while not (batch := await watch.wait(batches.__anext__())):
                watch.alive()
        except StopAsyncIteration:
            return self._end()
        except Exception as error:
            failure = error
        except BaseException:
            self.close("abandoned")
            raise
        else:
            self._note(batch)
            return batch
        raise self.fail(failure)

    def fail(self, error: Exception) -> Exception:
        """Book the failure and return the error, cleaned."""
        attach_partial(error, self._call.partial())
        if isinstance(error, LLMError):
            self._call.route.clean(self.target, error)
            if self._queued:
                # The wait for one of our own slots says nothing of the target.
                error.harms = "no"
        by_caller = isinstance(error, DeadlineError) and error.which == "total"
        self.close("abandoned" if by_caller else "failed", error)
        return error

    async def _open(self) -> tuple[Batches, Sequence[Item]]:
        slots = self._call.route.slots(self.target)
        if slots is not None:
            self._queued = True
            await self._watch.wait(slots.acquire())
            self._slots = slots
            self._queued = False
        return await self._watch.wait(self._call.route.open(self.target, self._call.prefix))

    def _note(self, batch: Sequence[Item]) -> None:
        if type(batch[-1]) not in OUTPUT and not has_output(batch):
            self._watch.alive()
            return
        self._watch.output()
        if self.record.first_output is None:
            self._note_first_output()
        last = type(batch[-1])
        if last is Finish or (last is not TextDelta and any(type(i) is Finish for i in batch)):
            self._book("success")

    def _note_first_output(self) -> None:
        record, call = self.record, self._call
        record.first_output = call.elapsed()
        seconds = record.first_output - record.started
        self._permit.first_output(seconds)
        if call.hooked:
            call.emit(FirstOutput(call.number, self.target, seconds))

    def _end(self) -> None:
        if self.record.outcome == "running":
            raise self.fail(StreamInterrupted("the stream ended before its terminal event"))
        self.close("success")

    def close(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Release everything and book the outcome unless one stands already; idempotent."""
        if self._released:
            return
        self._released = True
        self._watch.stop()
        batches, self._batches = self._batches, None
        if batches is not None:
            close_now(batches)
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()
        self._book(outcome, error)

    def _book(self, outcome: Outcome, error: Exception | None = None) -> None:
        record, call = self.record, self._call
        if record.outcome != "running":
            return
        record.outcome = outcome
        record.ended = call.elapsed()
        record.error = error
        changed = False
        match outcome:
            case "success":
                changed = self._permit.success()
            case "failed" if error is not None:
                changed = self._permit.failure(error)
            case _:
                self._permit.abandoned()
        if not call.hooked:
            return
        seconds = record.ended - record.started
        call.emit(AttemptEnded(call.number, self.target, outcome, seconds, error))
        if changed and outcome == "success":
            call.emit(TargetClosed(call.number, self.target))
        elif changed:
            wait = call.health.recovers_in(self.target, call.route.host(self.target))
            call.emit(TargetOpened(call.number, self.target, wait, error))


def has_output(batch: Sequence[Item]) -> bool:
    """Say whether a batch holds anything that commits a stream."""
    return any(type(item) in OUTPUT for item in batch)


def close_now(batches: Batches) -> None:
    """Close a generator without a loop: an adapter's teardown does not await."""
    closing: Any = batches.aclose()
    try:
        closing.send(None)
    except (StopIteration, StopAsyncIteration):
        return
    except RuntimeError:
        # It awaits in its teardown or ignores GeneratorExit: a fault of that adapter.
        return
    closing.close()


class Failover:
    """The batches of one call, over as many targets as it takes."""

    def __init__(
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
        self._run: _Run | None = None
        self._held: list[Item] = []
        self._committed = False
        self._interruption: Exception | None = None
        self._loop = clock.loop
        self._started = self._loop.time()
        if policy.total is not None:
            self.total_at = self._started + policy.total
        self._target: Target | None = None
        self._closed = False
        self._error: BaseException | None = None
        self.hooked = emit is not None
        if self.hooked:
            self.emit(CallStarted(number, str(plan)))

    @property
    def target(self) -> Target | None:
        """The target the stream is, or was last, committed to."""
        return self._target

    def elapsed(self) -> float:
        """Return the seconds since the call began."""
        return self._loop.time() - self._started

    def partial(self) -> Response:
        """Return what the caller has so far."""
        return self._partial(self)

    def emit(self, event: Event) -> None:
        """Tell the hooks, if there are any."""
        if self._emit is not None:
            self._emit(event)

    async def next(self) -> Sequence[Item] | None:
        """Return the next batch, None at the end. Raises: LLMError, FailoverError."""
        while True:
            run = self._run
            if run is None:
                run = self._run = await self._start()
                if self._committed:
                    return self._commit(run, ())
            try:
                batch = await run.next()
            except Exception as error:
                failure = error
            else:
                if self._committed or batch is None:
                    return batch
                if has_output(batch):
                    return self._commit(run, batch)
                self._held += [item for item in batch if type(item) is not Status]
                status = [item for item in batch if type(item) is Status]
                if status:
                    return status
                continue
            self._failed(failure)

    def close(self) -> None:
        """End the call now; what still runs is abandoned. Idempotent."""
        run, self._run = self._run, None
        if run is not None:
            run.close("abandoned")
        if self.hooked and not self._closed:
            self._closed = True
            self.emit(self._ended())

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
        )

    def _commit(self, run: _Run, batch: Sequence[Item]) -> Sequence[Item]:
        items = [*self._held, *batch]
        self._held = []
        self._committed = True
        self._error = None
        self._target = run.target
        interruption, self._interruption = self._interruption, None
        if interruption is not None and not self.prefix:
            items.insert(0, Restart(run.target, str(interruption)))
        return items

    def _failed(self, error: Exception) -> None:
        """Decide whether the call goes on after an attempt failed. Raises: the final error."""
        self._error = error
        committed, self._committed = self._committed, False
        self._run = None
        self._held = []
        if not classify(error).moves_on or _is_total(error):
            raise error
        self._errors.append(error)
        if committed:
            self._interrupted(error)
        # A recorded error keeps no frames, and with them this call, alive.
        error.__traceback__ = None

    def _interrupted(self, error: Exception) -> None:
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
                    raise error
                self._retries = 0
                self._interruption = error
                self.prefix = prefix
            case _:
                raise error

    async def _start(self) -> _Run:
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
        return self.health.ready_in(target, self.route.host(target))

    def _recovers_in(self, target: Target) -> float:
        return self.health.recovers_in(target, self.route.host(target))

    def _admit(self, target: Target) -> _Run:
        return _Run(self, target, self.health.admit(target, self.route.host(target)))

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
        if self.total_at is not None and self._loop.time() + wait >= self.total_at:
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

    async def _race(self, targets: Sequence[Target]) -> _Run | None:
        """Return the run that gave output first, all others closed; None when all failed."""
        race = _Race(self)
        try:
            await race.run(targets, self._admit, self._stagger)
        except BaseException:
            race.abandon()
            raise
        self._errors += race.errors
        if race.fatal is not None:
            raise race.fatal
        if race.winner is None:
            return None
        self._held = race.items
        self._committed = True
        return race.winner


class _Race:
    """Runs of one step side by side until the first output; leaves no task behind."""

    def __init__(self, call: Failover) -> None:
        self.winner: _Run | None = None
        self.items: list[Item] = []
        self.errors: list[Exception] = []
        self.fatal: Exception | None = None
        self._call = call

    def abandon(self) -> None:
        if self.winner is not None:
            self.winner.close("abandoned")
            self.winner = None

    async def run(
        self,
        targets: Sequence[Target],
        admit: Callable[[Target], _Run],
        stagger: Callable[[Target], float],
    ) -> None:
        import anyio  # only races need it, and its import takes some 20 ms

        runs: list[_Run] = []
        try:
            async with anyio.create_task_group() as group:
                for target in targets:
                    failed = anyio.Event()
                    runs.append(admit(target))
                    group.start_soon(self._run, runs[-1], failed, group.cancel_scope)
                    if target is not targets[-1]:
                        with anyio.move_on_after(stagger(target)):
                            await failed.wait()
        finally:
            for run in runs:
                if run is not self.winner:
                    run.close("abandoned")

    async def _run(self, run: _Run, failed: Any, scope: Any) -> None:
        try:
            items = await _until_output(run)
        except Exception as error:
            if not classify(error).moves_on or _is_total(error):
                self.fatal = self.fatal or error
                scope.cancel()
            else:
                self.errors.append(error)
            failed.set()
            return
        if self.winner is None and self.fatal is None:
            self.winner = run
            self.items = items
            scope.cancel()


async def _until_output(run: _Run) -> list[Item]:
    items: list[Item] = []
    while True:
        batch = await run.next()
        if batch is None:
            return items
        items += [item for item in batch if type(item) is not Status]
        if has_output(batch):
            return items


def attach_partial(error: Exception, partial: Response) -> None:
    """Put what had arrived on an error that can hold it and does not yet."""
    match error:
        case TransportError() | ProviderError() | ProtocolError() if error.partial is None:
            error.partial = partial


def _is_total(error: Exception) -> bool:
    return isinstance(error, DeadlineError) and error.which == "total"


def _may_pass(error: Exception) -> bool:
    """Say whether the same target may succeed a little later."""
    verdict = classify(error)
    if isinstance(error, ConfigError) or verdict.harms != "target":
        return False
    return not isinstance(error, ProviderError) or error.may_retry


def _continuable(partial: Response) -> str:
    """Return the text to go on from, "" where a part is more than plain text."""
    parts = partial.message.parts
    if all(isinstance(part, TextPart) and part.provider_data is None for part in parts):
        return partial.text
    return ""
