"""Scripts of a FakeProvider: what they may hold, and the items that each becomes."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal, TypeAlias, TypeGuard, get_args

import msgspec
from msgspec.structs import replace

from aiollm.images import ImageRequest, ImageResult, PartialImage
from aiollm.providers.hosted_calls import FAKE
from aiollm.retrieval import Embeddings, EmbedRequest, Ranking, RerankRequest
from aiollm.testing.fake_retrieval import checked_result
from aiollm.testing.faults import Pause
from aiollm.testing.gate import Gate
from aiollm.types import (
    Finish,
    ImageChunk,
    ImagePart,
    Item,
    OpaquePart,
    PartChunk,
    ProviderData,
    Target,
    TextDelta,
    ToolCallDelta,
)


class Never(Enum):
    """A step that never ends."""

    NEVER = "never"


NEVER: Final = Never.NEVER
"""Wait until the stream is closed: a hanging provider."""

PIXEL: Final = ImagePart(
    binascii.a2b_base64(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
    ),
    mime="image/png",
)
"""A PNG of one red pixel, the answer to an image call without a script."""


class ToolCallStep(msgspec.Struct, frozen=True):
    """A complete tool call in a script; without an `index` it gets the next free one.

    Without an `id` that is `call_` and the index, which repeats in every answer.
    """

    name: str
    arguments: str = "{}"
    index: int | None = None
    id: str = ""


Said: TypeAlias = str | Item | ImagePart | ToolCallStep
Drawn: TypeAlias = ImagePart | PartialImage | ImageResult
Found: TypeAlias = Embeddings | Ranking
Shown: TypeAlias = Said | Drawn | Found
Wait: TypeAlias = Gate | Pause | Literal[Never.NEVER]
ScriptStep: TypeAlias = Shown | Exception | Wait | Sequence[Said | Drawn]
"""Text, an item, an image, vectors or scores, an error to raise, a wait, or several items at once.

An empty list is a sign of life without output.
"""
Script: TypeAlias = (
    Shown | Exception | Wait | Sequence[ScriptStep] | Callable[[Target, Any], "Script"]
)
"""One answer: a single step, several of them, or a choice by target and request."""

Played: TypeAlias = Exception | Wait | Sequence[Item | PartialImage | ImageResult | Found]
"""A step as it is played: a batch, an error or a wait."""

_SINGLE: Final = (
    str,
    *get_args(Item),
    ToolCallStep,
    ImagePart,
    PartialImage,
    ImageResult,
    Embeddings,
    Ranking,
    Exception,
    Gate,
    Pause,
    Never,
)
"""What may be one step."""


def steps_of(script: object) -> Sequence[ScriptStep]:
    """Return the steps of an answer. Raises: TypeError for what cannot be one."""
    steps = _several(script)
    for step in steps:
        for each in _several(step):
            if not isinstance(each, _SINGLE):
                raise TypeError(
                    f"a script has a step of type {type(each).__name__}: steps are texts, chunks, "
                    "tool_call(...), errors, and waits such as a Gate"
                )
    return steps


def checked(script: Script) -> Script:
    """Return the script, checked unless it is a function. Raises: TypeError."""
    if not is_function(script):
        steps_of(script)
    return script


def is_function(script: object) -> TypeGuard[Callable[[Target, Any], Script]]:
    """Return whether a script is chosen by a function; a class is none."""
    return callable(script) and not isinstance(script, type)


def greeting(_: Target, request: Any) -> Script:
    """Return the answer of a provider without any script."""
    match request:
        case ImageRequest():
            return [PIXEL] * request.count
        case EmbedRequest() | RerankRequest():
            return ()
        case _:
            return "Hello"


def said(script: Sequence[ScriptStep]) -> Iterator[Played]:
    """Play the steps, then `Finish` unless the script has one."""
    reason: Literal["stop", "tool_calls"] = "stop"
    indices: set[int] = set()
    for step in script:
        if isinstance(step, Exception | Gate | Pause | Never):
            yield step
            continue
        batch = [_item(each, indices) for each in _several(step)]
        if any(isinstance(item, ToolCallDelta) for item in batch):
            reason = "tool_calls"
        yield batch
        if any(isinstance(item, Finish) for item in batch):
            return
    yield [Finish(reason, reason)]


def drawn(script: Sequence[ScriptStep]) -> Iterator[Played]:
    """Play the drafts, then the result: the one in the script, or one made of its images."""
    result = ImageResult(())
    for step in script:
        if isinstance(step, Exception | Gate | Pause | Never):
            yield step
            continue
        drafts: list[PartialImage] = []
        for each in _several(step):
            match each:
                case PartialImage():
                    drafts.append(each)
                case ImagePart():
                    result = replace(result, images=(*result.images, each))
                case ImageResult():
                    result = each
                case _:
                    raise AssertionError(f"an image call cannot yield {each!r:.80}")
        if drafts or not step:
            yield drafts
    if not result.images:
        raise AssertionError("the script of an image call has no image")
    yield [result, Finish("stop", "stop", result.usage)]


def found(make: Callable[[], Found], script: Sequence[ScriptStep]) -> Iterator[Played]:
    """Play the errors and waits, then the result: the one in the script, or else what is made."""
    own = make()
    result = own
    for step in script:
        if isinstance(step, Exception | Gate | Pause | Never):
            yield step
        elif isinstance(step, type(own)):
            result = step
        elif step != []:
            wanted = f"a call for a result of type {type(own).__name__} cannot yield {step!r:.80}"
            raise AssertionError(f"{wanted}: script it with a function of the request")
    yield [checked_result(result, own), Finish("stop", "stop", result.usage)]


def _several(step: Any) -> Sequence[Any]:
    is_one = isinstance(step, str | bytes) or not isinstance(step, Sequence)
    return (step,) if is_one else step


def _item(said: Shown, indices: set[int]) -> Item:
    """Return the item of a step; `indices` are those of the answer's tool calls so far."""
    match said:
        case str():
            return TextDelta(said)
        case ToolCallStep():
            return _call(said, indices)
        case ToolCallDelta(index):
            indices.add(index)
            return said
        case ImagePart():
            return ImageChunk(said)
        case PartialImage() | ImageResult():
            raise AssertionError(f"only image calls can yield {type(said).__name__}")
        case Embeddings() | Ranking():
            raise AssertionError(f"a chat cannot yield {type(said).__name__}")
        case _:
            return said


def _call(step: ToolCallStep, indices: set[int]) -> ToolCallDelta:
    index = max(indices, default=-1) + 1 if step.index is None else step.index
    if index in indices:
        raise AssertionError(f"two tool calls of the script have the index {index}: leave it out")
    indices.add(index)
    return ToolCallDelta(index, step.id or f"call_{index}", step.name, step.arguments)


def tool_call(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    index: int | None = None,
    id: str = "",  # noqa: A002 - the field's name
) -> ToolCallStep:
    """Return a complete tool call as a step of a script; its id is `id`, or `call_` and its index.

    `index`: its place among the calls of the answer; None means the next free one. A script in
    which two calls have the same index fails with AssertionError.
    """
    return ToolCallStep(name, msgspec.json.encode(arguments or {}).decode(), index, id)


def hosted_call(
    name: str, arguments: Mapping[str, Any] | None = None, result: Any = None
) -> PartChunk:
    """Return what the provider ran itself, as an item of a script; `hosted_calls` reads it."""
    call = {"name": name, "arguments": dict(arguments or {}), "result": result}
    return PartChunk(OpaquePart(ProviderData("fake", {FAKE: call})))
