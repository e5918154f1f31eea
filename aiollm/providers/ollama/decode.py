"""Ollama's lines to items: text, thinking, calls, counts and the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from aiollm._wire.batch import add_texts
from aiollm._wire.lenient import SurrogateJoiner, mend
from aiollm._wire.runs import Run
from aiollm.errors import ProtocolError, StreamInterrupted
from aiollm.providers.decoding import complete_arguments, one_more_call, own_call_id
from aiollm.providers.error_bodies import error_of, fault_of, says_error
from aiollm.providers.error_replies import error_from_fault
from aiollm.providers.finish_words import broken_error, is_broken, reason_of, shown
from aiollm.providers.ollama.errors import RULES
from aiollm.providers.token_counts import Tokens
from aiollm.types import (
    Certainty,
    Finish,
    Item,
    Notice,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

FULL = 0.95
"""A prompt that fills this part of the context was probably cut: Ollama drops whole messages."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: msgspec.Raw = msgspec.Raw()


class _Call(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class _Line(msgspec.Struct, gc=False):
    message: _Message | None = None
    done: bool | None = None
    done_reason: str | None = None
    prompt_eval_count: Tokens = None
    eval_count: Tokens = None
    error: msgspec.Raw = msgspec.Raw()
    status_code: int | None = None
    cloud_status: int | None = msgspec.field(name="StatusCode", default=None)


class _PlainMessage(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: tuple[()] | None = None


class _Plain(msgspec.Struct, gc=False):
    """A line with text, or the last line; decoding most other lines fails.

    This saves checks in Python for the lines that make up most of a stream.
    """

    message: _PlainMessage
    done: bool | None = None
    error: None = None


class _TextMessage(msgspec.Struct, gc=False):
    content: Annotated[str, msgspec.Meta(min_length=1)]
    thinking: Literal[""] | None = None
    tool_calls: tuple[()] | None = None


class _Text(msgspec.Struct, gc=False):
    """A line with text and nothing else, but it may be the last."""

    message: _TextMessage
    done: bool | None = None
    error: None = None


_LINE = msgspec.json.Decoder(_Line)
_decode_texts = msgspec.json.Decoder(_Text).decode_lines
_decode_plain = msgspec.json.Decoder(_Plain).decode


MAX_BLANK = 4096
"""Lines without a message that are read: most of three bytes is the price of a line."""


class OllamaDecoder:
    """Lines of one reply to items; the line with `done` is the end.

    `context` is the context in tokens, set by the request or reported by the server, 0 if unknown.
    A prompt that fills it was probably cut.
    """

    __slots__ = ("_blank", "_context", "_ids", "_joiner", "finished")

    ending = False  # nothing follows the chunk that ends the answer

    def __init__(self, context: int = 0) -> None:
        self.finished: bool = False
        self._blank = 0
        self._context = context
        self._ids: set[str] = set()
        self._joiner: SurrogateJoiner | None = None

    def feed(self, frames: Sequence[bytes], out: list[Item]) -> None:
        """Decode lines. Raises: ProviderError for an error line, ProtocolError."""
        if self.finished:
            return
        if type(frames) is Run:
            frames = self._texts(frames[0], out)
        for frame in frames:
            if self._joiner is None:
                try:
                    line = _decode_plain(frame)
                except (ValueError, RecursionError):
                    pass
                else:
                    if not line.done:
                        message = line.message
                        if message.thinking:
                            out.append(ReasoningDelta(message.thinking))
                        if message.content:
                            out.append(TextDelta(message.content))
                        continue
            if self._line(frame, out):
                return

    def expect_large(self) -> None:
        """Do not try the next line as a plain one: it is large. Few come after it."""
        if self._joiner is None:
            self._joiner = SurrogateJoiner()

    def _texts(self, block: bytes, out: list[Item]) -> Sequence[bytes]:
        """Decode lines that have only text at once, but perhaps the last; return what is left."""
        if self._joiner is None:
            # Where an answer ends, it is its last line that has more.
            for end in (len(block), block.rfind(b"\n", 0, -1) + 1):
                if texts := _texts_of(block[:end]):
                    add_texts(texts, out)
                    block = block[end:]
                    break
        return list(filter(bytes.strip, block.split(b"\n")))

    def whole(self, body: bytes, out: list[Item]) -> None:
        """Decode a reply that was not streamed. Raises: LLMError."""
        try:
            self.feed((body,), out)
        except ProtocolError:
            # JSON lines with the wrong content type.
            self.feed([line for line in body.split(b"\n") if line.strip()], out)
        self.close(out)

    def close(self, out: list[Item]) -> None:
        """End the reply. Raises: StreamInterrupted unless its last line was seen."""
        if not self.finished:
            if self._joiner is not None:
                self._flush(self._joiner, out)
            raise StreamInterrupted("the stream ended without its last line (done: true)")

    def _line(self, frame: bytes, out: list[Item]) -> bool:
        """Decode any line; return whether it was the last."""
        line = self._decode(frame)
        if line.error and says_error(line.error):
            fault = fault_of(error_of(line.error))
            status = line.status_code or line.cloud_status or 0
            raise error_from_fault(fault, RULES, status=status, body=frame)
        if line.message is not None:
            self._message(line.message, out)
        elif not line.done:
            self._blank += 1
            if self._blank > MAX_BLANK:
                raise ProtocolError(f"more than {MAX_BLANK} lines have no answer", frame=frame)
        if line.done:
            self._end(line, out)
        return self.finished

    def _decode(self, frame: bytes) -> _Line:
        if self._joiner is None:
            try:
                return _LINE.decode(frame)
            except (ValueError, RecursionError):
                self._joiner = SurrogateJoiner(odd=True)
        return self._joiner.decode(frame, _LINE)

    def _message(self, message: _Message, out: list[Item]) -> None:
        if message.thinking and (thinking := self._joined("thinking", message.thinking)):
            out.append(ReasoningDelta(thinking))
        if message.content and (text := self._joined("content", message.content)):
            out.append(TextDelta(text))
        if message.tool_calls:
            out += map(self._call, message.tool_calls)

    def _joined(self, field: str, text: str) -> str:
        return text if self._joiner is None else self._joiner.feed(field, text)

    def _call(self, call: _Call) -> ToolCallDelta:
        index = one_more_call(len(self._ids)) - 1
        function = call.function or _Function()
        return ToolCallDelta(
            index,
            own_call_id(mend(call.id or ""), self._ids),
            mend(function.name or ""),
            complete_arguments(function.arguments),
        )

    def _end(self, line: _Line, out: list[Item]) -> None:
        if self._joiner is not None:
            self._flush(self._joiner, out)
        if self._context and (tokens := line.prompt_eval_count or 0) >= FULL * self._context:
            out.append(_full(tokens, self._context))
        raw = line.done_reason or ""
        if is_broken(raw):
            raise broken_error(raw)
        # `load` and `unload` answer requests without messages; older servers give no reason.
        reason = reason_of(raw or "stop")
        if self._ids:
            reason = "tool_calls" if reason == "stop" else reason
        elif reason == "tool_calls":
            reason = "stop"  # of what the model wrote, no call could be made (vLLM, 2026)
        self.finished = True
        out.append(Finish(reason, shown(raw), _usage(line)))

    def _flush(self, joiner: SurrogateJoiner, out: list[Item]) -> None:
        """Emit the surrogates that never got their other half."""
        if thinking := joiner.flush("thinking"):
            out.append(ReasoningDelta(thinking))
        if text := joiner.flush("content"):
            out.append(TextDelta(text))


def _texts_of(block: bytes) -> list[str]:
    """Return the text of each line, [] if one has more, or is not one value."""
    try:
        lines = _decode_texts(block)
    except (ValueError, RecursionError):
        return []
    texts = [line.message.content for line in lines if not line.done]
    # A value on two lines is an error, as it is where they come one by one.
    return texts if len(texts) == len(block) - len(block.replace(b"\n", b"")) else []


def _full(tokens: int, context: int) -> Notice:
    return Notice(
        f"the prompt fills {tokens} of num_ctx {context} tokens: Ollama may have dropped the "
        "oldest messages; raise num_ctx, or send extra={'wire:ollama': {'truncate': False}}"
    )


def _usage(line: _Line) -> Usage:
    counts = (line.prompt_eval_count, line.eval_count)
    if counts == (None, None):
        return Usage()
    # A zero count is missing from the line; in older servers, so is the count of a cached prompt
    # (Ollama's source, August 2026).
    certainty: Certainty = "partial" if None in counts else "exact"
    return Usage(counts[0] or 0, counts[1] or 0, certainty=certainty)
