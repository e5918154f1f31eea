"""The parts of chat completions' JSON that are read; every field may be missing or null."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec.structs import astuple

from aiollm._wire.batch import add_texts
from aiollm.providers.billing import BILLING, Billing
from aiollm.providers.token_counts import Tokens
from aiollm.types import Certainty, Item, ReasoningDelta, TextDelta, Usage

_EmptyText: TypeAlias = Literal[""] | None
_EmptyList: TypeAlias = tuple[()] | None
_Zero: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0)] | None


class _Rest(msgspec.Struct, gc=False):
    refusal: _EmptyText = None
    extra_content: None = None
    reasoning_details: _EmptyList = None
    thinking_blocks: _EmptyList = None
    function_call: None = None
    annotations: _EmptyList = None
    images: _EmptyList = None
    audio: None = None
    reasoning_text: _EmptyText = None


class OneText(_Rest, gc=False):
    """A delta with one text, whose name a subclass defines."""

    text: str | None = None
    tool_calls: _EmptyList = None


class _Content(OneText, gc=False):
    text: str | None = msgspec.field(name="content", default=None)
    reasoning_content: _EmptyText = None
    reasoning: _EmptyText = None


class _ReasoningContent(OneText, gc=False):
    text: str | None = msgspec.field(name="reasoning_content", default=None)
    content: _EmptyText = None
    reasoning: _EmptyText = None


class _Reasoning(OneText, gc=False):
    text: str | None = msgspec.field(name="reasoning", default=None)
    content: _EmptyText = None
    reasoning_content: _EmptyText = None


class _Arguments(msgspec.Struct, gc=False):
    arguments: str
    name: _EmptyText = None


class Fragment(msgspec.Struct, gc=False):
    """A piece of the arguments of a call that has already begun."""

    index: int
    function: _Arguments
    id: _EmptyText = None
    custom: None = None


class OneFragment(_Rest, gc=False, kw_only=True):
    """A delta with one piece of arguments."""

    tool_calls: tuple[Fragment]
    content: _EmptyText = None
    reasoning_content: _EmptyText = None
    reasoning: _EmptyText = None


D_co = TypeVar("D_co", covariant=True)


class _PlainChoice(msgspec.Struct, Generic[D_co], gc=False):
    delta: D_co
    index: _Zero = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    error: None = None
    usage: None = None


class Plain(msgspec.Struct, Generic[D_co], gc=False):
    """A chunk with just one piece, or the end of the answer; decoding any other chunk fails.

    This avoids checks in Python for the chunks that make up most of a stream.
    """

    choices: tuple[_PlainChoice[D_co]]
    usage: None = None
    x_groq: None = None
    error: None = None
    citations: None = None
    search_results: None = None


class _UsualDelta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    text: str | None = msgspec.field(name="content", default=None)
    role: str | None = None
    refusal: _EmptyText = None
    reasoning_content: _EmptyText = None
    reasoning: _EmptyText = None
    tool_calls: _EmptyList = None


class _UsualChoice(msgspec.Struct, gc=False, kw_only=True, forbid_unknown_fields=True):
    index: _Zero = None
    delta: _UsualDelta
    logprobs: None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None


class Usual(msgspec.Struct, gc=False):
    """The same as `Plain[_Content]` for choices with no other fields than most services send.

    There are half as many fields to look for, and to leave empty.
    """

    choices: tuple[_UsualChoice]
    usage: None = None
    x_groq: None = None
    error: None = None
    citations: None = None
    search_results: None = None


class _TextDelta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(min_length=1)] = msgspec.field(name="content")
    role: str | None = None
    refusal: _EmptyText = None
    reasoning_content: _EmptyText = None
    reasoning: _EmptyText = None
    tool_calls: _EmptyList = None


class _TextChoice(msgspec.Struct, gc=False, kw_only=True, forbid_unknown_fields=True):
    index: _Zero = None
    delta: _TextDelta
    logprobs: None = None
    finish_reason: None = None


class Text(msgspec.Struct, gc=False):
    """The same as `Usual` for a chunk that has text, in the middle of an answer."""

    choices: tuple[_TextChoice]
    usage: None = None
    x_groq: None = None
    error: None = None
    citations: None = None
    search_results: None = None


class Lane(NamedTuple):
    """How to decode a chunk that continues the last one; without `decode` there is no fast way."""

    decode: Callable[[bytes], Plain[OneText] | Usual] | None
    kind: type[TextDelta | ReasoningDelta]


class Function(msgspec.Struct, gc=False):
    """The function that a call names, and its arguments or a piece of them."""

    name: str | None = None
    arguments: msgspec.Raw = msgspec.Raw()


class Custom(msgspec.Struct, gc=False):
    """A call of a custom tool, whose input is free text."""

    name: str | None = None
    input: Any = None


class Call(msgspec.Struct, gc=False):
    """A call or a piece of one; some servers fill the field that it lacks with empty objects."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    custom: Custom | None = None
    extra_content: dict[str, Any] | None = None


