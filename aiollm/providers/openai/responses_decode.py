"""OpenAI's Responses: events of a stream, or a complete response, to items.

Events of several output items interleave. `output_index` says which one an event belongs to, or
`item_id` for servers without it. Of the complete values that `.done` events and the last event
repeat, only what no delta brought is emitted: some proxies send items, or their ends, only there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from aiollm._wire.framing import NamedSSE
from aiollm._wire.lenient import SurrogateJoiner, decode, mend
from aiollm.errors import StreamInterrupted
from aiollm.providers.decoding import (
    arguments_text,
    flush,
    is_done,
    one_more_call,
    own_call_id,
    says_nothing,
)
from aiollm.providers.error_bodies import error_in, error_of, load_error, says_error
from aiollm.providers.finish_words import reason_of, shown
from aiollm.providers.openai.chat_extensions import citations
from aiollm.providers.openai.errors import is_object, no_answer, status_error, stream_error
from aiollm.providers.openai.responses_outputs import (
    ARGUMENTS,
    LAST_END,
    RAN,
    Output,
    answered_call,
    check_end,
    dicts,
    image_of,
    kind_of,
    marker_of,
    matched,
    one_more_item,
    state_of_call,
    thought_before,
    word,
)
from aiollm.providers.openai.responses_wire import (
    DELTA,
    EVENT,
    FAMILY,
    RESPONSE,
    Event,
    Reason,
    Response,
    ran_on_server,
    status_of,
    usage_of,
)
from aiollm.types import (
    Finish,
    FinishReason,
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

_JOINED = {"reasoning": ReasoningDelta, "text": TextDelta, "refusal": RefusalDelta}
_TEXT_DELTA = b"response.output_text.delta"


class ResponsesDecoder:
    """One response's events to items; `response.completed` or `.incomplete` is the end."""

    __slots__ = (
        "_by_id",
        "_by_index",
        "_calls",
        "_current",
        "_id",
        "_ids",
        "_joiner",
        "_outputs",
        "_said",
        "_wanted",
        "finished",
    )

    ending = False  # nothing follows the chunk that ends the answer

    def __init__(self) -> None:
        self.finished: bool = False
        self._outputs: list[Output] = []
        self._by_index: dict[int, Output] = {}
        self._by_id: dict[str, Output] = {}
        self._said: list[str] = []
        self._calls = self._wanted = 0
        self._ids: set[str] = set()
        self._current: int | None = None
        self._id: str | None = None
        self._joiner: SurrogateJoiner | None = None

    def feed(self, frames: Sequence[tuple[bytes, bytes]], out: list[Item]) -> None:
        """Decode events. Raises: ProviderError for an error event, ProtocolError."""
        current = self._current
        plain = DELTA.decode
        append = out.append
        for name, data in frames:
            # The first delta of a part sets the current index, any other event unsets it.
            if current is not None and name == _TEXT_DELTA:
                try:
                    event = plain(data)
                except (ValueError, RecursionError):
                    pass
                else:
                    if event.output_index == current:
                        append(TextDelta(event.delta))
                        self._said.append(event.delta)
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
        response = decode(body, RESPONSE) if is_object(body) else Response()
        if response.output is None or says_error(response.error):
            raise no_answer(body)
        self._end(response, status_of(response), out)

    def close(self, out: list[Item]) -> None:  # noqa: ARG002  the contract's
        """End the reply. Raises: StreamInterrupted if no terminal event has arrived."""
        if not self.finished:
            raise StreamInterrupted("the stream ended before response.completed")

    def _frame(self, name: bytes, data: bytes, out: list[Item]) -> None:
        if self.finished or (data[:1] != b"{" and (says_nothing(data) or is_done(data))):
            return
        event = self._decode(data)
        kind = event.type = event.type or name.decode("ascii", "replace")
        if kind == "error" or (says_error(event.error) and not kind.startswith("response.")):
            raise stream_error(load_error(data, event.error), data)
        if (react := self._EVENTS.get(kind)) is not None:
            react(self, event, out)
        elif not kind.startswith("response.") and (value := error_in(data)) is not None:
            raise stream_error(value, data)

    def _decode(self, data: bytes) -> Event:
        if self._joiner is None:
            try:
                return EVENT.decode(data)
            except (ValueError, RecursionError):
                self._joiner = SurrogateJoiner(odd=True)
        return self._joiner.decode(data, EVENT)

    def _output(self, event: Event) -> Output:
        """Return the item that an event belongs to, a new one if it is the item's first event."""
        index, id_ = event.output_index, event.item_id or word(event.item, "id")
        found = None if index is None else self._by_index.get(index)
        # Some servers give all items one index, or an item several (2026): a known id then tells.
        if found is None or found.id != id_:
            found = self._by_id.get(id_, found) if id_ else found
        if index is None and not id_ and event.item is None and self._outputs:
            found = self._outputs[-1]
        return found if found is not None else self._begin(event)

    def _begin(self, event: Event) -> Output:
        output = one_more_item(self._outputs)
        output.id = event.item_id or word(event.item, "id")
        if event.output_index is not None:
            self._by_index[event.output_index] = output
        self._by_id[output.id] = output
        return output

    def _created(self, event: Event, out: list[Item]) -> None:  # noqa: ARG002  as the others
        """Note a response. Raises: StreamInterrupted for another one in the middle of the first.

        Some proxies go on with another model's answer where the first one broke off (2026).
        """
        id_ = event.response.id if event.response is not None else None
        if self._outputs and self._id and id_ != self._id:
            raise StreamInterrupted("another response began before the end of the first")
        self._id = id_

    def _added(self, event: Event, out: list[Item]) -> None:
        output = self._begin(event)
        item = output.offered = event.item or {}
        output.kind = kind_of(item)
        out += thought_before(self._outputs)
        if output.kind == "message":
            output.waiting = marker_of(item)
        elif output.kind == "call" and ran_on_server(item):
            output.call = RAN
        elif output.kind == "call" and word(item, "name"):
            out.append(self._call(output, item))
        elif output.kind == "call":
            self._place(output)  # its end names it, with a server that converts chat (2026)

    def _text(self, event: Event, out: list[Item]) -> None:
        output = self._output(event)
        part = ("text", event.content_index or 0)
        output.kind = output.kind or "message"
        self._say(output, self._news(output, part, event, "text"), out)
        if not self._joiner and output.waiting is None and part in output.said:
            self._said = output.said[part]
            self._current = -1 if event.output_index is None else event.output_index

    def _news(self, output: Output, part: tuple[str, int], event: Event, field: str) -> str:
        """Return a delta, or what a complete value adds to the deltas of its part."""
        if event.is_done():
            value = event.text or event.refusal or event.arguments or event.input
            text = output.rest(part, mend(arguments_text(value)))
            self._drop_half(field, text)
        else:
            text = arguments_text(event.delta)
            if self._joiner is not None:
                text = self._joiner.feed(field, text)
        if text:
            output.add(part, text)
        return text

    def _drop_half(self, field: str, text: str) -> None:
        """Forget a held surrogate if `text` brings it again."""
        if text and self._joiner:
            self._joiner.flush(field)

    def _say(self, output: Output, text: str, out: list[Item]) -> None:
        """Emit text; the first one of an item carries the item's state."""
        if not text:
            return
        state, output.waiting = output.waiting, None
        output.sent = output.sent or state
        out.append(TextDelta(text, ProviderData(FAMILY, state) if state else None))

    def _refusal(self, event: Event, out: list[Item]) -> None:
        output = self._output(event)
        output.kind = output.kind or "message"
        if text := self._news(output, ("refusal", event.content_index or 0), event, "refusal"):
            out.append(RefusalDelta(text))

    def _summary(self, event: Event, out: list[Item]) -> None:
        self._think(("summary", event.summary_index or 0), event, out)

    def _thought(self, event: Event, out: list[Item]) -> None:
        self._think(("thought", event.content_index or 0), event, out)

    def _think(self, part: tuple[str, int], event: Event, out: list[Item]) -> None:
        """Emit reasoning, with a paragraph break before each further part of the same item."""
        output = self._output(event)
        output.kind = output.kind or "reasoning"
        gap = "\n\n" if output.said and part not in output.said else ""
        if text := self._news(output, part, event, "reasoning"):
            out.append(ReasoningDelta(gap + text))

    def _arguments(self, event: Event, out: list[Item]) -> None:
        output = self._output(event)
        if output.call == RAN:
            return
        output.kind = output.kind or "call"
        place = self._place(output)
        if text := self._news(output, ARGUMENTS, event, f"call {place}"):
            out.append(ToolCallDelta(place, arguments=text))
        if event.is_done():
            output.confirm(event.input if event.arguments is None else event.arguments)

    def _place(self, output: Output) -> int:
        if output.call is None:
            output.call = self._calls
            self._calls = one_more_call(self._calls)
            self._wanted += 1
        return output.call

    def _call(self, output: Output, item: dict[str, Any]) -> ToolCallDelta:
        output.named = True
        self._by_id.setdefault(word(item, "call_id"), output)
        id_ = own_call_id(mend(word(item, "call_id") or word(item, "id")), self._ids)
        custom = item["type"] == "custom_tool_call"
        return ToolCallDelta(self._place(output), id_, mend(word(item, "name")), custom=custom)

    def _annotation(self, event: Event, out: list[Item]) -> None:
        self._output(event).cited = True
        out += citations([event.annotation], FAMILY)

    def _part(self, event: Event, out: list[Item]) -> None:
        """Emit what only the end of a part brings."""
        match event.part:
            case {"type": "output_text", "text": str() as text}:
                event.text = text
                self._text(event, out)
            case {"type": "refusal", "refusal": str() as text}:
                event.refusal = text
                self._refusal(event, out)
            case _:
                pass

    def _done(self, event: Event, out: list[Item]) -> None:
        self._item(self._output(event), event.item or {}, out)

    def _item(self, output: Output, item: dict[str, Any], out: list[Item]) -> None:
        """Emit everything in a complete item that has not been emitted yet."""
        if output.ends >= LAST_END:
            return
        output.kind = output.kind or kind_of(item)
        match item.get("type"):
            case "message":
                self._message(output, item, out)
            case "reasoning":
                self._reasoning(output, item, out)
            case "function_call" | "custom_tool_call" if not ran_on_server(item):
                self._whole_call(output, item, out)
            case _ if output.ends:
                pass
            case "image_generation_call" if isinstance(item.get("result"), str):
                out.append(image_of(item))
            case str():
                if (call := answered_call(item, self._by_id)) is not None:
                    out.append(call.take_back())
                    self._wanted -= 1
                out.append(PartChunk(OpaquePart(ProviderData(FAMILY, item))))
            case _:
                pass
        output.ends += 1

    def _message(self, output: Output, item: dict[str, Any], out: list[Item]) -> None:
        marker = marker_of(item)
        if output.sent is None:
            output.waiting = marker
        parts = dicts(item.get("content"))
        texts = [mend(word(part, "text")) for part in parts if part.get("type") == "output_text"]
        for index, text, _ in list(output.missing("text", texts)):
            self._drop_half("text", text)
            output.add(("text", index), text)
            self._say(output, text, out)
        refusals = [mend(word(part, "refusal")) for part in parts if part.get("type") == "refusal"]
        for index, text, _ in list(output.missing("refusal", refusals)):
            self._drop_half("refusal", text)
            output.add(("refusal", index), text)
            out.append(RefusalDelta(text))
        if not output.cited:
            notes = [one for part in parts for one in dicts(part.get("annotations"))]
            found = citations(notes, FAMILY)
            output.cited = bool(found)
            out += found
        if not output.ends and output.sent is not None and output.sent != marker:
            out.append(TextDelta("", ProviderData(FAMILY, marker)))

    def _reasoning(self, output: Output, item: dict[str, Any], out: list[Item]) -> None:
        for kind, field in (("summary", "summary"), ("thought", "content")):
            texts = [mend(word(part, "text")) for part in dicts(item.get(field))]
            for index, text, begins in list(output.missing(kind, texts)):
                gap = "\n\n" if begins and output.said else ""
                self._drop_half("reasoning", text)
                output.add((kind, index), text)
                out.append(ReasoningDelta(gap + text))
        if not output.ends:
            out.append(ReasoningDelta("", ProviderData(FAMILY, {"item": item})))

    def _whole_call(self, output: Output, item: dict[str, Any], out: list[Item]) -> None:
        if not output.named:
            out.append(self._call(output, item))
        custom = item["type"] == "custom_tool_call"
        place = self._place(output)
        given = item.get("input") if custom else item.get("arguments")
        text = output.rest(ARGUMENTS, value := mend(arguments_text(given)) or output.offer())
        self._drop_half(f"call {place}", text)
        whole = item.get("status") != "incomplete"
        if whole and not (custom or value or output.said):
            text = "{}"
        if text:
            output.add(ARGUMENTS, text)
        if whole:
            output.confirm(value or text)
            output.offered = item
        if output.ends and not text:
            return
        out.append(ToolCallDelta(place, arguments=text, provider_data=state_of_call(item)))

    def _completed(self, event: Event, out: list[Item]) -> None:
        response = event.response or Response()
        self._end(response, status_of(response, event.type.rpartition(".")[2]), out)

    def _end(self, response: Response, status: str, out: list[Item]) -> None:
        self._reconcile(response.output or (), out)
        if self._joiner:
            flush(self._joiner, _JOINED, out)
        usage = usage_of(response)
        if status not in ("completed", "incomplete"):
            if usage.certainty != "missing":
                out.append(UsageUpdate(usage))
            if says_error(response.error):
                raise stream_error(error_of(response.error))
            raise status_error(status)
        details = response.incomplete_details or Reason()
        own = response.status or status
        raw = details.reason or own if status == "incomplete" else own
        check_end(self._outputs, status, raw)
        self.finished = True
        out.append(Finish(self._finish_reason(status, raw), shown(raw), usage))

    def _reconcile(self, items: Sequence[dict[str, Any]], out: list[Item]) -> None:
        """Emit what the last event brings that was not streamed, and what items only began with."""
        for output, item in matched(items, self._outputs, self._by_id, self._by_index):
            self._item(output or Output(), item, out)
        for output in self._outputs:
            item = output.offered
            if not output.ends and (output.kind == "message" or output.offer()):
                self._item(output, item, out)

    def _finish_reason(self, status: str, raw: str) -> FinishReason:
        if status == "incomplete":
            return reason_of(raw)
        return "tool_calls" if self._wanted else "stop"

    _EVENTS: ClassVar[dict[str, Callable[[ResponsesDecoder, Event, list[Item]], None]]] = {
        "response.created": _created,
        "response.output_item.added": _added,
        "response.output_item.done": _done,
        "response.output_text.delta": _text,
        "response.output_text.done": _text,
        "response.content_part.done": _part,
        "response.output_text.annotation.added": _annotation,
        "response.refusal.delta": _refusal,
        "response.refusal.done": _refusal,
        "response.reasoning_summary_text.delta": _summary,
        "response.reasoning_summary_text.done": _summary,
        "response.reasoning_text.delta": _thought,
        "response.reasoning.delta": _thought,
        "response.reasoning_text.done": _thought,
        "response.function_call_arguments.delta": _arguments,
        "response.function_call_arguments.done": _arguments,
        "response.custom_tool_call_input.delta": _arguments,
        "response.custom_tool_call_input.done": _arguments,
        "response.completed": _completed,
        "response.done": _completed,
        "response.incomplete": _completed,
        "response.failed": _completed,
        "response.cancelled": _completed,
    }
    """The handler of each event; other events add nothing to these."""
