"""Encode messages for chat completions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from aiollm._wire.body import Blob
from aiollm._wire.image_type import image_mime
from aiollm.errors import UnsupportedError
from aiollm.providers.cache_points import CacheMarks, is_marked, system_blocks
from aiollm.providers.encoder import Encoder
from aiollm.providers.encoding import Warnings, sole_text, system_text
from aiollm.providers.openai.caching import mark_before
from aiollm.providers.openai.dialects import Dialect
from aiollm.providers.turns import FOLDED, OPENED, OPENING, alternating
from aiollm.types import (
    AudioPart,
    CachePoint,
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

MAX_CALL_ID = 40
"""The longest tool-call id that OpenAI accepts in chat, in characters."""

_ANSWER = "I have the results."
"""What stands between results of tools and the user, where a template wants an answer there."""

_SIGNED = "__thought__"
"""What LiteLLM writes into the id of a call by Gemini, before a long signature (2026)."""

_STATEFUL = 128
"""Characters above which an id holds a signature: other relays write one in other ways (2026)."""

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
"""The tool-call ids that Mistral accepts."""

_AUDIO_FORMATS = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
}


def messages(
    request: Request,
    dialect: Dialect,
    family: str,
    warnings: Warnings,
    system_note: str = "",
    marks: CacheMarks | None = None,
) -> list[Any]:
    """Translate the system prompt and the conversation. Raises: UnsupportedError, ReachesBack.

    `system_note` is appended to the system prompt. `marks` are put at the cache points; None
    leaves these out.
    """
    out: list[dict[str, Any]] = []
    system = system_text(request)
    if system_note:
        system = f"{system}\n\n{system_note}" if system else system_note
    if system:
        out.append({"role": dialect.system, "content": system})
    if marks is not None and system:
        _mark_system(out[0], request, marks, system_note)
    if text := sole_text(request):
        out.append({"role": "user", "content": text})
        return out
    return out + _Turns(dialect, family, warnings, marks, out).encode(request, dialect, family)


def _mark_system(wire: dict[str, Any], request: Request, marks: CacheMarks, note: str) -> None:
    """Give the system message parts instead of its text if there are cache points in it."""
    blocks = system_blocks(request, marks, "text")
    if any(block.keys() - {"type", "text"} for block in blocks):
        wire["content"] = [*blocks, {"type": "text", "text": note}] if note else blocks


def _answered(out: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the wire's messages with an answer after results that none follows."""
    before = ""
    for message in out:
        if before == "tool" and message["role"] not in ("tool", "assistant"):
            yield {"role": "assistant", "content": _ANSWER}
        yield message
        before = message["role"]


def in_turns(
    messages: tuple[Message, ...], dialect: Dialect, warnings: Warnings, *, is_first: bool
) -> tuple[Message, ...]:
    """Return messages in turns that alternate if the dialect's templates require it."""
    if not dialect.alternates:
        return messages
    if any(message.role == "system" for message in messages):
        warnings.add(FOLDED)
    turns = alternating(messages, is_first=is_first)
    if is_first and turns and turns[0].text == OPENING:
        warnings.add(OPENED)
    return turns


