"""Read a conversation that was kept in OpenAI's form, of chat completions or of Responses."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from aiollm.errors import ConfigError
from aiollm.providers.openai.chat_extensions import words
from aiollm.types import (
    AudioPart,
    CachePoint,
    DocumentPart,
    ImagePart,
    Message,
    OpaquePart,
    Part,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

Family = Literal["openai", "openai-responses"]

_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),", re.ASCII)

_MARKS = ("prompt_cache_breakpoint", "cache_control")
"""The fields that end what is to be cached."""

_REASONING = ("reasoning_content", "reasoning", "reasoning_text")
"""The fields that servers write reasoning into."""

_ROLES: dict[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}


def messages_from_openai(messages: Iterable[Any]) -> tuple[Message, ...]:
    """Return a conversation from the messages of chat completions or the items of Responses.

    Takes dicts, and the openai SDK's objects. Results of tools that follow each other become one
    message, and so do the items of one turn of the assistant. Marks of prompt caches become cache
    points. Parts without a canonical form, and what gateways signed, are kept for replay to OpenAI.
    Raises: ConfigError with the place of what cannot be read.

        history = messages_from_openai([{"role": "user", "content": "Hello"}])
    """
    reader = _Reader()
    for index, message in enumerate(messages):
        try:
            reader.read(_plain(message))
            continue
        except KeyError as error:
            reason = f"it has no {error}"
        except (_Unreadable, AttributeError, TypeError, ValueError) as error:
            reason = str(error)
        raise ConfigError(f"messages[{index}] is not in OpenAI's form: {reason:.300}")
    return tuple(Message(role, tuple(parts)) for role, parts in reader.turns)


class _Unreadable(Exception):
    """Says what in a message is not in OpenAI's form."""


class _Reader:
    """Collects turns; what belongs to the turn before is added to it."""

    def __init__(self) -> None:
        self.turns: list[tuple[Role, list[Part]]] = []
        self._names: dict[str, str] = {}

    def read(self, wire: Mapping[str, Any]) -> None:
        kind = wire.get("type")
        if kind is None or kind == "message":
            self._message(wire, "openai" if kind is None else "openai-responses")
        else:
            self._item(wire, kind)

    def _message(self, wire: Mapping[str, Any], family: Family) -> None:
        role = wire["role"]
        if role in {"tool", "function"}:
            name = wire.get("name") or ""
            self._result(wire.get("tool_call_id") or name, wire.get("content"), name)
            return
        if role not in _ROLES:
            raise _Unreadable(f"the role {role!r} is unknown")
        parts = _content(wire.get("content"), family)
        if role == "assistant":
            parts = [part for part in parts if type(part) is not CachePoint]
            parts = [*_reasoning(wire), *parts, *self._beside(wire)]
        self._add(_ROLES[role], parts, joins=family == "openai-responses")

    def _beside(self, wire: Mapping[str, Any]) -> Iterable[Part]:
        """Yield what a chat message of the assistant has besides its content."""
        if wire.get("refusal"):
            yield RefusalPart(_text(wire["refusal"]))
        for call in wire.get("tool_calls") or ():
            custom = call.get("type") == "custom"
            given = call["custom" if custom else "function"]
            text = given["input" if custom else "arguments"]
            part = self._call(call["id"], given["name"], text, "openai", custom=custom)
            signed = _signature(call)
            yield part if signed is None else replace(part, provider_data=signed)
        if call := wire.get("function_call"):
            yield self._call(call["name"], call["name"], call["arguments"], "openai")
        if (signed := _signature(wire)) is not None:
            yield OpaquePart(signed)

    def _item(self, item: Mapping[str, Any], kind: str) -> None:
        family: Family = "openai-responses"
        match kind:
            case "function_call" | "custom_tool_call":
                custom = kind == "custom_tool_call"
                text = item["input" if custom else "arguments"]
                part = self._call(item["call_id"], item["name"], text, family, custom=custom)
                self._add("assistant", [part], joins=True)
            case "function_call_output" | "custom_tool_call_output":
                self._result(item["call_id"], item.get("output"))
            case "reasoning":
                summary = (each.get("text") or "" for each in item.get("summary") or ())
                data = ProviderData(family, {"item": dict(item)})
                self._add("assistant", [ReasoningPart("\n\n".join(summary), data)], joins=True)
            case _:
                self._add("assistant", [OpaquePart(ProviderData(family, dict(item)))], joins=True)

    def _call(
        self, call_id: str, name: str, text: Any, family: Family, *, custom: bool = False
    ) -> ToolCallPart:
        self._names[call_id] = name
        if custom:
            kind = "custom" if family == "openai" else "custom_tool_call"
            data = ProviderData(family, {"type": kind})
            return ToolCallPart(call_id, name, _text(text), provider_data=data, custom=True)
        text = _text(text) or "{}"
        return ToolCallPart(call_id, name, text, _is_object(text))

    def _result(self, call_id: str, content: Any, name: str = "") -> None:
        if not call_id:
            raise _Unreadable("a tool's result needs the id of its call")
        parts = _content(content, "openai-responses")
        result = ToolResultPart(call_id, parts, name or self._names.get(call_id, ""))  # type: ignore[arg-type]
        self._add("tool", [result], joins=True)

    def _add(self, role: Role, parts: list[Part], *, joins: bool) -> None:
        """Add parts as a turn; joining ones belong to a turn of the same role before them."""
        if self.turns and self.turns[-1][0] == role and joins and role in {"assistant", "tool"}:
            self.turns[-1][1].extend(parts)
        else:
            self.turns.append((role, parts))


