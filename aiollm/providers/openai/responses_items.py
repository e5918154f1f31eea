"""Encode messages as the input items of OpenAI's Responses."""

from __future__ import annotations

from typing import Any

from aiollm._wire.body import Blob
from aiollm.errors import UnsupportedError
from aiollm.providers.cache_points import CacheMarks, is_marked
from aiollm.providers.encoder import Encoder
from aiollm.providers.encoding import Warnings
from aiollm.providers.openai.caching import mark_before
from aiollm.providers.openai.chat_messages import (
    audio_part,
    call_id,
    document_data,
    image_url,
    in_turns,
)
from aiollm.providers.openai.dialects import Dialect
from aiollm.providers.openai.responses_outputs import word
from aiollm.providers.openai.responses_wire import ran_on_server
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
    Request,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

MAX_CALL_ID = 64
"""The longest call id that OpenAI accepts, in characters."""

MAX_ID = 64
"""The longest id of an item, which GitHub Copilot exceeds and refuses back (March 2026)."""


_CONTEXT = {"previous_response_id", "conversation", "prompt"}
"""Fields of `extra` that bring their own messages."""


def input_items(
    request: Request,
    family: str,
    dialect: Dialect,
    warnings: Warnings,
    marks: CacheMarks | None,
) -> list[Any]:
    """Translate the conversation without the system prompt. Raises: UnsupportedError, ReachesBack.

    `marks` are put at the cache points; None leaves these out.
    """
    stored = request.extra.get("store") is True
    out = _Turns(family, dialect, warnings, marks, stored=stored).encode(request, dialect, stored)
    if not out and not _CONTEXT & set(request.extra):
        raise UnsupportedError("Responses require a message besides the system prompt")
    return out


class _Turns(Encoder):
    """Builds the items, keeping the order of assistant parts.

    `stored`: the server keeps its items, so that an id is enough to refer to one.
    """

    def __init__(
        self,
        family: str,
        dialect: Dialect,
        warnings: Warnings,
        marks: CacheMarks | None,
        *,
        stored: bool,
    ) -> None:
        super().__init__(warnings, marks)
        self._is_first = True
        self._family = family
        self._dialect = dialect
        self._stored = stored
        self._custom: frozenset[str] = frozenset()
        self._waiting: list[dict[str, Any]] = []

    def items(self, messages: tuple[Message, ...], *, is_first: bool) -> list[Any]:
        self._waiting, self._is_first = [], is_first
        for message in in_turns(messages, self._dialect, self.warnings, is_first=is_first):
            self.add(message)
        self._end_in_words()
        self.flush()
        return self.out

    def add(self, message: Message) -> None:
        if message.role != "assistant":
            self._end_in_words()
        match message.role:
            case "tool":
                for part in message.parts:
                    if isinstance(part, ToolResultPart):
                        self.out.append(self._result(part))
                        if self.marks is not None and is_marked(part):
                            mark_before(self.marks, self.out, "input_text", is_first=self._is_first)
            case "assistant":
                self.flush()
                self._assistant(message)
            case "system":
                self.flush()
                self._say(self._dialect.system, message)
            case _:
                self.flush()
                self._say("user", message)

    def _end_in_words(self) -> None:
        """Leave out thoughts at the end of a turn, which OpenAI refuses: the answer was cut."""
        while self.out and self.out[-1].get("type") == "reasoning":
            self.out.pop()
            self.warnings.add("thoughts without an answer after them are not sent back")

    def flush(self) -> None:
        """Append the images of an answer, which an assistant message cannot contain."""
        if self._waiting:
            self.out.append({"role": "user", "content": self._waiting})
            self._waiting = []

    def _say(self, role: str, message: Message) -> None:
        if all(type(part) is TextPart for part in message.parts):
            self.out.append({"role": role, "content": message.text})
            return
        wires: list[dict[str, Any]] = []
        for part in message.parts:
            if type(part) is CachePoint and self.marks is not None:
                self._mark(self.marks, wires)
            elif (wire := self._content(part)) is not None:
                wires.append(wire)
        if wires or self.marks is None:
            self.out.append({"role": role, "content": wires})

    def _mark(self, marks: CacheMarks, wires: list[dict[str, Any]]) -> None:
        if wires:
            marks.end(wires)
        else:
            mark_before(marks, self.out, "input_text", is_first=self._is_first)

    def _content(self, part: Part, detail: str | None = "auto") -> dict[str, Any] | None:
        match part:
            case TextPart(text=text):
                return {"type": "input_text", "text": text}
            case ImagePart():
                return _image(part, default=detail)
            case DocumentPart(url=url) if url:
                return {"type": "input_file", "file_url": url}
            case DocumentPart():
                data = document_data(part)
                return {"type": "input_file", "filename": part.name, "file_data": data}
            case AudioPart():
                return audio_part(part)
            case OpaquePart(provider_data=data):
                return self._own(data, "a part")
            case _:
                return None

    def _result(self, part: ToolResultPart) -> dict[str, Any]:
        custom = part.id in self._custom
        kind = "custom_tool_call_output" if custom else "function_call_output"
        output: str | list[dict[str, Any]] = part.text
        if any(not isinstance(item, TextPart | CachePoint) for item in part.content):
            wires = (self._content(item, "auto" if custom else None) for item in part.content)
            output = [wire for wire in wires if wire is not None]
        return {"type": kind, "call_id": self._call_id(part), "output": output}

    def _assistant(self, message: Message) -> None:
        turn = _Turn(self.out)
        for part in message.parts:
            match part:
                case TextPart(text=text, provider_data=data):
                    turn.say(text, self._own(data, "the state of a text"))
                case RefusalPart(text=text):
                    turn.refuse(text)
                case ReasoningPart(provider_data=data):
                    self._reasoning(turn, data)
                case ToolCallPart():
                    turn.append(self._call(part), optional_id=True)
                case ImagePart(provider_data=data):
                    self._image(turn, part, data)
                case OpaquePart(provider_data=data):
                    if (item := self._own(data, "a part")) is not None:
                        self._opaque(turn, item)
                case AudioPart():
                    self.warnings.add("audio of earlier answers cannot be sent back: dropped")
                case _:
                    pass
        turn.close()

    def _opaque(self, turn: _Turn, item: dict[str, Any]) -> None:
        # Other hosts of this wire refuse a call that has no output.
        if ran_on_server(item):
            self.warnings.add("a call that xAI ran itself is not sent back")
        elif turn.unpaired and str(item.get("type")).endswith("_call"):
            # It needs its id, which is refused without the reasoning that led to it.
            self.warnings.add("a call of the host's own tools came without its reasoning: dropped")
        else:
            turn.append(item)

    def _reasoning(self, turn: _Turn, data: ProviderData | None) -> None:
        """Replay an item if the server sent its content; its id alone would be unknown."""
        state = self._own(data, "reasoning") if data is not None else None
        item = state.get("item") if state is not None else None
        if not isinstance(item, dict):
            return
        if self._stored or item.get("encrypted_content") or item.get("content"):
            turn.append(item)
        else:
            turn.unpaired = True
            self.warnings.add("reasoning came without encrypted content: dropped")

    def _call(self, part: ToolCallPart) -> dict[str, Any]:
        state = self._own(part.provider_data, "the state of a tool call") or {}
        wire = {"call_id": self._call_id(part), "name": self.call_name(part.name)}
        if state.get("type") == "custom_tool_call":
            self._custom |= {part.id}
            return state | wire | {"input": part.arguments}
        if part.custom or not part.valid:
            self.warnings.add(
                f"the arguments of tool call {part.name!r} are not a JSON object: sent as {{}}"
            )
        arguments = "{}" if part.custom or not part.valid else part.arguments or "{}"
        return {"type": "function_call", **wire, "arguments": arguments, **state}

    def _call_id(self, part: ToolCallPart | ToolResultPart) -> str:
        return call_id(part.id, MAX_CALL_ID, self._dialect)

    def _image(self, turn: _Turn, part: ImagePart, data: ProviderData | None) -> None:
        state = self._own(data, "the state of an image")
        if state is not None and part.data:
            turn.append(state | {"result": Blob(part.data)})
        else:
            label = {"type": "input_text", "text": "The image of the answer above:"}
            self._waiting += [label, _image(part, default="auto")]

    def _own(self, data: ProviderData | None, what: str) -> dict[str, Any] | None:
        return self.warnings.own(data, self._family, what)


