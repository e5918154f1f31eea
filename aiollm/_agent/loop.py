"""The agent loop: ask the model, run the tools it calls, and keep the history, turn by turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import msgspec

from aiollm._agent.approval import ApprovalNeeded, GuardedCalls
from aiollm._agent.compaction import Compacted, CompactHook
from aiollm._agent.options import Lasting
from aiollm._agent.saving import Saver, unanswered
from aiollm._agent.served_tools import told_apart
from aiollm._agent.steering import Steered, Steering
from aiollm._agent.tool_calls import RunLimits, ToolEnded, ToolStarted
from aiollm._agent.tool_runner import ToolRunner
from aiollm._agent.tools import as_tool
from aiollm._agent.totals import total_cost, total_usage
from aiollm._agent.typed_end import TypedEnd
from aiollm._serialization import SavedRun
from aiollm._streams.stream import Stream
from aiollm.errors import ConfigError, TurnLimitError
from aiollm.events import Event, HistoryCompacted, RunEnded, RunStarted, RunSteered, TurnStarted
from aiollm.hosted import ToolBase
from aiollm.types import (
    Chunk,
    Cost,
    Message,
    Outcome,
    Part,
    Request,
    Response,
    Tool,
    ToolCallPart,
    Usage,
)

if TYPE_CHECKING:
    from aiollm._agent.compactor import Compactor

_STOPPED = ("content_filter", "error")
"""Finish reasons after which a tool call may be incomplete, so it must not be run."""

_PAUSED = "pause_turn"
"""Anthropic's word where its own tools take long: the same conversation, sent again, goes on."""


class TurnEnded(msgspec.Struct, frozen=True):
    """The model has answered; any tools that it called run next."""

    text: ClassVar[str] = ""
    response: Response


class RunResult(msgspec.Struct, frozen=True):
    """The last event of a run: the last answer, the history, and usage and cost of all turns.

    `value` is the last answer as the `output` of the run, None without one.
    """

    text: ClassVar[str] = ""
    response: Response
    messages: tuple[Message, ...]
    usage: Usage
    cost: Cost = Cost()
    value: Any = None


RunEvent: TypeAlias = (
    Chunk | ToolStarted | ToolEnded | TurnEnded | Compacted | Steered | ApprovalNeeded | RunResult
)

ToolsLike: TypeAlias = ToolBase | Callable[..., Any] | Sequence[ToolBase | Callable[..., Any]]


