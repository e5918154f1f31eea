"""One attempt at one target: owns its generator, slot and permit, and books what became of it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import Any

from aiollm._failover.call import Call
from aiollm._failover.deadlines import AttemptDeadlines, is_total
from aiollm._failover.openers import Batches, close_now
from aiollm._failover.slots import Slots
from aiollm.errors import DeadlineError, LLMError, StreamInterrupted
from aiollm.events import (
    AttemptEnded,
    AttemptStarted,
    FirstOutput,
    ImageElided,
    TargetClosed,
    TargetOpened,
)
from aiollm.types import (
    Attempt,
    Finish,
    Item,
    Notice,
    Outcome,
    Target,
    TextDelta,
)


class ActiveAttempt:
    """One attempt: owns a generator, a slot, a permit and the record of what became of it."""

    __slots__ = (
        "_batches",
        "_call",
        "_deadlines",
        "_permit",
        "_queued",
        "_released",
        "_slots",
        "record",
        "target",
    )

    def __init__(self, call: Call, target: Target) -> None:
        opener = call.opener
        self._call = call
        self._permit = call.health.admit(target, opener.providers[target].host)
        self._batches: Batches | None = None
        self._slots: Slots | None = None
        self._queued = False
        self._released = False
        self.target = target
        limits = opener.timeouts[target]
        self._deadlines = deadlines = AttemptDeadlines(call.watchdog, limits, call.total_at)
        self.record = Attempt(target, deadlines.started - call.started)
        call.attempts.append(self.record)
        if call.emit is not None:
            call.emit(AttemptStarted(call.number, target))

    async def next(self, task: asyncio.Task[Any]) -> Sequence[Item] | None:
        """Return to `task` the next batch that is not empty, None at the end.

        Raises: Exception, after closing itself.
        """
        deadlines = self._deadlines
        try:
            batches = self._batches
            if batches is None:
                slots = self._call.opener.slots(self.target)
                if slots is not None:
                    await self._queue(slots, task)
                batches = self._batches = self._call.opener.open(self.target, self._call.prefix)
            while not (batch := await deadlines.wait(batches.__anext__(), task)):
                deadlines.alive()
        except StopAsyncIteration:
            self._end()
            return None
        except Exception as error:
            self._fail(error)
            raise
        except BaseException:
            self.close("abandoned")
            raise
        else:
            self._note(batch)
            return batch

    def _fail(self, error: Exception) -> Exception:
        """Book the failure; return the error, cleaned for the caller."""
        self._call.attach_partial(error)
        if isinstance(error, LLMError):
            self._call.opener.clean(self.target, error)
            if self._queued and isinstance(error, DeadlineError) and error.which != "connect":
                # It counts the wait for one of our own slots, which says nothing of the target.
                error.harms = "no" if self.record.first_output is None else error.harms
        self.close("abandoned" if is_total(error) else "failed", error)
        return error

    async def _queue(self, slots: Slots, task: asyncio.Task[Any]) -> None:
        self._queued = not slots.free
        await self._deadlines.wait(slots.acquire(), task)
        self._slots = slots

    def _report_elided_images(self, batch: Sequence[Item]) -> None:
        call = self._call
        if call.emit is None:
            return
        for item in batch:
            if isinstance(item, Notice) and item.image_elided:
                call.emit(ImageElided(call.number, self.target, item.message))

    def _note(self, batch: Sequence[Item]) -> None:
        last = batch[-1]
        if not last.commits and not has_output(batch):
            self._deadlines.alive()
            self._report_elided_images(batch)
            return
        now = self._deadlines.output()
        if self.record.first_output is None:
            self._note_first_output(now)
        if type(last) is not TextDelta and (
            type(last) is Finish or any(type(item) is Finish for item in batch)
        ):
            self._book("success")

    def _note_first_output(self, now: float) -> None:
        record, call = self.record, self._call
        record.first_output = now - call.started
        seconds = record.first_output - record.started
        self._permit.first_output(seconds)
        if call.emit is not None:
            call.emit(FirstOutput(call.number, self.target, seconds))

    def _end(self) -> None:
        self._batches = None
        if self.record.outcome == "running":
            raise self._fail(StreamInterrupted("the stream ended before its terminal event"))
        self.close("success")

    def close(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Release everything and book the outcome unless one stands already; idempotent."""
        if self._released:
            return
        self._released = True
        self._deadlines.stop()
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
        if error is not None:
            record.error = _without_frames(error)
        changed = False
        match outcome:
            case "success":
                changed = self._permit.success()
            case "failed" if error is not None:
                changed = self._permit.failure(error)
            case _:
                self._permit.abandoned()
        if call.emit is None:
            return
        seconds = record.ended - record.started
        call.emit(AttemptEnded(call.number, self.target, outcome, seconds, error))
        if changed and outcome == "success":
            call.emit(TargetClosed(call.number, self.target))
        elif changed:
            wait = call.health.recovers_in(self.target, call.opener.providers[self.target].host)
            call.emit(TargetOpened(call.number, self.target, wait, error))


def _without_frames(error: Exception) -> Exception:
    """Return a copy: the frames of the error that is raised hold the stream that holds this."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 - a foreign error that cannot be copied
        return error


def has_output(batch: Sequence[Item]) -> bool:
    """Say whether a batch holds anything that commits a stream."""
    return any(item.commits for item in batch)
