"""The parts of OpenAI's Responses JSON that are read; every field may be missing or null."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from aiollm.providers.billing import Billing
from aiollm.providers.finish_words import is_broken
from aiollm.providers.token_counts import Tokens
from aiollm.types import Usage

FAMILY = "openai-responses"


class Delta(msgspec.Struct, gc=False):
    """The most frequent event: text of the current item."""

    delta: str
    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    output_index: int = -1


class Written(msgspec.Struct, gc=False):
    """Tokens written to a cache, by how long they are kept there."""

    ttl_12h_tokens: Tokens = None


class Details(msgspec.Struct, gc=False):
    """A breakdown of token counts; Perplexity has Anthropic's names for the cache (2026)."""

    cached_tokens: Tokens = None
    cache_write_tokens: Tokens = None
    reasoning_tokens: Tokens = None
    cache_write_tokens_details: Written | None = None
    cache_read_input_tokens: Tokens = None
    cache_creation_input_tokens: Tokens = None
    audio_tokens: Tokens = None
    image_tokens: Tokens = None


class Counts(Billing, gc=False):
    """The tokens of a response."""

    input_tokens: Tokens = None
    output_tokens: Tokens = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None


class Reason(msgspec.Struct, gc=False):
    """Why a response is incomplete."""

    reason: str | None = None


class Searches(msgspec.Struct, gc=False):
    """The searches of the web that OpenAI bills."""

    num_requests: int | None = None


class ToolUsage(msgspec.Struct, gc=False):
    """What the host's own tools used, beside tokens."""

    web_search: Searches | None = None


class Response(msgspec.Struct, gc=False):
    """A response, complete or at the end of a stream."""

    id: str | None = None
    status: str | None = None
    error: msgspec.Raw = msgspec.Raw()
    incomplete_details: Reason | None = None
    output: list[dict[str, Any]] | None = None
    usage: Counts | None = None
    service_tier: str | None = None
    tool_usage: ToolUsage | None = None


class Event(msgspec.Struct, gc=False):
    """Any event; `type` determines which fields are set."""

    type: str = ""
    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    summary_index: int | None = None
    delta: Any = None
    text: str | None = None
    refusal: str | None = None
    arguments: Any = None
    input: Any = None
    item: dict[str, Any] | None = None
    part: dict[str, Any] | None = None
    annotation: dict[str, Any] | None = None
    response: Response | None = None
    error: msgspec.Raw = msgspec.Raw()

    def is_done(self) -> bool:
        """Return whether the event has a complete value."""
        return self.type.endswith(".done")


DELTA = msgspec.json.Decoder(Delta)
EVENT = msgspec.json.Decoder(Event)
RESPONSE = msgspec.json.Decoder(Response)


_SERVERS_CALLS = ("xs_call_",)
"""How the ids of calls begin that a server ran itself: xAI's search of X (2026)."""


_STATUSES = ("completed", "incomplete", "failed", "cancelled", "queued", "in_progress")


def status_of(response: Response, event: str = "") -> str:
    """Return a response's status, "completed" if it has none; `event` is what its event says.

    A status that OpenAI does not have counts for less than the event, or, without one, than output
    that is complete: relays write `complete` (pydantic-ai's recordings, seen in November 2026).
    """
    status = response.status or event or "completed"
    if status in _STATUSES or is_broken(status):
        return status
    return event or ("completed" if _is_complete(response.output) else status)


def _is_complete(items: list[dict[str, Any]] | None) -> bool:
    return bool(items) and all(
        item.get("status") not in ("incomplete", *_STATUSES[2:]) for item in items or ()
    )


def ran_on_server(item: dict[str, Any]) -> bool:
    """Return whether the server ran a call itself, so that nobody else may."""
    id_ = item.get("call_id")
    return isinstance(id_, str) and id_.startswith(_SERVERS_CALLS)


def usage_of(response: Response) -> Usage:
    """Return the usage of a response."""
    counts = response.usage
    if counts is None or counts == Counts():
        return Usage()
    given = (counts.input_tokens, counts.output_tokens)
    read = counts.input_tokens_details or _NO_DETAILS
    made = counts.output_tokens_details or _NO_DETAILS
    written = read.cache_write_tokens_details
    return Usage(
        given[0] or 0,
        given[1] or 0,
        read.cached_tokens or read.cache_read_input_tokens or 0,
        made.reasoning_tokens or 0,
        "partial" if None in given else "exact",
        read.cache_write_tokens or read.cache_creation_input_tokens or 0,
        (written and written.ttl_12h_tokens) or 0,
        read.image_tokens or 0,
        read.audio_tokens or 0,
        made.image_tokens or 0,
        response.service_tier or "",
        counts.usd(),
        _searches(response.tool_usage),
    )


def _searches(usage: ToolUsage | None) -> int:
    return (usage and usage.web_search and usage.web_search.num_requests) or 0


_NO_DETAILS = Details()
