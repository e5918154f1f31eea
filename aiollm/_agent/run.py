"""The AgentRun handle: a model and its tools at work, as one stream of typed events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from aiollm._agent.loop import AgentLoop, RunEvent, ToolsLike
from aiollm._agent.tool_calls import RunLimits
from aiollm._agent.tool_runner import ToolRunner
from aiollm._agent.typed_end import TypedEnd
from aiollm._serialization import SavedRun, to_json
from aiollm._streams.reader import SingleReader
from aiollm._streams.stream import Stream
from aiollm._validation import RequestLike, as_request
from aiollm.errors import ClosedError
from aiollm.types import Cost, Message, Part, Request, Response, ToolCallPart, Usage

T = TypeVar("T")


class AgentRun(SingleReader[RunEvent, RunEvent]):
    """A model that calls tools until it has its answer: iterate it, or `collect()` it.

    Nothing is sent until it is iterated. Leaving an `async with`, `aclose()`, cancellation, an
    error, or dropping the last reference closes the connection and cancels the tools.
    """

    __slots__ = ("_agent", "_ready")

    _noun = "run"

    def __init__(self, agent: AgentLoop) -> None:
        super().__init__(lambda: agent)
        self._agent = agent
        self._ready: deque[RunEvent] = deque()

    async def __anext__(self) -> RunEvent:
        """Return the next event.

        Raises: LLMError, FailoverError, TurnLimitError, StopAsyncIteration.
        """
        return self._ready.popleft() if self._ready else await self._read()

    async def _wait_for_output(self) -> None:
        while not self._agent.is_answered:
            try:
                self._ready.append(await self._read())
            except StopAsyncIteration:
                raise ClosedError("the run was closed before its first output") from None

    async def collect(self) -> Response:
        """Exhaust the run and return its last answer. Raises: the same errors as iterating."""
        async for _ in self:
            pass
        return self.response

    async def _leave(self) -> None:
        self._end()
        await self._agent.gone()

    @property
    def response(self) -> Response:
        """The last answer. Raises: ClosedError before the run has ended."""
        response = self._agent.response
        if response is not None:
            return response
        if names := ", ".join(call.name for call in self.waiting):
            raise ClosedError(
                f"the run waits for the approval of {names}: go on with reg.run(spec, run.saved, "
                "approvals={...}, tools=[...])"
            )
        raise ClosedError(f"{self._not_over}: use `messages` for what it has done")

    @property
    def messages(self) -> tuple[Message, ...]:
        """The history so far, ready for the next request: every tool call has a result."""
        return self._agent.messages

    def steer(self, *parts: str | Part) -> None:
        """Add a user message, which goes to the model with the next turn, after tool results.

        If the model has just given its last answer, the run goes on with the message. Call it from
        any task of the loop. Raises: ClosedError once the run has ended, ConfigError, BusyError
        while 64 messages wait.
        """
        if self._closed or self._agent.has_ended:
            raise ClosedError("the run has ended: start another one from its `messages`")
        self._agent.steer(parts)

    @property
    def waiting(self) -> tuple[ToolCallPart, ...]:
        """The calls that wait for approval, once the run has ended because of them."""
        return self._agent.waiting

    @property
    def saved(self) -> SavedRun:
        """The run so far, to be continued with `reg.run(spec, saved, tools=...)`.

        A turn that is being answered is asked again. A call that has begun is not run again.
        """
        return self._agent.saved()

    def to_json(self) -> bytes:
        """Return `saved` as JSON, for `from_json(data, SavedRun)`."""
        return to_json(self.saved)

    @property
    def usage(self) -> Usage:
        """The usage of all turns so far."""
        return self._agent.usage

    @property
    def cost(self) -> Cost:
        """The cost of all turns so far."""
        return self._agent.cost

    @property
    def turns(self) -> int:
        """How many times the model has been asked so far."""
        return self._agent.turns


class TypedRun(AgentRun, Generic[T]):
    """A run whose last answer is a value of a type: `run.value`, or `RunResult.value`.

    An answer that does not fit goes back to the model, as one more turn; one that still does not
    fit is an OutputError where the RunResult would be. `collect()` returns the response.
    """

    __slots__ = ("_typed",)

    def __init__(self, agent: AgentLoop, typed: TypedEnd) -> None:
        super().__init__(agent)
        agent.end_in(typed)
        self._typed = typed

    @property
    def value(self) -> T:
        """The last answer as its type. Raises: ClosedError before the end, OutputError."""
        _ = self.response  # which says why there is none yet
        value: T = self._typed.value()
        return value


def new_run(
    ask: Callable[[Request], Stream],
    request: RequestLike,
    tools: ToolsLike,
    limits: tuple[int, int, float | None],
    runner: Callable[[], ToolRunner],
    *,
    output: Any,
    repairs: int,
    **named: Any,
) -> AgentRun:
    """Return the run of an agent; `limits` are its turns, tools at a time, and seconds a tool.

    `output` and `repairs` are those of `generate`; `runner` and `named` are parameters of
    `AgentLoop`. Raises: ConfigError.
    """
    asked, end = as_request(request), None
    if output is not None:
        end = TypedEnd(output, repairs)
        asked = msgspec.structs.replace(asked, output=end.wire)
    loop = AgentLoop(ask, asked, tools, RunLimits(*limits), runner, **named)
    return AgentRun(loop) if end is None else TypedRun(loop, end)