class _Turns(Encoder):
    """Builds the wire's messages.

    Images and documents made by tools or the assistant are moved to one user message after all
    results of the turn, because no other role may contain them.
    """

    def __init__(
        self,
        dialect: Dialect,
        family: str,
        warnings: Warnings,
        marks: CacheMarks | None,
        before: list[dict[str, Any]],
    ) -> None:
        """`before` is what comes before the conversation."""
        super().__init__(warnings, marks)
        self._before = before
        self._is_first = True
        self._dialect = dialect
        self._family = family
        self._waiting: list[dict[str, Any]] = []

    def items(self, messages: tuple[Message, ...], *, is_first: bool) -> list[Any]:
        self._waiting, self._is_first = [], is_first
        for message in in_turns(messages, self._dialect, self.warnings, is_first=is_first):
            self.add(message)
        self.flush()
        return list(_answered(self.out)) if self._dialect.answers_results else self.out

    def add(self, message: Message) -> None:
        match message.role:
            case "tool":
                results = (part for part in message.parts if isinstance(part, ToolResultPart))
                for part in results:
                    self._result(part)
            case "assistant":
                self.flush()
                self._assistant(message)
            case "system":
                self.flush()
                if content := self._content(message):
                    self.out.append({"role": self._dialect.system, "content": content})
            case _:
                content = self._content(message)
                if self._waiting and self._dialect.alternates:
                    text = [{"type": "text", "text": content}]
                    self._waiting += text if isinstance(content, str) else content
                    content, self._waiting = self._waiting, []
                self.flush()
                if content or self.marks is None:
                    self.out.append({"role": "user", "content": content})

    def flush(self) -> None:
        if self._waiting:
            self.out.append({"role": "user", "content": self._waiting})
            self._waiting = []

    def _result(self, part: ToolResultPart) -> None:
        files = [item for item in part.content if not isinstance(item, TextPart | CachePoint)]
        what = _kind(files)
        text = part.text or (f"The result is the {what} in the next message." if files else "")
        id_ = self._call_id(part.id)
        self.out.append({"role": "tool", "tool_call_id": id_, "content": text})
        if self.marks is not None and is_marked(part):
            self._mark_before(self.marks)
        self._wait(f"The {what} result of tool call {id_}:", files)

    def _wait(self, label: str, files: Sequence[Part]) -> None:
        if wires := [wire for part in files if (wire := self._user_part(part)) is not None]:
            self._waiting += [{"type": "text", "text": label}, *wires]

    def _content(self, message: Message) -> str | list[dict[str, Any]]:
        if all(type(part) is TextPart for part in message.parts):
            return message.text
        wires: list[dict[str, Any]] = []
        for part in message.parts:
            if type(part) is CachePoint and self.marks is not None:
                self._mark(self.marks, wires)
            elif (wire := self._user_part(part)) is not None:
                wires.append(wire)
        return wires

    def _mark(self, marks: CacheMarks, wires: list[dict[str, Any]]) -> None:
        if wires:
            marks.end(wires)
        else:
            self._mark_before(marks)

    def _mark_before(self, marks: CacheMarks) -> None:
        before = self._before if self._is_first else []
        mark_before(marks, [*before, *self.out], "text", is_first=self._is_first)

    def _user_part(self, part: Part) -> dict[str, Any] | None:
        match part:
            case TextPart(text=text):
                return {"type": "text", "text": text}
            case ImagePart():
                return image_part(part)
            case DocumentPart():
                return {"type": "file", "file": self._file(part)}
            case AudioPart():
                return audio_part(part)
            case OpaquePart(provider_data=data):
                return self.warnings.own(data, self._family, "a part")
            case _:
                return None

    def _file(self, part: DocumentPart) -> dict[str, Any]:
        if part.url and not self._dialect.file_urls:
            raise UnsupportedError(
                f"{self._dialect.name} does not fetch document URLs in chat: send the bytes"
            )
        return {"filename": part.name, "file_data": part.url or document_data(part)}

    def _assistant(self, message: Message) -> None:
        text, refusal = self._words(message)
        calls = [self._call(part) for part in message.parts if isinstance(part, ToolCallPart)]
        wire: dict[str, Any] = {"role": "assistant", "content": text or None}
        if refusal:
            wire["refusal"] = refusal
        if calls:
            wire["tool_calls"] = calls
            if self._dialect.unsigned and "extra_content" not in calls[0]:
                signature = {"thought_signature": self._dialect.unsigned}
                calls[0]["extra_content"] = {"google": signature}
        wire |= self._opaque(message)
        # Servers refuse a turn of only reasoning, which a cut answer may leave behind.
        if text or wire.keys() - {"role", "content", "extra_content", "annotations"}:
            self._replay(message, wire)
            self.out.append(wire)
        images = [part for part in message.parts if isinstance(part, ImagePart)]
        self._wait("The image of the answer above:", images)
        if any(isinstance(part, AudioPart) for part in message.parts):
            self.warnings.add("audio of earlier answers cannot be sent back: dropped")

    def _words(self, message: Message) -> tuple[str, str]:
        """Return text and refusal; a dialect without refusals gets them as text."""
        texts, refusals = [], []
        for part in message.parts:
            match part:
                case TextPart(text=text, provider_data=data):
                    self.warnings.own(data, self._family, "the state of a text")
                    texts.append(text)
                case RefusalPart(text=text) if self._dialect.refusals:
                    refusals.append(text)
                case RefusalPart(text=text):
                    texts.append(text)
                case _:
                    pass
        return "".join(texts), "".join(refusals)

    def _call(self, part: ToolCallPart) -> dict[str, Any]:
        data = self.warnings.own(part.provider_data, self._family, "the state of a tool call")
        wire: dict[str, Any] = {"id": self._call_id(part.id)}
        if data and data.get("type") == "custom":
            return wire | {
                "type": "custom",
                "custom": {"name": self.call_name(part.name), "input": part.arguments},
            }
        arguments = part.arguments or "{}"
        if part.custom or not part.valid:
            arguments = "{}"
            self.warnings.add(
                f"the arguments of tool call {part.name!r} are not a JSON object: sent as {{}}"
            )
        function = {"name": self.call_name(part.name), "arguments": arguments}
        wire |= {"type": "function", "function": function}
        return wire | self._accepted(data or {})

    def _accepted(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return state without the fields that only the host they came from accepts back."""
        accepts = {
            "extra_content": self._dialect.signatures,
            "annotations": self._dialect.annotations,
        }
        left_out = [name for name, accepted in accepts.items() if name in state and not accepted]
        for name in left_out:
            self.warnings.add(f"{self._dialect.name} does not accept {name} back: dropped")
        return {key: value for key, value in state.items() if key not in left_out}

    def _call_id(self, id: str) -> str:  # noqa: A002  the wire's word
        if self._dialect.short_call_ids:
            return id if _SHORT_ID.fullmatch(id) else _hash(id)[:9]
        return call_id(id, MAX_CALL_ID, self._dialect)

    def _replay(self, message: Message, wire: dict[str, Any]) -> None:
        """Send reasoning back in the host's way, if it has one."""
        parts = (part for part in message.parts if isinstance(part, ReasoningPart))
        states = ((part.text, self._own(part)) for part in parts)
        own = [(text, state) for text, state in states if state is not None]
        replay = self._dialect.replay
        if replay is not None:
            replay(wire, "".join(text for text, _ in own), [state for _, state in own])
        elif own:
            self.warnings.add(f"{self._dialect.name} does not accept reasoning back: dropped")

    def _own(self, part: ReasoningPart) -> dict[str, Any] | None:
        """Return a part's state, {} if it has none, None if it is another family's."""
        if part.provider_data is None:
            return {}
        return self.warnings.own(part.provider_data, self._family, "reasoning")

    def _opaque(self, message: Message) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for part in message.parts:
            if isinstance(part, OpaquePart):
                own = self.warnings.own(part.provider_data, self._family, "a part") or {}
                match fields, own:
                    case {"annotations": list(before)}, {"annotations": list(more)}:
                        own = own | {"annotations": before + more}
                    case _:
                        pass
                fields |= own
        return self._accepted(fields)


def _kind(files: Sequence[Part]) -> str:
    return "image" if all(isinstance(part, ImagePart) for part in files) else "file"


def image_part(part: ImagePart) -> dict[str, Any]:
    """Return an image as a part of a user's message."""
    wire: dict[str, Any] = {"url": image_url(part)}
    if part.detail is not None:
        wire["detail"] = part.detail
    return {"type": "image_url", "image_url": wire}


def image_url(part: ImagePart) -> str | Blob:
    """Return an image's URL, or a data URI if it has bytes."""
    return part.url or Blob(part.data, f"data:{image_mime(part) or 'image/jpeg'};base64,")


def document_data(part: DocumentPart) -> Blob:
    """Return a document's bytes as a data URI."""
    return Blob(part.data, f"data:{part.mime};base64,")


def audio_part(part: AudioPart) -> dict[str, Any]:
    """Return audio as a part of a user's message. Raises: UnsupportedError."""
    form = _AUDIO_FORMATS.get(part.mime.lower())
    if form is None or part.url:
        what = "a URL" if part.url else part.mime
        raise UnsupportedError(f"audio must be the bytes of a WAV or MP3 file, not {what}")
    return {"type": "input_audio", "input_audio": {"data": Blob(part.data), "format": form}}


def call_id(id: str, limit: int, dialect: Dialect) -> str:  # noqa: A002  the wire's word
    """Return a tool call's id, or a digest of it if it is empty or longer than `limit`."""
    if 0 < len(id) <= limit or (dialect.signatures and (_SIGNED in id or len(id) > _STATEFUL)):
        return id
    return f"call_{_hash(id)}"


def _hash(text: str) -> str:
    return hashlib.blake2s(text.encode("utf-8", "replace"), digest_size=16).hexdigest()
