"""Servers' additions to chat messages: reasoning, citations, images, lists of content parts."""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Sequence
from typing import Any

from aiollm._wire.kept import Kept
from aiollm._wire.lenient import mend, mend_all
from aiollm.errors import ProtocolError
from aiollm.providers.decoding import check_parts, mime_in
from aiollm.providers.openai.chat_wire import Delta
from aiollm.types import (
    Citation,
    CitationChunk,
    ImageChunk,
    ImagePart,
    OpaquePart,
    PartChunk,
    ProviderData,
    ReasoningDelta,
    TextDelta,
)

_NAMES = ("reasoning_content", "reasoning", "reasoning_text")
"""Fields of a delta with reasoning; the last is GitHub Copilot's (2026)."""

MAX_PIECES = 4096
"""The most reasoning details and blocks, which the end looks at in one go, a microsecond each."""

_PIECES = {"reasoning.text": "text", "reasoning.summary": "summary"}
"""Kinds of reasoning details that arrive in pieces, and the field that is cut."""


def unsaid(message: Delta, has_calls: bool) -> Delta:  # noqa: FBT001 - it is the only fact
    """Return what a complete message says that the deltas before it did not: its calls.

    Perplexity and others repeat an answer so (2026).
    """
    if has_calls:
        return Delta()
    return Delta(tool_calls=message.tool_calls, function_call=message.function_call)


class Reasoning:
    """Reads reasoning under the names that servers use for it, and keeps what replay needs."""

    __slots__ = ("_blocks", "_details", "_kept", "field")

    def __init__(self) -> None:
        self.field: str = ""
        self._kept = Kept()
        self._blocks: list[tuple[dict[str, Any], list[str]]] = []
        self._details: list[tuple[dict[str, Any], list[str]]] = []

    def read(self, delta: Delta) -> str:
        """Return a delta's reasoning only once, even if it comes under several names."""
        detailed = "".join(map(self._detail, delta.reasoning_details or ()))
        blocks = "".join(map(self._block, delta.thinking_blocks or ()))
        for name in _NAMES:
            if text := words(getattr(delta, name)):
                self.field = name
                return text
        return detailed or blocks

    def data(self) -> dict[str, Any] | None:
        """Return the state that the server may need back, None if there was no reasoning."""
        data: dict[str, Any] = {}
        if self.field:
            data["field"] = self.field
        if self._details:
            data["details"] = [_joined(*detail) for detail in self._details]
        if blocks := [block for each in self._blocks if (block := _sealed(*each))]:
            data["blocks"] = blocks
        return data or None

    def _detail(self, detail: Any) -> str:
        if not isinstance(detail, dict):
            return ""
        text = detail.get(_PIECES.get(str(detail.get("type")), ""))
        piece = text if isinstance(text, str) else ""
        last, pieces = self._details[-1] if self._details else ({}, [])
        if detail.get("type") in _PIECES and _continues(last, detail):
            size = len(last)
            last.update((key, value) for key, value in detail.items() if value is not None)
            if len(last) > size:
                self._keep(detail)
            pieces.append(piece)
        else:
            self._details.append((dict(detail), [piece]))
            self._keep(detail)
        return piece

    def _keep(self, detail: dict[str, Any]) -> None:
        self._kept.add(detail)
        self._kept.check()
        if len(self._details) + len(self._blocks) > MAX_PIECES:
            raise ProtocolError(f"the answer has more than {MAX_PIECES} details of reasoning")

    def _block(self, block: Any) -> str:
        """Add a piece of Anthropic's blocks as LiteLLM sends them: a signature ends one (2026)."""
        if not isinstance(block, dict):
            return ""
        if block.get("type") != "thinking":
            self._blocks.append(({"type": "redacted_thinking"} | block, []))
            self._keep(block)
            return ""
        last, pieces = self._blocks[-1] if self._blocks else ({}, [])
        if last.get("type") != "thinking" or "signature" in last:
            last, pieces = {"type": "thinking"}, []
            self._blocks.append((last, pieces))
            self._keep(last)
        if signature := block.get("signature"):
            last["signature"] = signature
        text = block.get("thinking")
        piece = text if isinstance(text, str) else ""
        pieces.append(piece)
        return piece


def words(value: Any) -> str:
    """Return the text of reasoning; some gateways wrap it in objects (Bedrock's do, 2026)."""
    match value:
        case str():
            return value
        case {"text": str() as text} | {"content": str() as text} | {"summary": str() as text}:
            return text
        case {"reasoningText": inner} | {"thinking": inner} | {"content": list() as inner}:
            return words(inner)
        case list():
            return "".join(map(words, value))
        case _:
            return ""


def _continues(last: dict[str, Any], detail: dict[str, Any]) -> bool:
    return all(last.get(key) == detail.get(key) for key in ("type", "index"))


def _joined(detail: dict[str, Any], pieces: list[str]) -> dict[str, Any]:
    field = _PIECES.get(str(detail.get("type")))
    return detail | {field: "".join(pieces)} if field in detail else detail


