"""What builds on streams: whole answers, typed answers, agent runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import UnionType
from typing import Any, TypedDict, TypeVar, Unpack, overload

from aiollm._agent.run import AgentRun
from aiollm._agent.tool_calls import Limits
from aiollm._agent.typed_output import generate_typed
from aiollm._failover.chain import OnInterrupt
from aiollm._streams.stream import Stream
from aiollm._validation import RequestLike, as_request
from aiollm.events import Event
from aiollm.spec import Plan
from aiollm.types import Request, Response, Timeouts, Tool

T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """What a call may override of its registry's settings."""

    timeouts: Timeouts | None
    retries: int | None
    on_interrupt: OnInterrupt | None
    stagger: float | None


class Asking(ABC):
    """Answers made of the streams that a registry starts."""

    _runs = 0

    @abstractmethod
    def parse(self, spec: str | Plan) -> Plan:
        """Parse a spec, aliases expanded. Raises: SpecError."""

    @abstractmethod
    def stream(
        self, spec: str | Plan, request: RequestLike, **options: Unpack[CallOptions]
    ) -> Stream:
        """Return the lazy stream of an answer."""

    @abstractmethod
    def _teller(self) -> Callable[[Event], None] | None:
        """Return what tells the hooks, None where there are none."""

    @overload
    async def generate(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: type[T],
        repairs: int = 1,
        **options: Unpack[CallOptions],
    ) -> T: ...

    @overload
    async def generate(
        self, spec: str | Plan, request: RequestLike, **options: Unpack[CallOptions]
    ) -> Response: ...

    @overload
    async def generate(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: UnionType | Mapping[str, Any],
        repairs: int = 1,
        **options: Unpack[CallOptions],
    ) -> Any: ...

    async def generate(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: Any = None,
        repairs: int = 1,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Return the whole response, or with `output` the reply decoded as that type.

        `output` is a type or a JSON schema. A reply that does not fit goes back to the model with
        what is wrong with it, at most `repairs` times. `options` are those of `stream`.
        Raises: as `stream`, OutputError.
        """

        async def ask(asked: Request) -> Response:
            return await self.stream(spec, asked, **options).collect()

        checked = as_request(request)
        if output is None:
            return await ask(checked)
        return await generate_typed(ask, checked, output, repairs)

    def run(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        tools: Sequence[Tool | Callable[..., Any]],
        max_turns: int = 10,
        max_parallel: int = 8,
        tool_timeout: float | None = 60.0,
        **options: Unpack[CallOptions],
    ) -> AgentRun:
        """Return the lazy stream of an agent's work: the model and its tools, turn by turn.

        `max_turns`: how often the model is asked. `max_parallel`: tools at a time.
        `tool_timeout`: seconds a tool may take, None for any time. `options` are those of
        `stream`, for each turn. Raises: SpecError, ConfigError here; while iterating as
        `stream`, TurnLimitError.
        """
        plan = self.parse(spec)
        self._runs += 1
        return AgentRun(
            partial(self.stream, plan, **options),
            as_request(request),
            tools,
            Limits(max_turns, max_parallel, tool_timeout),
            spec=str(plan),
            number=self._runs,
            tell=self._teller(),
        )
