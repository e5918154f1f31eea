"""What a tool of a server returns, as parts of a message."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from aiollm._wire.printable import one_line
from aiollm.errors import ConfigError
from aiollm.types import DocumentPart, ImagePart, TextPart, ToolResultPart

_TEXTUAL = ("json", "xml", "yaml", "javascript", "csv", "html", "markdown")
_LONGEST = 200


def result_of(name: str, result: Any) -> ToolResultPart:
    """Return the result of a call: texts, images and documents; others are described in words."""
    parts = [part for item in result.content for part in _parts(item)]
    has_text = any(isinstance(part, TextPart) for part in parts)
    if result.structured_content is not None and not has_text:
        # Servers write it as text, too, for those who know nothing of structure; not all do.
        parts.append(TextPart(msgspec.json.encode(result.structured_content).decode()))
    if not parts and result.is_error:
        parts.append(TextPart("the tool failed, and does not say why"))
    return ToolResultPart("", tuple(parts), name, is_error=bool(result.is_error))


def _parts(item: Any) -> list[TextPart | ImagePart | DocumentPart]:
    match item.type:
        case "text":
            return [TextPart(item.text)]
        case "image":
            return [_file(item.data, item.mime_type, "image")]
        case "audio":
            return [_described("audio", item.mime_type, len(item.data) * 3 // 4)]
        case "resource_link":
            described = f": {item.description:.500}" if item.description else ""
            kind = f" ({item.mime_type})" if item.mime_type else ""
            return [TextPart(f"{item.name}{kind} <{item.uri}>{described}")]
        case "resource":
            return _resource(item.resource)
        case other:
            return [TextPart(f"[content of kind {one_line(other[:40])} is left out]")]


def _resource(resource: Any) -> list[TextPart | ImagePart | DocumentPart]:
    text = getattr(resource, "text", None)
    if text is not None:
        return [TextPart(text)]
    name = str(resource.uri).rstrip("/").rpartition("/")[2]
    return [_file(resource.blob, resource.mime_type or "", name)]


def _file(data: str, mime: str, name: str) -> TextPart | ImagePart | DocumentPart:
    kind = mime[:_LONGEST].partition(";")[0].strip().lower()
    try:
        content = base64.b64decode(data, validate=True)
        if kind.startswith("image/"):
            return ImagePart(content, mime=kind)
        if kind == "application/pdf":
            return DocumentPart(content, name=name or "document.pdf")
        if kind.startswith("text/") or kind.endswith(_TEXTUAL):
            return TextPart(content.decode())
    except (binascii.Error, ConfigError, UnicodeDecodeError, ValueError):
        return TextPart(f"[{_named(name)} cannot be read]")
    return _described(name, mime, len(content))


def _described(name: str, mime: str, size: int) -> TextPart:
    """Say what was there: a model that gets nothing takes it for an empty result."""
    return TextPart(f"[{_named(name)} ({one_line(mime[:80])}, {size} bytes) is left out]")


def _named(name: str) -> str:
    return one_line(name[:_LONGEST]) or "a file"
