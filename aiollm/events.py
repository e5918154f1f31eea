"""Events for `reg.on_event`: what happened to calls, their attempts and agent runs, typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

from aiollm.types import (
    FinishReason,
    Outcome,
    Response,
    Target,
    ToolCallPart,
    ToolResultPart,
    Usage,
)

__all__ = [
    "ApprovalAsked",
    "ApprovalDecided",
    "AttemptEnded",
    "AttemptStarted",
    "CallEnded",
    "CallQueued",
    "CallReleased",
    "CallStarted",
    "Decision",
    "Event",
    "FirstOutput",
    "FleetAway",
    "FleetBack",
    "HistoryCompacted",
    "Hook",
    "ImageElided",
    "McpDied",
    "McpRestarted",
    "McpStarted",
    "McpToolsChanged",
    "ResponseCacheAway",
    "RunEnded",
    "RunStarted",
    "RunSteered",
    "TargetClosed",
    "TargetOpened",
    "TargetPaced",
    "ToolCallEnded",
    "ToolCallStarted",
    "TurnStarted",
]

Decision: TypeAlias = Literal["approved", "changed", "refused", "later"]
"""What was decided about a tool call; "changed": it runs with other arguments."""

_CONTENT = frozenset({"request", "response", "tool_call", "result"})
"""Fields that hold what people and models said: they must not get into a log of events."""


class _ContentEvent(msgspec.Struct, frozen=True):
    def __repr__(self) -> str:
        names = [name for name in self.__struct_fields__ if name not in _CONTENT]
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({shown})"


class CallStarted(_ContentEvent, frozen=True):
    """A call begins; `call` numbers the calls of a registry, `spec` is its plan.

    `operation` is `chat`, `generate_content` (images), `embeddings` (a batch) or `rerank`;
    `request` is its request.
    """

    call: int
    spec: str
    operation: str = "chat"
    request: Any = None


class AttemptStarted(msgspec.Struct, frozen=True):
    """A target is tried; `preferred`: its cache was warm for the call's session."""

    call: int
    target: Target
    preferred: bool = False


class FirstOutput(msgspec.Struct, frozen=True):
    """The first output of a target arrived, `seconds` after its attempt began."""

    call: int
    target: Target
    seconds: float


class AttemptEnded(msgspec.Struct, frozen=True):
    """An attempt ended, `seconds` after it began."""

    call: int
    target: Target
    outcome: Outcome
    seconds: float
    error: BaseException | None = None


class TargetOpened(msgspec.Struct, frozen=True):
    """A target is set aside for `seconds`."""

    call: int
    target: Target
    seconds: float
    error: BaseException | None = None


class TargetPaced(msgspec.Struct, frozen=True):
    """A target answered 429: it gets nothing for `seconds`, then no more than it took before."""

    call: int
    target: Target
    seconds: float
    error: BaseException | None = None


class CallQueued(msgspec.Struct, frozen=True):
    """A call waits in line, because each of `targets` has no room or is set aside."""

    call: int
    targets: tuple[Target, ...]


class CallReleased(msgspec.Struct, frozen=True):
    """A call that waited in line for `seconds` is sent to a target."""

    call: int
    target: Target
    seconds: float


class TargetClosed(msgspec.Struct, frozen=True):
    """A target that was set aside is healthy again."""

    call: int
    target: Target


class FleetAway(msgspec.Struct, frozen=True):
    """The fleet's Redis does not answer; `reason` says why. This process decides alone."""

    reason: str


class FleetBack(msgspec.Struct, frozen=True):
    """The fleet's Redis answers again; `processes` share it."""

    processes: int


class ResponseCacheAway(msgspec.Struct, frozen=True):
    """The response cache's file cannot be used now; `reason` says why. Calls go on without it."""

    reason: str


class McpStarted(msgspec.Struct, frozen=True):
    """An MCP server is up for the first time, `seconds` after its start; it has `tools` tools."""

    server: str
    seconds: float
    tools: int


