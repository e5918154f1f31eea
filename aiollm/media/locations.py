"""Find the images in a request, and replace them while sharing all unchanged parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from aiollm._wire.conversations import gathered
from aiollm.types import ImagePart, Message, Request, TextPart, ToolResultPart

Key = tuple[int, int, int]
"""Index of the message, of the part, and of the item in a tool result (otherwise -1)."""


class Location(msgspec.Struct, frozen=True):
    """One image of a request."""

    key: Key
    image: ImagePart


def find(request: Request) -> list[Location]:
    """Return all images in order, including those in tool results."""
    return gathered(request, _images)


def _images(number: int, message: Message) -> Iterator[Location]:
    for index, part in enumerate(message.parts):
        if isinstance(part, ImagePart):
            yield Location((number, index, -1), part)
        elif isinstance(part, ToolResultPart):
            for item, piece in enumerate(part.content):
                if isinstance(piece, ImagePart):
                    yield Location((number, index, item), piece)


def rebuild(request: Request, changes: Mapping[Key, ImagePart | TextPart]) -> Request:
    """Return the request with these parts replaced, or the same object without changes."""
    if not changes:
        return request
    messages = list(request.messages)
    copies: dict[int, list[Any]] = {}
    for (number, index, item), piece in changes.items():
        if number not in copies:
            copies[number] = list(messages[number].parts)
        parts = copies[number]
        parts[index] = piece if item < 0 else _with(parts[index], item, piece)
    for number, parts in copies.items():
        messages[number] = replace(messages[number], parts=tuple(parts))
    return replace(request, messages=tuple(messages))


def _with(result: ToolResultPart, item: int, piece: ImagePart | TextPart) -> ToolResultPart:
    content = (*result.content[:item], piece, *result.content[item + 1 :])
    return replace(result, content=content)
