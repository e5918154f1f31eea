"""Encode messages for Ollama's native chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiollm._wire.body import Blob
from aiollm.errors import OutputError, UnsupportedError
from aiollm.providers.encoder import Encoder
from aiollm.providers.encoding import Warnings, sole_text, system_text
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Message,
    OpaquePart,
    Part,
    ReasoningPart,
    RefusalPart,
    Request,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

FAMILY = "ollama"
"""The family whose opaque state is replayed; Ollama has no such state so far."""


def messages(request: Request, warnings: Warnings) -> list[Any]:
    """Translate the system prompt and the conversation. Raises: UnsupportedError."""
    out: list[dict[str, Any]] = []
    if system := system_text(request):
        out.append({"role": "system", "content": system})
    if text := sole_text(request):
        out.append({"role": "user", "content": text})
        return out
    return out + _Turns(warnings).encode(request)


class _Turns(Encoder):
    """Builds the wire's messages.

    Images of tool results are moved to a user message after all results of the turn, because
    whether a model sees the images of a tool message depends on its template.
    """

    def __init__(self, warnings: Warnings) -> None:
        super().__init__(warnings)
        self._names: dict[str, str] = {}
        self._waiting: list[Blob | str] = []

    def separate(self) -> None:
        self._names = self._names.copy()

    def items(self, messages: tuple[Message, ...], *, is_first: bool) -> list[Any]:  # noqa: ARG002
        self._waiting = []
        for message in messages:
            self.add(message)
        self.flush()
        return self.out

    def add(self, message: Message) -> None:
        results = [part for part in message.parts if isinstance(part, ToolResultPart)]
        if not results:
            self.flush()
        for result in results:
            self._result(result)
        if message.role == "assistant":
            if len(wire := self._assistant(message)) > 1:
                self.out.append(wire)
        elif len(results) < len(message.parts):
            self.flush()
            self.out.append(self._plain(message))

    def flush(self) -> None:
        if self._waiting:
            text = "The images of the tool results above:"
            self.out.append({"role": "user", "content": text, "images": self._waiting})
            self._waiting = []

    def _result(self, part: ToolResultPart) -> None:
        self._check(part.content)
        wire = {"role": "tool", "content": part.text or ("error" if part.is_error else "")}
        if name := part.name or self._names.get(part.id, ""):
            wire["tool_name"] = name
        if part.id:
            wire["tool_call_id"] = part.id
        self.out.append(wire)
        self._waiting += [_image(image) for image in part.content if isinstance(image, ImagePart)]

    def _plain(self, message: Message) -> dict[str, Any]:
        wire: dict[str, Any] = {
            "role": "user" if message.role == "tool" else message.role,
            "content": self._text(message),
        }
        if images := [_image(part) for part in message.parts if isinstance(part, ImagePart)]:
            wire["images"] = images
        return wire

    def _assistant(self, message: Message) -> dict[str, Any]:
        wire: dict[str, Any] = {"role": "assistant"}
        calls = [self._call(part) for part in message.parts if isinstance(part, ToolCallPart)]
        if content := self._text(message):
            wire["content"] = content
        if thinking := self._thinking(message):
            wire["thinking"] = thinking
        if calls:
            wire["tool_calls"] = calls
        images = [_image(part) for part in message.parts if isinstance(part, ImagePart)]
        self._waiting += images
        return wire

    def _thinking(self, message: Message) -> str:
        texts = []
        for part in message.parts:
            if isinstance(part, ReasoningPart):
                foreign = part.provider_data
                if foreign is None or self.warnings.own(foreign, FAMILY, "reasoning") is not None:
                    texts.append(part.text)
        return "".join(texts)

    def _call(self, part: ToolCallPart) -> dict[str, Any]:
        self._names[part.id] = part.name
        self.warnings.own(part.provider_data, FAMILY, "the state of a tool call")
        try:
            arguments = part.parsed()
        except OutputError:
            arguments = {}
            self.warnings.add(
                f"the arguments of tool call {part.name!r} are not a JSON object: sent as {{}}"
            )
        call: dict[str, Any] = {"function": {"name": part.name, "arguments": arguments}}
        return {"id": part.id, **call} if part.id else call

    def _text(self, message: Message) -> str:
        self._check(message.parts)
        texts = []
        for part in message.parts:
            match part:
                case TextPart(text=text):
                    self.warnings.own(part.provider_data, FAMILY, "the state of a text")
                    texts.append(text)
                case RefusalPart(text=text):
                    texts.append(text)
                case _:
                    pass
        return "".join(texts)

    def _check(self, parts: Sequence[Part]) -> None:
        """Refuse what the wire has no field for (Ollama's API, August 2026)."""
        for part in parts:
            match part:
                case DocumentPart():
                    raise UnsupportedError(
                        "Ollama does not accept documents: send their text or images"
                    )
                case AudioPart():
                    raise UnsupportedError("Ollama does not accept audio: send a transcript")
                case OpaquePart(provider_data=data):
                    self.warnings.own(data, FAMILY, "a part")
                case _:
                    pass


def _image(part: ImagePart) -> Blob | str:
    if part.data:
        return Blob(part.data)
    head, comma, data = part.url.partition(";base64,")
    if comma and head.startswith("data:"):
        return data
    raise UnsupportedError("Ollama does not fetch image URLs: send the image's bytes")
