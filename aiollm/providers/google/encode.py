"""Gemini, requests: encode messages, tools and settings as the body of generateContent."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from aiollm._wire.body import Blob
from aiollm._wire.image_type import image_mime
from aiollm.errors import UnsupportedError
from aiollm.provider import Provider
from aiollm.providers.encoder import Encoder
from aiollm.providers.encoding import (
    Warnings,
    merge,
    sole_text,
    system_text,
    with_output_in_prompt,
)
from aiollm.providers.google.models import generation, thinking_config
from aiollm.providers.google.tools import loosened_schema, tool_fields
from aiollm.providers.google.wire import FAMILY
from aiollm.providers.turns import OPENED, OPENING
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Message,
    OpaquePart,
    OutputError,
    Part,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Request,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

SIGNATURE = "thoughtSignature"
SYNTHETIC_ID = "synthetic_id"
"""Marks, in provider data, a call whose id we made up, so the API does not know it."""

SKIP_SIGNATURE = "skip_thought_signature_validator"
"""Google's placeholder for the signature of a call that another model made."""

MAX_STOPS = 5

_is_name = re.compile("[A-Za-z_][A-Za-z0-9_.:-]{0,127}").fullmatch
"""Other names than those of tools may go back, too: a signature may rest on one."""

_RESOLUTIONS = {
    "low": "MEDIA_RESOLUTION_LOW",
    "high": "MEDIA_RESOLUTION_HIGH",
    "original": "MEDIA_RESOLUTION_ULTRA_HIGH",
}
_SUFFIXES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".heic": "image/heic",
    ".heif": "image/heif",
}


def encode_body(
    provider: Provider, model: str, request: Request, warnings: Warnings
) -> dict[str, Any]:
    """Return the body for a request. Raises: UnsupportedError, ConfigError."""
    body: dict[str, Any] = {"contents": _contents(model, request, warnings)}
    if text := system_text(request):
        body["systemInstruction"] = {"parts": [{"text": text}]}
    if request.tools or request.extra:
        if request.output is not None and request.tools and generation(model) < 3:
            reason = f"{model} accepts either tools or an output schema"
            prompted = with_output_in_prompt(request, reason, warnings)
            return encode_body(provider, model, prompted, warnings)
        body |= tool_fields(provider, model, request, warnings)
    if config := _generation_config(model, request, warnings):
        body["generationConfig"] = config
    return merge(body, request.extra)


def _generation_config(model: str, request: Request, warnings: Warnings) -> dict[str, Any]:
    if len(request.stop) > MAX_STOPS:
        raise UnsupportedError(f"Gemini accepts at most {MAX_STOPS} stop sequences")
    config: dict[str, Any] = {}
    if request.max_output_tokens is not None:
        config["maxOutputTokens"] = request.max_output_tokens
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.top_p is not None:
        config["topP"] = request.top_p
    if request.stop:
        config["stopSequences"] = request.stop
    if request.seed is not None:
        config["seed"] = request.seed
    if request.output is not None:
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = loosened_schema(request.output, warnings)
    if request.reasoning is not None and (
        thinking := thinking_config(model, request.reasoning, warnings)
    ):
        config["thinkingConfig"] = thinking
    return config


def _contents(model: str, request: Request, warnings: Warnings) -> list[Any]:
    if text := sole_text(request):
        return [{"role": "user", "parts": [{"text": text}]}]
    contents = _Turns(model, warnings).encode(request, generation(model))
    if not contents:
        raise UnsupportedError("Gemini requires a message besides the system prompt")
    return contents


class _Call(msgspec.Struct, frozen=True):
    """The parts of a call that its result must repeat; `id` is "" if the API sent none."""

    order: int
    name: str
    id: str


