"""Gemini, the wire: chunks as small structs, and functions that read their odd parts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import msgspec

from aiollm._wire.base64_files import from_text
from aiollm._wire.lenient import load, load_weighed, mend
from aiollm.errors import ProtocolError
from aiollm.providers.decoding import check_parts, mime_in
from aiollm.providers.token_counts import MOST, Count, Tokens
from aiollm.types import Certainty, Citation, ProviderData, Usage

FAMILY = "google"


class _Wire(msgspec.Struct, gc=False, rename="camel"):
    """A part of the wire; every field may be absent or null."""


class Call(_Wire):
    """A function call, complete or (on Vertex) in pieces."""

    name: str | None = None
    id: str | None = None
    args: msgspec.Raw = msgspec.Raw()
    partial_args: Any = None
    will_continue: bool | None = None


class Part(_Wire):
    """A part; other fields are read from the frame when needed."""

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: Call | None = None
    inline_data: msgspec.Raw = msgspec.Raw()


class Content(_Wire):
    """The parts of one chunk."""

    parts: list[Part] | None = None


class Candidate(_Wire):
    """One of the answers; only the first is read."""

    content: Content | None = None
    finish_reason: str | None = None
    index: int | None = None
    citation_metadata: dict[str, Any] | None = None
    grounding_metadata: dict[str, Any] | None = None
    finish_message: str | None = None
    continuation_token: str | None = None


class Counts(_Wire):
    """Token counts, cumulative."""

    prompt_token_count: Tokens = None
    candidates_token_count: Tokens = None
    thoughts_token_count: Tokens = None
    cached_content_token_count: Tokens = None
    tool_use_prompt_token_count: Tokens = None
    prompt_tokens_details: msgspec.Raw = msgspec.Raw()
    candidates_tokens_details: msgspec.Raw = msgspec.Raw()
    service_tier: str | None = None
    traffic_type: str | None = None

    def after(self, earlier: Counts | None) -> Counts:
        """Return these counts, and earlier ones where these lack the prompt and more.

        Some servers of this wire count the prompt in one chunk only (2026).
        """
        if earlier is None or self.prompt_token_count:
            return self
        names = self.__struct_fields__
        return Counts(*(getattr(self, name) or getattr(earlier, name) for name in names))


class _PlainCounts(Counts, kw_only=True):
    prompt_token_count: Annotated[int, msgspec.Meta(ge=1, le=MOST)]


class _PlainPart(_Wire):
    text: str
    thought: bool | None = None
    thought_signature: None = None
    function_call: None = None
    inline_data: None = None


class _PlainContent(_Wire):
    parts: tuple[_PlainPart]


class _PlainCandidate(_Wire):
    content: _PlainContent
    finish_reason: str | None = None
    index: Annotated[int, msgspec.Meta(ge=0, le=0)] | None = None
    citation_metadata: None = None
    grounding_metadata: None = None
    finish_message: str | None = None
    continuation_token: str | None = None


class Plain(_Wire):
    """A chunk with one text, or the end of the answer; decoding any other chunk fails.

    This saves checks in Python for the chunks that make up most of a stream.
    """

    candidates: tuple[_PlainCandidate]
    usage_metadata: _PlainCounts | None = None


class _TextPart(_Wire, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(min_length=1)]


class _TextContent(_Wire):
    parts: tuple[_TextPart]


class _TextCandidate(_Wire, forbid_unknown_fields=True):
    content: _TextContent
    index: Annotated[int, msgspec.Meta(ge=0, le=0)] | None = None


class Text(_Wire):
    """A chunk with a piece of the answer's text, in the middle of the answer.

    There are fewer fields than in `Plain` to look for, and to leave empty.
    """

    candidates: tuple[_TextCandidate]


class _Counted(_Wire):
    """The counts of a chunk, which are those of all chunks up to it."""

    usage_metadata: _PlainCounts


Last: TypeAlias = Candidate | _PlainCandidate
"""A candidate that may end the answer."""


class Feedback(_Wire):
    """The filters' verdict on the prompt."""

    block_reason: str | None = None
    block_reason_message: str | None = None


class Chunk(_Wire):
    """A chunk of the reply."""

    candidates: list[Candidate] | None = None
    usage_metadata: Counts | None = None
    prompt_feedback: Feedback | None = None
    error: msgspec.Raw = msgspec.Raw()


class Blob(_Wire):
    """Inline data."""

    mime_type: str | None = None
    data: bytes | None = None


NULL = msgspec.Raw(b"null")

CHUNK = msgspec.json.Decoder(Chunk)
decode_plain: Callable[[bytes], Plain] = msgspec.json.Decoder(Plain).decode
_decode_text: Callable[[bytes], Text] = msgspec.json.Decoder(Text).decode
_decode_counts: Callable[[bytes], _Counted] = msgspec.json.Decoder(_Counted).decode

_BLOB = msgspec.json.Decoder(Blob | None)


def leading_texts(frames: Sequence[bytes]) -> tuple[list[str], Counts | None]:
    """Return the texts of the first chunks, up to one that has more, and the counts so far.

    Without counts there are no texts: those of a chunk before may then be the last.
    """
    texts: list[str] = []
    try:
        # Chunks that are freed one by one take less time than a list of them.
        for frame in frames:
            texts.append(_decode_text(frame).candidates[0].content.parts[0].text)  # noqa: PERF401
    except (ValueError, RecursionError):
        pass
    if texts:
        try:
            return texts, _decode_counts(frames[len(texts) - 1]).usage_metadata
        except (ValueError, RecursionError):
            pass
    return [], None


