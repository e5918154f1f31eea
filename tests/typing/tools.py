"""How callers use tools, runs and typed answers, for mypy and pyright; nothing here is run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, assert_never, assert_type

import msgspec

from aiollm import (
    AgentRun,
    Approval,
    ApprovalNeeded,
    Compacted,
    Finish,
    FunctionTool,
    Message,
    NextTurn,
    Registry,
    Request,
    Response,
    Restart,
    RunEvent,
    RunResult,
    SavedRun,
    Status,
    Steered,
    Summarize,
    TextDelta,
    Timeouts,
    Tool,
    ToolCallPart,
    ToolEnded,
    ToolStarted,
    TrimTo,
    TurnEnded,
    TurnLimitError,
    Usage,
    from_json,
    tool,
    user,
)
from aiollm.types import (
    CitationChunk,
    ImageChunk,
    PartChunk,
    ReasoningDelta,
    RefusalDelta,
    ToolCallDelta,
)


class City(msgspec.Struct):
    """A type to ask for."""

    name: str


@tool
def plain(city: str) -> str:
    """Say it."""
    return city


@tool(name="other", strict=True, timeout=5)
async def configured(city: str) -> str:
    """Say it."""
    return city


def bare(city: str) -> str:
    """Be wrapped later."""
    return city


assert_type(plain, FunctionTool)
assert_type(configured, FunctionTool)


async def answers(reg: Registry) -> None:
    """The type of an answer follows from what was asked for."""
    assert_type(await reg.generate("a/x", "Why?"), Response)
    assert_type(await reg.generate("a/x", "Why?", timeouts=Timeouts(idle=5)), Response)
    assert_type(await reg.generate("a/x", "Where?", output=City), City)
    assert_type(await reg.generate("a/x", "Where?", output=list[City], repairs=0), list[City])
    assert_type(await reg.generate("a/x", "Where?", output={"type": "object"}, retries=1), Any)
    await reg.generate("a/x", "Where?", output=City | None)


async def runs(reg: Registry) -> None:
    """A run yields typed events and keeps what it did."""
    by_hand = Tool("by_hand", function=bare)
    run = reg.run(
        "a/x", Request((user("Why?"),)), tools=[plain, configured, by_hand, bare], max_turns=3
    )
    assert_type(run, AgentRun)
    async with run:
        async for event in run:
            assert_type(event, RunEvent)
            assert_type(event.text, str)
            told(event)
    assert_type(run.response, Response)
    assert_type(run.messages, tuple[Message, ...])
    assert_type(run.usage, Usage)
    try:
        assert_type(await reg.run("a/x", "Why?", tools=[plain]).collect(), Response)
    except TurnLimitError as error:
        assert_type(error.messages, tuple[Message, ...])
        assert_type(error.response, Response | None)


def told(event: RunEvent) -> str:
    """A match over all events is exhaustive."""
    match event:
        case TextDelta(text=text) | Status(message=text) | Restart(reason=text):
            return text
        case ReasoningDelta() | RefusalDelta() | ToolCallDelta() | ImageChunk():
            return ""
        case CitationChunk() | PartChunk() | Finish():
            return ""
        case ToolStarted(call=call):
            return call.name
        case ToolEnded(result=result, seconds=seconds):
            return f"{result.text} after {seconds:.1f} s"
        case TurnEnded(response=response):
            return response.text
        case Compacted(before=before, after=after):
            return f"{len(before)} messages became {len(after)}"
        case Steered(message=message):
            return message.text
        case ApprovalNeeded(calls=calls):
            return ", ".join(call.name for call in calls)
        case RunResult(usage=usage):
            return str(usage.output_tokens)
        case _:
            assert_never(event)


async def lasting(reg: Registry) -> None:
    """A run that waits for approval, is saved, goes on, is steered, and keeps its history short."""

    def ask(call: ToolCallPart) -> Approval:
        return input(call.name) == "y" or "the user said no"

    async def later(call: ToolCallPart) -> bool | None:
        return True if call.name == "plain" else None

    def shorter(turn: NextTurn) -> list[Message] | None:
        return None if turn.tokens < 1000 else [*turn.messages[:1], *turn.messages[-2:]]

    async def summary(messages: Sequence[Message]) -> str:
        return f"{len(messages)} messages"

    run = reg.run("a/x", "Why?", tools=[plain], approve=ask, compact=shorter)
    run.steer("Be brief.")
    assert_type(run.waiting, tuple[ToolCallPart, ...])
    assert_type(run.saved, SavedRun)
    saved = from_json(run.to_json(), SavedRun)
    assert_type(saved, SavedRun)
    decided: dict[str, Approval] = {"call_0": True, "call_1": "no", "call_2": {"number": 1}}
    again = reg.run(
        "b/y", saved, tools=[plain], approve=later, approvals=decided, save=lambda run: None
    )
    assert_type(again, AgentRun)
    for hook in (TrimTo(1000), Summarize(1000, by=summary, count=partial(reg.count_tokens, "a/x"))):
        reg.run("a/x", "Why?", tools=[plain], compact=hook)
