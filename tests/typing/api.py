"""How callers use the library, for mypy and pyright to agree on; nothing here is run."""

from __future__ import annotations

from typing import Literal, assert_never, assert_type

import msgspec

from aiollm import (
    AnyTool,
    Attempt,
    CachePoint,
    Chunk,
    CitationChunk,
    CodeExecution,
    ConfigError,
    DocumentPart,
    FailoverError,
    FileSearch,
    Finish,
    HostedCall,
    HostedTool,
    ImageChunk,
    ImagePart,
    ImageRequest,
    ImageResult,
    ImageStream,
    Limits,
    LLMError,
    Message,
    OpaquePart,
    Part,
    PartChunk,
    Plan,
    ReasoningDelta,
    RefusalDelta,
    Registry,
    Request,
    RequestFields,
    Response,
    Restart,
    Status,
    Step,
    StreamInterrupted,
    StreamOptions,
    Target,
    TextDelta,
    TextPart,
    Timeouts,
    TokenCount,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolResultPart,
    Usage,
    UserLocation,
    Verdict,
    WebSearch,
    assistant,
    classify,
    from_json,
    hosted_calls,
    system,
    to_json,
    tool_results,
    user,
)
from aiollm.testing import (
    NEVER,
    FakeProvider,
    FaultServer,
    MakeRegistry,
    ReplayServer,
    StartFaultServer,
    StartReplayServer,
    chat,
    tool_call,
)


class City(msgspec.Struct):
    """A type to ask for."""

    name: str


async def calls(reg: Registry) -> None:
    """A spec is a string or a plan; a prompt is a string, messages or a request."""
    plan = assert_type(reg.parse("a/x,b/y|c/z"), Plan)
    assert_type(plan.targets, tuple[Target, ...])
    assert_type(plan.steps, tuple[Step, ...])
    in_code = Plan([[Target("a", "x"), Target("b", "y")], Step((Target("c", "z"),), "spread", [2])])
    assert_type(in_code.steps[0].mode, Literal["race", "spread"])
    request = Request((user("What is it?", ImagePart(b"...")),), max_output_tokens=10)
    assert_type(await reg.generate(plan, request), Response)
    assert_type(await reg.generate("a/x", "Where?", output=City), City)
    assert_type(await reg.generate("a/x", [user("Where?")], output=list[int]), list[int])
    cached = Request([system("Rules", CachePoint()), user("Why?")], prompt_cache="1h")
    assert_type(await reg.generate("a/x&b/y", cached, session="chat-42"), Response)
    assert_type(await reg.models("a"), tuple[str, ...])
    counted = assert_type(
        await reg.count_tokens("a/x", request, system="s", output=City), TokenCount
    )
    assert_type(counted.certainty, Literal["exact", "estimated"])
    reg.register("box", "ollama+http://box", limits=Limits(rpm=60, max_concurrency="auto"))
    reg.limit("box", Limits(tpm=1e5))
    reg.limit(Target("box", "m"), Limits(max_concurrency=2))
    assert_type(reg.provider("box").limits_of("m"), tuple[Limits, Limits])


async def keywords(reg: Registry) -> None:
    """The fields of a request are keywords of each call, beside its options."""
    by_hand, extra = Tool("by_hand"), {"*": {"top_k": 5}, "box/m": {"top_k": 1}}
    reg.stream("a/x", "Why?", temperature=0, stop="END", tools=by_hand, output=City, timeouts=None)
    assert_type(await reg.generate("a/x", "Why?", seed=1, tools=[by_hand], extra=extra), Response)
    assert_type(await reg.generate("a/x", Request("Why?"), output=City, top_p=1.0), City)
    reg.run("a/x", "Why?", tools=[by_hand], output=City, reasoning="low", retries=0)
    fields: RequestFields = {"temperature": 0.2, "stop": ["a", "b"], "extra": extra}
    options: StreamOptions = {"max_output_tokens": 5, "max_wait": 1.0}
    reg.stream("a/x", "Why?", **fields, retries=0)
    reg.stream("a/x", "Why?", **options)


