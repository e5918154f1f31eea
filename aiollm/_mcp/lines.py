"""Lines of JSON-RPC: cut from a stream within bounds, and looked at before they are decoded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

import msgspec

from aiollm._user_types.density import MESSAGE, Weight
from aiollm._wire.lenient import MAX_MENDED, encode, load_weighed

T = TypeVar("T")

MAX_ITEMS = 1000
"""Pieces of content in a result, or tools in a list, at most."""

MAX_STRUCTURE = 1024 * 1024
"""Bytes of a message without its texts and files: each becomes Python objects, several times over,
and a megabyte of them holds the event loop for some 100 ms."""

_AT_ONCE = 16 * 1024
"""Bytes up to which a line that comes at once may hold anything."""

_EDGE = 256
"""Bytes of each end of a line that is too long: one of them holds its id."""

_FIRST = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d{1,15})\s*,')
_LAST = re.compile(rb'[,{]\s*"id"\s*:\s*(\d{1,15})\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z')
"""The id of a message at its start and at its end: further inside it may be someone else's."""

CANCELLED = "notifications/cancelled"
CHANGED = "notifications/tools/list_changed"
HEARD = frozenset(
    {
        CHANGED,
        CANCELLED,
        "notifications/subscriptions/acknowledged",
    }
)
"""Notifications that are passed on. Each of the others, such as logs, would cost a task."""


class TooLong(msgspec.Struct, frozen=True):
    """A line that was left out; `id` is that of the request it answers, None where it is hidden.

    `excess`: what it holds too much of, where its size alone is not the reason.
    """

    size: int
    id: int | None
    excess: str = ""


class Lines:
    """Cuts bytes into lines without copying them again and again, and keeps no more than `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pieces: list[bytes] = []
        self._size = 0
        self._head = self._tail = b""
        self._weight = Weight(MESSAGE)

    def feed(self, data: bytes) -> Iterator[bytes | TooLong]:
        """Yield the lines that are complete; empty ones are left out."""
        *complete, rest = data.split(b"\n")
        for piece in complete:
            if not self._size:
                if piece and len(piece) <= min(self._most, _AT_ONCE):
                    yield piece
                    continue
                if not piece:
                    continue
            self._keep(piece)
            yield self._taken()
        self._keep(rest)

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._most and not self._weight.add(piece):
            if piece:
                self._pieces.append(piece)
            return
        if not self._head:
            self._head = b"".join([*self._pieces, piece])[:_EDGE]
            self._pieces.clear()
        self._tail = (self._tail + piece[-_EDGE:])[-_EDGE:]

    def _taken(self) -> bytes | TooLong:
        size, head, tail = self._size, self._head, self._tail
        excess = self._weight.excess
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._size, self._head, self._tail = 0, b"", b""
        self._weight = Weight(MESSAGE)
        return TooLong(size, _id_in(head, tail), excess) if head else line


def _id_in(head: bytes, tail: bytes) -> int | None:
    """Return the id of a message by its ends, None where neither has it."""
    found = _FIRST.match(head) or _LAST.search(tail)
    return int(found[1]) if found else None


class _Resource(msgspec.Struct):
    text: msgspec.Raw = msgspec.Raw()
    blob: msgspec.Raw = msgspec.Raw()


class _Item(msgspec.Struct):
    text: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()
    resource: _Resource | None = None


class _Content(msgspec.Struct):
    content: list[_Item] = []


class _Listed(msgspec.Struct):
    content: list[msgspec.Raw] = []
    tools: list[msgspec.Raw] = []


class _Head(msgspec.Struct):
    id: int | str | None = None
    method: str = ""
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_HEAD = msgspec.json.Decoder(_Head)


class Seen(msgspec.Struct, frozen=True):
    """What a message is: whether it is passed on, or why not, and the request it answers."""

    is_message: bool = False
    method: str = ""
    id: int | str | None = None
    refusal: str = ""


def seen(line: bytes) -> Seen:
    """Look at a message without making objects of all that it holds."""
    if not line.lstrip().startswith(b"{"):  # what is printed for people is found out at once
        return Seen()
    try:
        head = _HEAD.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Seen()
    has_answer = bool(bytes(head.result) or bytes(head.error))
    if not head.method and not has_answer:
        return Seen()
    return Seen(is_message=True, method=head.method, id=head.id, refusal=_refusal(line, head))


def readable(line: bytes) -> tuple[bytes, Seen]:
    """Return a message as it can be read, and what it is.

    Servers cut texts in the middle of a character, and Python's write NaN: either is JSON to them.
    """
    found = seen(line)
    if found.is_message or not line.lstrip().startswith(b"{"):
        return line, found
    if len(line) > MAX_MENDED:
        answered = _id_in(line[:_EDGE], line[-_EDGE:])
        reason = f"it has more than {MAX_MENDED} bytes, and is not plain JSON"
        return line, Seen(is_message=answered is not None, id=answered, refusal=reason)
    value = load_weighed(line)
    made = b""
    with suppress(ValueError, RecursionError):
        made = encode(value)
    again = seen(made)
    return (made, again) if again.is_message else (line, found)


def _refusal(line: bytes, head: _Head) -> str:
    result = bytes(head.result)
    if len(line) <= 4096:
        return ""
    listed = _probe(result, _Listed)
    count = max(len(listed.content), len(listed.tools)) if listed else 0
    if count > MAX_ITEMS:
        return f"it has {count} items, more than {MAX_ITEMS}"
    size = len(line) - (_texts(result) if len(line) > MAX_STRUCTURE else 0)
    if size > MAX_STRUCTURE:
        return f"it has {size} bytes beside its texts and files, more than {MAX_STRUCTURE}"
    return ""


def _texts(result: bytes) -> int:
    """Return how many bytes of a result are texts and files."""
    found = _probe(result, _Content)
    total = 0
    for item in found.content if found else ():
        resource = item.resource or _Resource()
        for raw in (item.text, item.data, resource.text, resource.blob):
            text = bytes(raw)
            total += len(text) if text.startswith(b'"') else 0
    return total


def _probe(result: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(result, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
