"""The parts of Anthropic's JSON that are read; every field may be missing or null."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from aiollm.types import Usage

_Tokens: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**53)] | None


class _PlainDelta(msgspec.Struct, gc=False):
    type: Literal["text_delta"]
    text: str


class Plain(msgspec.Struct, gc=False):
    """An event with only text; its types make decoding any other event fail.

    This saves checks in Python for the events that make up most of a stream.
    """

    delta: _PlainDelta


class Details(msgspec.Struct, gc=False):
    """A breakdown of the output tokens."""

    thinking_tokens: _Tokens = None


class Written(msgspec.Struct, gc=False):
    """Tokens written to the cache, by how long they are kept."""

    ephemeral_5m_input_tokens: _Tokens = None
    ephemeral_1h_input_tokens: _Tokens = None


class Counts(msgspec.Struct, gc=False):
    """Tokens so far."""

    input_tokens: _Tokens = None
    output_tokens: _Tokens = None
    cache_creation_input_tokens: _Tokens = None
    cache_read_input_tokens: _Tokens = None
    cache_creation: Written | None = None
    output_tokens_details: Details | None = None

    def update(self, later: Counts) -> None:
        """Replace earlier counts by later ones, but those of the input by no zeros alone.

        Some servers of this wire count the input only at the start, and end with zeros (2026).
        """
        input_too = self.input_tokens is None or later.has_input()
        for name in self.__struct_fields__ if input_too else _OUTPUT:
            if (count := getattr(later, name)) is not None:
                setattr(self, name, count)

    def has_input(self) -> bool:
        """Return whether any token of the input is counted."""
        return bool(
            self.input_tokens or self.cache_creation_input_tokens or self.cache_read_input_tokens
        )

    def written(self) -> int:
        """Return the input tokens that were written to the cache."""
        parts = self.cache_creation
        if self.cache_creation_input_tokens is not None or parts is None:
            return self.cache_creation_input_tokens or 0
        return (parts.ephemeral_5m_input_tokens or 0) + (parts.ephemeral_1h_input_tokens or 0)


_OUTPUT = ("output_tokens", "output_tokens_details")


class Message(msgspec.Struct, gc=False):
    """The start of a message, or a complete one."""

    type: str | None = None
    content: str | list[Any] | None = None
    stop_reason: str | None = None
    stop_details: dict[str, Any] | None = None
    container: Any = None
    usage: Counts | None = None
    error: Any = None


class Delta(msgspec.Struct, gc=False):
    """The addition of an event to a block or to the message."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: Any = None
    stop_reason: str | None = None
    stop_details: dict[str, Any] | None = None
    container: Any = None


class Event(msgspec.Struct, gc=False):
    """Any event."""

    type: str | None = None
    index: int | None = None
    message: Message | None = None
    content_block: dict[str, Any] | None = None
    delta: Delta | None = None
    usage: Counts | None = None
    error: Any = None


PLAIN = msgspec.json.Decoder(Plain)
EVENT = msgspec.json.Decoder(Event)
MESSAGE = msgspec.json.Decoder(Message)
_NO_COUNTS = Counts()


def usage_of(counts: Counts | None, *, final: bool) -> Usage:
    """Return the usage; it is exact after a proper end."""
    if counts is None or counts == _NO_COUNTS:
        return Usage()
    cached = counts.cache_read_input_tokens or 0
    written = counts.written()
    details = counts.output_tokens_details
    whole = final and counts.input_tokens is not None and counts.output_tokens is not None
    return Usage(
        # Unlike others, Anthropic does not include cache reads and writes in the input.
        (counts.input_tokens or 0) + written + cached,
        counts.output_tokens or 0,
        cached,
        (details and details.thinking_tokens) or 0,
        "exact" if whole else "partial",
        written,
    )