class _Turns(Encoder):
    """Builds the contents: the results of one turn wait until they are complete.

    They are sent in one content, in the order of their calls, because nothing else distinguishes
    calls without ids.
    """

    def __init__(self, model: str, warnings: Warnings) -> None:
        super().__init__(warnings)
        self._newer = generation(model) >= 3
        self._calls: dict[str, _Call] = {}
        self._results: list[ToolResultPart] = []

    def separate(self) -> None:
        self._calls = self._calls.copy()

    def items(self, messages: tuple[Message, ...], *, is_first: bool) -> list[Any]:
        contents, self._results = self.out, []
        for message in messages:
            self.add(message)
        self.flush()
        if is_first and contents and contents[0]["role"] == "model":
            # A call is refused unless a user's turn precedes it.
            contents.insert(0, {"role": "user", "parts": [{"text": OPENING}]})
            self.warnings.add(OPENED)
        return contents

    def add(self, message: Message) -> None:
        results = [part for part in message.parts if isinstance(part, ToolResultPart)]
        self._results += results
        if len(results) == len(message.parts):
            return
        self.flush()
        if message.role == "system":
            self.warnings.add("a system message inside the conversation is sent as the user's")
        wires = [self._part(part) for part in message.parts]
        if message.role == "assistant" and self._newer:
            _sign_first_call(wires)
        self._append("model" if message.role == "assistant" else "user", wires)

    def flush(self) -> None:
        """Append the waiting results, and after them the files that they cannot hold."""
        if not self._results:
            return
        known = [(self._known(part), part) for part in self._results]
        known.sort(key=lambda pair: pair[0].order)
        self._results = []
        wires: list[dict[str, Any] | None] = [self._response(*pair) for pair in known]
        for call, part in known:
            wires += self._files_beside(call, part)
        self._append("user", wires)

    def _append(self, role: str, wires: list[dict[str, Any] | None]) -> None:
        if parts := [wire for wire in wires if wire is not None]:
            self.out.append({"role": role, "parts": parts})

    def _part(self, part: Part) -> dict[str, Any] | None:
        match part:
            case TextPart(text=text):
                wire = self._signed({"text": text}, part.provider_data)
                return wire if text or SIGNATURE in wire else None
            case RefusalPart(text=text):
                return {"text": text}
            case ImagePart():
                return self._signed(self._image(part), part.provider_data)
            case DocumentPart() | AudioPart():
                return self._signed(_media(part, part.mime), part.provider_data)
            case ToolCallPart():
                return self._call(part)
            case ReasoningPart():
                return self._reasoning(part)
            case OpaquePart(provider_data=data):
                own = self.warnings.own(data, FAMILY, "a part")
                return own.get("part") if own else None
            case _:  # tool results are sent in a separate turn
                return None

    def _signed(self, wire: dict[str, Any], data: ProviderData | None) -> dict[str, Any]:
        own = self.warnings.own(data, FAMILY, "the state of a part")
        if own and SIGNATURE in own:
            wire[SIGNATURE] = own[SIGNATURE]
        return wire

    def _reasoning(self, part: ReasoningPart) -> dict[str, Any] | None:
        # Unsigned thoughts are summaries for people, which the API ignores.
        own = self.warnings.own(part.provider_data, FAMILY, "reasoning")
        if not own or SIGNATURE not in own:
            return None
        signed_text = own.get("text", part.text)
        return {"text": signed_text, "thought": True, SIGNATURE: own[SIGNATURE]}

    def _call(self, part: ToolCallPart) -> dict[str, Any]:
        data = part.provider_data
        synthetic = data is not None and data.family == FAMILY and SYNTHETIC_ID in data.data
        name = part.name if _is_name(part.name) else self.call_name(part.name)
        call = _Call(len(self._calls), name, "" if synthetic else part.id)
        self._calls[part.id] = call
        wire = {"name": name, "args": self._arguments(part)}
        if call.id:
            wire["id"] = call.id
        return self._signed({"functionCall": wire}, data)

    def _arguments(self, part: ToolCallPart) -> dict[str, Any]:
        try:
            return part.parsed()
        except OutputError:
            self.warnings.add(
                f"the arguments of tool call {part.name!r} are not a JSON object: sent as {{}}"
            )
            return {}

    def _known(self, part: ToolResultPart) -> _Call:
        call = self._calls.get(part.id)
        if call is not None:
            return call
        if not part.name:
            raise UnsupportedError(
                f"tool result {part.id!r} does not belong to a call in this conversation, and "
                "Gemini needs the function's name: set ToolResultPart.name"
            )
        return _Call(len(self._calls), part.name, part.id)

    def _response(self, call: _Call, part: ToolResultPart) -> dict[str, Any]:
        files = [item for item in part.content if not isinstance(item, TextPart)]
        text = part.text
        if files and not text:
            images = sum(isinstance(file, ImagePart) for file in files)
            text = f"{images} image(s)" if images == len(files) else f"{len(files)} file(s)"
        wire: dict[str, Any] = {"name": call.name}
        if call.id:
            wire["id"] = call.id
        wire["response"] = _structured(text, is_error=part.is_error)
        if held := [file for file in files if self._holds(file)]:
            wire["parts"] = [self._file(file) for file in held]
        return {"functionResponse": wire}

    def _files_beside(self, call: _Call, part: ToolResultPart) -> list[dict[str, Any]]:
        files = [item for item in part.content if not isinstance(item, TextPart)]
        wires = (self._part(file) for file in files if not self._holds(file))
        beside = [wire for wire in wires if wire is not None]
        return [{"text": f"The result of {call.name} comes with:"}, *beside] if beside else []

    def _holds(self, file: Part) -> bool:
        """Return whether a function's response may hold the file itself."""
        match file:
            case ImagePart(data=data) | DocumentPart(data=data):
                return self._newer and bool(data)
            case _:
                return False

    def _file(self, file: Part) -> dict[str, Any] | None:
        """Return a file as a function's response holds it, which is without settings."""
        return image_part(file) if isinstance(file, ImagePart) else self._part(file)

    def _image(self, part: ImagePart) -> dict[str, Any]:
        wire = image_part(part)
        if part.detail in _RESOLUTIONS:
            if self._newer:
                wire["mediaResolution"] = {"level": _RESOLUTIONS[part.detail]}
            else:
                self.warnings.add("this Gemini has no detail setting for images: it is dropped")
        return wire


