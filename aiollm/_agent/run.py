"""The AgentRun handle: a model and its tools at work, as one stream of typed events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from aiollm._agent.loop import AgentLoop, RunEvent
from aiollm._agent.tool_calls import RunLimits
from aiollm._agent.tool_runner import ToolRunner
from aiollm._streams.reader import SingleReader
from aiollm._streams.stream import Stream
from aiollm._validation import RequestLike, as_request
from aiollm.errors import ClosedError
from aiollm.hosted import ToolBase
from aiollm.types import Cost, Message, Request, Response, Usage


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
        if response is None:
            raise ClosedError("the run has not ended yet: use `messages` for what it has done")
        return response

    @property
    def messages(self) -> tuple[Message, ...]:
        """The history so far, ready for the next request: every tool call has a result."""
        return self._agent.messages

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


def new_run(
    ask: Callable[[Request], Stream],
    request: RequestLike,
    tools: Sequence[ToolBase | Callable[..., Any]],
    limits: tuple[int, int, float | None],
    runner: Callable[[], ToolRunner],
    **named: Any,
) -> AgentRun:
    """Return the run of an agent; `limits` are its turns, tools at a time, and seconds a tool.

    `runner` and `named` are parameters of `AgentLoop`. Raises: ConfigError.
    """
    loop = AgentLoop(ask, as_request(request), tools, RunLimits(*limits), runner, **named)
    return AgentRun(loop)
