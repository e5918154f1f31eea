"""Answers as they are kept, and back as the items of a stream."""

from __future__ import annotations

from itertools import chain, count

import msgspec

from aiollm._serialization import to_json
from aiollm._streams.accumulator import Accumulator
from aiollm.types import (
    CitationChunk,
    Finish,
    FinishReason,
    ImageChunk,
    ImagePart,
    Item,
    Message,
    Notice,
    Part,
    PartChunk,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    RefusalPart,
    Request,
    Response,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolCallPart,
    Usage,
    UsageUpdate,
)

_WHOLE = ("stop", "tool_calls")
"""How an answer ends that lacks nothing; `other` may mean anything."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of a response: all that does not belong to the one call that made it."""

    message: Message
    finish_reason: FinishReason
    raw_finish_reason: str = ""
    usage: Usage = Usage()
    warnings: tuple[str, ...] = ()


_DECODER = msgspec.json.Decoder(Answer)


def answer_of(response: Response, request: Request) -> Answer | None:
    """Return what is kept of a response, None unless it is the complete answer to the request.

    An answer that was cut at a limit is complete if the limit is the request's own.
    """
    reason = response.finish_reason
    if reason is None or not response.message.parts:
        return None
    if reason not in _WHOLE and not (reason == "length" and request.max_output_tokens is not None):
        return None
    return Answer(
        response.message, reason, response.raw_finish_reason, response.usage, response.warnings
    )


def encoded(answer: Answer) -> bytes | None:
    """Return an answer as it is written, None for one that would not be the same when read."""
    try:
        data = to_json(answer)
        return data if _adds_up(items_of(data), answer) else None
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def items_of(data: bytes) -> list[Item]:
    """Return a kept answer as the items of a stream. Raises: ValueError, RecursionError."""
    answer = _DECODER.decode(data)
    begin: list[Item] = [*map(Notice, answer.warnings), UsageUpdate(answer.usage)]
    end = Finish(answer.finish_reason, answer.raw_finish_reason, answer.usage)
    parts = answer.message.parts
    items = [*begin, *chain.from_iterable(map(_chunks, parts, count())), end]
    if _adds_up(items, answer):
        return items
    # Parts in an order, or calls in a state, that no deltas of their kind bring about.
    return [*begin, *map(PartChunk, parts), end]


def _chunks(part: Part, index: int) -> list[Item]:
    match part:
        case TextPart(citations=()):
            return [TextDelta(part.text, part.provider_data)]
        case TextPart(provider_data=None):
            return [TextDelta(part.text), *map(CitationChunk, part.citations)]
        case ReasoningPart():
            return [ReasoningDelta(part.text, part.provider_data)]
        case RefusalPart():
            return [RefusalDelta(part.text)]
        case ToolCallPart():
            about = part.id, part.name, part.arguments, part.provider_data, part.custom
            return [ToolCallDelta(index, *about)]
        case ImagePart():
            return [ImageChunk(part)]
        case _:
            return [PartChunk(part)]


def _adds_up(items: list[Item], answer: Answer) -> bool:
    """Return whether a stream of these items gives the answer."""
    total = Accumulator()
    total.add(items)
    response = total.response()
    return (
        response.message == answer.message
        and response.finish_reason == answer.finish_reason
        and response.usage == answer.usage
        and response.warnings == answer.warnings
    )