def _sealed(block: dict[str, Any], pieces: list[str]) -> dict[str, Any]:
    """Return a block with its text, {} for one that lacks its signature, which would be refused."""
    if block["type"] != "thinking":
        return block
    return block | {"thinking": "".join(pieces)} if "signature" in block else {}


def content_items(parts: Sequence[Any]) -> Iterator[TextDelta | ReasoningDelta | ImageChunk]:
    """Read content that is a list of parts, as Mistral's reasoning models send it."""
    for part in parts:
        match part:
            case {"type": "reasoning"}:  # Databricks, of gpt-oss (2026)
                if thought := words(part.get("summary") or part.get("content")):
                    yield ReasoningDelta(mend(thought))
            case {"type": "thinking", "thinking": str() as text} if text:
                yield ReasoningDelta(mend(text))
            case {"type": "thinking", "thinking": list() as inner}:
                if thought := "".join(item.text for item in content_items(inner)):
                    yield ReasoningDelta(thought)
            case {"type": "image_url", "image_url": {"url": str() as url}} if url:
                yield ImageChunk(image(url))
            case {"text": str() as text} | str(text) if text:
                yield TextDelta(mend(text))
            case _:
                pass


_FILES = ("file_citation", "container_file_citation", "file_path")
"""Kinds of annotations that name a file, which has an id and no URL."""


def citations(annotations: Sequence[Any], family: str) -> Iterator[CitationChunk]:
    """Read the sources among annotations: web pages, and files with their ids."""
    for annotation in annotations:
        match annotation:
            case {"url_citation": dict() as source} | ({"type": "url_citation"} as source):
                yield CitationChunk(_source(source, family))
            case {"type": str() as kind} if kind in _FILES:
                inner = annotation.get(kind)
                source = annotation | inner if isinstance(inner, dict) else annotation
                yield CitationChunk(_source(source, family, title="filename", text="quote"))
            case _:
                pass


def annotated(annotations: Sequence[Any], family: str) -> Iterator[CitationChunk | PartChunk]:
    """Read what an answer's annotations hold: its sources, and documents that OpenRouter parsed.

    Sent back, these are neither parsed nor billed again (docs, November 2026).
    """
    yield from citations(annotations, family)
    parsed = []
    for annotation in annotations:
        match annotation:
            case {"type": "file", "file": dict()}:
                parsed.append(annotation)
            case _:
                pass
    if parsed:
        yield PartChunk(OpaquePart(ProviderData(family, {"annotations": mend_all(parsed)})))


def beside(fields: dict[str, Any], family: str) -> Iterator[CitationChunk | PartChunk]:
    """Return what came beside an answer's text: Perplexity's sources, Gemini's signature."""
    yield from _sources(fields.get("citations", ()), fields.get("search_results", ()), family)
    extra = {
        vendor: {key: value for key, value in given.items() if key != "thought"}
        for vendor, given in fields.get("extra_content", {}).items()
        if isinstance(given, dict)
    }
    if any(extra.values()):
        yield PartChunk(OpaquePart(ProviderData(family, {"extra_content": extra})))


def _sources(urls: Sequence[Any], results: Sequence[Any], family: str) -> Iterator[CitationChunk]:
    seen = set()
    for result in results:
        match result:
            case {"url": str() as url} | {"title": str() as url} if url:
                seen.add(url)
                yield CitationChunk(_source(result, family, text="snippet"))
            case _:
                pass
    for url in urls:
        match url:
            case {"url": str()}:
                yield CitationChunk(_source(url, family))
            case str() if url and url not in seen:
                seen.add(url)
                yield CitationChunk(Citation(mend(url)))
            case _:
                pass


def _source(
    source: dict[str, Any], family: str, *, title: str = "title", text: str = "content"
) -> Citation:
    found = (source.get(name) for name in ("url", title, text))
    url, name, words = (mend(word) if isinstance(word, str) else "" for word in found)
    known = {"type", "url", title, text}
    rest = {key: value for key, value in source.items() if key not in known and value is not None}
    return Citation(url, name, words, ProviderData(family, rest) if rest else None)


def images(parts: Sequence[Any]) -> Iterator[ImageChunk]:
    """Read generated images, which OpenRouter sends as data URIs."""
    check_parts(parts)
    for part in parts:
        match part:
            case {"image_url": {"url": str() as url}} if url:
                yield ImageChunk(image(url))
            case _:
                pass


def image(url: str) -> ImagePart:
    """Make an image from a URL, with bytes if it is a data URI."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return ImagePart(url=url)
    return image_of_base64(data, head[5:-7], url)


def image_of_base64(data: str, mime: str, url: str = "") -> ImagePart:
    """Make an image from base64. Raises: ProtocolError if it is not base64."""
    try:
        raw = binascii.a2b_base64(data)
    except (ValueError, binascii.Error):
        raw = b""
    if not raw:
        raise ProtocolError("an image in the answer is not base64", frame=(url or data).encode())
    return ImagePart(raw, mime=mime_in(mime))
