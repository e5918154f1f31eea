"""OpenAI's Responses: events of a stream, or a complete response, to items.

Events of several output items interleave. `output_index` says which one an event belongs to, or
`item_id` for servers without it. The value that a `.done` event repeats is used only if no delta
came before it, because some proxies send only complete values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec

from aiollm._wire.framing import NamedSSE
from aiollm._wire.lenient import SurrogateJoiner, decode_leniently, load, mend
from aiollm.errors import StreamInterrupted
from aiollm.providers.decoding import one_more_call, own_call_id
from aiollm.providers.error_bodies import is_error
from aiollm.providers.openai.chat_extensions import citations, image_of_base64
from aiollm.providers.openai.chat_tool_calls import arguments_text
from aiollm.providers.openai.errors import is_object, no_answer, status_error, stream_error
from aiollm.providers.openai.responses_wire import (
    DELTA,
    EVENT,
    RESPONSE,
    Event,
    Reason,
    Response,
    ran_on_server,
    usage_of,
)
from aiollm.types import (
    Finish,
    FinishReason,
    ImageChunk,
    Item,
    OpaquePart,
    PartChunk,
    ProviderData,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    UsageUpdate,
)

FAMILY = "openai-responses"

_TEXT_DELTA = b"response.output_text.delta"

_INCOMPLETE: dict[str, FinishReason] = {
    "max_output_tokens": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
}
RAN = -1
"""The number of a call that the server ran itself."""
_CALL_FIELDS = {"type", "call_id", "name", "arguments", "input"}
"""Fields of a call that become canonical; the others are kept for replay."""


class _Output:
    """An output item so far; `heard` holds its parts that have been emitted.

    `waiting` is the state to emit with the item's first text, `sent` the state that was emitted.
    """

    __slots__ = ("call", "cited", "heard", "named", "sent", "waiting")

    def __init__(self) -> None:
        self.call: int | None = None
        self.named = False
        self.cited = False
        self.heard: set[tuple[str, int]] = set()
        self.waiting: dict[str, Any] | None = None
        self.sent: dict[str, Any] | None = None


class ResponsesDecoder:
    """One response's events to items; `response.completed` or `.incomplete` is the end."""

    __slots__ = (
        "_by_id",
        "_by_index",
        "_calls",
        "_current",
        "_ids",
        "_joiner",
        "_latest",
        "finished",
    )

    ending = False  # nothing follows the chunk that ends the answer

    def __init__(self) -> None:
        self.finished: bool = False
        self._by_index: dict[int, _Output] = {}
        self._by_id: dict[str, _Output] = {}
        self._latest: _Output | None = None
        self._calls = 0
        self._ids: set[str] = set()
        self._current: int | None = None
        self._joiner: SurrogateJoiner | None = None

    def feed(self, frames: Sequence[tuple[bytes, bytes]], out: list[Item]) -> None:
        """Decode events. Raises: ProviderError for an error event, ProtocolError."""
        current = self._current
        decode = DELTA.decode
        append = out.append
        for name, data in frames:
            # The first delta of a part sets the current index, any other event unsets it.
            if current is not None and name == _TEXT_DELTA:
                try:
                    event = decode(data)
                except (ValueError, RecursionError):
                    pass
                else:
                    if event.output_index == current:
                        append(TextDelta(event.delta))
                        continue
            self._current = None
            self._frame(name, data, out)
            current = self._current

    def whole(self, body: bytes, out: list[Item]) -> None:
        """Decode a reply that was not streamed. Raises: LLMError."""
        if body.lstrip()[:5] in (b"data:", b"event"):
            framer = NamedSSE()
            self.feed(framer.feed(body), out)
            self.feed(framer.close(), out)
            self.close(out)
            return
        response = self._whole(body) if is_object(body) else Response()
        if response.output is None or response.error:
            raise no_answer(body)
        self._end(response, response.status or "completed", out)

    def _whole(self, body: bytes) -> Response:
        try:
            return RESPONSE.decode(body)
        except (ValueError, RecursionError):
            self._joiner = SurrogateJoiner()
        response: Response = decode_leniently(body, Response)
        return response

    def close(self, out: list[Item]) -> None:  # noqa: ARG002  the contract's
        """End the reply. Raises: StreamInterrupted if no terminal event has arrived."""
        if not self.finished:
            raise StreamInterrupted("the stream ended before response.completed")

    def _frame(self, name: bytes, data: bytes, out: list[Item]) -> None:
        if self.finished or not data.strip() or data.startswith(b"[DONE]"):
            return
        event = self._decode(data)
        kind = event.type = event.type or name.decode("ascii", "replace")
        if kind == "error" or (event.error and not kind.startswith("response.")):
            raise stream_error(load(data), data)
        react = self._EVENTS.get(kind)
        if react is not None:
            react(self, event, out)
        elif not kind.startswith("response.") and is_error(value := load(data)):
            raise stream_error(value, data)

    def _decode(self, data: bytes) -> Event:
        try:
            return EVENT.decode(data)
        except (ValueError, RecursionError):
            self._joiner = self._joiner or SurrogateJoiner()
        event: Event = decode_leniently(data, Event)
        return event

    def _output(self, event: Event) -> _Output:
        """Return the item that an event belongs to, a new one if it is the item's first event."""
        if event.output_index is not None:
            found = self._by_index.get(event.output_index)
        elif event.item_id or event.item is not None:
            found = self._by_id.get(event.item_id or _word(event.item, "id"))
        else:
            found = self._latest
        return found if found is not None else self._begin(event)

    def _begin(self, event: Event) -> _Output:
        output = self._latest = _Output()
        if event.output_index is not None:
            self._by_index[event.output_index] = output
        self._by_id[event.item_id or _word(event.item, "id")] = output
        return output

    def _added(self, event: Event, out: list[Item]) -> None:
        output = self._begin(event)
        item = event.item or {}
        match item.get("type"):
            case "message":
                output.waiting = _marker(item)
            case "function_call" | "custom_tool_call" if ran_on_server(item):
                output.call = RAN
            case "function_call" | "custom_tool_call":
                out.append(self._call(output, item))
            case _:
                pass

    def _text(self, event: Event, out: list[Item]) -> None:
        output = self._output(event)
        part = ("text", event.content_index or 0)
        self._say(output, self._news(output, part, event, "text"), out)
        if not self._joiner and output.waiting is None and not _is_done(event):
            self._current = -1 if event.output_index is None else event.output_index

    def _news(self, output: _Output, part: tuple[str, int], event: Event, field: str) -> str:
        """Return a delta, or the complete value of a part without deltas."""
        value = event.delta
        if _is_done(event):
            if part in output.heard:
                return ""
            value = event.text or event.refusal or event.arguments or event.input
        text = arguments_text(value)
        if self._joiner is not None:
            text = self._joiner.feed(field, text)
        if text:
            output.heard.add(part)
        return text

    def _say(self, output: _Output, text: str, out: list[Item]) -> None:
        """Emit text; the first one of an item carries the item's state."""
        if not text:
            return
        state, output.waiting = output.waiting, None
        output.sent = output.sent or state
        out.append(TextDelta(text, ProviderData(FAMILY, state) if state else None))

    def _refusal(self, event: Event, out: list[Item]) -> None:
        output = self._output(event)
        if text := self._news(output, ("refusal", event.content_index or 0), event, "refusal"):
            out.append(RefusalDelta(text))

    def _summary(self, event: Event, out: list[Item]) -> None:
        self._think(("summary", event.summary_index or 0), event, out)

    def _thought(self, event: Event, out: list[Item]) -> None:
        self._think(("thought", event.content_index or 0), event, out)

    def _think(self, part: tuple[str, int], event: Event, out: list[Item]) -> None:
        """Emit reasoning, with a paragraph break before each further part of the same item."""
        output = self._output(event)
        gap = "\n\n" if output.heard and part not in output.heard else ""
        if text := self._news(output, part, event, "reasoning"):
            out.append(ReasoningDelta(gap + text))

    def _arguments(self, event: Event, out: list[Item]) -> None:
        output = self._output(event)
        if output.call == RAN:
            return
        place = self._place(output)
        if text := self._news(output, ("arguments", 0), event, f"call {place}"):
            out.append(ToolCallDelta(place, arguments=text))

    def _place(self, output: _Output) -> int:
        if output.call is None:
            output.call = self._calls
            self._calls = one_more_call(self._calls)
        return output.call

    def _call(self, output: _Output, item: dict[str, Any]) -> ToolCallDelta:
        output.named = True
        id_ = own_call_id(mend(_word(item, "call_id") or _word(item, "id")), self._ids)
        custom = item["type"] == "custom_tool_call"
        return ToolCallDelta(self._place(output), id_, mend(_word(item, "name")), custom=custom)

    def _annotation(self, event: Event, out: list[Item]) -> None:
        self._output(event).cited = True
        out += citations([event.annotation], FAMILY)

    def _done(self, event: Event, out: list[Item]) -> None:
        output = self._output(event)
        self._item(output, event.item or {}, out)

    def _item(self, output: _Output, item: dict[str, Any], out: list[Item]) -> None:
        """Emit everything in a complete item that has not been emitted yet."""
        match item.get("type"):
            case "message":
                self._message(output, item, out)
            case "reasoning":
                self._reasoning(output, item, out)
            case "function_call" | "custom_tool_call" if not ran_on_server(item):
                self._whole_call(output, item, out)
            case "image_generation_call" if isinstance(item.get("result"), str):
                out.append(_image(item))
            case str():
                out.append(PartChunk(OpaquePart(ProviderData(FAMILY, item))))
            case _:
                pass

    def _message(self, output: _Output, item: dict[str, Any], out: list[Item]) -> None:
        marker = _marker(item)
        if output.sent is None:
            output.waiting = marker
        for index, part in enumerate(_dicts(item.get("content"))):
            match part:
                case {"type": "output_text", "text": str() as text}:
                    if _is_news(output, "text", index):
                        self._say(output, mend(text), out)
                    if not output.cited:
                        out += citations(_dicts(part.get("annotations")), FAMILY)
                case {"type": "refusal", "refusal": str() as text}:
                    if _is_news(output, "refusal", index) and text:
                        out.append(RefusalDelta(mend(text)))
                case _:
                    pass
        if output.sent is not None and output.sent != marker:
            out.append(TextDelta("", ProviderData(FAMILY, marker)))

    def _reasoning(self, output: _Output, item: dict[str, Any], out: list[Item]) -> None:
        for kind, field in (("summary", "summary"), ("thought", "content")):
            for index, part in enumerate(_dicts(item.get(field))):
                gap = "\n\n" if output.heard else ""
                if _is_news(output, kind, index) and (text := _word(part, "text")):
                    out.append(ReasoningDelta(gap + mend(text)))
        out.append(ReasoningDelta("", ProviderData(FAMILY, {"item": item})))

    def _whole_call(self, output: _Output, item: dict[str, Any], out: list[Item]) -> None:
        if not output.named:
            out.append(self._call(output, item))
        text = ""
        custom = item["type"] == "custom_tool_call"
        if _is_news(output, "arguments", 0):
            given = item.get("input") if custom else item.get("arguments")
            text = mend(arguments_text(given)) or ("" if custom else "{}")
        state = {key: value for key, value in item.items() if key not in _CALL_FIELDS}
        if custom:
            state["type"] = item["type"]
        data = ProviderData(FAMILY, state) if state else None
        out.append(ToolCallDelta(self._place(output), arguments=text, provider_data=data))

    def _completed(self, event: Event, out: list[Item]) -> None:
        response = event.response or Response()
        self._end(response, response.status or event.type.rpartition(".")[2], out)

    def _end(self, response: Response, status: str, out: list[Item]) -> None:
        if self._latest is None:
            for item in response.output or ():
                self._item(_Output(), item, out)
        self._flush(out)
        usage = usage_of(response.usage)
        if status not in ("completed", "incomplete"):
            if usage.certainty != "missing":
                out.append(UsageUpdate(usage))
            if response.error:
                raise stream_error({"error": response.error})
            raise status_error(status)
        self.finished = True
        details = response.incomplete_details or Reason()
        raw = details.reason or status if status == "incomplete" else status
        out.append(Finish(self._finish_reason(status, raw), raw, usage))

    def _finish_reason(self, status: str, raw: str) -> FinishReason:
        if status == "incomplete":
            return _INCOMPLETE.get(raw, "other")
        return "tool_calls" if self._calls else "stop"

    def _flush(self, out: list[Item]) -> None:
        """Emit the surrogates that never got their other half."""
        if not self._joiner:
            return
        if thought := self._joiner.flush("reasoning"):
            out.append(ReasoningDelta(thought))
        if text := self._joiner.flush("text"):
            out.append(TextDelta(text))
        if refusal := self._joiner.flush("refusal"):
            out.append(RefusalDelta(refusal))

    _EVENTS: ClassVar[dict[str, Callable[[ResponsesDecoder, Event, list[Item]], None]]] = {
        "response.output_item.added": _added,
        "response.output_item.done": _done,
        "response.output_text.delta": _text,
        "response.output_text.done": _text,
        "response.output_text.annotation.added": _annotation,
        "response.refusal.delta": _refusal,
        "response.refusal.done": _refusal,
        "response.reasoning_summary_text.delta": _summary,
        "response.reasoning_summary_text.done": _summary,
        "response.reasoning_text.delta": _thought,
        "response.reasoning_text.done": _thought,
        "response.function_call_arguments.delta": _arguments,
        "response.function_call_arguments.done": _arguments,
        "response.custom_tool_call_input.delta": _arguments,
        "response.custom_tool_call_input.done": _arguments,
        "response.completed": _completed,
        "response.incomplete": _completed,
        "response.failed": _completed,
        "response.cancelled": _completed,
    }
    """The handler of each event; other events add nothing to these."""


def _is_done(event: Event) -> bool:
    return event.type.endswith(".done")


def _is_news(output: _Output, kind: str, index: int | None) -> bool:
    """Return whether a part has not been emitted yet, and record that it now is."""
    part = (kind, index or 0)
    if part in output.heard:
        return False
    output.heard.add(part)
    return True


def _marker(item: dict[str, Any]) -> dict[str, Any]:
    """Return what a message item needs for replay besides its text."""
    return {key: item[key] for key in ("id", "phase") if item.get(key)}


def _word(item: dict[str, Any] | None, key: str) -> str:
    value = item.get(key) if item is not None else None
    return value if isinstance(value, str) else ""


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _image(item: dict[str, Any]) -> ImageChunk:
    state = {key: value for key, value in item.items() if key != "result"}
    image = image_of_base64(item["result"], f"image/{_word(item, 'output_format') or 'png'}")
    return ImageChunk(msgspec.structs.replace(image, provider_data=ProviderData(FAMILY, state)))
