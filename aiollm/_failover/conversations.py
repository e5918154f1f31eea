"""Long conversations of a registry: what is known of their beginnings, and calls that use it."""

from __future__ import annotations

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from operator import is_
from typing import Any

import msgspec

from aiollm._failover.openers import Batches, ChatOpener, SharedResources, close_now
from aiollm._http.streaming import stream
from aiollm._validation import BRINGING, any_of, check
from aiollm._wire.conversations import IMAGE, Conversation, Ongoing, anew, ongoing
from aiollm._wire.lenient import encode
from aiollm.errors import LLMError
from aiollm.provider import HttpRequest, Provider, Reply, Transport
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Message,
    Part,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Request,
    Target,
    TextPart,
    Timeouts,
    ToolCallPart,
    ToolResultPart,
)

REACH = 64
"""How many messages a turn may add for its conversation to be found."""

LIMIT = 128 << 20
"""Roughly how many bytes of encodings are kept; the conversation unused longest goes first."""

STRIDE = 300
"""Messages that are encoded in one step of the loop, in about a millisecond."""

_MESSAGE = 200
"""Bytes that a message takes besides its text and files: its place, its ids, its JSON."""


class _Entry(msgspec.Struct, frozen=True):
    """A conversation, its last message, and about how many bytes its encodings take.

    `size` is that of one encoding, `weight` that of one for each wire used before.
    """

    conversation: Conversation
    last: weakref.ref[Message]
    size: int
    weight: int

    def begins(self, messages: Sequence[Message]) -> bool:
        """Return whether messages go on from here."""
        own = self.conversation.messages
        is_long = len(own) < len(messages) and messages[len(own)] is self.last()
        return is_long and all(map(is_, own, messages))


class Conversations:
    """The long conversations of a registry, each for as long as its last message exists."""

    __slots__ = ("__weakref__", "_entries", "_limit", "weight")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self.weight: int = 0
        """About how many bytes are kept."""

    def __len__(self) -> int:
        return len(self._entries)

    def opener(
        self,
        request: Request,
        check_extra: Callable[[Mapping[str, Any]], object],
        providers: Mapping[Target, Provider],
        timeouts: Mapping[Target, Timeouts],
        resources: SharedResources,
    ) -> ChatOpener:
        """Return the opener for a request, which is checked from where it is new on.

        Raises: ConfigError.
        """
        brings = any_of(BRINGING, request.extra)  # its calls may be elsewhere
        found = None if brings else self._found(request.messages)
        check(request, 0 if found is None else found.conversation.cut)
        if request.extra:
            check_extra(request.extra)
        if brings or not request.messages:
            return ChatOpener(request, providers, timeouts, resources)
        conversation = self._remembered(request.messages, found)
        asked = ongoing(request, conversation)
        return ConversationOpener(asked, providers, timeouts, resources)

    def _found(self, messages: Sequence[Message]) -> _Entry | None:
        for message in messages[: -REACH - 1 : -1]:
            entry = self._entries.get(id(message))
            if entry is not None and entry.begins(messages):
                return entry
        return None

    def _remembered(self, messages: tuple[Message, ...], found: _Entry | None) -> Conversation:
        before, known, size = None, 0, 0
        if found is not None:
            before, size = found.conversation, found.size
            known = len(before.messages) + 1
            self.drop(id(messages[known - 1]))
        is_same = before is not None and known == len(messages)  # the same once more
        conversation = before if before and is_same else Conversation(messages, before)
        size += sum(map(_weight, messages[known:]))
        self._keep(messages[-1], conversation, size)
        return conversation

    def _keep(self, last: Message, conversation: Conversation, size: int) -> None:
        weight = size * max(1, len(conversation.wires))
        if weight > self._limit:
            return
        key, self_ = id(last), weakref.ref(self)

        def gone(_: object) -> None:
            if (table := self_()) is not None:
                table.drop(key)

        self.drop(key)
        self._entries[key] = _Entry(conversation, weakref.ref(last, gone), size, weight)
        self.weight += weight
        while self.weight > self._limit:
            # In one step: a message may be collected, and its conversation dropped, at any time.
            _, oldest = self._entries.popitem(last=False)
            self.weight -= oldest.weight

    def drop(self, key: int) -> None:
        """Forget the conversation with that last message."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.weight -= entry.weight


def _weight(message: Message) -> int:
    """Return about how many bytes the encoding of a message takes."""
    return _MESSAGE + sum(map(_size, message.parts))


def _size(part: Part) -> int:
    if type(part) is TextPart and part.provider_data is None:  # as most are
        return _length(part.text)
    size = _state(getattr(part, "provider_data", None))
    match part:
        case TextPart(text) | ToolCallPart(arguments=text) | ReasoningPart(text):
            return size + _length(text)
        case RefusalPart(text):
            return _length(text)
        case ToolResultPart(content=content):
            return sum(map(_size, content))
        case ImagePart() | DocumentPart() | AudioPart():
            return size + len(part.data) * 4 // 3 + len(part.url)
        case _:
            return size


def _state(state: ProviderData | None) -> int:
    """Return the size of a provider's state; what is not JSON cannot be sent, and has 0."""
    if state is None:
        return 0
    try:
        return len(encode(state.data, lambda _: None))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return 0


