"""Build well-formed streams: SSE events, NDJSON lines, the OpenAI chat wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from aiollm.testing.faults import Answer, Pause, Piece
from aiollm.testing.gate import Gate

EventData: TypeAlias = str | bytes | Mapping[str, Any]
"""The data of an event: text, or a value that becomes JSON."""


def _data(value: EventData) -> bytes:
    match value:
        case str():
            return value.encode()
        case bytes():
            return value
        case _:
            return msgspec.json.encode(value)


def _event(item: EventData | tuple[str, EventData]) -> bytes:
    match item:
        case (str() as name, data):
            return b"event: %b\ndata: %b\n\n" % (name.encode(), _data(data))
        case data:
            return b"data: %b\n\n" % _data(data)


def sse(*items: EventData | tuple[str, EventData] | Gate | Pause) -> Answer:
    """Return a stream of server-sent events, each in one HTTP chunk.

    An item is an event's data, a pair of name and data, or a gate or pause before the next event.
    """
    pieces = tuple(item if isinstance(item, Gate | Pause) else _event(item) for item in items)
    return Answer(200, {"content-type": "text/event-stream"}, pieces, "chunked")


def ndjson(*items: EventData | Gate | Pause) -> Answer:
    """Return a stream of JSON lines, each in one HTTP chunk; gates and pauses work as in `sse`."""
    pieces = tuple(
        item if isinstance(item, Gate | Pause) else _data(item) + b"\n" for item in items
    )
    return Answer(200, {"content-type": "application/x-ndjson"}, pieces, "chunked")


def chat(
    *items: str | Mapping[str, Any] | Gate | Pause,
    finish: str | None = "stop",
    usage: tuple[int, int] | None = (3, 2),
    done: bool = True,
    error: Mapping[str, Any] | None = None,
    model: str = "fake-model",
) -> Answer:
    """Return an OpenAI chat stream: a chunk per item, finish, usage (input, output), [DONE].

    An item is a piece of text, a raw delta such as `{"tool_calls": [...]}`, or a gate or pause
    before the next. `finish=None` leaves out the finish, `done=False` the `[DONE]`. `error` is an
    error event that ends the stream after the items, as when a provider fails in mid-stream.
    """
    pieces: list[Piece] = [_chunk(model, {"role": "assistant", "content": ""})]
    for item in items:
        match item:
            case str():
                pieces.append(_chunk(model, {"content": item}))
            case Mapping():
                pieces.append(_chunk(model, item))
            case _:
                pieces.append(item)
    if error is not None:
        pieces.append(_event({"error": dict(error)}))
    else:
        pieces += _ending(model, finish, usage, done=done)
    return Answer(200, {"content-type": "text/event-stream"}, tuple(pieces), "chunked")


def _ending(
    model: str, finish: str | None, usage: tuple[int, int] | None, *, done: bool
) -> Iterator[bytes]:
    if finish is not None:
        yield _chunk(model, {}, finish)
    if usage is not None and done:
        prompt, completion = usage
        counts = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        yield _event(_frame(model) | {"choices": [], "usage": counts})
    if done:
        yield _event("[DONE]")


def _frame(model: str) -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk"}
    return head | {"created": 1700000000, "model": model}


def _chunk(model: str, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": dict(delta), "finish_reason": finish}
    return _event(_frame(model) | {"choices": [choice]})