class McpDied(msgspec.Struct, frozen=True):
    """An MCP server died or did not start; `reason` says why. No new start for `seconds`."""

    server: str
    reason: str
    seconds: float = 0.0


class McpRestarted(msgspec.Struct, frozen=True):
    """An MCP server is up again, for the `restarts`-th time."""

    server: str
    seconds: float
    tools: int
    restarts: int


class McpToolsChanged(msgspec.Struct, frozen=True):
    """An MCP server's list of tools changed: the names that were added and removed."""

    server: str
    added: tuple[str, ...]
    removed: tuple[str, ...]


class ImageElided(msgspec.Struct, frozen=True):
    """Images were left out of a request to fit the target's limits."""

    call: int
    target: Target
    message: str


class CallEnded(_ContentEvent, frozen=True):
    """A call ended: `target` is the one that answered, if any did; `response` what arrived."""

    call: int
    outcome: Outcome
    seconds: float
    target: Target | None = None
    finish_reason: FinishReason | None = None
    usage: Usage = Usage()
    error: BaseException | None = None
    response: Response | None = None


class RunStarted(msgspec.Struct, frozen=True):
    """An agent run begins; `run` numbers the runs of a registry, `spec` is their plan."""

    run: int
    spec: str


class TurnStarted(msgspec.Struct, frozen=True):
    """A run asks the model; the next `CallStarted`, which follows at once, is of this turn."""

    run: int
    turn: int


class ToolCallStarted(_ContentEvent, frozen=True):
    """A run starts a tool; hooks are called in the tool's own task, as for its end."""

    run: int
    name: str
    tool_call: ToolCallPart
    description: str = ""


class ToolCallEnded(_ContentEvent, frozen=True):
    """A tool ended, `seconds` after it began; `error` is what it raised."""

    run: int
    name: str
    tool_call: ToolCallPart
    seconds: float
    outcome: Outcome
    error: BaseException | None = None
    result: ToolResultPart | None = None


class ApprovalAsked(_ContentEvent, frozen=True):
    """A tool call needs approval; hooks are called in a task of the run, as for the decision."""

    run: int
    name: str
    tool_call: ToolCallPart


class ApprovalDecided(_ContentEvent, frozen=True):
    """A tool call got its decision, `seconds` after the request for approval."""

    run: int
    name: str
    tool_call: ToolCallPart
    decision: Decision
    seconds: float


class HistoryCompacted(msgspec.Struct, frozen=True):
    """The history of a run was replaced before a turn: the number of messages before and after."""

    run: int
    turn: int
    before: int
    after: int


class RunSteered(msgspec.Struct, frozen=True):
    """A message of `run.steer` was added to the history before a turn."""

    run: int
    turn: int


class RunEnded(msgspec.Struct, frozen=True):
    """A run ended after `turns` turns; `usage` adds them all up.

    `waiting`: how many tool calls wait for approval; the run can be resumed with decisions on them.
    """

    run: int
    outcome: Outcome
    seconds: float
    turns: int
    usage: Usage = Usage()
    error: BaseException | None = None
    waiting: int = 0


Event: TypeAlias = (
    CallStarted
    | AttemptStarted
    | FirstOutput
    | AttemptEnded
    | TargetOpened
    | TargetClosed
    | TargetPaced
    | CallQueued
    | CallReleased
    | FleetAway
    | FleetBack
    | ResponseCacheAway
    | McpStarted
    | McpDied
    | McpRestarted
    | McpToolsChanged
    | ImageElided
    | CallEnded
    | RunStarted
    | TurnStarted
    | ToolCallStarted
    | ToolCallEnded
    | ApprovalAsked
    | ApprovalDecided
    | HistoryCompacted
    | RunSteered
    | RunEnded
)
"""What a hook is called with."""
Hook: TypeAlias = Callable[[Event], None]
"""What `Registry.on_event` takes; it must not block."""