def _length(text: str) -> int:
    return len(text) if text.isascii() else 3 * len(text)


class ConversationOpener(ChatOpener):
    """Opens the targets of one call of a conversation, whose beginning may be encoded already."""

    __slots__ = ()

    request: Ongoing

    @property
    def asked(self) -> Request:
        """The request as the caller made it, for events, but with the key of its session."""
        own, key = self.request.asked, self.request.cache_key
        return own if own.cache_key == key else msgspec.structs.replace(own, cache_key=key)

    @staticmethod
    def has_images(request: Request) -> bool:
        """Return whether a message has an image, or the result of a tool."""
        assert isinstance(request, Ongoing)
        return request.conversation.holds(IMAGE, request.messages)

    def _run(self, provider: Provider, target: Target, request: Request) -> Batches:
        chat = provider.operations.get("chat")
        assert isinstance(request, Ongoing)
        if chat and chat.adapter:
            return super()._run(provider, target, anew(request))
        conversation, given = self.request.conversation, self.request.messages
        messages = conversation.fitted(target, given, request.messages)
        if messages is not given:
            request = request.having(messages)
        transport: Transport = self._resources
        if not provider.is_ordinary:
            transport = self._resources.transport_of(provider)
        if conversation.holds(IMAGE, messages):
            transport = _KeepingFiles(transport, conversation, target)
        places = conversation.steps(target, STRIDE)
        if places:
            return self._in_steps(provider, transport, target, request, places)
        return stream(provider, transport, target, request, self.timeouts[target])

    async def _in_steps(
        self,
        provider: Provider,
        transport: Transport,
        target: Target,
        request: Ongoing,
        places: Sequence[tuple[int, int]],
    ) -> Batches:
        """Encode a beginning step by step where much of it is new, so that no step takes long."""
        for cut, end in places:
            try:
                provider.codec.encode(provider, target, request.part(cut, end))
            except LLMError:
                break  # the request itself says what is wrong
            if all(each.until < cut for each in request.conversation.wires.values()):
                break  # this codec keeps nothing of it
            await asyncio.sleep(0)
        batches = stream(provider, transport, target, request, self.timeouts[target])
        try:
            async for batch in batches:
                yield batch
        finally:
            close_now(batches)


class _KeepingFiles(Transport):
    """Sends the requests of a conversation, whose files are encoded once and not in every turn."""

    def __init__(self, transport: Transport, conversation: Conversation, target: Target) -> None:
        self._transport = transport
        self._conversation = conversation
        self._target = target

    def send(self, request: HttpRequest, connect: float | None) -> Coroutine[Any, Any, Reply]:
        """Send a request. Raises: as the transport does."""
        if request.body is not None:
            self._conversation.keep_files(self._target, request.body)
        return self._transport.send(request, connect)
