"""Anthropic's events to items: blocks, deltas, signatures, usage, the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from aiollm.encoding import new_call_id
from aiollm.errors import ProtocolError, StreamInterrupted
from aiollm.provider import json_body
from aiollm.providers.anthropic_errors import stream_error
from aiollm.providers.anthropic_messages import FAMILY
from aiollm.tolerant import SurrogateJoiner, decode_leniently, mend
from aiollm.types import (
    Citation,
    CitationChunk,
    Finish,
    FinishReason,
    Item,
    Notice,
    OpaquePart,
    PartChunk,
    ProviderData,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageUpdate,
)

MAX_CALLS = 4096
"""Tool calls in one answer at most (design: bounds)."""

_DELTA = b"content_block_delta"
_PING = b"ping"

_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
"""Anthropic's words for an end; `pause_turn` and those to come are `other`."""

_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)

Event: TypeAlias = tuple[bytes, bytes]


class _Delta(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None


class _DeltaEvent(msgspec.Struct, gc=False):
    type: str | None = None
    index: int | None = None
    delta: _Delta | None = None


_DELTA_EVENT = msgspec.json.Decoder(_DeltaEvent)


def _value(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return decode_leniently(data, Any)


class _Block:
    """A content block that is open: what it is and what of it is still to be given out."""

    __slots__ = ("call", "kind", "partial", "raw", "said", "signature")

    def __init__(self, kind: str, raw: dict[str, Any]) -> None:
        self.kind = kind
        self.raw = raw
        self.call = 0
        self.said = False
        self.signature = ""
        self.partial: list[str] = []


class AnthropicDecoder:
    """Events of one reply to items; `message_stop` is the end."""

    __slots__ = ("_blocks", "_calls", "_counts", "_joiner", "_stop", "finished")

    def __init__(self) -> None:
        self.finished = False
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._counts: dict[str, int] = {}
        self._joiner: SurrogateJoiner | None = None
        self._stop: str | None = None

    def feed(self, frames: Sequence[Event], out: list[Item]) -> None:
        """Decode events. Raises: ProviderError for an error event, ProtocolError."""
        for name, data in frames:
            if self.finished:
                return
            if name == _DELTA or not name:
                try:
                    event = _DELTA_EVENT.decode(data)
                except (ValueError, RecursionError):
                    if data.startswith(b"[DONE]"):
                        continue
                    event = decode_leniently(data, _DeltaEvent)
                    self._joiner = self._joiner or SurrogateJoiner()
                delta = event.delta
                if (
                    delta is not None
                    and delta.type == "text_delta"
                    and delta.text
                    and self._joiner is None
                ):
                    out.append(TextDelta(delta.text))
                elif event.type == "content_block_delta" or (name and not event.type):
                    self._delta(event, data, out)
                else:
                    self._event(name, data, out)
            elif name != _PING:
                self._event(name, data, out)

    def whole(self, body: bytes, out: list[Item]) -> None:
        """Decode a reply that came whole. Raises: LLMError."""
        value = _value(body)
        match value:
            case {"content": str(text)}:
                blocks: list[Any] = [{"type": "text", "text": text}]
            case {"content": list(blocks)}:
                pass
            case {"error": _} | {"type": "error"}:
                raise stream_error(value, body)
            case _:
                raise ProtocolError("the answer is no message", frame=body)
        for index, block in enumerate(blocks):
            self._open(index, block, out)
            self._shut(index, out)
        self._count(value.get("usage"))
        self._note_stop(value, out)
        self._end(out)

    def close(self, out: list[Item]) -> None:
        """End the reply. Raises: StreamInterrupted unless a stop reason was seen."""
        if self.finished:
            return
        if self._stop is None:
            raise StreamInterrupted("the stream ended without message_stop")
        self._end(out)

    def _event(self, name: bytes, data: bytes, out: list[Item]) -> None:
        if not data:
            return
        value = _value(data)
        if not isinstance(value, dict):
            raise ProtocolError("an event is not a JSON object", frame=data)
        kind = value.get("type") or name.decode("ascii", "replace")
        match kind if name != b"error" else "error":
            case "message_start":
                self._message_start(value, out)
            case "content_block_start":
                self._block_start(value, out)
            case "content_block_stop":
                self._shut(_index(value), out)
            case "message_delta":
                self._count(value.get("usage"))
                self._note_stop(value.get("delta"), out)
            case "message_stop":
                self._end(out)
            case "error":
                raise stream_error(value, data)
            case _ if value.get("error"):
                raise stream_error(value, data)
            case _:
                # Anthropic may add events at any time.
                return

    def _message_start(self, event: dict[str, Any], out: list[Item]) -> None:
        message = event.get("message")
        if isinstance(message, dict):
            self._count(message.get("usage"))
        if self._counts:
            out.append(UsageUpdate(self._usage(final=False)))

    def _block_start(self, event: dict[str, Any], out: list[Item]) -> None:
        index = _index(event)
        if index in self._blocks:
            self._shut(index, out)
        self._open(index, event.get("content_block"), out)

    def _open(self, index: int, raw: Any, out: list[Item]) -> None:
        if not isinstance(raw, dict):
            return
        kind = raw.get("type")
        block = _Block(kind if isinstance(kind, str) else "", raw)
        self._blocks[index] = block
        match raw:
            case {"type": "text"}:
                self._text(index, raw.get("text"), out)
                for citation in _list(raw.get("citations")):
                    _cite(citation, out)
            case {"type": "thinking"}:
                self._think(index, raw.get("thinking"), out)
                block.signature = _string(raw.get("signature"))
            case {"type": "tool_use"}:
                self._call(block, out)
            case _:
                pass

    def _call(self, block: _Block, out: list[Item]) -> None:
        if self._calls >= MAX_CALLS:
            raise ProtocolError(f"the answer has more than {MAX_CALLS} tool calls")
        block.call = self._calls
        self._calls += 1
        known = ("type", "id", "name", "input")
        rest = {key: value for key, value in block.raw.items() if key not in known}
        out.append(
            ToolCallDelta(
                block.call,
                mend(_string(block.raw.get("id"))) or new_call_id(),
                mend(_string(block.raw.get("name"))),
                provider_data=ProviderData(FAMILY, rest) if rest else None,
            )
        )

    def _delta(self, event: _DeltaEvent, data: bytes, out: list[Item]) -> None:
        index = event.index or 0
        delta = event.delta or _Delta()
        block = self._blocks.get(index)
        match delta.type:
            case "text_delta":
                self._text(index, delta.text, out)
            case "thinking_delta":
                self._think(index, delta.thinking, out)
            case "signature_delta" if block is not None and block.kind == "thinking":
                block.signature = delta.signature or block.signature
            case "input_json_delta" if block is not None:
                self._arguments(index, block, delta.partial_json, out)
            case "citations_delta":
                _cite(_inner(data).get("citation"), out)
            case _ if block is not None:
                _grow(block.raw, _inner(data))
            case _:
                pass

    def _text(self, index: int, text: Any, out: list[Item]) -> None:
        if joined := self._joined(index, "text", text):
            out.append(TextDelta(joined))

    def _think(self, index: int, text: Any, out: list[Item]) -> None:
        if joined := self._joined(index, "thinking", text):
            out.append(ReasoningDelta(joined))
            if index in self._blocks:
                self._blocks[index].said = True

    def _arguments(self, index: int, block: _Block, text: str | None, out: list[Item]) -> None:
        if joined := self._joined(index, "input", text):
            block.partial.append(joined)
            if block.kind == "tool_use":
                out.append(ToolCallDelta(block.call, arguments=joined))

    def _joined(self, index: int, field: str, text: Any) -> str:
        if not isinstance(text, str):
            return ""
        return self._joiner.feed(f"{index}.{field}", text) if self._joiner is not None else text

    def _shut(self, index: int, out: list[Item]) -> None:
        """Give out what only the end of a block completes."""
        block = self._blocks.pop(index, None)
        if block is None:
            return
        self._flush(index, block, out)
        match block.kind:
            case "text":
                pass
            case "thinking":
                _seal(block, out)
            case "redacted_thinking":
                data = ProviderData(FAMILY, {"redacted_thinking": block.raw.get("data")})
                out.append(PartChunk(ReasoningPart("", data)))
            case "tool_use":
                given = block.raw.get("input")
                if given and not block.partial:
                    text = bytes(json_body(given)).decode()
                    out.append(ToolCallDelta(block.call, arguments=text))
            case _:
                out.append(PartChunk(_opaque(block)))

    def _flush(self, index: int, block: _Block, out: list[Item]) -> None:
        """Give out halves of surrogate pairs that wait for the other half in vain."""
        if self._joiner is None:
            return
        if text := self._joiner.flush(f"{index}.text"):
            out.append(TextDelta(text))
        if text := self._joiner.flush(f"{index}.thinking"):
            out.append(ReasoningDelta(text))
        if text := self._joiner.flush(f"{index}.input"):
            block.partial.append(text)
            if block.kind == "tool_use":
                out.append(ToolCallDelta(block.call, arguments=text))

    def _note_stop(self, value: Any, out: list[Item]) -> None:
        if not isinstance(value, dict):
            return
        self._stop = mend(_string(value.get("stop_reason"))) or self._stop
        details = value.get("stop_details")
        if not isinstance(details, dict):
            return
        if category := _string(details.get("category")):
            out.append(Notice(f"Anthropic declined for reasons of policy: {mend(category)}"))
        if explanation := _string(details.get("explanation")):
            out.append(RefusalDelta(mend(explanation)))

    def _end(self, out: list[Item]) -> None:
        for index in list(self._blocks):
            self._shut(index, out)
        raw = self._stop or ""
        reason = _REASONS.get(raw, "other")
        if self._calls and reason == "stop":
            reason = "tool_calls"
        self.finished = True
        out.append(Finish(reason, raw, self._usage(final=True)))

    def _count(self, usage: Any) -> None:
        """Take the counts that are given; later ones replace earlier ones."""
        if not isinstance(usage, dict):
            return
        details = usage.get("output_tokens_details")
        given = {name: usage.get(name) for name in _COUNTS}
        if isinstance(details, dict):
            given["thinking_tokens"] = details.get("thinking_tokens")
        self._counts |= {
            name: int(count)
            for name, count in given.items()
            if isinstance(count, int | float) and 0 <= count < 2**53
        }

    def _usage(self, *, final: bool) -> Usage:
        counts = self._counts
        if not counts:
            return Usage()
        cached = counts.get("cache_read_input_tokens", 0)
        created = counts.get("cache_creation_input_tokens", 0)
        whole = final and "input_tokens" in counts and "output_tokens" in counts
        return Usage(
            # Unlike others, Anthropic counts what the cache read or wrote beside the input.
            counts.get("input_tokens", 0) + created + cached,
            counts.get("output_tokens", 0),
            cached,
            counts.get("thinking_tokens", 0),
            "exact" if whole else "partial",
        )


def _index(event: dict[str, Any]) -> int:
    index = event.get("index")
    if isinstance(index, float) and index.is_integer():
        return int(index)
    return index if isinstance(index, int) else 0


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _inner(data: bytes) -> dict[str, Any]:
    """Return the `delta` of an event with all that the typed decoder leaves out."""
    match _value(data):
        case {"delta": dict(delta)}:
            return delta
        case _:
            return {}


def _cite(citation: Any, out: list[Item]) -> None:
    if not isinstance(citation, dict):
        return
    url = _string(citation.get("url")) or _string(citation.get("source"))
    title = _string(citation.get("title")) or _string(citation.get("document_title"))
    text = _string(citation.get("cited_text"))
    out.append(CitationChunk(Citation(mend(url), mend(title), mend(text))))


def _seal(block: _Block, out: list[Item]) -> None:
    """Give a thinking block its signature; some servers send an empty one, which is none."""
    if not block.signature:
        return
    data = ProviderData(FAMILY, {"signature": block.signature})
    if block.said:
        out.append(ReasoningDelta("", data))
    else:
        out.append(PartChunk(ReasoningPart("", data)))


def _grow(raw: dict[str, Any], delta: dict[str, Any]) -> None:
    """Merge an unknown delta into its block: text grows, anything else replaces."""
    for key, value in delta.items():
        if key == "type":
            continue
        old = raw.get(key)
        raw[key] = old + value if isinstance(old, str) and isinstance(value, str) else value


def _opaque(block: _Block) -> OpaquePart:
    if block.partial:
        text = "".join(block.partial)
        try:
            block.raw["input"] = msgspec.json.decode(text)
        except (ValueError, RecursionError):
            block.raw["input"] = {}
    return OpaquePart(ProviderData(FAMILY, {"block": block.raw}))