class AgentLoop:
    """Runs the model and its tools in turns; the source of an `AgentRun`.

    `close` ends its work; so do the end of the run and an error.
    """

    _typed: TypedEnd | None = None

    def __init__(  # noqa: PLR0913 - what it works with, and how it is named in events
        self,
        ask: Callable[[Request], Stream],
        request: Request,
        tools: ToolsLike,
        limits: RunLimits,
        runner: Callable[[], ToolRunner],
        *,
        lasting: Lasting,
        spec: str = "",
        number: int = 0,
        emit: Callable[[Event], None] | None = None,
    ) -> None:
        """Prepare the first turn. Raises: ConfigError.

        `ask` starts a stream, `runner` returns what runs the tools, `emit` passes events to the
        hooks.
        """
        made = told_apart(map(as_tool, (*request.tools, *_listed(tools))))
        self._ask = ask
        self._request = msgspec.structs.replace(request, tools=made)
        self._tools = {each.name: each for each in made if isinstance(each, Tool)}
        self._limits = limits
        self._runner = runner
        self._spec = spec
        self._number = number
        self._emit = emit
        self._lasting = lasting
        self._history = request.messages
        self._usages: list[Usage] = []
        self._costs: list[Cost] = []
        self.turns: int = 0
        self._prepared: Stream | None = ask(self._request)
        self._stream: Stream | None = None
        self._calls: GuardedCalls | None = None
        self._last: Response | None = None
        self._complete = False
        self._closed = False
        self._began: float | None = None
        self._steering = Steering()
        self._compactor = _compactor_of(lasting.compact)
        self._saver = Saver(lasting.save, self.saved, runner) if lasting.save else None
        self._unanswered: Sequence[ToolCallPart] = ()
        if lasting.saved is not None:
            self._restore(lasting.saved)

    def _restore(self, saved: SavedRun) -> None:
        """Go on where a saved run was. Raises: ConfigError."""
        self._history, self._unanswered = unanswered(saved, self._lasting, self._tools)
        self.turns, self._last, self._complete = saved.turns, saved.response, saved.ended
        if saved.turns or saved.usage != Usage():
            self._usages, self._costs = [saved.usage], [saved.cost]
        self._steering = Steering(saved.steered)
        self._prepared = None

    def end_in(self, end: TypedEnd) -> None:
        """Let `end` read the last answer, which a saved run may have already."""
        self._typed = end
        if (saved := self._lasting.saved) is not None:
            end.repairs, end.is_repairing = saved.repairs, saved.is_repairing
        if self._complete and self._last is not None:
            self._read_end(end, self._last)

    async def next(self, _: asyncio.Task[Any]) -> RunEvent | None:
        """Return the next event, None after the end.

        Raises: LLMError, FailoverError, TurnLimitError; whatever still runs is ended first.
        """
        if self._closed:
            return None
        try:
            return await self._next()
        except asyncio.CancelledError:
            self._end("abandoned")
            # The tools are cancelled already. This only waits for their own cleanup, so a second
            # cancellation may end the wait.
            await self.gone()
            raise
        except BaseException as error:
            self._end("failed", error)
            await self.gone()
            raise

    def close(self) -> None:
        """End the run as abandoned; idempotent, so no tool is cancelled twice."""
        if not self._closed:
            self._end("abandoned")

    async def gone(self) -> None:
        """Wait, after the end, until all tools have stopped."""
        if self._stream is not None:
            await self._stream.aclose()
        if self._calls is not None:
            await self._calls.gone()

    @property
    def is_answered(self) -> bool:
        """Whether a target has given output, or the run has ended without asking one."""
        saved, stream = self._lasting.saved, self._stream
        old = None if saved is None or saved.ended else saved.response
        is_new = self._last is not None and self._last is not old
        return is_new or bool(self.waiting) or (stream is not None and stream.target is not None)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes."""
        return self._closed

    @property
    def response(self) -> Response | None:
        """The last answer, None before the end of the run."""
        return self._last if self._complete else None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The history so far, with a result for every tool call."""
        if self._calls is not None:
            return (*self._history, self._calls.message())
        saved = self._lasting.saved
        return saved.messages if saved is not None and self._unanswered else self._history

    @property
    def waiting(self) -> tuple[ToolCallPart, ...]:
        """The calls for whose approval the run has ended."""
        return () if self._calls is None else self._calls.waiting

    def saved(self) -> SavedRun:
        """Return the run as far as it is."""
        old, calls = self._lasting.saved, self._calls
        open_calls = old.calls if old is not None and self._unanswered else ()
        return SavedRun(
            messages=self.messages,
            request=msgspec.structs.replace(self._request, messages=(), tools=()),
            calls=open_calls if calls is None else calls.saved(),
            steered=self._steering.waiting,
            turns=self.turns - (self._stream is not None),
            usage=self.usage,
            cost=self.cost,
            response=self._last,
            ended=self._complete,
            repairs=0 if self._typed is None else self._typed.repairs,
            is_repairing=self._typed is not None and self._typed.is_repairing,
        )

    def steer(self, parts: Sequence[str | Part]) -> None:
        """Put a user message in before the next turn. Raises: ConfigError, BusyError."""
        self._steering.add(parts)

    @property
    def usage(self) -> Usage:
        """The usage of all turns so far."""
        running = () if self._stream is None else (self._stream.partial.usage,)
        return total_usage((*self._usages, *running))

    @property
    def cost(self) -> Cost:
        """The cost of all turns so far."""
        stream = self._stream
        if stream is None:
            return total_cost(self._costs)
        running = stream.partial.cost
        if self._closed and stream.target is None and self._costs:
            running = Cost(0.0, "billed", running.lost)  # no answer has begun, so none costs
        return total_cost((*self._costs, running))

    async def _next(self) -> RunEvent:
        if self._began is None:
            self._begin()
        event: RunEvent | None
        if self._calls is not None:
            event = await self._calls.next() or await self._paused(self._calls)
            if event is not None:
                return event
            self._take_results(self._calls)
        if self._stream is None and (event := await self._between()) is not None:
            return event
        stream = self._stream or self._ask_model()
        try:
            return await anext(stream)
        except StopAsyncIteration:
            response = stream.response
        answered = self._take_answer(response)
        await self._save()
        return answered

    async def _between(self) -> RunEvent | None:
        """Do what comes before a turn; None once the model is to be asked."""
        if (message := self._steering.take()) is not None:
            return self._steer(message)
        response = self.response
        if response is not None:
            return self._result(response)
        self._check_turns()
        return None if self._compactor is None else await self._compact(self._compactor)

    async def _paused(self, calls: GuardedCalls) -> ApprovalNeeded | None:
        """End the run if calls wait for approval."""
        waiting = calls.waiting
        if not waiting:
            return None
        await self._save()
        self._end("success")
        return ApprovalNeeded(waiting)

    async def _save(self) -> None:
        if self._saver is not None:
            await self._saver()

    def _steer(self, message: Message) -> Steered:
        self._history = (*self._history, message)
        self._prepared = None
        self._complete = False
        if self._typed is not None:
            self._typed.is_repairing = False  # the message may take calls
        if self._emit:
            self._emit(RunSteered(self._number, self.turns + 1))
        return Steered(message)

    async def _compact(self, compactor: Compactor) -> Compacted | None:
        request, before = self._next_request(), self._history
        after = await compactor.shorter(self.turns + 1, request, self._last)
        if after is None:
            return None
        self._prepared = compactor.asked(
            self._ask, msgspec.structs.replace(request, messages=after)
        )
        self._history = after
        if self._emit:
            lengths = len(before), len(after)
            self._emit(HistoryCompacted(self._number, self.turns + 1, *lengths))
        return Compacted(before, after)

    def _begin(self) -> None:
        self._began = time.monotonic()
        if self._emit:
            self._emit(RunStarted(self._number, self._spec))
        saved, calls = self._lasting.saved, self._unanswered
        if saved is not None and calls:
            self._calls = self._guarded(calls)
            self._unanswered = ()
            self._calls.restore(saved.calls)
            self._calls.start()

    def _check_turns(self) -> None:
        if self.turns < self._limits.max_turns:
            return
        turns = "1 turn" if self.turns == 1 else f"{self.turns} turns"
        is_steered = self._history[-1].role == "user"
        what = "a message was put in" if is_steered else "the model was still calling tools"
        raise TurnLimitError(
            f"{what} after {turns}: continue from `.messages`, or raise max_turns",
            messages=self._history,
            response=self._last,
            target=self._last.target if self._last else None,
        )

    def _ask_model(self) -> Stream:
        prepared, self._prepared = self._prepared, None
        self._stream = prepared or self._ask(self._next_request())
        self.turns += 1
        if self._emit:
            self._emit(TurnStarted(self._number, self.turns))
        return self._stream

    def _next_request(self) -> Request:
        request = msgspec.structs.replace(self._request, messages=self._history)
        if self._typed is not None and self._typed.is_repairing:
            return self._typed.without_calls(request)
        choice = request.tool_choice
        if not self.turns or choice in (None, "auto", "none") or choice[0] == "auto":
            return request
        # A model that must call a tool in every turn would never finish.
        return msgspec.structs.replace(request, tool_choice="auto")

    def _take_answer(self, response: Response) -> TurnEnded:
        self._stream = None
        self._last = response
        self._usages.append(response.usage)
        self._costs.append(response.cost)
        parts = tuple(part for part in response.message.parts if not _is_nameless(part))
        calls = [part for part in parts if isinstance(part, ToolCallPart)]
        if parts:
            self._history = (*self._history, Message("assistant", parts))
        paused = bool(parts) and response.raw_finish_reason == _PAUSED
        self._complete = not (calls or paused) or response.finish_reason in _STOPPED
        if calls:
            self._run_tools(calls, response)
        if self._complete and self._typed is not None:
            self._read_end(self._typed, response)
        return TurnEnded(response)

    def _read_end(self, end: TypedEnd, response: Response) -> None:
        """Read the typed last answer, or let another turn put it right."""
        may_ask = self.turns < self._limits.max_turns
        if (wrong := end.take(response, may_ask=may_ask)) is not None:
            self._history = (*self._history, wrong)
            self._complete = False

    def _run_tools(self, calls: Sequence[ToolCallPart], response: Response) -> None:
        self._calls = self._guarded(calls)
        if self._complete:
            self._calls.refuse(f"not run: the answer was stopped ({response.finish_reason})")
        else:
            self._calls.start()

    def _guarded(self, calls: Sequence[ToolCallPart]) -> GuardedCalls:
        return GuardedCalls(
            calls,
            self._tools,
            self._limits,
            self._runner(),
            lasting=self._lasting,
            save=self._saver,
            run=self._number,
            emit=self._emit,
        )

    def _take_results(self, calls: GuardedCalls) -> None:
        self._history = (*self._history, calls.message())
        self._calls = None

    def _result(self, response: Response) -> RunResult:
        value = None if self._typed is None else self._typed.value()
        self._end("success")
        return RunResult(response, self._history, self.usage, self.cost, value)

    def _end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """End the run; synchronous, so that a second cancellation cannot break it."""
        self._closed = True
        if self._calls is not None:
            self._calls.cancel()
        began, self._began = self._began, None
        if began is not None and self._emit:
            seconds = time.monotonic() - began
            outcome = "success" if self._complete and error is None else outcome
            usage, waiting = self.usage, len(self.waiting)
            self._emit(RunEnded(self._number, outcome, seconds, self.turns, usage, error, waiting))


def _is_nameless(part: Part) -> bool:
    """Return whether a call was cut before its name, so that it cannot have a result."""
    return isinstance(part, ToolCallPart) and not part.name


def _listed(tools: ToolsLike) -> Sequence[ToolBase | Callable[..., Any]]:
    if isinstance(tools, ToolBase) or callable(tools):
        return (tools,)
    if not isinstance(tools, Sequence):
        raise ConfigError(f"tools are one or a list, not of type {type(tools).__name__}")
    return tools


def _compactor_of(hook: CompactHook | None) -> Compactor | None:
    if hook is None:
        return None
    from aiollm._agent.compactor import Compactor  # few runs shorten their history

    return Compactor(hook)
