"""Conversations that go on: what is known of their beginnings, so that no turn encodes them again.

Messages never change, so a beginning is the same if its messages are the same objects. It ends
before an answer, and after a result or a user's words, all of which every wire is sure to send:
nothing that comes later joins, moves or changes what was encoded by then.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from copy import copy
from itertools import compress, count
from operator import is_, is_not
from typing import Any, TypeVar

import msgspec

from aiollm._wire.body import Blob, Body, JsonItems
from aiollm.types import (
    AudioPart,
    CachePoint,
    DocumentPart,
    ImagePart,
    Message,
    Part,
    ProviderData,
    Request,
    Target,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

T = TypeVar("T")

MOST_WIRES = 4
"""The wires of a conversation whose encodings are kept: it may use a few models in turn."""

IMAGE, FILE, POINT, MARK = 1, 2, 4, 8
"""What a message may hold that is not just text: images, other files, cache points, and state of a
provider with a mark of its cache."""

_KINDS = {ImagePart: IMAGE, DocumentPart: FILE, AudioPart: FILE, CachePoint: POINT}
_FILE_PARTS = (ImagePart, DocumentPart, AudioPart)


def kinds_of(message: Message) -> int:
    """Return what a message holds, as a sum of the numbers above."""
    found = 0
    for part in message.parts:
        found |= _KINDS.get(type(part), 0) | _own_mark(part)
        if type(part) is ToolResultPart:
            for each in part.content:
                found |= _KINDS.get(type(each), 0) | _own_mark(each)
    return found


def _own_mark(part: Part) -> int:
    state = getattr(part, "provider_data", None)
    if not isinstance(state, ProviderData):
        return 0
    inner = state.data.get("block")
    is_marked = "cache_control" in (inner if isinstance(inner, dict) else ())
    return MARK if is_marked or "cache_control" in state.data else 0


def is_cut(messages: Sequence[Message], at: int) -> bool:
    """Return whether a beginning may end before the message at a place."""
    if at < 1 or messages[at].role != "assistant":
        return False
    return _is_sent(messages[at].parts, (ToolCallPart,)) and (
        messages[at - 1].role == "tool"
        or (messages[at - 1].role == "user" and _is_sent(messages[at - 1].parts, _FILE_PARTS))
    )


def _is_sent(parts: Iterable[Part], kinds: tuple[type, ...]) -> bool:
    return any(
        bool(part.text.strip()) if type(part) is TextPart else type(part) in kinds for part in parts
    )


class Encoded(msgspec.Struct, frozen=True):
    """The messages from `begin` to `until` as one wire has them, and its encoder as it was then.

    `messages` are those up to `until` if they were made for a target from the conversation's own.
    """

    begin: int
    until: int
    items: JsonItems
    encoder: Any
    warnings: tuple[str, ...] = ()
    messages: tuple[Message, ...] | None = None


class Conversation:
    """What is known of a conversation: what its first `cut` messages hold, and how they are sent.

    `messages` are those of the last request without its last: whoever dropped that is done.
    `unmarked` is the first place from which a beginning holds no marks of caches.
    """

    __slots__ = (
        "_files",
        "_fitted",
        "_reached",
        "cut",
        "kinds",
        "lists",
        "messages",
        "sums",
        "unmarked",
        "wires",
    )

    cut: int
    kinds: int
    unmarked: int
    wires: dict[Hashable, Encoded]
    sums: dict[Callable[[Message], float], tuple[int, float]]
    lists: dict[Callable[[int, Message], Any], tuple[int, tuple[Any, ...]]]
    _fitted: dict[Target, dict[int, Message]]
    _files: dict[Target, dict[int, Blob]]
    _reached: dict[Target, int]

    def __init__(self, messages: tuple[Message, ...], before: Conversation | None = None) -> None:
        """Take checked messages, which begin with those of the conversation `before`."""
        if before is None:
            self.cut = self.kinds = self.unmarked = 0
            self.wires, self.sums, self.lists = {}, {}, {}
            self._fitted, self._files, self._reached = {}, {}, {}
        else:
            for name in self.__slots__:
                setattr(self, name, getattr(before, name))
        self.messages = messages[:-1]
        for at in range(len(messages) - 1, self.cut, -1):
            if is_cut(messages, at):
                self._extend(messages, at)
                break

    def _extend(self, messages: Sequence[Message], until: int) -> None:
        start, self.cut = self.cut, until
        for at in range(start, until):
            found = kinds_of(messages[at])
            self.kinds |= found
            if found & (POINT | MARK):
                self.unmarked = next(
                    (place for place in range(at + 1, until + 1) if is_cut(messages, place)), until
                )

    def steps(self, target: Target, stride: int) -> list[tuple[int, int]]:
        """Return where to cut what is new of the beginning, so that no piece has many messages.

        Each place comes with the next one: the messages up to there are a request, too. What is
        before the cut counts as encoded for the target from now on.
        """
        start = max(self._reached.get(target, 0), self.unmarked)
        _keep(self._reached, target, self.cut)
        places = []
        for at in range(start + stride, self.cut, stride):
            cut = self._cut_from(at)
            if cut < self.cut:
                places.append((cut, self._cut_from(cut + 1)))
        return places

    def _cut_from(self, start: int) -> int:
        places = (at for at in range(start, self.cut) if is_cut(self.messages, at))
        return next(places, self.cut)

    def holds(self, kind: int, messages: Sequence[Message]) -> bool:
        """Return whether messages that go on from the beginning hold anything of a kind."""
        return bool(self.kinds & kind) or any(
            kinds_of(each) & kind for each in messages[self.cut :]
        )

    def fitted(
        self, target: Target, given: Sequence[Message], made: tuple[Message, ...]
    ) -> tuple[Message, ...]:
        """Return messages made for a target, with last turn's objects in place of equal ones."""
        if made is given:
            return made
        known, found, out = self._fitted.get(target, {}), {}, [*made]
        for at in compress(count(), map(is_not, given, made)):
            old = known.get(at)
            out[at] = found[at] = old if old is not None and old == made[at] else made[at]
        _keep(self._fitted, target, found)
        return tuple(out)

    def keep_files(self, target: Target, body: Body) -> None:
        """Let the files of a body be encoded only once; those of the last turn are already."""
        known, found, segments = self._files.get(target, {}), dict[int, Blob](), list[Any]()
        for each in body.segments:
            if isinstance(each, Blob):
                blob = found[id(each.data)] = known.get(id(each.data), each)
                blob.keeps = True
                segments.append(blob)
            else:
                segments.append(each)
        body.segments = tuple(segments)
        _keep(self._files, target, found)

    def known(self, key: Hashable, begin: int, request: Ongoing) -> Encoded | None:
        """Return what a wire has of the beginning of a request."""
        found = self.wires.get(key)
        if found is None or found.begin != begin or found.until > self.cut:
            return None
        if found.messages is None and request.as_given:
            return found
        own = self.messages[: found.until] if found.messages is None else found.messages
        return found if all(map(is_, own, request.messages)) else None

    def keep(self, key: Hashable, encoded: Encoded) -> None:
        """Keep what a wire has."""
        _keep(self.wires, key, encoded)