class Delta(msgspec.Struct, gc=False):
    """The content of a chunk; a complete message has the same fields."""

    content: str | list[Any] | dict[str, Any] | None = None
    reasoning_content: str | list[Any] | dict[str, Any] | None = None
    reasoning: Any = None
    reasoning_text: Any = None
    reasoning_details: list[Any] | None = None
    thinking_blocks: list[Any] | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    function_call: Function | None = None
    annotations: list[Any] | None = None
    images: list[Any] | None = None
    audio: Any = None
    extra_content: dict[str, Any] | None = None


class Written(msgspec.Struct, gc=False):
    """Tokens written to a cache, by how long they are kept there."""

    ttl_12h_tokens: Tokens = None


class Details(msgspec.Struct, gc=False):
    """A breakdown of token counts, with the names that gateways have for cached ones."""

    reasoning_tokens: Tokens = None
    cached_tokens: Tokens = None
    cache_write_tokens: Tokens = None
    cache_creation_tokens: Tokens = None
    cache_creation_input_tokens: Tokens = None
    # Of other kinds than text, and what is written to a cache for half a day (OpenAI, 2026).
    audio_tokens: Tokens = None
    image_tokens: Tokens = None
    cache_write_tokens_details: Written | None = None


class Counts(Billing, gc=False):
    """Tokens so far, with the names that services have for cached ones (November 2026).

    `usage_of` reads the fields in this order.
    """

    prompt_tokens: Tokens = None
    completion_tokens: Tokens = None
    total_tokens: Tokens = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    # Read from a cache, by DeepSeek, Mistral, Moonshot, Inception, gateways to Anthropic, Bedrock.
    prompt_cache_hit_tokens: Tokens = None
    num_cached_tokens: Tokens = None
    cached_tokens: Tokens = None
    cached_input_tokens: Tokens = None
    cache_read_input_tokens: Tokens = None
    cache_read: Tokens = msgspec.field(name="cacheReadInputTokens", default=None)
    # Written to a cache.
    cache_creation_input_tokens: Tokens = None
    cache_write: Tokens = msgspec.field(name="cacheWriteInputTokens", default=None)
    # Under other names, by Perplexity and SGLang, and by relays of other wires.
    reasoning_tokens: Tokens = None
    input_tokens: Tokens = None
    output_tokens: Tokens = None


_OTHERS = 3 + BILLING
"""How many of the fields above, the last, are other names of those at the top, or about money."""

_NO_OTHERS = [*astuple(Counts())[5:]]
"""What comes behind the first five fields where a service has none of the others."""

_CACHE = slice(1, 5)
"""Of a breakdown, the fields that are about a cache."""

_WRITTEN = 6
"""Of the fields above that hold one count under several names, the first that counts writes."""


class Choice(msgspec.Struct, gc=False):
    """One answer, or a piece of it."""

    index: int | None = None
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    """What the provider behind OpenRouter said, whose word may be worse than `finish_reason`."""
    error: msgspec.Raw = msgspec.Raw()
    """What failed behind a gateway (OpenRouter and others, 2026)."""
    usage: Counts | None = None
    """Where Moonshot counts in a stream (2026)."""


