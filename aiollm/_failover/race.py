"""Race: attempts side by side until the first output; leaves no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

from aiollm._failover.admission import Admission
from aiollm._failover.attempt import ActiveAttempt
from aiollm._failover.call import Call
from aiollm._failover.candidates import Candidates
from aiollm._failover.deadlines import is_total
from aiollm.types import Item, Status, Target

Outcome: TypeAlias = list[Item] | Exception
"""What an attempt has brought up to its first output, or why it has failed."""


class Race:
    """Attempts of one step side by side until the first output; leaves no task behind."""

    def __init__(
        self,
        call: Call,
        candidates: Candidates,
        first: Admission,
        kind: type[ActiveAttempt] = ActiveAttempt,
    ) -> None:
        """Take the admission of the target that starts at once, and the kind of all attempts."""
        self.winner: ActiveAttempt | None = None
        self.items: list[Item] = []
        self.errors: list[Exception] = []
        self.fatal: Exception | None = None
        self._call = call
        self._candidates = candidates
        self._first: Admission | None = first
        self._kind = kind
        self._loop = asyncio.get_running_loop()
        self._attempts: list[ActiveAttempt] = []
        self._running: dict[asyncio.Task[Outcome], ActiveAttempt] = {}

    def abandon(self) -> None:
        """Close the winner too: the caller is gone."""
        if self.winner is not None:
            self.winner.close("abandoned")
            self.winner = None

    async def run(self, targets: Sequence[Target]) -> None:
        """Start the targets one by one, the next after its stagger or a failure.

        A target without room joins no race: the next one starts in its place.
        """
        try:
            await self._start(targets)
            while self._running and not self._is_over:
                await self._wait()
        finally:
            try:
                await _ended(self._running)
            finally:
                for attempt in self._attempts:
                    if attempt is not self.winner:
                        attempt.close("abandoned")

    async def _start(self, targets: Sequence[Target]) -> None:
        for target in targets:
            if self._is_over:
                return
            admission, self._first = self._first, None
            admission = admission or await self._asked(target)
            if admission is None:
                if not self._is_over:
                    self._candidates.skipped(target)
                continue
            attempt = self._kind(self._call, admission)
            self._attempts.append(attempt)
            task = self._loop.create_task(_outcome(attempt))
            self._running[task] = attempt
            if target is not targets[-1]:
                await self._wait_for(task, self._candidates.stagger(target))

    @property
    def _is_over(self) -> bool:
        return self.winner is not None or self.fatal is not None

    async def _asked(self, target: Target) -> Admission | None:
        """Return the admission of a target, None if there is none before the race is over."""
        asking = self._candidates.asked(target)
        if self._call.gate.sharing is None:
            return await asking  # it does not wait
        task = self._loop.create_task(asking)
        is_kept = False
        try:
            await self._wait_for(task)
            if is_kept := not self._is_over:
                return task.result()
        finally:
            if not is_kept:
                await _ended((task,))
                admission = None if task.cancelled() or task.exception() else task.result()
                if admission is not None:
                    admission.abandoned(was_sent=False)
        return None

    async def _wait_for(self, task: asyncio.Task[Any], seconds: float | None = None) -> None:
        """Wait until a task or the race is over, at most for some seconds."""
        end = None if seconds is None else self._loop.time() + seconds
        while not (task.done() or self._is_over):
            left = None if end is None else end - self._loop.time()
            if left is not None and left <= 0:
                return
            await self._wait(task, seconds=left)

    async def _wait(self, *more: asyncio.Task[Any], seconds: float | None = None) -> None:
        """Wait until an attempt or another task is over, and note which attempts are."""
        tasks = {*self._running, *more}
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in [each for each in self._running if each.done()]:
            attempt = self._running.pop(task)
            if not task.cancelled():
                self._note(attempt, task.result())

    def _note(self, attempt: ActiveAttempt, outcome: Outcome) -> None:
        if isinstance(outcome, list):
            if not self._is_over:
                self.winner, self.items = attempt, outcome
        elif self.winner is None and not self._moves_on(outcome):
            self.fatal = self.fatal or outcome
        else:
            # A recorded error keeps no frames: they hold the race, and the race holds it.
            outcome.__traceback__ = None
            self.errors.append(outcome)

    def _moves_on(self, error: Exception) -> bool:
        return self._candidates.policy.moves_on(error) and not is_total(error)


async def _outcome(attempt: ActiveAttempt) -> Outcome:
    try:
        return await _until_output(attempt)
    except Exception as error:  # noqa: BLE001 - the race classifies it
        return error


async def _until_output(attempt: ActiveAttempt) -> list[Item]:
    items: list[Item] = []
    task = asyncio.current_task()
    assert task is not None
    while True:
        batch = await attempt.next(task)
        if batch is None:
            return items
        items += [item for item in batch if type(item) is not Status]
        if attempt.record.first_output is not None:
            return items


async def _ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end, which no cancellation of the caller cuts short."""
    for task in tasks:
        task.cancel()
    cancelled: BaseException | None = None
    while left := [each for each in tasks if not each.done()]:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            del cancelled  # its traceback holds this frame: a cycle