class _Turn:
    """The items of one assistant turn; adjacent texts of one message become one item.

    `unpaired` is set once reasoning had to be left out. Later items are then sent without ids,
    because the server refuses an id whose reasoning is missing.
    """

    def __init__(self, out: list[dict[str, Any]]) -> None:
        self.unpaired = False
        self._out = out
        self._content: list[dict[str, Any]] = []
        self._state: dict[str, Any] = {}

    def append(self, item: dict[str, Any], *, optional_id: bool = False) -> None:
        self.close()
        if (optional_id and self.unpaired) or len(word(item, "id")) > MAX_ID:
            item = {key: value for key, value in item.items() if key != "id"}
        self._out.append(item)

    def say(self, text: str, state: dict[str, Any] | None) -> None:
        if state and self._state.get("id") not in (None, state.get("id")):
            self.close()
        self._state |= state or {}
        if self._content and self._content[-1]["type"] == "output_text":
            self._content[-1]["text"] += text
        elif text:
            self._content.append({"type": "output_text", "text": text, "annotations": []})

    def refuse(self, text: str) -> None:
        self._content.append({"type": "refusal", "refusal": text})

    def close(self) -> None:
        """End the current message; one without an id is sent in the short form."""
        content, state = self._content, self._state
        self._content, self._state = [], {}
        if not content:
            return
        if self.unpaired or len(word(state, "id")) > MAX_ID:
            state.pop("id", None)
        # llama.cpp recognizes an assistant's item only by its type, which OpenAI accepts, too.
        wire: dict[str, Any] = {"type": "message", "role": "assistant", **state}
        if "id" in state:
            wire |= {"status": "completed", "content": content}
        else:
            words = (part.get("text") or part.get("refusal", "") for part in content)
            wire["content"] = "".join(words)
        self._out.append(wire)


def _image(part: ImagePart, *, default: str | None) -> dict[str, Any]:
    wire = {"type": "input_image", "image_url": image_url(part)}
    detail = part.detail or default
    return wire | {"detail": detail} if detail else wire
