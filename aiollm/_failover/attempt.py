"""One attempt at one target: owns its generator, slot and permit, and books its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aiollm._failover.admission import Admission
from aiollm._failover.call import Call
from aiollm._failover.deadlines import AttemptDeadlines, is_total
from aiollm._failover.health import without_frames
from aiollm._failover.openers import Batches, Preparing, close_now
from aiollm._http.unsent import is_unsent
from aiollm._wire.batch import Batch
from aiollm.errors import (
    ConfigError,
    ConnectError,
    ContentFilterError,
    DeadlineError,
    GenerationError,
    LLMError,
    ProtocolError,
    ProviderError,
    RateLimitError,
    StreamInterrupted,
    UnsupportedError,
)
from aiollm.types import (
    AnnouncedLimits,
    Attempt,
    Finish,
    Item,
    Notice,
    Outcome,
    RefusalDelta,
    Response,
    Status,
    TextDelta,
    Usage,
)

if TYPE_CHECKING:
    from aiollm._http.answer import Answer
    from aiollm._streams.accumulator import Accumulator

NO_USAGE = Usage()

MAX_HELD = 16 * 1024
"""The most items before any output, such as warnings and counts: all are handed over with it."""


class _NoAnswer:
    """A stand-in while no answer was handed over: a test for None would cost more at each read."""

    goes_on = False
    total: Accumulator | None = None

    def take(self) -> list[Item]:
        return []


_NO_ANSWER = _NoAnswer()


class ActiveAttempt:
    """One attempt: owns a generator, an admission, and the record of its outcome."""

    __slots__ = (
        "_admission",
        "_batches",
        "_call",
        "_deadlines",
        "_is_answered",
        "_refusal",
        "answer",
        "is_released",
        "record",
        "target",
    )

    def __init__(self, call: Call, admission: Admission, queued: float = 0.0) -> None:
        """`queued` is how many seconds the call waited for the admission."""
        target = admission.line.target
        self._call = call
        self._admission = admission
        self._batches: Batches | None = None
        self.answer: Answer | _NoAnswer = _NO_ANSWER
        """What is read instead of `_batches`, while it goes on."""
        self._is_answered = False
        self.is_released = False
        self._refusal = ""
        self.target = target
        self._deadlines = deadlines = AttemptDeadlines(
            call.watchdog, call.opener.timeouts[target], call.total_at
        )
        preferred = target in call.preferred
        self.record = Attempt(
            target, deadlines.started - call.started, queued=queued, preferred=preferred
        )
        call.attempts.append(self.record)
        if admission.permit.is_probe:
            admission.permit.is_paused = deadlines.is_paused
        if call.emit is not None:
            from aiollm.events import AttemptStarted  # for hooks alone

            call.emit(AttemptStarted(call.number, target, preferred))

    def take(self, task: asyncio.Task[Any]) -> list[Item] | Awaitable[None] | None:
        """Return a batch that is there, or what `task` has to await before it calls this again.

        None if `next` has to go on. An error of this or of that wait goes to `is_for_caller`.
        """
        answer, deadlines = self.answer, self._deadlines
        while answer.goes_on and deadlines.fired is None:
            got: Any = answer.take()
            if type(got) is not Batch:
                if deadlines.task is None:
                    deadlines.begin(task)
                return got  # type: ignore[no-any-return]
            if got:
                if deadlines.silent is not None and type(got[-1]) is TextDelta:
                    deadlines.silent = 0.0  # as nearly every batch
                else:
                    self._note(got)
                deadlines.task = None  # in place of `end`, as at nearly every batch
                return got
            if deadlines.task is None:
                deadlines.begin(task)
            deadlines.alive()
        return None

    def is_for_caller(self, error: BaseException) -> bool:
        """Return whether an error ends the call; else `next` goes on with what comes after it.

        The error comes from `take`, from waiting for what that returned, or from `next`, which has
        handled it already.
        """
        if self.is_released:
            return True
        if self._deadlines.end(error):
            return False  # `next` says which deadline it was
        return self._is_for_caller(error, moves_on=True)

    async def next(
        self, task: asyncio.Task[Any], *, moves_on: bool = False
    ) -> Sequence[Item] | None:
        """Return to `task` the next batch that is not empty, None at the end.

        An error closes it. Where it `moves_on`, and the error does not end the call, the next batch
        is that of the attempt that follows. Raises: Exception.
        """
        deadlines = self._deadlines
        try:
            if deadlines.fired is not None:
                self._end_late()
                return None
            deadlines.begin(task)
            batch: Any
            try:
                while True:
                    answer = self.answer
                    got: Any = answer.take() if answer.goes_on else self._step()
                    batch = got if type(got) is Batch else await got
                    if batch or deadlines.fired is not None:
                        break
                    if batch is not None:
                        deadlines.alive()
            except StopAsyncIteration:
                self._end()
                return None
            except BaseException as error:
                if not deadlines.end(error):
                    raise
            if deadlines.fired is not None:
                self._end_late()  # type: ignore[unreachable]  # it has fired meanwhile
                return None
        except BaseException as error:
            answer = _NO_ANSWER  # whoever keeps the error keeps this frame, but not the answer
            if self._is_for_caller(error, moves_on=moves_on):
                raise
        else:
            self._note(batch)
            deadlines.task = None  # in place of `end`, as at nearly every batch
            return batch  # type: ignore[no-any-return]
        return await self._call.next(task)

    def hold(self, held: list[Item], batch: Sequence[Item]) -> None:
        """Add a batch to what waits for the first output. Raises: ProtocolError for too much."""
        held += [item for item in batch if type(item) is not Status]
        if len(held) > MAX_HELD:
            reason = f"more than {MAX_HELD} counts, sources and warnings came before any output"
            raise self._fail(ProtocolError(reason))

    def _end_late(self) -> None:
        """Close after a deadline has passed; an answer that was complete by then is kept.

        Raises: DeadlineError, ClosedError, StreamInterrupted.
        """
        error = self._deadlines.error()
        if self.record.outcome != "success":
            raise error
        self.close("success")

    def _is_for_caller(self, error: BaseException, *, moves_on: bool) -> bool:
        """Close after an error; return whether the caller gets it, as nothing comes after it."""
        if isinstance(error, Exception):
            self._fail(error)
            return not moves_on or self._call.ends_with(error)
        self.close("abandoned", was_sent=not is_unsent(error))
        self._call.opener.forget(error)
        return True

    async def _step(self) -> Sequence[Item] | None:
        """Return the next batch, None where it has to be waited for. Raises: as the stream."""
        batches = self._batches
        if batches is None:
            batches = self._batches = self._call.opener.open(self.target, self._call.prefix)
        batch = await anext(batches)
        if not batch:
            if (answer := getattr(batch, "answer", None)) is not None:  # a `Handover`
                self.answer = answer
                got: Any = answer.take()  # often the first bytes came with the headers
                return got if type(got) is Batch else await got
            if type(batch) is Preparing:
                self._deadlines.hold()
                batch = await anext(batches)
                self._admission.permit.begin()
                return batch
        return batch if self._is_answered else self._note_life(batch)

    def _note_life(self, batch: Sequence[Item]) -> Sequence[Item]:
        """Note the first sign of life; return the batch without the limits that came with it."""
        self._is_answered = True
        if batch and isinstance(first := batch[0], AnnouncedLimits):
            self._admission.announced(first.quotas)
            return batch[1:]
        return batch

    def _fail(self, error: Exception) -> Exception:
        """Book the failure; return the error, cleaned for the caller."""
        self._call.attach_partial(error)
        if isinstance(error, LLMError):
            self._call.opener.clean(self.target, error)
        self.close("abandoned" if is_total(error) else "failed", error)
        return error

    def _report_elided_images(self, batch: Sequence[Item]) -> None:
        call = self._call
        if call.emit is None:
            return
        for item in batch:
            if isinstance(item, Notice) and item.image_elided:
                from aiollm.events import ImageElided  # for hooks alone

                call.emit(ImageElided(call.number, self.target, item.message))

    def _note(self, batch: Sequence[Item]) -> None:
        last = batch[-1]
        if self._deadlines.silent is not None and type(last) is TextDelta:
            self._deadlines.silent = 0.0  # as nearly every batch
            return
        if not last.commits and not has_output(batch):
            self._deadlines.alive()
            self._report_elided_images(batch)
            return
        if self.record.first_output is None:
            if self._call.refusals_move_on and self._is_refusal(batch):
                self._deadlines.alive()
                return
            self._note_first_output(self._deadlines.output())
        else:
            self._deadlines.silent = 0.0
        if type(last) is Finish:
            self._book("success", usage=last.usage)
        elif type(last) is not TextDelta:
            self._look_for_the_end(batch)

    def _look_for_the_end(self, batch: Sequence[Item]) -> None:
        for item in batch:
            if type(item) is Finish:
                self._book("success", usage=item.usage)

    def _is_refusal(self, batch: Sequence[Item]) -> bool:
        """Return whether there is nothing but a refusal yet, after which the call may go on.

        Raises: ContentFilterError once a filter has ended the answer so.
        """
        output = [item for item in batch if item.commits]
        said = "".join(each.refusal for each in output if type(each) is RefusalDelta)
        self._refusal = refusal = (self._refusal + said)[:1000]  # what an error shows
        match [item for item in output if type(item) is not RefusalDelta]:
            case []:
                return True
            case [Finish(reason="content_filter", raw_reason=raw, usage=usage)]:
                raise self._fail(self._filtered(refusal, raw, usage))
            case _:
                return False

    def _filtered(self, refusal: str, raw: str, usage: Usage) -> ContentFilterError:
        why = refusal or "it gave no reason"
        error = ContentFilterError(f"a filter ended the answer: {why}", code=raw)
        if usage.certainty != "missing":
            error.partial = msgspec.structs.replace(self._call.partial(), usage=usage)
        return error

    def _note_first_output(self, now: float) -> None:
        record, call = self.record, self._call
        record.first_output = now - call.started
        seconds = record.first_output - record.started
        closed = self._admission.first_output(now - self._deadlines.started)
        if call.emit is not None:
            from aiollm.events import FirstOutput, TargetClosed  # for hooks alone

            call.emit(FirstOutput(call.number, self.target, seconds))
            if closed:
                call.emit(TargetClosed(call.number, self.target))

    def _end(self) -> None:
        deadlines = self._deadlines
        if deadlines.fired is not None:
            deadlines.end()
        if self.record.outcome == "running":
            raise StreamInterrupted("the stream ended before its terminal event")
        self._batches = None
        self.is_released = True  # as `close` does, but what became of it is booked
        deadlines.stop()

    def close(
        self, outcome: Outcome, error: Exception | None = None, *, was_sent: bool = True
    ) -> None:
        """Release everything and book the outcome unless there is one; idempotent."""
        if self.is_released:
            return
        self.is_released = True
        self.answer = _NO_ANSWER
        self._deadlines.stop()
        batches = self._batches
        never_left = batches is None or self._deadlines.is_held or _never_left(error)
        if batches is not None:
            self._batches = None
            close_now(batches)
        self._book(outcome, error, was_sent=was_sent and not never_left)

    def _book(
        self,
        outcome: Outcome,
        error: Exception | None = None,
        *,
        usage: Usage = NO_USAGE,
        was_sent: bool = True,
    ) -> None:
        record, call = self.record, self._call
        if record.outcome != "running":
            return
        record.outcome = outcome
        record.ended = call.watchdog.time() - call.started
        admission = self._admission
        match outcome:
            case "success":
                if usage.billed_usd is not None:
                    record.usd = usage.billed_usd
                admission.success(usage)
            case "failed" if error is not None:
                self._book_failure(error, was_sent=was_sent)
                return
            case _:
                record.usd = self._lost(error, was_sent=was_sent)
                admission.abandoned(was_sent=was_sent)
        if call.emit is not None:
            self._report_end(outcome, error)

    def _book_failure(self, error: Exception, *, was_sent: bool) -> None:
        record, admission, gate = self.record, self._admission, self._call.gate
        record.error = without_frames(error)
        record.usd = self._lost(error, was_sent=was_sent)
        was_sick = gate.is_sick(admission.line)
        opened = admission.failure(error, was_sent=was_sent)
        if self._call.emit is not None:
            # A refusal is an answer, too.
            closed = was_sick and not gate.is_sick(admission.line)
            self._report_end("failed", error, opened=opened, closed=closed)

    def _lost(self, error: Exception | None, *, was_sent: bool) -> float | None:
        """Return what an attempt without an end costs, None where that is not known."""
        free = not was_sent or (error is not None and _costs_nothing(error, self.record))
        return 0.0 if free else None

    def _report_end(
        self,
        outcome: Outcome,
        error: Exception | None,
        *,
        opened: bool = False,
        closed: bool = False,
    ) -> None:
        from aiollm.events import (  # for hooks alone
            AttemptEnded,
            TargetClosed,
            TargetOpened,
            TargetPaced,
        )

        call, record, target = self._call, self.record, self.target
        assert call.emit is not None
        seconds = (record.ended or 0.0) - record.started
        call.emit(AttemptEnded(call.number, target, outcome, seconds, error))
        if closed:
            call.emit(TargetClosed(call.number, target))
        if opened:
            wait = call.gate.health.recovers_in(target, self._admission.line.origin)
            call.emit(TargetOpened(call.number, target, wait, error))
        elif isinstance(error, RateLimitError):
            wait = self._admission.line.pace.wait(call.gate.now())
            call.emit(TargetPaced(call.number, target, wait, error))


def _costs_nothing(error: Exception, record: Attempt) -> bool:
    """Return whether a service refused a request: it bills what it answers, and only that."""
    match error:
        case GenerationError():
            return False
        case ProviderError(partial=Response(usage=usage)) if usage.certainty != "missing":
            return False
        case ProviderError():
            return record.first_output is None
        case _:
            return False


def _never_left(error: Exception | None) -> bool:
    """Return whether an error came before any byte of the request was sent."""
    match error:
        case ProviderError():
            return False
        case ConfigError() | UnsupportedError() | ConnectError():
            return True
        case DeadlineError(which=which):
            return which == "connect"
        case _:
            return False


def has_output(batch: Sequence[Item]) -> bool:
    """Return whether a batch holds anything that commits a stream."""
    return any(item.commits for item in batch)