def requests() -> None:
    """What is passed may be wider than what is kept."""
    by_hand = Tool("by_hand")
    assert_type(Request("Why?").messages, tuple[Message, ...])
    assert_type(Request("Why?", stop="END").stop, tuple[str, ...])
    assert_type(Request(user("Why?"), tools=by_hand).tools, tuple[AnyTool, ...])
    hosted: list[AnyTool] = [
        WebSearch(3, "example.com", location=UserLocation("Oslo")),
        CodeExecution(),
    ]
    Request("Why?", tools=[by_hand, *hosted, FileSearch("vs_1"), HostedTool({"type": "x"})])
    Request("Why?", tools=hosted, tool_choice=["auto", "web_search"])
    assert_type(hosted_calls(Response(assistant("Blue."))), tuple[HostedCall, ...])
    Request([user("Name a colour."), assistant("Blue.")], temperature=0.2, tools=[by_hand])
    Request((system("One word."), user("Why?", ImagePart(b"..."))), reasoning="high")
    history = [user("Why?")]
    Request(history)
    assert_type(user("What is it?", ImagePart(b"...")), Message)
    assert_type(Message("user", ["a", ImagePart(b"...")]).parts, tuple[Part, ...])
    assert_type(
        ToolResultPart("1", "sunny").content,
        tuple[TextPart | ImagePart | DocumentPart | OpaquePart | CachePoint, ...],
    )
    assert_type(tool_results(ToolResultPart("1", ["sunny", ImagePart(b"...")])), Message)
    image = ImageRequest("a boat", size="16:9", images=[ImagePart(b"...")])
    assert_type(image.images, tuple[ImagePart, ...])
    assert_type(from_json(to_json(history), list[Message]), list[Message])


async def images(reg: Registry) -> None:
    """Images come from a prompt or a request."""
    assert_type(await reg.generate_images("a/x", "a boat"), ImageResult)
    assert_type(await reg.generate_images("a/x", "a boat", retries=0, stagger=1.0), ImageResult)
    async with reg.stream_images("a/x", ImageRequest("a boat", partial_images=2)) as stream:
        assert_type(stream, ImageStream)


async def streams(reg: Registry) -> None:
    """A stream yields chunks; each has text."""
    async for chunk in reg.stream("a/x", "Why?", timeouts=Timeouts(idle=5)):
        assert_type(chunk, Chunk)
        assert_type(chunk.text, str)
    async with reg.stream("a/x", "Why?", on_interrupt="restart") as stream:
        assert_type([told(chunk) async for chunk in stream], list[str])
        assert_type(stream.response, Response)
        assert_type(stream.partial.usage, Usage)
        assert_type(stream.attempts, tuple[Attempt, ...])
        assert_type(stream.target, Target | None)
        assert_type(stream.response.tool_calls, tuple[ToolCallPart, ...])


def told(chunk: Chunk) -> str:
    """A match over all chunks is exhaustive."""
    match chunk:
        case TextDelta(text=text):
            return text
        case ReasoningDelta(reasoning=text) | RefusalDelta(refusal=text):
            return text
        case ToolCallDelta(name=name, arguments=arguments):
            return name + arguments
        case ImageChunk() | CitationChunk() | PartChunk():
            return "[...]"
        case Status(message=text) | Restart(reason=text):
            return text
        case Finish(reason=reason, usage=usage):
            return f"{reason} {usage.output_tokens}"
        case _:
            assert_never(chunk)


async def errors(reg: Registry) -> None:
    """Errors are told apart by class; a bad spec is a ValueError, too."""
    try:
        await reg.generate("a/x", "Why?")
    except StreamInterrupted as error:
        assert_type(error.partial, Response | None)
    except ConfigError as error:
        assert_type(error.message, str)
    except FailoverError as error:
        assert_type(error.exceptions, tuple[LLMError, ...])
        assert_type(error.attempts, tuple[Attempt, ...])
    except LLMError as error:
        assert_type(error.target, Target | None)
        assert_type(classify(error), Verdict)


async def fixtures(
    fake_provider: type[FakeProvider],
    fault_server: StartFaultServer,
    replay_server: StartReplayServer,
    registry: MakeRegistry,
) -> None:
    """A test says what its fixtures are."""
    fake = fake_provider(tool_call("weather"), NEVER, ["a", Finish("stop")], default="Hello")
    assert_type(fault_server(chat("Hello"), read_bodies=False), FaultServer)
    assert_type(replay_server("hello.json", pieces=1), ReplayServer)
    async with registry({"a": fake}, retries=1) as reg:
        assert_type(reg, Registry)