def usage_of(usage: Counts, certainty: Certainty) -> Usage:
    """Return the usage; thoughts are not included in the candidates' tokens."""
    thoughts = usage.thoughts_token_count or 0
    counted = Usage(
        (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0),
        (usage.candidates_token_count or 0) + thoughts,
        usage.cached_content_token_count or 0,
        thoughts,
        certainty,
    )
    if certainty == "partial" or not (
        usage.service_tier
        or usage.traffic_type
        or (usage.prompt_tokens_details and _names_kinds(usage.prompt_tokens_details))
        or (usage.candidates_tokens_details and _names_kinds(usage.candidates_tokens_details))
    ):
        return counted  # as most have it: in short
    return _with_more(counted, usage)


_names_kinds = re.compile(rb"IMAGE|AUDIO").search


def _with_more(counted: Usage, usage: Counts) -> Usage:
    """Add what only prices depend on."""
    read = _by_kind(usage.prompt_tokens_details)
    return msgspec.structs.replace(
        counted,
        input_image_tokens=read.get("IMAGE", 0),
        input_audio_tokens=read.get("AUDIO", 0),
        output_image_tokens=_by_kind(usage.candidates_tokens_details).get("IMAGE", 0),
        tier=_tier(usage),
    )


class _Kind(_Wire):
    modality: str = ""
    token_count: Count = 0


_KINDS = msgspec.json.Decoder(list[_Kind])


def _by_kind(details: msgspec.Raw) -> dict[str, int]:
    """Return a breakdown of tokens by text, images and the like, empty where there is none."""
    try:
        return {each.modality: each.token_count for each in _KINDS.decode(details)}
    except (ValueError, RecursionError):
        return {}


def _tier(usage: Counts) -> str:
    """Return what served the request: Gemini's API says it, Vertex names a type of traffic."""
    tier = usage.service_tier or (usage.traffic_type or "").removeprefix("ON_DEMAND")
    return tier.lower().lstrip("_")


def elements_of(frame: bytes) -> list[bytes]:
    """Split a JSON array (a stream requested without alt=sse) into its elements."""
    try:
        return [bytes(item) for item in msgspec.json.decode(frame, type=list[msgspec.Raw])]
    except (ValueError, RecursionError):
        value = load(frame)
    if not isinstance(value, list):
        raise ProtocolError("a frame is not the expected JSON", frame=frame)
    return [json.dumps(item).encode() for item in value]


_READ = frozenset({"text", "thought", "thoughtSignature"})
"""The fields of a part that has nothing else to keep."""


class RawParts:
    """The parts of a frame as they came; it is decoded once, and only if one is asked for.

    Decoding it for each of many parts would take the square of its size.
    """

    __slots__ = ("_frame", "_value")

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._value: Any = None

    def get(self, candidate: int, part: int) -> dict[str, Any]:
        """Return a part, {} if it has only fields that the decoder knows."""
        if self._value is None:
            self._value = load_weighed(self._frame) or {}
        try:
            raw = self._value["candidates"][candidate]["content"]["parts"][part]
        except (KeyError, IndexError, TypeError):
            return {}
        if isinstance(raw, dict):
            for key, value in raw.items():
                if value is not None and key not in _READ:
                    return raw
        return {}


def read_file(raw: msgspec.Raw) -> tuple[str, bytes]:
    """Return the MIME type and the bytes of inline data, b"" if there are none.

    Raises: ProtocolError.
    """
    try:
        # Decoding base64 while reading the JSON is four times as fast as through a str.
        blob = _BLOB.decode(raw) or Blob()
        return mime_in(blob.mime_type or ""), blob.data or b""
    except (ValueError, RecursionError):
        value = load_weighed(bytes(raw))
    match value:
        case {"data": str() as text, **rest}:
            mime = rest.get("mimeType")
            return mime_in(mime) if isinstance(mime, str) else "", from_text(text)
        case _:
            return "", b""


_SOURCES = ("web", "retrievedContext", "maps", "image")
"""The kinds of sources that a search finds."""
_URLS = ("uri", "sourceUri")
_CITED = {*_URLS, "title", "text"}


def citations_of(candidate: Candidate) -> list[Citation]:
    """Return the sources in a chunk; what is known of a stored file may be its text alone."""
    cited = candidate.citation_metadata or {}
    found = candidate.grounding_metadata or {}
    sources = _dicts(cited.get("citations")) or _dicts(cited.get("citationSources"))
    grounds = _dicts(found.get("groundingChunks"))
    check_parts(grounds)
    for ground in grounds:
        sources += _dicts([next(filter(None, map(ground.get, _SOURCES)), None)])
    check_parts(sources)
    return [
        citation
        for citation in map(_citation, sources)
        if citation.url or citation.title or citation.text
    ]


def _citation(source: dict[str, Any]) -> Citation:
    url, other, title, text = (
        mend(word) if isinstance(word := source.get(name), str) else ""
        for name in (*_URLS, "title", "text")
    )
    rest = {key: value for key, value in source.items() if key not in _CITED and value is not None}
    return Citation(url or other, title, text, ProviderData(FAMILY, rest) if rest else None)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
