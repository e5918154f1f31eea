"""Race: attempts side by side until the first output; leaves no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context

import anyio

from aiollm._failover.admission import Admission
from aiollm._failover.attempt import ActiveAttempt
from aiollm._failover.call import Call
from aiollm._failover.candidates import Candidates
from aiollm._failover.deadlines import is_total
from aiollm.types import Item, Status, Target


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
        self._failed: anyio.Event | None = None
        """Set by any attempt that fails before the next target starts."""
        self._kind = kind

    def abandon(self) -> None:
        """Close the winner too: the caller is gone."""
        if self.winner is not None:
            self.winner.close("abandoned")
            self.winner = None

    async def run(self, targets: Sequence[Target], queued: float = 0.0) -> None:
        """Start the targets one by one, the next after its stagger or any failure.

        A target without room joins no race: the next one starts in its place. It is asked after
        the race, as if it had not been part of it. `queued`: seconds that the call has waited.
        """
        attempts: list[ActiveAttempt] = []
        full: list[Target] = []
        try:
            async with anyio.create_task_group() as group:
                for target in targets:
                    admission, self._first = self._first, None
                    admission = admission or await self._candidates.asked(target)
                    if admission is None:
                        full.append(target)
                        continue
                    failed = self._failed = anyio.Event()
                    attempts.append(self._kind(self._call, admission, queued))
                    queued = 0.0
                    group.start_soon(self._run, attempts[-1], group.cancel_scope)
                    if target is not targets[-1]:
                        with anyio.move_on_after(self._candidates.stagger(target)):
                            await failed.wait()
            if full:
                self._candidates.put_back(full)
        finally:
            first, self._first = self._first, None
            if first is not None:  # cancelled before it began
                first.abandoned(was_sent=False)
            for attempt in attempts:
                if attempt is not self.winner:
                    attempt.close("abandoned")

    async def _run(self, attempt: ActiveAttempt, scope: anyio.CancelScope) -> None:
        try:
            items = await _until_output(attempt)
        except Exception as error:  # noqa: BLE001 - classified below
            ends_it = not self._candidates.policy.moves_on(error) or is_total(error)
            if ends_it and self.winner is None:
                self.fatal = self.fatal or error
                scope.cancel()
            else:
                # A recorded error keeps no frames: they hold the race, and the race holds it.
                error.__traceback__ = None
                self.errors.append(error)
            if self._failed is not None:
                self._failed.set()
            return
        if self.winner is None and self.fatal is None:
            self.winner = attempt
            self.items = items
            scope.cancel()


async def _until_output(attempt: ActiveAttempt) -> list[Item]:
    items: list[Item] = []
    task = asyncio.current_task()
    assert task is not None
    while True:
        batch = await attempt.next(task)
        if batch is None:
            return items
        if attempt.record.first_output is not None:
            return items + [item for item in batch if type(item) is not Status]
        attempt.hold(items, batch)


def load_anyio() -> None:
    """Import the part of anyio that it imports when it first runs, which takes some 15 ms."""
    # A thread has a copy of its caller's context, in which anyio may have noted that it runs.
    Context().run(anyio.run, anyio.sleep, 0)