class Groq(msgspec.Struct, gc=False):
    """The object in which Groq sends its counts."""

    usage: Counts | None = None
    error: msgspec.Raw = msgspec.Raw()


class Chunk(msgspec.Struct, gc=False):
    """A chunk of a stream, or a complete completion."""

    id: str | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Counts | None = None
    x_groq: Groq | None = None
    error: msgspec.Raw = msgspec.Raw()
    citations: list[Any] | None = None
    search_results: list[Any] | None = None
    service_tier: str | None = None


def counts_in(chunk: Chunk) -> Counts | None:
    """Return the counts in a chunk of a service that does not put them into `usage`."""
    counts = None if chunk.x_groq is None else chunk.x_groq.usage
    for choice in chunk.choices or ():
        counts = counts or choice.usage
    return counts


CHUNK = msgspec.json.Decoder(Chunk)
NO_COUNTS = Counts()
FRAGMENT = msgspec.json.Decoder(Plain[OneFragment])

NO_LANE = Lane(None, TextDelta)
USUAL = Lane(msgspec.json.Decoder(Usual).decode, TextDelta)
"""The lane to begin with; where a choice has other fields, it is that of `content`."""
_decode_text: Callable[[bytes], Text] = msgspec.json.Decoder(Text).decode
LANES: dict[str, Lane] = {
    "content": Lane(msgspec.json.Decoder(Plain[_Content]).decode, TextDelta),
    "reasoning_content": Lane(
        msgspec.json.Decoder(Plain[_ReasoningContent]).decode, ReasoningDelta
    ),
    "reasoning": Lane(msgspec.json.Decoder(Plain[_Reasoning]).decode, ReasoningDelta),
}
"""Lanes by the field whose text they read."""

RUN = 16
"""Frames of one read above which the first ones are probably texts."""


def add_leading_texts(frames: Sequence[bytes], out: list[Item]) -> int:
    """Add the texts of the first chunks, up to one that has more; return how many they are."""
    texts: list[str] = []
    try:
        # Chunks that are freed one by one take less time than a list of them.
        for frame in frames:
            texts.append(_decode_text(frame).choices[0].delta.text)  # noqa: PERF401
    except (ValueError, RecursionError):
        pass
    add_texts(texts, out)
    return len(texts)


def usage_of(counts: Counts, tier: str | None) -> Usage:
    """Return the usage in a chunk's counts; `tier` is what served the request."""
    prompt, completion, total, read, made, *others = astuple(counts)
    if prompt is None:
        prompt = counts.input_tokens
    if completion is None:
        completion = counts.output_tokens
    certainty: Certainty = "exact"
    if prompt is None or completion is None:
        certainty, prompt, completion = "partial", prompt or 0, completion or 0
    reasoning = (made and made.reasoning_tokens) or counts.reasoning_tokens or 0
    # xAI does not include reasoning in the completion tokens; only the total shows that.
    if reasoning and total == prompt + completion + reasoning:
        completion += reasoning
    if read is made is None and not tier and others == _NO_OTHERS:
        return Usage(prompt, completion, 0, reasoning, certainty)
    cached, written = _cache(read, others[:-_OTHERS])
    read, made = read or _NO_DETAILS, made or _NO_DETAILS
    return Usage(
        prompt,
        completion,
        cached,
        reasoning,
        certainty,
        written,
        (read.cache_write_tokens_details or _NO_WRITES).ttl_12h_tokens or 0,
        read.image_tokens or 0,
        read.audio_tokens or 0,
        made.image_tokens or 0,
        tier or "",
        counts.usd(),
    )


_NO_DETAILS, _NO_WRITES = Details(), Written()


def _cache(read: Details | None, others: list[int | None]) -> tuple[int, int]:
    """Return the tokens read from a cache and those written, whichever name they have."""
    details = astuple(read)[_CACHE] if read is not None else ()
    cached = (*details[:1], *others[:_WRITTEN])
    written = (*details[1:], *others[_WRITTEN:])
    return next(filter(None, cached), 0), next(filter(None, written), 0)
