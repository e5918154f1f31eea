"""One attempt at one target: owns its generator, slot and permit, and books what became of it."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

from aiollm._failover.deadlines import Clock, Waiter, Watch
from aiollm._failover.health import Health, Permit
from aiollm._failover.slots import Slots
from aiollm.errors import (
    DeadlineError,
    LLMError,
    ProtocolError,
    ProviderError,
    StreamInterrupted,
    TransportError,
)
from aiollm.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    FirstOutput,
    ImageElided,
    TargetClosed,
    TargetOpened,
)
from aiollm.images import ImageResult, PartialImage
from aiollm.provider import Provider
from aiollm.types import (
    Attempt,
    Finish,
    ImageChunk,
    Item,
    Notice,
    Outcome,
    PartChunk,
    ReasoningDelta,
    RefusalDelta,
    Response,
    Target,
    TextDelta,
    ToolCallDelta,
)

Batches: TypeAlias = AsyncGenerator[Sequence[Item], None]

OUTPUT = frozenset(
    {
        TextDelta,
        ReasoningDelta,
        RefusalDelta,
        ToolCallDelta,
        ImageChunk,
        PartChunk,
        Finish,
        PartialImage,
        ImageResult,
    }
)
"""What commits a stream to its target (design: commit gate)."""


class Route(Protocol):
    """What failover asks about a target."""

    operation: ClassVar[str]
    """What kind of call it is, for events."""

    @property
    def request(self) -> Any:
        """What is asked of all targets."""

    @property
    def providers(self) -> Mapping[Target, Provider]:
        """The resolved providers of all targets."""

    def slots(self, target: Target) -> Slots | None:
        """Return the slots of its provider, None where their number is not limited."""

    def takes_prefill(self, target: Target) -> bool:
        """Say whether it continues an assistant message that ends the request."""

    def open(self, target: Target, prefix: str) -> Batches:
        """Return the target's unstarted stream; what it starts with is no IO. Raises: LLMError.

        `prefix` is the answer so far that the target has to go on from.
        """

    def clean(self, target: Target, error: LLMError) -> None:
        """Put the target on the error and take its secret out."""


class Call(Protocol):
    """What an attempt needs of the call it belongs to."""

    route: Route
    health: Health
    clock: Clock
    attempts: list[Attempt]
    number: int
    prefix: str
    started: float
    total_at: float | None
    hooked: bool

    def elapsed(self) -> float:
        """Return the seconds since the call began."""

    def partial(self) -> Response:
        """Return what the caller has so far."""

    def emit(self, event: Event) -> None:
        """Tell the hooks."""


class Run:
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

    def __init__(self, call: Call, target: Target, provider: Provider, permit: Permit) -> None:
        self._call = call
        self._permit = permit
        self._batches: Batches | None = None
        self._slots: Slots | None = None
        self._queued = False
        self._released = False
        self.target = target
        self._watch = watch = Watch(call.clock, provider.timeouts, call.total_at)
        self.record = Attempt(target, watch.started - call.started)
        call.attempts.append(self.record)
        if call.hooked:
            call.emit(AttemptStarted(call.number, target))

    async def next(self, task: Waiter) -> Sequence[Item] | None:
        """Return to `task` the next batch that is not empty, None at the end.

        Raises: Exception, after closing itself.
        """
        watch = self._watch
        try:
            batches = self._batches
            if batches is None:
                slots = self._call.route.slots(self.target)
                if slots is not None:
                    await self._queue(slots, task)
                batches = self._batches = self._call.route.open(self.target, self._call.prefix)
            while not (batch := await watch.wait(batches.__anext__(), task)):
                watch.alive()
        except StopAsyncIteration:
            self._end()
            return None
        except Exception as error:  # noqa: BLE001 - whatever an adapter raises is booked
            failure = error
        except BaseException:
            self.close("abandoned")
            raise
        else:
            self._note(batch)
            return batch
        try:
            raise self.fail(failure)
        finally:
            del failure  # its traceback holds this frame: a cycle

    def fail(self, error: Exception) -> Exception:
        """Book the failure and return the error, cleaned."""
        attach_partial(error, self._call.partial())
        if isinstance(error, LLMError):
            self._call.route.clean(self.target, error)
            if self._queued and isinstance(error, DeadlineError) and error.which != "connect":
                # It counts the wait for one of our own slots, which says nothing of the target.
                error.harms = "no" if self.record.first_output is None else error.harms
        by_caller = isinstance(error, DeadlineError) and error.which == "total"
        self.close("abandoned" if by_caller else "failed", error)
        return error

    async def _queue(self, slots: Slots, task: Waiter) -> None:
        self._queued = not slots.free
        await self._watch.wait(slots.acquire(), task)
        self._slots = slots

    def _tell(self, batch: Sequence[Item]) -> None:
        call = self._call
        for item in batch:
            if isinstance(item, Notice) and item.image_elided:
                call.emit(ImageElided(call.number, self.target, item.message))

    def _note(self, batch: Sequence[Item]) -> None:
        last = type(batch[-1])
        if last not in OUTPUT and not has_output(batch):
            self._watch.alive()
            if self._call.hooked:
                self._tell(batch)
            return
        now = self._watch.output()
        if self.record.first_output is None:
            self._note_first_output(now)
        if last is Finish or (last is not TextDelta and any(type(i) is Finish for i in batch)):
            self._book("success")

    def _note_first_output(self, now: float) -> None:
        record, call = self.record, self._call
        record.first_output = now - call.started
        seconds = record.first_output - record.started
        self._permit.first_output(seconds)
        if call.hooked:
            call.emit(FirstOutput(call.number, self.target, seconds))

    def _end(self) -> None:
        self._batches = None
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
        if not call.hooked:
            return
        seconds = record.ended - record.started
        call.emit(AttemptEnded(call.number, self.target, outcome, seconds, error))
        if changed and outcome == "success":
            call.emit(TargetClosed(call.number, self.target))
        elif changed:
            wait = call.health.recovers_in(self.target, call.route.providers[self.target].host)
            call.emit(TargetOpened(call.number, self.target, wait, error))


def _without_frames(error: Exception) -> Exception:
    """Return a copy: the frames of the error that is raised hold the stream that holds this."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 - a foreign error that cannot be copied
        return error


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


def attach_partial(error: Exception, partial: Response) -> None:
    """Put what had arrived, if it is anything, on an error that can hold it and does not yet."""
    match error:
        case StreamInterrupted() if error.partial is None:
            error.partial = partial
        case _ if not partial.message.parts and partial.usage.certainty == "missing":
            pass
        case TransportError() | ProviderError() | ProtocolError() if error.partial is None:
            error.partial = partial
        case _:
            pass


def is_total(error: Exception) -> bool:
    """Say whether the deadline of the whole call ended the attempt."""
    return isinstance(error, DeadlineError) and error.which == "total"
