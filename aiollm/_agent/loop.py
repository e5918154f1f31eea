"""The agent loop: ask the model, run the tools it calls, and keep the history, turn by turn."""

from __future__ import annotations

import asyncio
import functools
import operator
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import msgspec

from aiollm._agent.served_tools import told_apart
from aiollm._agent.tool_calls import RunLimits, ToolCalls, ToolEnded, ToolStarted
from aiollm._agent.tool_runner import ToolRunner
from aiollm._agent.tools import as_tool
from aiollm._streams.stream import Stream
from aiollm.errors import ConfigError, TurnLimitError
from aiollm.events import Event, RunEnded, RunStarted, TurnStarted
from aiollm.types import (
    Certainty,
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

_STOPPED = ("content_filter", "error")
"""Finish reasons after which a tool call may be incomplete, so it must not be run."""


class TurnEnded(msgspec.Struct, frozen=True):
    """The model has answered; any tools that it called run next."""

    text: ClassVar[str] = ""
    response: Response


class RunResult(msgspec.Struct, frozen=True):
    """The last event of a run: the last answer, the history, and usage and cost of all turns."""

    text: ClassVar[str] = ""
    response: Response
    messages: tuple[Message, ...]
    usage: Usage
    cost: Cost = Cost()


RunEvent: TypeAlias = Chunk | ToolStarted | ToolEnded | TurnEnded | RunResult


class AgentLoop:
    """Runs the model and its tools in turns; the source of an `AgentRun`.

    `close` ends its work; so do the end of the run and an error.
    """

    def __init__(
        self,
        ask: Callable[[Request], Stream],
        request: Request,
        tools: Sequence[Tool | Callable[..., Any]],
        limits: RunLimits,
        runner: Callable[[], ToolRunner],
        *,
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
        self._tools = {each.name: each for each in made}
        self._limits = limits
        self._runner = runner
        self._spec = spec
        self._number = number
        self._emit = emit
        self._history = request.messages
        self._usages: list[Usage] = []
        self._costs: list[Cost] = []
        self.turns: int = 0
        self._first: Stream | None = ask(self._request)
        self._stream: Stream | None = None
        self._calls: ToolCalls | None = None
        self._last: Response | None = None
        self._complete = False
        self._closed = False
        self._began: float | None = None

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
        """Whether a target has given output."""
        stream = self._stream
        return self._last is not None or (stream is not None and stream.target is not None)

    @property
    def response(self) -> Response | None:
        """The last answer, None before the end of the run."""
        return self._last if self._complete else None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The history so far, with a result for every tool call."""
        if self._calls is None:
            return self._history
        return (*self._history, self._calls.message())

    @property
    def usage(self) -> Usage:
        """The usage of all turns so far."""
        running = () if self._stream is None else (self._stream.partial.usage,)
        return total_usage((*self._usages, *running))

    @property
    def cost(self) -> Cost:
        """The cost of all turns so far."""
        running = () if self._stream is None else (self._stream.partial.cost,)
        costs = (*self._costs, *running)
        return functools.reduce(operator.add, costs) if costs else Cost()

    async def _next(self) -> RunEvent:
        if self._began is None:
            self._begin()
        if self._calls is not None:
            event = await self._calls.next()
            if event is not None:
                return event
            self._take_results(self._calls)
        response = self.response
        if response is not None:
            return self._result(response)
        stream = self._stream or self._ask_model()
        try:
            return await anext(stream)
        except StopAsyncIteration:
            response = stream.response
        return self._take_answer(response)

    def _begin(self) -> None:
        self._began = time.monotonic()
        if self._emit:
            self._emit(RunStarted(self._number, self._spec))

    def _ask_model(self) -> Stream:
        if self.turns >= self._limits.max_turns:
            turns = "1 turn" if self.turns == 1 else f"{self.turns} turns"
            raise TurnLimitError(
                f"the model was still calling tools after {turns}: continue from `.messages`, "
                "or raise max_turns",
                messages=self._history,
                response=self._last,
                target=self._last.target if self._last else None,
            )
        first, self._first = self._first, None
        self._stream = first or self._ask(self._next_request())
        self.turns += 1
        if self._emit:
            self._emit(TurnStarted(self._number, self.turns))
        return self._stream

    def _next_request(self) -> Request:
        request = msgspec.structs.replace(self._request, messages=self._history)
        if request.tool_choice in {None, "auto", "none"}:
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
        self._complete = not calls or response.finish_reason in _STOPPED
        if calls:
            self._run_tools(calls, response)
        return TurnEnded(response)

    def _run_tools(self, calls: Sequence[ToolCallPart], response: Response) -> None:
        self._calls = ToolCalls(
            calls, self._tools, self._limits, self._runner(), run=self._number, emit=self._emit
        )
        if self._complete:
            self._calls.refuse(f"not run: the answer was stopped ({response.finish_reason})")
        else:
            self._calls.start()

    def _take_results(self, calls: ToolCalls) -> None:
        self._history = (*self._history, calls.message())
        self._calls = None

    def _result(self, response: Response) -> RunResult:
        self._end("success")
        return RunResult(response, self._history, self.usage, self.cost)

    def _end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """End the run; synchronous, so that a second cancellation cannot break it."""
        self._closed = True
        if self._calls is not None:
            self._calls.cancel()
        began, self._began = self._began, None
        if began is not None and self._emit:
            seconds = time.monotonic() - began
            outcome = "success" if self._complete else outcome
            usage = self.usage
            self._emit(RunEnded(self._number, outcome, seconds, self.turns, usage, error))


def _is_nameless(part: Part) -> bool:
    """Return whether a call was cut before its name, so that it cannot have a result."""
    return isinstance(part, ToolCallPart) and not part.name


def total_usage(usages: Sequence[Usage]) -> Usage:
    """Return the sum of several counts, as certain as all of them are."""
    certainties = {usage.certainty for usage in usages}
    certainty: Certainty = "partial" if certainties else "missing"
    if len(certainties) == 1:
        (certainty,) = certainties
    counts = {
        name: sum(getattr(usage, name) for usage in usages)
        for name in Usage.__struct_fields__
        if name.endswith("_tokens")
    }
    bills = [usage.billed_usd for usage in usages]
    tiers = {usage.tier for usage in usages}
    return Usage(
        certainty=certainty,
        tier=tiers.pop() if len(tiers) == 1 else "",
        billed_usd=None if None in bills or not bills else sum(filter(None, bills)),
        **counts,
    )


def _listed(tools: object) -> Sequence[Any]:
    if not isinstance(tools, Sequence):
        raise ConfigError(f"tools are a list, not of type {type(tools).__name__}")
    return tools