def _keep(kept: dict[Any, Any], key: Hashable, value: object) -> None:
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > MOST_WIRES:
        del kept[next(iter(kept))]


class Ongoing(Request, frozen=True, kw_only=True):
    """A request of a conversation; `asked` is the caller's, whose messages others may replace."""

    conversation: Conversation
    asked: Request
    known: tuple[Message, ...]
    """The messages that go on from the beginning; a codec may have put others in their place."""

    @property
    def goes_on(self) -> bool:
        """Whether its messages still go on from the beginning of the conversation."""
        return self.messages is self.known

    @property
    def as_given(self) -> bool:
        """Whether its messages are the caller's."""
        return self.messages is self.asked.messages

    def part(self, cut: int, end: int) -> Ongoing:
        """Return the request of the first `end` messages, whose beginning ends at `cut`."""
        messages, asked = self.messages[:end], self.asked
        if self.as_given:
            asked = msgspec.structs.replace(asked, messages=messages)
        shorter = copy(self.conversation)
        shorter.cut = cut
        return msgspec.structs.replace(self, conversation=shorter, asked=asked).having(messages)

    def having(self, messages: tuple[Message, ...]) -> Ongoing:
        """Return the request with messages that go on from the same beginning."""
        return msgspec.structs.replace(self, messages=messages, known=messages)


def ongoing(request: Request, conversation: Conversation) -> Ongoing:
    """Return a request as one of a conversation."""
    return Ongoing(
        **_fields(request), conversation=conversation, asked=request, known=request.messages
    )


def anew(request: Request) -> Request:
    """Return a request without what is known of its conversation."""
    return Request(**_fields(request))


def _fields(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in Request.__struct_fields__}


def total(request: Request, measure: Callable[[Message], float]) -> float:
    """Return the sum of a measure of all messages; those of the beginning are measured once."""
    if not isinstance(request, Ongoing) or not request.as_given:
        return sum(map(measure, request.messages))
    conversation, messages = request.conversation, request.messages
    until, known = conversation.sums.get(measure, (0, 0.0))
    if until > conversation.cut:
        return sum(map(measure, messages))
    known += sum(map(measure, messages[until : conversation.cut]))
    conversation.sums[measure] = conversation.cut, known
    return known + sum(map(measure, messages[conversation.cut :]))


def gathered(request: Request, find: Callable[[int, Message], Iterable[T]]) -> list[T]:
    """Return what `find` finds in all messages; those of the beginning are searched once."""
    messages = request.messages
    if not isinstance(request, Ongoing) or not request.as_given:
        return [each for pair in enumerate(messages) for each in find(*pair)]
    conversation = request.conversation
    cut = conversation.cut
    until, known = conversation.lists.get(find, (0, ()))
    if until > cut:
        until, known = 0, ()
    new = [each for at in range(until, cut) for each in find(at, messages[at])]
    known = (*known, *new)
    conversation.lists[find] = cut, known
    return [*known, *(each for at in range(cut, len(messages)) for each in find(at, messages[at]))]


def to_look_at(request: Request, kind: int) -> Sequence[Message]:
    """Return the messages that may hold something of a kind."""
    if type(request) is Ongoing and request.goes_on and not request.conversation.kinds & kind:
        return request.messages[request.conversation.cut :]
    return request.messages
