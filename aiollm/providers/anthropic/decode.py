"""Anthropic's events to items: blocks, deltas, signatures, usage and the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiollm._wire.batch import add_texts
from aiollm._wire.lenient import SurrogateJoiner, decode, load, mend, mend_all
from aiollm._wire.runs import EventRuns, NamedData, Run
from aiollm.errors import ProtocolError, StreamInterrupted
from aiollm.providers.anthropic.blocks import Block, grow, opaque_part, seal
from aiollm.providers.anthropic.errors import stream_error
from aiollm.providers.anthropic.messages import FAMILY
from aiollm.providers.anthropic.wire import (
    EVENT,
    MESSAGE,
    Counts,
    Delta,
    Event,
    Message,
    block_of,
    decode_plain,
    usage_of,
)
from aiollm.providers.decoding import (
    MAX_PARTS,
    arguments_text,
    check_open,
    check_parts,
    complete_arguments,
    is_done,
    is_unreadable,
    one_more_call,
    own_call_id,
    says_nothing,
)
from aiollm.providers.error_bodies import error_in, load_error, says_error
from aiollm.providers.finish_words import broken_error, is_broken, no_call, reason_of, shown
from aiollm.types import (
    Citation,
    CitationChunk,
    Finish,
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
    UsageUpdate,
)

_DELTA = b"content_block_delta"
_PING = b"ping"


class AnthropicDecoder:
    """Events of one reply to items; `message_stop` is the end."""

    __slots__ = (
        "_answered",
        "_blocks",
        "_counts",
        "_has_blocks",
        "_id",
        "_ids",
        "_joiner",
        "_plain",
        "_stop",
        "ending",
        "finished",
    )

    def __init__(self) -> None:
        self.ending: bool = False
        self.finished: bool = False
        self._blocks: dict[int, Block] = {}
        self._counts: Counts | None = None
        self._answered = self._has_blocks = False
        self._id: str | None = None
        self._ids: set[str] = set()
        self._joiner: SurrogateJoiner | None = None
        self._plain = False
        self._stop = ""

    def feed(self, frames: Sequence[NamedData], out: list[Item]) -> None:
        """Decode events. Raises: ProviderError for an error event, ProtocolError."""
        if type(frames) is Run:
            name, run = frames[0]
            known = self._texts(run, out) if name == _DELTA and self._plain else 0
            frames = [(name, data) for data in run[known:]]
        for name, data in frames:
            if self._plain and (name == _DELTA or not name):
                try:
                    out.append(TextDelta(decode_plain(data).delta.text))
                    continue
                except (ValueError, RecursionError):
                    self._plain = False
            if self.finished:
                return
            if name != _PING:
                self._event(name, data, out)

    def _texts(self, run: list[bytes], out: list[Item]) -> int:
        """Decode the first events of a run that have only text; return how many they are."""
        texts: list[str] = []
        try:
            # Events that are freed one by one take less time than a list of them.
            for data in run:
                texts.append(decode_plain(data).delta.text)  # noqa: PERF401
        except (ValueError, RecursionError):
            pass
        add_texts(texts, out)
        return len(texts)

    def whole(self, body: bytes, out: list[Item]) -> None:
        """Decode a reply that was not streamed. Raises: LLMError."""
        if body.lstrip()[:5] in (b"data:", b"event"):
            framer = EventRuns()
            self.feed(framer.feed(body), out)
            self.feed(framer.close(), out)
            self.close(out)
            return
        message = decode(body, MESSAGE)
        if message.content is None:
            if (value := error_in(body)) is not None:
                raise stream_error(value, body)
            raise ProtocolError("the answer is not a message", frame=body)
        content = message.content
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        check_parts(blocks)
        for index, block in enumerate(blocks):
            self._open(index, block, out)
            self._shut(index, out)
        self._count(message.usage)
        self._note_stop(message, out)
        self._end(out)

    def close(self, out: list[Item]) -> None:
        """End the reply. Raises: StreamInterrupted unless a stop reason was seen."""
        if self.finished:
            return
        if not self.ending:
            raise StreamInterrupted("the stream ended without message_stop")
        self._end(out)

    def _event(self, name: bytes, data: bytes, out: list[Item]) -> None:
        event = self._decode(data)
        match event.type or name.decode("ascii", "replace"):
            case "content_block_delta":
                self._delta(event.index or 0, event.delta or Delta(), data, out)
            case "content_block_start":
                self._open(event.index or 0, block_of(event.content_block), out)
            case "content_block_stop":
                self._shut(event.index or 0, out)
            case "message_start":
                self._message_start(event, out)
            case "message_delta":
                self._count(event.usage)
                self._note_stop(event.delta, out)
            case "message_stop":
                self._end(out)
            case kind if kind == "error" or name == b"error" or says_error(event.error):
                raise stream_error(load_error(data, event.error), data)
            case "" if event.delta is not None and event.delta.type:
                self._delta(event.index or 0, event.delta, data, out)
            case "" if (value := error_in(data)) is not None:
                raise stream_error(value, data)
            case _:
                # Anthropic may add events at any time.
                return

    def _decode(self, data: bytes) -> Event:
        if self._joiner is None:
            try:
                return EVENT.decode(data)
            except (ValueError, RecursionError):
                pass  # another server may write it differently than Anthropic
        if data[:1] != b"{" and self._is_none(data):
            return Event("ping")
        self._plain = False
        if self._joiner is None:
            self._joiner = SurrogateJoiner(odd=True)
        return self._joiner.decode(data, EVENT)

    def _is_none(self, data: bytes) -> bool:
        return says_nothing(data) or is_done(data) or (self.ending and is_unreadable(data))

    def _message_start(self, event: Event, out: list[Item]) -> None:
        """Note a message and its first counts. Raises: StreamInterrupted for a second one.

        Some proxies go on with another model's answer where the first one broke off (2026).
        """
        if (message := event.message) is not None:
            if self._id is not None and self._is_another(message):
                raise StreamInterrupted("another message began before the end of the first")
            self._id = message.id
            self._count(message.usage)
        usage = usage_of(self._counts, final=False)
        if usage.certainty != "missing":
            out.append(UsageUpdate(usage))

    def _is_another(self, message: Message) -> bool:
        """Return whether a message begins in the middle of the one that has begun."""
        return self._has_blocks and not self.ending and message.id != self._id

    def _open(self, index: int, raw: Any, out: list[Item]) -> None:
        if index in self._blocks:
            self._shut(index, out)
        if not isinstance(raw, dict):
            return
        kind = raw.get("type")
        block = self._blocks[index] = Block(kind if isinstance(kind, str) else "", raw)
        self._has_blocks = True
        match block.kind:
            case "text":
                self._answered = True
                self._plain = self._joiner is None
                if text := raw.get("text"):
                    self._text(index, text, out)
                if citations := raw.get("citations"):
                    for citation in _list(citations):
                        _cite(citation, out)
            case "thinking":
                self._think(index, raw.get("thinking"), out)
                block.signature = _string(raw.get("signature"))
            case "tool_use":
                self._call(block, out)
            case "redacted_thinking":
                pass
            case _:
                self._answered = True
        if len(self._blocks) > MAX_PARTS:  # a call of it for each block would take longer
            check_open(self._blocks)

    def _call(self, block: Block, out: list[Item]) -> None:
        block.call = one_more_call(len(self._ids)) - 1
        known = ("type", "id", "name", "input")
        rest = {key: value for key, value in block.raw.items() if key not in known}
        out.append(
            ToolCallDelta(
                block.call,
                own_call_id(mend(_string(block.raw.get("id"))), self._ids),
                mend(_string(block.raw.get("name"))),
                provider_data=ProviderData(FAMILY, rest) if rest else None,
            )
        )

    def _delta(self, index: int, delta: Delta, data: bytes, out: list[Item]) -> None:
        block = self._blocks.get(index)
        match delta.type:
            case "text_delta":
                self._text(index, delta.text, out)
                self._plain = self._joiner is None
            case "thinking_delta":
                self._think(index, delta.thinking, out)
            case "signature_delta" if block is not None and block.kind == "thinking":
                block.signature = delta.signature or block.signature
            case "input_json_delta":
                self._arguments(index, arguments_text(delta.partial_json), out)
            case "citations_delta":
                _cite(_inner(data).get("citation"), out)
            case _ if block is not None:
                grow(block, _inner(data))
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

    def _arguments(self, index: int, text: str, out: list[Item]) -> None:
        block = self._blocks.get(index)
        if block is None:
            if text:  # of some call, which would otherwise run without them
                raise ProtocolError(f"arguments came for block {index}, which is not open")
            return
        if joined := self._joined(index, "input", text):
            block.partial.append(joined)
            if block.kind == "tool_use":
                out.append(ToolCallDelta(block.call, arguments=joined))

    def _joined(self, index: int, field: str, text: Any) -> str:
        if not isinstance(text, str):
            return ""
        return self._joiner.feed(f"{index}.{field}", text) if self._joiner is not None else text

    def _shut(self, index: int, out: list[Item], *, cut: bool = False) -> None:
        """Emit what only the end of a block completes; `cut` if the message ended without it."""
        block = self._blocks.pop(index, None)
        if block is None:
            return
        if self._joiner is not None:
            self._flush(index, block, self._joiner, out)
        if block.grown:
            block.raw.update((key, "".join(pieces)) for key, pieces in block.grown.items())
        match block.kind:
            case "text" | "":  # a block without a type could not be sent back
                pass
            case "thinking":
                seal(block, out)
            case "redacted_thinking":
                data = ProviderData(FAMILY, {"redacted_thinking": block.raw.get("data")})
                out.append(PartChunk(ReasoningPart("", data)))
            case "tool_use":
                # Some servers send the complete input with the start of the block, and no deltas.
                given = block.raw.get("input")
                text = "" if given == {} else complete_arguments(given)
                # Half a JSON object, so that a call whose arguments never came is not run.
                if (text or cut) and not block.partial:
                    out.append(ToolCallDelta(block.call, arguments=text or "{"))
            case _:
                out.append(PartChunk(opaque_part(block)))

    def _flush(self, index: int, block: Block, joiner: SurrogateJoiner, out: list[Item]) -> None:
        """Emit the surrogates that never got their other half."""
        if text := joiner.flush(f"{index}.text"):
            out.append(TextDelta(text))
        if text := joiner.flush(f"{index}.thinking"):
            out.append(ReasoningDelta(text))
        if text := joiner.flush(f"{index}.input"):
            block.partial.append(text)
            if block.kind == "tool_use":
                out.append(ToolCallDelta(block.call, arguments=text))

    def _note_stop(self, stopped: Delta | Message | None, out: list[Item]) -> None:
        if stopped is None:
            return
        if stopped.stop_reason:
            self._stop = mend(stopped.stop_reason)
            self.ending = True
        if isinstance(stopped.container, dict):
            data = ProviderData(FAMILY, {"container": stopped.container})
            out.append(PartChunk(OpaquePart(data)))
        if details := stopped.stop_details:
            if category := _string(details.get("category")):
                out.append(Notice(f"Anthropic declined for reasons of policy: {mend(category)}"))
            if explanation := _string(details.get("explanation")):
                out.append(RefusalDelta(mend(explanation)))

    def _end(self, out: list[Item]) -> None:
        for index in list(self._blocks):
            self._shut(index, out, cut=True)
        raw = self._stop
        reason = reason_of(raw)
        if is_broken(raw) or (reason == "tool_calls" and not (self._answered or self._ids)):
            usage = usage_of(self._counts, final=False)
            if usage.certainty != "missing":
                out.append(UsageUpdate(usage))
            raise no_call() if reason == "tool_calls" else broken_error(raw)
        if self._ids:
            reason = "tool_calls" if reason == "stop" else reason
        elif reason == "tool_calls":
            reason = "stop"  # of what the model wrote, no call could be made (vLLM, 2026)
        self.finished = True
        self._plain = False
        out.append(Finish(reason, shown(raw), usage_of(self._counts, final=True)))

    def _count(self, counts: Counts | None) -> None:
        """Record the given counts; later ones replace earlier ones."""
        if counts is not None and self._counts is not None:
            self._counts.update(counts)
        else:
            self._counts = counts or self._counts


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _inner(data: bytes) -> dict[str, Any]:
    """Return the `delta` of an event, including fields that the typed decoder skips."""
    match load(data):
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
    rest = {key: value for key, value in citation.items() if key not in _CITED}
    data = ProviderData(FAMILY, mend_all(rest)) if rest else None
    out.append(CitationChunk(Citation(mend(url), mend(title), mend(text), data)))


_CITED = {"type", "url", "source", "title", "document_title", "cited_text"}