def _plain(message: Any) -> Mapping[str, Any]:
    """Return a message as a mapping; objects of the SDK are pydantic models."""
    dump = getattr(message, "model_dump", None)
    plain = dump(exclude_none=True) if callable(dump) else message
    if not isinstance(plain, Mapping):
        raise _Unreadable(f"it is {type(message).__name__}, not a dict")
    return plain


def _reasoning(wire: Mapping[str, Any]) -> Iterable[Part]:
    """Yield the reasoning of a chat message, with what LiteLLM or OpenRouter needs back of it."""
    fields = {name: wire[name] for name in _REASONING if isinstance(wire.get(name), str)}
    field = next((name for name, text in fields.items() if text), "")
    blocks, details = _dicts(wire, "thinking_blocks"), _dicts(wire, "reasoning_details")
    said = (
        each.get("thinking") or each.get("text") or each.get("summary")
        for each in blocks or details
    )
    text = fields.get(field) or "".join(each for each in said if isinstance(each, str))
    # Without its signature a block would be refused.
    blocks = [each for each in blocks if each.get("type") != "thinking" or each.get("signature")]
    state = {"field": field, "blocks": blocks, "details": details}
    data = {name: value for name, value in state.items() if value}
    if blocks or details:
        yield ReasoningPart(text, ProviderData("openai", data))
    elif text:
        yield ReasoningPart(text)


def _dicts(wire: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [dict(each) for each in wire.get(name) or () if isinstance(each, Mapping)]


def _signature(wire: Mapping[str, Any]) -> ProviderData | None:
    """Return what Gemini signed a message or a call with, on OpenAI's wire."""
    extra = wire.get("extra_content")
    return ProviderData("openai", {"extra_content": extra}) if extra else None


def _content(content: Any, family: Family) -> list[Part]:
    match content:
        case None | "":
            return []
        case str():
            return [TextPart(content)]
        case list() | tuple():
            return [each for part in content for each in _parts(_plain(part), family)]
        case _:
            raise _Unreadable(f"its content is {type(content).__name__}, not text or a list")


def _parts(part: Mapping[str, Any], family: Family) -> Iterable[Part]:
    """Yield a part, and a cache point after it if it has a mark: OpenAI's, or OpenRouter's."""
    marked = any(part.get(mark) for mark in _MARKS)
    if marked:
        part = {name: value for name, value in part.items() if name not in _MARKS}
    yield _part(part, family)
    if marked:
        yield CachePoint()


def _part(part: Mapping[str, Any], family: Family) -> Part:
    match part.get("type"):
        case "text" | "input_text" | "output_text":
            return TextPart(_text(part["text"]))
        case "refusal":
            return RefusalPart(_text(part["refusal"]))
        case "image_url":
            image = part["image_url"]
            image = {"url": image} if isinstance(image, str) else image
            return _image(image["url"], image.get("detail"))
        case "input_image" if part.get("image_url"):
            return _image(part["image_url"], part.get("detail"))
        case "file" if "file_data" in part["file"]:
            return _document(part["file"]["file_data"], part["file"].get("filename"))
        case "input_file" if part.get("file_data"):
            return _document(part["file_data"], part.get("filename"))
        case "input_file" if part.get("file_url"):
            return DocumentPart(url=part["file_url"], name=part.get("filename") or "document.pdf")
        case "input_audio" if isinstance(audio := part["input_audio"], Mapping):
            mime = "audio/mpeg" if audio.get("format") == "mp3" else "audio/wav"
            return AudioPart(_decoded(audio["data"]), mime=mime)
        case "thinking" if family == "openai":
            return ReasoningPart(words(part.get("thinking")))
        case str() as kind:
            is_input = kind.startswith("input_") and kind != "input_audio"
            own = "openai-responses" if is_input else family
            return OpaquePart(ProviderData(own, dict(part)))
        case _:
            raise _Unreadable("a part of its content has no type")


def _image(url: str, detail: Any) -> ImagePart:
    known = detail if detail in {"auto", "low", "high", "original"} else None
    if not url.startswith("data:"):
        return ImagePart(url=url, detail=known)
    mime, data = _from_data_url(url)
    return ImagePart(data, mime=mime, detail=known)


def _document(data: str, name: Any) -> DocumentPart:
    named = name if isinstance(name, str) and name else "document.pdf"
    if data.startswith(("https://", "http://")):
        return DocumentPart(url=data, name=named)
    if data.startswith("data:"):
        mime, content = _from_data_url(data)
        return DocumentPart(content, mime=mime or "application/pdf", name=named)
    return DocumentPart(_decoded(data), name=named)


def _from_data_url(url: str) -> tuple[str, bytes]:
    head = _DATA_URL.match(url)
    if head is None or ";base64" not in head[2].lower():
        raise _Unreadable("a data URL in it is not base64")
    return head[1], _decoded(url[head.end() :])


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise _Unreadable("a file in it is not base64") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Unreadable(f"a text in it is {type(value).__name__}")
    return value


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (ValueError, RecursionError):
        return False
