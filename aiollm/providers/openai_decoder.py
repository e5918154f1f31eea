"""Chat completions: chunks of a stream, or a whole completion, to items.

Facts: wire reference of November 2026; the rules are laxer than the official SDK's, for they
must hold for llama.cpp, vLLM, OpenRouter, DeepSeek, Groq, Mistral and others alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from aiollm.errors import (
    OverloadedError,
    ProtocolError,
    ProviderError,
    ServerError,
    StreamInterrupted,
)
from aiollm.framing import SSE
from aiollm.providers.openai_calls import Calls, arguments_text
from aiollm.providers.openai_errors import is_error, no_answer, stream_error
from aiollm.providers.openai_extras import Reasoning, citations, content_items, images
from aiollm.tolerant import SurrogateJoiner, decode_leniently, load
from aiollm.types import (
    Finish,
    FinishReason,
    Item,
    Notice,
    ProviderData,
    ReasoningDelta,
    RefusalDelta,
    Status,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageUpdate,
)

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
}
_BROKEN: dict[str, type[ProviderError]] = {
    "error": ServerError,
    "abort": ServerError,
    "insufficient_system_resource": OverloadedError,
}
"""Words for an answer that the server broke off, which must not pass for a whole one."""

_EmptyText: TypeAlias = Literal[""] | None
_EmptyList: TypeAlias = Annotated[list[Any], msgspec.Meta(max_length=0)] | None
_Zero: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0)] | None


class _PlainDelta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: _EmptyText = None
    reasoning: _EmptyText = None
    reasoning_details: _EmptyList = None
    refusal: _EmptyText = None
    tool_calls: _EmptyList = None
    function_call: None = None
    annotations: _EmptyList = None
    images: _EmptyList = None
    audio: None = None


class _PlainChoice(msgspec.Struct, gc=False):
    delta: _PlainDelta
    index: _Zero = None
    finish_reason: _EmptyText = None


class _PlainChunk(msgspec.Struct, gc=False):
    """A chunk with text and nothing else that matters: the types themselves refuse the rest."""

    choices: tuple[_PlainChoice]
    usage: None = None
    error: None = None


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Custom(msgspec.Struct, gc=False):
    name: str | None = None
    input: str | None = None


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None
    extra_content: dict[str, Any] | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    reasoning_details: list[Any] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    annotations: list[Any] | None = None
    images: list[Any] | None = None
    audio: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: int | None = None


class _Groq(msgspec.Struct, gc=False):
    usage: _Usage | None = None


class _Chunk(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    x_groq: _Groq | None = None
    error: Any = None


_PLAIN = msgspec.json.Decoder(_PlainChunk)
_CHUNK = msgspec.json.Decoder(_Chunk)


class ChatDecoder:
    """One reply's chunks to items; `[DONE]`, or the usage after the finish, is the end."""

    __slots__ = (
        "_calls",
        "_family",
        "_identified",
        "_joiner",
        "_loading",
        "_noticed",
        "_opened",
        "_plain",
        "_reason",
        "_reasoning",
        "_usage",
        "finished",
    )

    def __init__(self, family: str) -> None:
        self.finished = False
        self._family = family
        self._plain = True
        self._identified = False
        self._opened = False
        self._reason = ""
        self._usage = Usage()
        self._calls = Calls()
        self._reasoning = Reasoning()
        self._loading = ""
        self._noticed: set[str] = set()
        self._joiner: SurrogateJoiner | None = None

    def feed(self, frames: Sequence[bytes], out: list[Item]) -> None:
        """Decode chunks. Raises: ProviderError for an error in the stream, ProtocolError."""
        plain = self._plain
        decode = _PLAIN.decode
        append = out.append
        for frame in frames:
            if plain:
                try:
                    (choice,) = decode(frame).choices
                except (ValueError, RecursionError):
                    pass
                else:
                    self._opened = True
                    if text := choice.delta.content:
                        append(TextDelta(text))
                    continue
            plain = self._plain = self._frame(frame, out)

    def whole(self, body: bytes, out: list[Item]) -> None:
        """Decode a reply that came whole. Raises: LLMError."""
        if body.lstrip()[:5] in (b"data:", b"event"):
            framer = SSE()
            self.feed(framer.feed(body), out)
            self.feed(framer.close(), out)
            self.close(out)
            return
        chunk = self._decode(body)
        if chunk.error or not chunk.choices:
            raise no_answer(body)
        self._take(chunk, out)
        self._end(out)

    def close(self, out: list[Item]) -> None:
        """End the reply. Raises: StreamInterrupted when no finish reason has come."""
        if self.finished:
            return
        if not self._reason:
            raise StreamInterrupted("the stream ended without a finish_reason")
        self._end(out)

    def _frame(self, frame: bytes, out: list[Item]) -> bool:
        """Decode any frame; say whether it was a plain one, so that the next may be."""
        if self.finished or not frame.strip():
            return False
        if frame.startswith(b"[DONE]"):
            self._done(out)
            return False
        before = len(out)
        chunk = self._decode(frame)
        if chunk.error:
            raise stream_error(load(frame), frame)
        if chunk.choices:
            self._take(chunk, out)
        else:
            self._bare(chunk, frame, out)
        return (
            len(out) == before + 1
            and type(out[-1]) is TextDelta
            and chunk.usage is None
            and not self._joiner
        )

    def _decode(self, frame: bytes) -> _Chunk:
        try:
            return _CHUNK.decode(frame)
        except (ValueError, RecursionError):
            self._joiner = self._joiner or SurrogateJoiner()
        error: ProtocolError
        try:
            chunk: _Chunk = decode_leniently(frame, _Chunk)
        except ProtocolError as caught:
            error = caught
        else:
            return chunk
        value = load(frame)
        if isinstance(value, str | list) and value:
            raise stream_error(value, frame)
        raise error

    def _bare(self, chunk: _Chunk, frame: bytes, out: list[Item]) -> None:
        """Take a chunk without choices: usage, an error, or what does not matter."""
        value = None if chunk.usage else load(frame)
        if is_error(value):
            raise stream_error(value, frame)
        self._count(chunk, out)
        if chunk.usage and self._reason:
            self._end(out)

    def _take(self, chunk: _Chunk, out: list[Item]) -> None:
        self._identified = self._identified or bool(chunk.id or chunk.model)
        for choice in chunk.choices or ():
            if choice.index:
                self._notice("several choices came (n > 1): only the first is kept", out)
            elif self._is_loading(choice):
                self._load(choice, out)
            else:
                self._choice(choice, out)
        self._count(chunk, out)

    def _choice(self, choice: _Choice, out: list[Item]) -> None:
        self._opened = True
        if self._loading:
            self._load(None, out)
        delta = choice.delta or choice.message
        if delta is not None:
            self._delta(delta, out)
        if choice.finish_reason:
            self._reason = choice.finish_reason

    def _is_loading(self, choice: _Choice) -> bool:
        """Say whether llama-swap, not a model, speaks: it names neither id, model nor index."""
        return (
            not self._identified
            and choice.index is None
            and choice.delta is not None
            and bool(choice.delta.reasoning_content)
            and not choice.delta.content
        )

    def _load(self, choice: _Choice | None, out: list[Item]) -> None:
        """Report the loading text line by line, less its ornaments."""
        if choice is not None and choice.delta is not None:
            self._loading += choice.delta.reasoning_content or ""
            *lines, self._loading = self._loading.split("\n")
        else:
            lines, self._loading = [self._loading], ""
        out += [Status(line.strip()) for line in lines if any(map(str.isalnum, line))]

    def _delta(self, delta: _Delta, out: list[Item]) -> None:
        thought = self._reasoning.read(
            delta.reasoning_content, delta.reasoning, delta.reasoning_details
        )
        if thought and (thought := self._joined("reasoning", thought)):
            out.append(ReasoningDelta(thought))
        if isinstance(delta.content, list):
            out += content_items(delta.content)
        elif delta.content and (text := self._joined("content", delta.content)):
            out.append(TextDelta(text))
        if delta.refusal and (refusal := self._joined("refusal", delta.refusal)):
            out.append(RefusalDelta(refusal))
        for call in delta.tool_calls or ():
            out.append(self._call(call))
        if delta.function_call is not None:
            out.append(self._call(_Call(-1, function=delta.function_call)))
        if delta.annotations:
            out += citations(delta.annotations)
        if delta.images:
            out += images(delta.images)
        if delta.audio is not None:
            self._notice("the answer holds audio, which is left out", out)

    def _call(self, call: _Call) -> ToolCallDelta:
        state: dict[str, Any] = {}
        if call.custom is not None:
            state["type"] = "custom"
            name, text = call.custom.name, call.custom.input or ""
        else:
            function = call.function or _Function()
            name, text = function.name, arguments_text(function.arguments)
        if call.extra_content:
            state["extra_content"] = call.extra_content
        data = ProviderData(self._family, state) if state else None
        delta = self._calls.add(call.index, call.id or "", name or "", text, data)
        if self._joiner is None:
            return delta
        return msgspec.structs.replace(
            delta, arguments=self._joined(f"call {delta.index}", delta.arguments)
        )

    def _joined(self, field: str, text: str) -> str:
        return text if self._joiner is None else self._joiner.feed(field, text)

    def _count(self, chunk: _Chunk, out: list[Item]) -> None:
        counts = chunk.usage or (chunk.x_groq and chunk.x_groq.usage)
        if not counts or counts == _Usage():
            return
        self._usage = _usage(counts)
        if not self._reason:
            out.append(UsageUpdate(msgspec.structs.replace(self._usage, certainty="partial")))

    def _notice(self, message: str, out: list[Item]) -> None:
        if message not in self._noticed:
            self._noticed.add(message)
            out.append(Notice(message))

    def _done(self, out: list[Item]) -> None:
        if not self._opened and not self._reason:
            raise StreamInterrupted("the stream ended without an answer")
        self._end(out)

    def _end(self, out: list[Item]) -> None:
        self._flush(out)
        if (data := self._reasoning.data()) is not None:
            out.append(ReasoningDelta("", ProviderData(self._family, data)))
        out += self._calls.end()
        if broken := _BROKEN.get(self._reason):
            if self._usage.certainty != "missing":
                out.append(UsageUpdate(self._usage))
            raise broken(f"the provider broke off the answer: {self._reason}", code=self._reason)
        self.finished = True
        out.append(Finish(self._finish_reason(), self._reason, self._usage))

    def _finish_reason(self) -> FinishReason:
        reason = _REASONS.get(self._reason, "other")
        if reason in ("stop", "other") and self._calls.whole():
            return "tool_calls"
        if reason == "tool_calls" and not self._calls:
            return "stop"
        return reason

    def _flush(self, out: list[Item]) -> None:
        """Give out halves of surrogate pairs that wait for the other half in vain."""
        if not self._joiner:
            return
        if thought := self._joiner.flush("reasoning"):
            out.append(ReasoningDelta(thought))
        if text := self._joiner.flush("content"):
            out.append(TextDelta(text))
        if refusal := self._joiner.flush("refusal"):
            out.append(RefusalDelta(refusal))


def _usage(counts: _Usage) -> Usage:
    given = (counts.prompt_tokens, counts.completion_tokens)
    prompt, completion = (count or 0 for count in given)
    details = counts.prompt_tokens_details or _Details()
    reasoning = (counts.completion_tokens_details or _Details()).reasoning_tokens or 0
    # xAI counts reasoning beside the completion, and only the total tells.
    if reasoning and counts.total_tokens == prompt + completion + reasoning:
        completion += reasoning
    return Usage(
        prompt,
        completion,
        details.cached_tokens or counts.prompt_cache_hit_tokens or 0,
        reasoning,
        "partial" if None in given else "exact",
    )