def _structured(text: str, *, is_error: bool) -> dict[str, Any] | msgspec.Raw:
    """Return a function's response; a text that is a JSON object goes out as that object.

    That is how a tool's dict is written as text. The API requires an object, and reads its fields.
    """
    value: str | msgspec.Raw = text
    if text.lstrip()[:1] == "{":
        try:
            if isinstance(msgspec.json.decode(text), dict):
                value = msgspec.Raw(text.encode())
        except (ValueError, RecursionError):
            pass
    if is_error:
        return {"error": value}
    return value if isinstance(value, msgspec.Raw) else {"output": value}


def _sign_first_call(wires: list[dict[str, Any] | None]) -> None:
    """Sign a step that another model made with the placeholder; its first call needs one."""
    for place, wire in enumerate(wires):
        if wire and "functionCall" in wire:
            # A new one, for it may be the caller's own, of a part that goes back as it came.
            wires[place] = {SIGNATURE: SKIP_SIGNATURE} | wire
            return


def image_part(part: ImagePart) -> dict[str, Any]:
    """Return an image as a part: its bytes inline, or its URL. Raises: UnsupportedError."""
    return _media(part, _mime(part))


def _mime(part: ImagePart) -> str:
    if part.data:
        mime = image_mime(part)
        if not mime:
            raise UnsupportedError("the format of an image is unknown: set ImagePart.mime")
        return mime
    path = part.url.partition("?")[0].lower()
    by_suffix = (mime for suffix, mime in _SUFFIXES.items() if path.endswith(suffix))
    return part.mime or next(by_suffix, "")


def _media(part: ImagePart | DocumentPart | AudioPart, mime: str) -> dict[str, Any]:
    if part.data:
        return {"inlineData": {"mimeType": mime, "data": Blob(part.data)}}
    head, comma, data = part.url.partition(";base64,")
    if comma and head.startswith("data:"):
        return {"inlineData": {"mimeType": head.removeprefix("data:"), "data": data}}
    file = {"fileUri": part.url}
    return {"fileData": {"mimeType": mime, **file} if mime else file}
