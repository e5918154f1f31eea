"""The chain: attempts one after another, until one target's first output commits the call to it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from aiollm._failover.admission import Admission
from aiollm._failover.attempt import ActiveAttempt
from aiollm._failover.call import Call, ended
from aiollm._failover.candidates import Admitted, Candidates
from aiollm._failover.deadlines import Watchdog, is_total
from aiollm._failover.gate import TICK, Gate
from aiollm._failover.loading import in_thread
from aiollm._failover.openers import TargetOpener
from aiollm._failover.policy import Policy
from aiollm._streams.accumulator import Accumulator
from aiollm.errors import (
    ClosedError,
    DeadlineError,
    FailoverError,
    LLMError,
    ProtocolError,
    StreamInterrupted,
)
from aiollm.providers.lazy import is_imported
from aiollm.spec import Plan
from aiollm.types import Item, Response, Restart, Status, Target, TextPart

if TYPE_CHECKING:
    from aiollm._failover.sharing import Sharing
    from aiollm.events import Event

_RACING = ("aiollm._failover.race", "anyio._backends._asyncio")
"""What races import, the last of it when anyio first runs."""

Parts: TypeAlias = tuple[Plan, TargetOpener, Gate, Policy]
"""What a chain is made of, in this order."""


class Chain(Call):
    """The batches of one call, over as many targets as it takes."""

    attempt_type: ClassVar[type[ActiveAttempt]] = ActiveAttempt

    __slots__ = (
        "_active",
        "_candidates",
        "_closed",
        "_committed",
        "_error",
        "_errors",
        "_interruption",
        "answering",
    )

    def __init__(
        self,
        plan: Plan,
        opener: TargetOpener,
        gate: Gate,
        policy: Policy,
        *,
        watchdog: Watchdog,
        accumulated: Accumulator,
        emit: Callable[[Event], None] | None = None,
        number: int = 0,
    ) -> None:
        Call.__init__(
            self,
            opener,
            gate,
            watchdog,
            accumulated=accumulated,
            emit=emit,
            number=number,
            total=policy.total,
            refusals_move_on=policy.on_refusal == "next",
        )
        self._candidates = Candidates(plan, policy, opener, gate, number)
        self._active: ActiveAttempt | None = None
        self._committed: ActiveAttempt | None = None
        self.answering: ActiveAttempt | None = None
        """The one that the call is committed to, if more of its answer is to come."""
        self._interruption: Exception | None = None
        self._closed = False
        self._error: BaseException | None = None
        self._errors: Sequence[Exception] = ()
        if emit is not None:
            from aiollm.events import CallStarted  # for hooks alone

            emit(CallStarted(number, str(plan), opener.operation, opener.asked))

    def next(self, task: asyncio.Task[Any]) -> Awaitable[Sequence[Item] | None]:
        """Return an awaitable that brings the next batch to `task`, None at the end.

        Raises, when awaited: LLMError, FailoverError.
        """
        if self._committed is None:
            return self._next(task)
        return self._committed.next(task, moves_on=True)  # no coroutine of the chain's above it

    async def _next(self, task: asyncio.Task[Any]) -> Sequence[Item] | None:
        while True:
            active = self._active
            if active is None:
                try:
                    active = self._active = await self._start()
                except Exception as error:
                    self._error = error
                    self._check_cut(error)
                    raise
                if self._committed is not None:
                    return self._commit(active, ())
            try:
                batch = await active.next(task)
            except Exception as error:
                if self.ends_with(error):
                    self._check_cut(error)
                    raise
            else:
                if batch is None:
                    return None
                if active.record.first_output is not None:
                    return self._commit(active, batch)
                if status := self._hold(active, batch):
                    return status

    def _check_cut(self, error: Exception) -> None:
        """Raise StreamInterrupted in place of a ClosedError if the call has given output."""
        if self.target is not None and isinstance(error, ClosedError):
            self._error = cut = StreamInterrupted("the registry was closed", target=self.target)
            self.attach_partial(cut)
            raise cut from None

    def close(self) -> None:
        """End the call now; what still runs is abandoned. Idempotent."""
        active = self._active
        self._active = self._committed = self.answering = None
        if active is not None and not active.is_released:
            active.close("abandoned")
        if self.emit is not None and not self._closed:
            self._closed = True
            self.emit(ended(self.number, self.elapsed(), self.partial(), self._error))
        # The frames of a raised error hold the stream, and with it this call.
        self._error = None
        self._errors = ()

    def _hold(self, active: ActiveAttempt, batch: Sequence[Item]) -> Sequence[Item]:
        """Keep what came before any output; return the statuses in it. Raises: ProtocolError."""
        if not isinstance(self.held, list):
            self.held = []
        try:
            active.hold(self.held, batch)
        except ProtocolError as error:
            if self.ends_with(error):
                raise
            return ()
        return [item for item in batch if type(item) is Status]

    def _commit(self, active: ActiveAttempt, batch: Sequence[Item]) -> Sequence[Item]:
        held, self.held = self.held, ()
        self._committed = active
        if active.answer.goes_on:
            self.answering = active
            active.answer.total = self.accumulated  # before, it is what was cut
        self.target = active.target
        if self._interruption is not None:
            if not self.prefix:
                held = [Restart(active.target, str(self._interruption)), *held]
            self._interruption = None
        return [*held, *batch] if held else batch

    def ends_with(self, error: Exception) -> bool:
        """Decide after a failed attempt whether its error ends the call; else prepare the next."""
        self._error = error
        committed = self._committed is not None
        self._active = self._committed = self.answering = None
        self.held = ()
        if not self._candidates.policy.moves_on(error, committed=committed) or is_total(error):
            return True
        if committed and not self._goes_on(error):
            return True
        self._error = None  # it ended an attempt, not the call
        self._failed_at(error)
        return False

    def _goes_on(self, error: Exception) -> bool:
        """Return whether the call goes on after output that was cut, and prepare it."""
        # An adapter may fail after a complete answer, which the records call a success.
        had_turn = (each for each in self.attempts if each.error or each.outcome == "success")
        self._candidates.rejoin(self.target, {each.target for each in had_turn})
        match self._candidates.policy.on_interrupt:
            case "restart":
                self.prefix = ""
            case "continue" if prefix := _continuable(self.partial()):
                if not self._candidates.keep_prefilled():
                    return False
                self.prefix = prefix
            case _:
                return False
        self._interruption = error
        return True

    async def _start(self) -> ActiveAttempt:
        """Return the next attempt: unstarted, or in a race the winner. Raises: LLMError."""
        while True:
            queued = 0.0
            found = self._candidates.next_free()
            if found is None:
                found, queued = await self._in_line()
            targets, admission = found
            if len(targets) == 1:
                return self.attempt_type(self, admission, queued)
            if (winner := await self._race(targets, admission, queued)) is not None:
                return winner

    async def _in_line(self) -> tuple[Admitted, float]:
        """Wait for the target that is ready first; return it, and the seconds that it took.

        If there is a fleet, it is asked first. Raises: FailoverError, DeadlineError.
        """
        if self.gate.sharing is not None and (found := await self._ask(self.gate.sharing)):
            return found, 0.0
        on_wait = self._reports_wait() if self.emit is not None else None
        began = self.watchdog.time()
        left = math.inf if self.total_at is None else self.total_at - began
        # The wait uses the clock of the gate, which that of some loops lags behind.
        ends = self.gate.now() + left
        admitted = await self._candidates.wait(left, on_wait)
        seconds = self.watchdog.time() - began
        if isinstance(admitted, tuple):
            if self.emit is not None and self._candidates.has_waited:
                from aiollm.events import CallReleased  # for hooks alone

                self.emit(CallReleased(self.number, admitted[0][0], seconds))
            return admitted, seconds
        if self.gate.now() >= ends - TICK:
            raise self._too_late()
        raise self._all_failed(admitted)

    def _reports_wait(self) -> Callable[[], None]:
        """Return a function that tells the hooks that the call waits."""
        assert self.emit is not None
        from aiollm.events import CallQueued  # for hooks alone

        return partial(self.emit, CallQueued(self.number, self._candidates.waiting_for))

    async def _ask(self, fleet: Sharing) -> Admitted | None:
        """Ask the fleet; return the first target that it lets be asked now."""
        if not fleet.is_open:
            await fleet.open()
        return await self._candidates.ask()

    def _too_late(self) -> DeadlineError:
        seconds = self._candidates.policy.total or 0.0
        reason = f"the call took longer than {seconds:g} s: it was still waiting for a target"
        error = DeadlineError(reason, which="total", after=seconds)
        self.attach_partial(error)
        return error

    def _all_failed(self, reasons: Sequence[Exception]) -> FailoverError:
        errors = [*self._errors, *reasons]
        count = len(self.attempts)
        tries = "1 attempt" if count == 1 else f"{count} attempts"
        message = f"every target of {self._candidates.plan} failed ({tries})"
        return FailoverError(message, errors, self.attempts)

    async def _race(
        self, targets: Sequence[Target], admission: Admission, queued: float
    ) -> ActiveAttempt | None:
        """Return the attempt that gave output first, all others closed; None when all failed."""
        try:
            if not all(map(is_imported, _RACING)):
                await in_thread(_load_race)
        except BaseException:
            admission.abandoned(was_sent=False)
            raise
        from aiollm._failover.race import Race

        race = Race(self, self._candidates, admission, self.attempt_type)
        try:
            await race.run(targets, queued)
        except BaseException:
            race.abandon()
            raise
        for error in race.errors:
            self._failed_at(error)
        fatal, race.fatal = race.fatal, None
        if fatal is not None:
            try:
                raise fatal
            finally:
                del fatal  # its traceback holds this frame: a cycle
        if race.winner is None:
            return None
        self.held = race.items
        self._committed = race.winner
        return race.winner

    def _failed_at(self, error: Exception) -> None:
        """Record the error of an attempt after which the call goes on."""
        # A recorded error keeps no frames, and with them this call, alive.
        error.__traceback__ = None
        self._errors = [*self._errors, error]
        if isinstance(error, LLMError) and error.target is not None:
            self._candidates.failed(error.target, error)
        if self.total_at is not None and self.watchdog.time() >= self.total_at:
            self._candidates.give_up()  # the caller has paused until then


def _continuable(partial: Response) -> str:
    """Return the text to go on from, "" where a part is more than plain text."""
    parts = partial.message.parts
    if all(isinstance(part, TextPart) and part.provider_data is None for part in parts):
        return partial.text
    return ""


def _load_race() -> None:
    """Import what races are made of, some 20 ms."""
    from aiollm._failover.race import load_anyio

    load_anyio()
