"""The parts of Anthropic's JSON that are read; every field may be missing or null."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import astuple

from aiollm._user_types.density import SHORT
from aiollm._wire.lenient import load
from aiollm.providers.billing import Billing
from aiollm.providers.token_counts import Tokens
from aiollm.types import Usage


class _PlainDelta(msgspec.Struct, gc=False):
    type: Literal["text_delta"]
    text: Annotated[str, msgspec.Meta(min_length=1)]


class Plain(msgspec.Struct, gc=False):
    """An event with only text; its types make decoding any other event fail.

    This saves checks in Python for the events that make up most of a stream.
    """

    delta: _PlainDelta


class Details(msgspec.Struct, gc=False):
    """A breakdown of the output tokens."""

    thinking_tokens: Tokens = None


class Written(msgspec.Struct, gc=False):
    """Tokens written to the cache, by how long they are kept."""

    ephemeral_5m_input_tokens: Tokens = None
    ephemeral_1h_input_tokens: Tokens = None


class Hosted(msgspec.Struct, gc=False):
    """Calls of Anthropic's own tools."""

    web_search_requests: Tokens = None


class Pass(msgspec.Struct, gc=False):
    """One of the passes that an answer took."""

    type: str | None = None
    input_tokens: Tokens = None
    cache_creation_input_tokens: Tokens = None
    cache_read_input_tokens: Tokens = None
    output_tokens: Tokens = None
    cache_creation: Written | None = None


class Counts(Billing, gc=False):
    """Tokens so far."""

    input_tokens: Tokens = None
    cache_creation_input_tokens: Tokens = None
    cache_read_input_tokens: Tokens = None
    output_tokens: Tokens = None
    output_tokens_details: Details | None = None
    cache_creation: Written | None = None
    service_tier: str | None = None
    speed: str | None = None
    server_tool_use: Hosted | None = None
    iterations: list[Pass] | None = None

    def update(self, later: Counts) -> None:
        """Replace earlier counts by later ones, but those of the input by no zeros alone.

        Some servers of this wire count the input only at the start, and end with zeros (2026).
        """
        given = astuple(later)
        input_too = self.input_tokens is None or any(given[:_INPUTS])
        if not input_too and given[_PLAIN_COUNTS:] == _NO_MORE:  # as at the end of most answers
            self.output_tokens = self.output_tokens if given[3] is None else given[3]
            self.output_tokens_details = given[4] or self.output_tokens_details
            return
        for place, (name, count) in enumerate(zip(self.__struct_fields__, given, strict=True)):
            if count is not None and (input_too or place >= _INPUTS):
                setattr(self, name, count)

    def written(self) -> int:
        """Return the input tokens that were written to the cache, of which this has the parts."""
        parts = self.cache_creation or Written()
        return (parts.ephemeral_5m_input_tokens or 0) + (parts.ephemeral_1h_input_tokens or 0)


_INPUTS = 3
"""How many of the fields, the first, count input tokens."""

_PLAIN_COUNTS = 5
"""How many of the fields, the first, most answers end with."""


class Message(msgspec.Struct, gc=False):
    """The start of a message, or a complete one."""

    type: str | None = None
    id: str | None = None
    content: str | list[Any] | None = None
    stop_reason: str | None = None
    stop_details: dict[str, Any] | None = None
    container: Any = None
    usage: Counts | None = None
    error: msgspec.Raw = msgspec.Raw()


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
    content_block: msgspec.Raw = msgspec.Raw(b"null")
    delta: Delta | None = None
    usage: Counts | None = None
    error: msgspec.Raw = msgspec.Raw()


def block_of(raw: msgspec.Raw) -> Any:
    """Decode a content block, but not a long input of a call, which becomes text."""
    try:
        return _decode(raw) if len(raw) <= SHORT else _large_block(raw)
    except (ValueError, RecursionError):  # invalid UTF-8, which nobody looks for in what is raw
        return load(bytes(raw))


def _large_block(raw: msgspec.Raw) -> Any:
    fields = _FIELDS.decode(raw)
    if bytes(fields.get("type", _EMPTY)) != b'"tool_use"':
        return _decode(raw)
    return {
        key: each if key == "input" and len(each) > SHORT else _decode(each)
        for key, each in fields.items()
    }


_EMPTY = msgspec.Raw()
_decode = msgspec.json.Decoder().decode
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
decode_plain: Callable[[bytes], Plain] = msgspec.json.Decoder(Plain).decode
EVENT = msgspec.json.Decoder(Event)
MESSAGE = msgspec.json.Decoder(Message)
_NO_COUNTS = Counts()
_NO_MORE = astuple(_NO_COUNTS)[_PLAIN_COUNTS:]


def usage_of(counts: Counts | None, *, final: bool) -> Usage:
    """Return the usage; it is exact after a proper end."""
    if counts is None or counts == _NO_COUNTS:
        return Usage()
    given, written, cached, made, details, *more = astuple(counts)
    if written is None and more[0] is not None:
        written = counts.written()
    usage = Usage(
        # Unlike others, Anthropic does not include cache reads and writes in the input.
        (given or 0) + (written or 0) + (cached or 0),
        made or 0,
        cached or 0,
        (details and details.thinking_tokens) or 0,
        "exact" if final and given is not None and made is not None else "partial",
        written or 0,
    )
    return usage if more == _NO_MORE_COUNTS else _with_more(usage, counts)


_NO_MORE_COUNTS = [*_NO_MORE]


def _with_more(usage: Usage, counts: Counts) -> Usage:
    """Add what only prices depend on."""
    parts = counts.cache_creation
    usage = msgspec.structs.replace(
        usage,
        # The start may tell of a pass whose counts the end leaves out.
        cache_write_1h_tokens=min(
            (parts and parts.ephemeral_1h_input_tokens) or 0, usage.cache_write_tokens
        ),
        # The fast mode has prices of its own.
        tier="fast" if counts.speed == "fast" else counts.service_tier or "",
        billed_usd=counts.usd(),
        web_search_requests=(counts.server_tool_use or _NONE_HOSTED).web_search_requests or 0,
    )
    return _with_summaries(usage, counts.iterations) if counts.iterations else usage


def _with_summaries(usage: Usage, passes: Iterable[Pass]) -> Usage:
    """Add the passes that wrote a summary of the conversation: the counts lack them (2026)."""
    for each in passes:
        if each.type == "compaction":
            written, cached = (
                each.cache_creation_input_tokens or 0,
                each.cache_read_input_tokens or 0,
            )
            hour = (each.cache_creation or Written()).ephemeral_1h_input_tokens or 0
            usage = msgspec.structs.replace(
                usage,
                input_tokens=usage.input_tokens + (each.input_tokens or 0) + written + cached,
                output_tokens=usage.output_tokens + (each.output_tokens or 0),
                cached_tokens=usage.cached_tokens + cached,
                cache_write_tokens=usage.cache_write_tokens + written,
                cache_write_1h_tokens=usage.cache_write_1h_tokens + hour,
            )
    return usage


_NONE_HOSTED = Hosted()
