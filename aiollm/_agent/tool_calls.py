"""The tool calls of one turn: run concurrently within limits, and cancelled in one place."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from aiollm._agent.tool_runner import Bound, Outcome, ToolRunner
from aiollm._agent.tools import FunctionTool, as_result, bind
from aiollm._user_types.density import MAX_ARGUMENTS
from aiollm._validation import check_count, is_seconds
from aiollm.errors import ConfigError, OutputError
from aiollm.events import Event, ToolCallEnded, ToolCallStarted
from aiollm.types import Message, TextPart, Tool, ToolCallPart, ToolResultPart, _shown, tool_results

_UNFINISHED = "the run ended before this call did"

_log = logging.getLogger("aiollm")


class RunLimits(msgspec.Struct, frozen=True):
    """The limits of a run: turns, tools at a time, seconds per tool (None = no limit)."""

    max_turns: int = 10
    max_parallel: int = 8
    tool_timeout: float | None = 60.0

    def __post_init__(self) -> None:
        for name in ("max_turns", "max_parallel"):
            check_count(name, getattr(self, name))
        if self.tool_timeout is not None and not is_seconds(self.tool_timeout):
            shown = f"tool_timeout is {_shown(self.tool_timeout)}"
            raise ConfigError(f"{shown}: expected seconds above 0, or None")


class ToolStarted(msgspec.Struct, frozen=True):
    """A tool starts, as an event of its run; hooks get `ToolCallStarted` instead."""

    text: ClassVar[str] = ""
    call: ToolCallPart


class ToolEnded(msgspec.Struct, frozen=True):
    """A tool call has its result, `seconds` after the tool started; `error` is what it raised.

    A call that could not be run at all has no `ToolStarted` before it.
    """

    text: ClassVar[str] = ""
    call: ToolCallPart
    result: ToolResultPart
    seconds: float = 0.0
    error: BaseException | None = None


class ToolCalls:
    """The tool calls of one turn, each in a task; their events arrive as they happen."""

    def __init__(
        self,
        calls: Sequence[ToolCallPart],
        tools: Mapping[str, Tool],
        limits: RunLimits,
        runner: ToolRunner,
        *,
        run: int = 0,
        emit: Callable[[Event], None] | None = None,
    ) -> None:
        """Prepare the calls; `emit` passes the events of run number `run` to the hooks."""
        self._calls: Sequence[ToolCallPart] = calls
        self._tools = tools
        self._limits = limits
        self._runner = runner
        self._run = run
        self._emit = emit
        self._results: dict[int, ToolResultPart] = {}
        self._pending = len(calls)
        self._happened: asyncio.Queue[ToolStarted | ToolEnded | BaseException | None]
        self._happened = asyncio.Queue()
        self._slots = asyncio.Semaphore(limits.max_parallel)
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    def start(self) -> None:
        """Start all calls that can be run; the result of any other is an error."""
        for index, call in enumerate(self._calls):
            if (found := self._found(index, call)) is not None:
                self._launch(index, *found)

    def refuse(self, reason: str) -> None:
        """Run no calls; `reason` becomes the result of each."""
        for index, call in enumerate(self._calls):
            self._finish(index, failed(call, reason))

    async def next(self) -> ToolStarted | ToolEnded | None:
        """Return the next event, None once every call has its result."""
        while self._pending:
            happened = await self._happened.get()
            if isinstance(happened, BaseException):
                raise happened
            self._pending -= not isinstance(happened, ToolStarted)
            if happened is not None:  # a call was put off
                return happened
        return None

    def message(self) -> Message:
        """Return all results in the order of the calls; one still missing becomes an error."""
        indices = range(len(self._calls))
        return tool_results(*(self._results.get(i) or self._missing(i) for i in indices))

    def cancel(self) -> None:
        """Cancel the calls that still run; synchronous and idempotent."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()

    async def gone(self) -> None:
        """Wait until every task has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _missing(self, index: int) -> ToolResultPart:
        return failed(self._calls[index], _UNFINISHED)

    def _found(self, index: int, call: ToolCallPart) -> tuple[Tool, Bound] | None:
        """Return what a call runs; one that cannot be run gets its result here."""
        try:
            wanted = self._find(call)
            return wanted, bind(wanted, call)
        except OutputError as error:
            self._finish(index, failed(call, error.message), 0.0, error)
        return None

    def _launch(self, index: int, wanted: Tool, bound: Bound) -> None:
        task = asyncio.create_task(self._work(index, wanted, bound))
        task.add_done_callback(functools.partial(self._ended, index))
        self._tasks.append(task)

    async def _before(self, index: int) -> None:
        """Do what must be done before a tool starts."""

    async def _after(self, index: int, result: ToolResultPart) -> ToolResultPart:
        """Do what must be done once a tool has ended; return the result of its call."""
        del index
        return result

    def _find(self, call: ToolCallPart) -> Tool:
        wanted = self._tools.get(call.name)
        if wanted is None:
            known = ", ".join(self._tools) or "none"
            raise OutputError(f"there is no tool {_shown(call.name)}; the tools are: {known}")
        text = call.arguments
        if len(text if call.valid else text.encode("utf-8", "replace")) > MAX_ARGUMENTS:
            raise OutputError(f"not run: the arguments have more than {MAX_ARGUMENTS} bytes")
        if not call.valid:
            raise OutputError("not run: the arguments are not a complete JSON object")
        return wanted

    async def _work(self, index: int, wanted: Tool, bound: Bound) -> None:
        call = self._calls[index]
        async with self._slots:
            await self._before(index)
            self._happened.put_nowait(ToolStarted(call))
            if self._emit:
                self._emit(ToolCallStarted(self._run, call.name, call, wanted.description))
            loop = asyncio.get_running_loop()
            began = loop.time()
            result, error = None, None
            try:
                outcome = await self._runner.run(call.name, bound, self._seconds(wanted))
                result, error = _result(call, outcome)
            finally:
                seconds = loop.time() - began
                self._emit_end(call, seconds, result, error)
            self._finish(index, await self._after(index, result), seconds, error)

    def _seconds(self, wanted: Tool) -> float | None:
        own = wanted.timeout if isinstance(wanted, FunctionTool) else None
        seconds = self._limits.tool_timeout if own is None else own
        return None if seconds == float("inf") else seconds

    def _emit_end(
        self,
        call: ToolCallPart,
        seconds: float,
        result: ToolResultPart | None,
        error: BaseException | None,
    ) -> None:
        if self._emit is None:
            return
        outcome: Any = "abandoned" if result is None else "failed" if error else "success"
        self._emit(ToolCallEnded(self._run, call.name, call, seconds, outcome, error, result))

    def _finish(
        self,
        index: int,
        result: ToolResultPart,
        seconds: float = 0.0,
        error: BaseException | None = None,
    ) -> None:
        self._results[index] = result
        self._happened.put_nowait(ToolEnded(self._calls[index], result, seconds, error))

    def _ended(self, index: int, task: asyncio.Task[None]) -> None:
        """Make a result for a task that was cancelled, so that nobody waits for it forever."""
        if self._stopped:
            return
        if task.cancelled():
            # The run did not cancel it: the tool raised CancelledError itself, or something that
            # it waited for was cancelled.
            self._finish(index, failed(self._calls[index], "the tool was cancelled"))
        elif (error := task.exception()) is not None:
            self._happened.put_nowait(error)


def _result(call: ToolCallPart, outcome: Outcome) -> tuple[ToolResultPart, BaseException | None]:
    """Return the result of a call, and the error for it, if any."""
    error = outcome.error
    if error is None:
        try:
            return as_result(call, outcome.value), None
        except OutputError as unusable:
            return failed(call, unusable.message), unusable
    if not isinstance(error, OutputError | TimeoutError | asyncio.CancelledError):
        _log.info("tool %r raised %s", call.name, type(error).__name__, exc_info=error)
    return failed(call, outcome.reason), error


def failed(call: ToolCallPart, reason: str) -> ToolResultPart:
    """Return the result of a call that failed, or that was not run."""
    return ToolResultPart(call.id, (TextPart(reason),), call.name, is_error=True)
