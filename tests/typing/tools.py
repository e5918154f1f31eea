"""How callers use tools, runs and typed answers, for mypy and pyright; nothing here is run."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import partial
from typing import (
    Annotated,
    Any,
    Literal,
    assert_never,
    assert_type,
)

import msgspec
from msgspec import Meta

from aiollm import (
    AgentRun,
    Approval,
    ApprovalNeeded,
    Chunk,
    Compacted,
    Finish,
    FunctionTool,
    Message,
    NextTurn,
    Partial,
    Registry,
    Request,
    Response,
    Restart,
    RunEvent,
    RunResult,
    SavedRun,
    Status,
    Steered,
    Stream,
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
    Typed,
    TypedRun,
    TypedStream,
    Usage,
    WebSearch,
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


class Colour(enum.Enum):
    """Another one."""

    RED = "red"


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
    assert_type(await reg.generate("a/x", "Where?", output=dict[str, City]), dict[str, City])
    assert_type(await reg.generate("a/x", "Where?", output=tuple[int, str]), tuple[int, str])
    assert_type(await reg.generate("a/x", "Where?", output=Colour), Colour)
    assert_type(await reg.generate("a/x", "Where?", output=int), int)
    assert_type(await reg.generate("a/x", "Where?", output={"type": "object"}, retries=1), Any)


async def forms(reg: Registry) -> None:
    """Forms that are no classes can be asked for, too; checkers have no type for their values."""
    for form in (City | None, Literal["a", "b"]):
        assert_type(await reg.generate("a/x", "Where?", output=form), Any)
    await reg.generate("a/x", "Where?", output=Literal["a", "b"])
    await reg.generate("a/x", "Where?", output=City | None, with_response=True)
    reg.stream("a/x", "Where?", output=City | None).partials()
    assert_type(reg.run("a/x", "Where?", tools=[], output=Annotated[int, Meta(ge=1)]).value, Any)


async def beside(reg: Registry) -> None:
    """The response comes beside the value."""
    typed = await reg.generate("a/x", "Where?", output=list[City], with_response=True, repairs=2)
    assert_type(typed, Typed[list[City]])
    assert_type(typed.value, list[City])
    assert_type(typed.response, Response)
    assert_type(typed.usage, Usage)
    assert_type(await reg.generate("a/x", "Where?", output=City, with_response=False), City)


async def partials(reg: Registry) -> None:
    """A typed stream yields chunks, or the value as far as it has come."""
    assert_type(reg.stream("a/x", "Where?"), Stream)
    async with reg.stream("a/x", "Where?", output=City, retries=0) as stream:
        assert_type(stream, TypedStream[City])
        async for partial in stream.partials():
            assert_type(partial, Partial[City])
            assert_type(partial.data, Any)
            assert_type(partial.growing, tuple[str | int, ...] | None)
            assert_type(partial.value, City | None)
    assert_type(stream.value, City)
    assert_type(await reg.stream("a/x", "Where?", output=City).collect(), Response)
    async for chunk in reg.stream("a/x", "Where?", output=list[City]):
        assert_type(chunk, Chunk)


async def typed_runs(reg: Registry) -> None:
    """A run ends in a value."""
    async with reg.run("a/x", "Where?", tools=[plain], output=City, repairs=2, max_turns=3) as run:
        assert_type(run, TypedRun[City])
        async for event in run:
            assert_type(event, RunEvent)
    assert_type(run.value, City)
    assert_type(run.response, Response)
    assert_type(await reg.run("a/x", "Where?", tools=[], output=list[int]).collect(), Response)
    assert_type(await reg.run("a/x", "Why?", tools=plain).collect(), Response)
    assert_type(await reg.run("a/x", "Why?", tools=WebSearch()).collect(), Response)


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
