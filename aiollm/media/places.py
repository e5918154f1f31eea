"""Where images stand in a request, and how a changed request shares all it can with the old."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from aiollm.types import ImagePart, Message, Request, TextPart, ToolResultPart

_HOLDERS = (ImagePart, ToolResultPart)

Key = tuple[int, int, int]
"""Index of the message, of the part, and of the item in a tool result (else -1)."""


class Place(msgspec.Struct, frozen=True):
    """One image of a request."""

    key: Key
    image: ImagePart


def find(request: Request) -> list[Place]:
    """Return all images, those in tool results included, in order."""
    return [
        Place((number, index, item), image)
        for number, message in enumerate(request.messages)
        for index, part in enumerate(message.parts)
        if isinstance(part, _HOLDERS)
        for item, image in _images(part)
    ]


def rebuild(request: Request, changes: Mapping[Key, ImagePart | TextPart]) -> Request:
    """Return the request with other parts in some places, or itself when there are none."""
    if not changes:
        return request
    messages = list(request.messages)
    for number in {number for number, _, _ in changes}:
        messages[number] = _message(messages[number], number, changes)
    return replace(request, messages=tuple(messages))


def _images(part: ImagePart | ToolResultPart) -> Iterator[tuple[int, ImagePart]]:
    match part:
        case ImagePart():
            yield -1, part
        case ToolResultPart(content=content):
            yield from (
                (item, image) for item, image in enumerate(content) if isinstance(image, ImagePart)
            )


def _message(message: Message, number: int, changes: Mapping[Key, Any]) -> Message:
    parts = [
        _part(part, number, index, changes) if isinstance(part, _HOLDERS) else part
        for index, part in enumerate(message.parts)
    ]
    return replace(message, parts=tuple(parts))


def _part(part: Any, number: int, index: int, changes: Mapping[Key, Any]) -> Any:
    if isinstance(part, ImagePart):
        return changes.get((number, index, -1), part)
    content = _content(part.content, number, index, changes)
    return part if content == part.content else replace(part, content=content)


def _content(
    content: Sequence[Any], number: int, index: int, changes: Mapping[Key, Any]
) -> tuple[Any, ...]:
    return tuple(changes.get((number, index, item), piece) for item, piece in enumerate(content))
