"""Gemini, answers: chunks of generateContent to items."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from aiollm._wire.batch import add_texts
from aiollm._wire.framing import SSE
from aiollm._wire.kept import Merged
from aiollm._wire.lenient import SurrogateJoiner, mend, mend_all
from aiollm.errors import LLMError, StreamInterrupted
from aiollm.providers.decoding import (
    check_parts,
    complete_arguments,
    is_done,
    is_unreadable,
    one_more_call,
    own_call_id,
    says_nothing,
)
from aiollm.providers.error_bodies import error_of, load_error, says_error
from aiollm.providers.finish_words import broken_error, is_broken, no_call, reason_of, shown
from aiollm.providers.google.arguments import MAX_STEPS, PartialArguments
from aiollm.providers.google.encode import SIGNATURE, SYNTHETIC_ID
from aiollm.providers.google.errors import block_error, body_error, ending_error
from aiollm.providers.google.wire import (
    CHUNK,
    FAMILY,
    NULL,
    Call,
    Candidate,
    Chunk,
    Counts,
    Last,
    Part,
    RawParts,
    citations_of,
    decode_plain,
    elements_of,
    leading_texts,
    read_file,
    usage_of,
)
from aiollm.types import (
    AudioPart,
    CitationChunk,
    Finish,
    ImageChunk,
    ImagePart,
    Item,
    Notice,
    OpaquePart,
    PartChunk,
    ProviderData,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageUpdate,
)

USAGE_EVERY = 32
"""Plain chunks between updates of the counts: every chunk has counts, but only a cut needs them."""

RUN = 16
"""Frames of one read above which the first ones are probably texts."""

_MAYBE_FLAT = re.compile(rb"message|detail|\\u")
"""What a body has that is an error without the key `error`."""

_UNFINISHED = (None, "", "FINISH_REASON_UNSPECIFIED")


class GoogleDecoder:
    """Chunks of one reply to items; the end is that of the body, after a finishReason.

    The chunk with a finishReason does not end it: proxies of this wire put `STOP` into every chunk,
    or send it in empty chunks before the text (2026).
    """

    __slots__ = (
        "_answered",
        "_cited",
        "_grounding",
        "_ids",
        "_joiner",
        "_last",
        "_open",
        "_plain",
        "_runs",
        "_steps",
        "_until_usage",
        "_usage",
        "ending",
        "finished",
    )

    _steps: int
    """How many steps paths of arguments may take yet in this frame."""
    _runs: bool
    """Whether code that Google runs itself is the last part of this frame so far."""

    def __init__(self) -> None:
        self.ending: bool = False
        self.finished: bool = False
        self._answered = False
        self._cited: set[tuple[str, str, str]] = set()
        self._grounding: Merged | None = None
        self._until_usage = 0
        self._ids: set[str] = set()
        self._joiner: SurrogateJoiner | None = None
        self._last: Last | None = None
        self._open: PartialArguments | None = None
        self._plain = True
        self._usage: Counts | None = None

    def feed(self, frames: Sequence[bytes], out: list[Item]) -> None:
        """Decode chunks. Raises: ProviderError for an error or a block, ProtocolError."""
        if len(frames) > RUN and self._plain:
            frames = self._texts(frames, out)
        until_usage = self._until_usage
        for frame in frames:
            if self._plain:
                try:
                    chunk = decode_plain(frame)
                except (ValueError, RecursionError):
                    self._plain = False
                else:
                    usage = chunk.usage_metadata
                    if usage is not None:
                        self._usage = usage
                        if not until_usage:
                            until_usage = USAGE_EVERY
                            self._emit_usage(out)
                        until_usage -= 1
                    (candidate,) = chunk.candidates
                    (part,) = candidate.content.parts
                    if part.text:
                        if part.thought:
                            out.append(ReasoningDelta(part.text))
                        else:
                            self._answered = True
                            out.append(TextDelta(part.text))
                    if candidate.finish_reason:
                        self._note_end(candidate)
                    continue
            if self.finished:
                return
            self._other(frame, out)
        self._until_usage = until_usage

    def expect_large(self) -> None:
        """Do not try the next frame as a plain chunk: it is large."""
        self._plain = False

    def _texts(self, frames: Sequence[bytes], out: list[Item]) -> Sequence[bytes]:
        """Decode the first chunks that have only text, all at once; return what follows."""
        texts, counts = leading_texts(frames)
        if counts is None:
            return frames
        self._answered = True
        self._usage = counts
        self._until_usage -= len(texts)
        if self._until_usage >= 0:
            add_texts(texts, out)
        else:
            self._until_usage = USAGE_EVERY
            add_texts(texts[:-1], out)
            self._emit_usage(out)
            out.append(TextDelta(texts[-1]))  # a batch that ends in a text is the least work
        return frames[len(texts) :]

    def whole(self, body: bytes, out: list[Item]) -> None:
        """Decode a reply that was not streamed: a chunk or an array of them. Raises: LLMError."""
        body = body.strip()
        if body.startswith(b"data:"):
            framer = SSE()
            self.feed([*framer.feed(body + b"\n\n"), *framer.close()], out)
        else:
            self.feed((body,), out)
        self.ending = self._last is not None
        self.close(out)

    def close(self, out: list[Item]) -> None:
        """End the reply. Raises: StreamInterrupted unless a finishReason was seen, ServerError."""
        if self.finished:
            return
        try:
            if self._last is None or not self.ending:
                raise StreamInterrupted("the stream ended without a finishReason")
            self._end(self._last, out)
        except LLMError:
            self._emit_usage(out)
            raise

    def _emit_usage(self, out: list[Item]) -> None:
        if self._usage is not None:
            out.append(UsageUpdate(usage_of(self._usage, "partial")))

    def _other(self, frame: bytes, out: list[Item]) -> None:
        """Decode any frame; after a piece of text, try the next one as a plain chunk."""
        try:
            counts = self._frame(frame, out)
        except LLMError:
            self._emit_usage(out)
            raise
        if counts and self._last is None:
            self._emit_usage(out)

    def _frame(self, frame: bytes, out: list[Item]) -> bool:
        """Decode any frame; return whether it had counts."""
        chunk = self._decode(frame, out)
        if chunk is None:
            return False
        before = len(out)
        self._chunk(chunk, frame, out)
        if self._joiner is None and len(out) > before:
            self._plain = isinstance(out[-1], TextDelta | ReasoningDelta)
        return chunk.usage_metadata is not None

    def _decode(self, frame: bytes, out: list[Item]) -> Chunk | None:
        """Decode a chunk; None for a frame that is none, such as an end mark or an array."""
        if frame[:1] != b"{" and self._mark(frame, out):
            return None
        if self._joiner is None:
            try:
                return CHUNK.decode(frame)
            except (ValueError, RecursionError):
                self._joiner = SurrogateJoiner(odd=True)
        return self._joiner.decode(frame, CHUNK)

    def _mark(self, frame: bytes, out: list[Item]) -> bool:
        """Process a frame that is not a chunk; return False for one that may be one."""
        if is_done(frame):
            # Google does not send it, but proxies do, also where the answer was cut.
            if self._last is not None and self.ending:
                self._end(self._last, out)
            return True
        if says_nothing(frame):
            return True
        if frame.lstrip()[:1] == b"[":
            for element in elements_of(frame):
                self._frame(element, out)
            return True
        return self.ending and is_unreadable(frame)

    def _chunk(self, chunk: Chunk, frame: bytes, out: list[Item]) -> None:
        if chunk.usage_metadata is not None:
            self._usage = chunk.usage_metadata.after(self._usage)
        if not chunk.candidates:
            self._bare(chunk, frame)
            return
        raw_parts = RawParts(frame)
        self._steps = MAX_STEPS
        check_parts(chunk.candidates)
        for at, candidate in enumerate(chunk.candidates):
            if candidate.index:
                continue
            parts = (candidate.content and candidate.content.parts) or ()
            check_parts(parts)
            self._runs = False
            for number, part in enumerate(parts):
                self._part(part, raw_parts, (at, number), out)
            self._cite(candidate, out)
            self._note_end(candidate)
            if self._runs and candidate.finish_reason == "STOP":
                self.ending = False  # the code's result and the rest of the answer follow (2026)

    def _note_end(self, candidate: Last) -> None:
        if candidate.finish_reason not in _UNFINISHED:
            self._last = candidate
            self.ending = True

    def _bare(self, chunk: Chunk, frame: bytes) -> None:
        """Raise the error in a chunk without candidates, unless it has only counts."""
        feedback = chunk.prompt_feedback
        if feedback is not None and feedback.block_reason:
            message = mend(feedback.block_reason_message or "")
            raise block_error(mend(feedback.block_reason), message)
        if says_error(chunk.error):
            raise body_error(error_of(chunk.error), body=frame)
        if chunk.usage_metadata is None and feedback is None and _MAYBE_FLAT.search(frame):
            value = load_error(frame)
            if isinstance(value, dict) and ("message" in value or "detail" in value):
                raise body_error(value, body=frame)

    def _part(self, part: Part, raw_parts: RawParts, at: tuple[int, int], out: list[Item]) -> None:
        signature = part.thought_signature or None
        self._runs = False
        if part.function_call is not None:
            self._call(part.function_call, signature, out)
        elif part.inline_data and part.inline_data != NULL:
            self._file(read_file(part.inline_data), part, out)
        elif part.text is None and (raw := raw_parts.get(*at)):
            self._answered = True
            self._runs = "executableCode" in raw
            out.append(PartChunk(OpaquePart(ProviderData(FAMILY, {"part": raw}))))
        elif part.thought:
            self._thought(part.text or "", signature, out)
        else:
            self._text(part.text or "", signature, out)

    def _text(self, text: str, signature: str | None, out: list[Item]) -> None:
        text = self._joined("text", text)
        if text or signature is not None:
            self._answered = self._answered or bool(text)
            out.append(TextDelta(text, _signed(signature)))

    def _thought(self, text: str, signature: str | None, out: list[Item]) -> None:
        text = self._joined("thought", text)
        if signature is not None:
            # The signature belongs to this piece only, not to the thoughts before it.
            out.append(ReasoningDelta(text, _signed(signature, text=text)))
        elif text:
            out.append(ReasoningDelta(text))

    def _joined(self, field: str, text: str) -> str:
        return text if self._joiner is None else self._joiner.feed(field, text)

    def _file(self, file: tuple[str, bytes], part: Part, out: list[Item]) -> None:
        """Emit a file, unless it is a draft that the model made while thinking."""
        mime, data = file
        if not data or part.thought:
            return
        self._answered = True
        state = _signed(part.thought_signature or None)
        if mime.startswith("audio/"):
            out.append(PartChunk(AudioPart(data, mime=mime, provider_data=state)))
        else:
            out.append(ImageChunk(ImagePart(data, mime=mime, provider_data=state)))

    def _call(self, call: Call, signature: str | None, out: list[Item]) -> None:
        if call.name:
            self._close_call(out, cut=True)
            self._begin_call(call, signature, out)
        elif self._open is None:
            return
        if self._open is not None:
            self._steps = self._open.add(call.partial_args, self._steps)
            if not call.will_continue:
                self._close_call(out)

    def _begin_call(self, call: Call, signature: str | None, out: list[Item]) -> None:
        number = one_more_call(len(self._ids)) - 1
        self._answered = True
        streamed = bool(call.partial_args or call.will_continue)
        self._open = PartialArguments() if streamed else None
        data = _signed(signature) if call.id else _signed(signature, **{SYNTHETIC_ID: True})
        out.append(
            ToolCallDelta(
                number,
                own_call_id(mend(call.id or ""), self._ids),
                mend(call.name or ""),
                "" if streamed else complete_arguments(call.args),
                data,
            )
        )

    def _close_call(self, out: list[Item], *, cut: bool = False) -> None:
        """End a call whose arguments were streamed; one that was cut must not be run."""
        if self._open is None:
            return
        # Without the closing brace the arguments are not valid JSON, so the call is not valid.
        arguments = self._open.json()
        self._open = None
        out.append(
            ToolCallDelta(len(self._ids) - 1, arguments=arguments[:-1] if cut else arguments)
        )

    def _cite(self, candidate: Candidate, out: list[Item]) -> None:
        if candidate.citation_metadata is None and candidate.grounding_metadata is None:
            return
        if candidate.grounding_metadata:
            self._grounding = Merged() if self._grounding is None else self._grounding
            self._grounding.add(candidate.grounding_metadata)
        for citation in citations_of(candidate):
            key = (citation.url, citation.title, citation.text)
            if key not in self._cited:
                self._cited.add(key)
                out.append(CitationChunk(citation))

    def _end(self, last: Last, out: list[Item]) -> None:
        raw = mend(last.finish_reason or "")
        if self._joiner is not None:
            if thought := self._joiner.flush("thought"):
                out.append(ReasoningDelta(thought))
            if text := self._joiner.flush("text"):
                out.append(TextDelta(text))
        if self._open is not None:
            self._close_call(out, cut=True)
        if not self._answered:
            _raise_if(ending_error(raw, mend(last.finish_message or "")))
        if self._grounding and self._grounding.keys() - {"groundingChunks"}:
            # Which words rest on which source, the queries, and what Google wants to be shown.
            data = ProviderData(FAMILY, {"groundingMetadata": mend_all({**self._grounding})})
            out.append(PartChunk(OpaquePart(data)))
        if last.continuation_token:
            out.append(
                Notice(
                    "the answer pauses: send the request again with "
                    f"extra={{'wire:google': {{'continuationToken': {last.continuation_token!r}}}}}"
                )
            )
        if is_broken(raw):
            raise broken_error(raw)
        reason = reason_of(raw)
        if self._ids:
            reason = "tool_calls" if reason == "stop" else reason
        elif reason == "tool_calls":
            _raise_if(None if self._answered else no_call())
            reason = "stop"  # of what the model wrote, no call could be made (vLLM, 2026)
        self.finished = True
        counts = self._usage
        usage = Usage() if counts is None else usage_of(counts, "exact")
        out.append(Finish(reason, shown(raw), usage))


def _signed(signature: str | None, **more: Any) -> ProviderData | None:
    """Return what must be sent back with a part: its signature, and our own marks."""
    if signature is None:
        return ProviderData(FAMILY, more) if SYNTHETIC_ID in more else None
    return ProviderData(FAMILY, {SIGNATURE: signature, **more})


def _raise_if(error: LLMError | None) -> None:
    if error is not None:
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame, which would make a cycle
