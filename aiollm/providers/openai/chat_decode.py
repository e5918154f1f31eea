"""Chat completions: chunks of a stream, or a complete completion, to items.

The rules follow OpenAI's reference as of November 2026. They are laxer than the official SDK's,
because they must also work for llama.cpp, vLLM, OpenRouter, DeepSeek, Groq, Mistral and others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from aiollm._wire.framing import SSE
from aiollm._wire.kept import Merged
from aiollm._wire.lenient import SurrogateJoiner, mend
from aiollm.errors import ProtocolError, StreamInterrupted
from aiollm.providers.decoding import (
    arguments_text,
    check_parts,
    flush,
    is_done,
    is_unreadable,
    later_usage,
    says_nothing,
)
from aiollm.providers.error_bodies import error_in, error_of, load_error, says_error
from aiollm.providers.finish_words import broken_error, is_broken, no_call, reason_of, shown
from aiollm.providers.openai.chat_extensions import (
    Reasoning,
    annotated,
    beside,
    content_items,
    images,
    unsaid,
    words,
)
from aiollm.providers.openai.chat_think import ThinkBlock
from aiollm.providers.openai.chat_tool_calls import ToolCallAssembler, add_fragment
from aiollm.providers.openai.chat_wire import (
    CHUNK,
    LANES,
    NO_COUNTS,
    NO_LANE,
    RUN,
    USUAL,
    Call,
    Choice,
    Chunk,
    Delta,
    Function,
    Lane,
    add_leading_texts,
    counts_in,
    usage_of,
)
from aiollm.providers.openai.errors import is_object, no_answer, stream_error
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

_NO_USAGE = Usage()
_JOINED = {"reasoning": ReasoningDelta, "content": TextDelta, "refusal": RefusalDelta}

_THOUGHTS = (None, ReasoningDelta)  # what was said last, as long as that is no answer

_WITH_TEXT = (USUAL, LANES["content"])
"""If one of these failed for a text, the answer has more fields than the usual ones."""

MAX_STATUS = 1000
"""Characters of a line of loading text that are kept; llama-swap's have some 80."""


class ChatDecoder:
    """One reply's chunks to items; `[DONE]`, or the usage after the finish, is the end.

    `choices`: how many answers were requested, of which the first is kept. `block` splits
    the text of a server that begins it with reasoning in tags. `_said` is the kind of what was said
    last, `_answered` whether more than thoughts came before that.

    `ending` is true once a finish reason has arrived: from then on the end of the body is an end,
    too. Text that follows is kept, because some servers put a finish reason into every chunk.
    """

    __slots__ = (
        "_answered",
        "_beside",
        "_block",
        "_calls",
        "_choices",
        "_family",
        "_identified",
        "_joiner",
        "_lane",
        "_loading",
        "_noticed",
        "_opened",
        "_reason",
        "_reasoning",
        "_said",
        "_usage",
        "ending",
        "finished",
    )

    def __init__(self, family: str, choices: int = 1, block: ThinkBlock | None = None) -> None:
        self.ending: bool = False
        self.finished: bool = False
        self._family = family
        self._choices = choices
        self._block = block
        self._beside: Merged | None = None
        self._lane = USUAL
        if block is not None:
            self._beside, self._lane = Merged(), NO_LANE
        self._answered = self._identified = self._opened = False
        self._said: type[Item] | None = None
        self._reason = ""
        self._usage = _NO_USAGE
        self._calls: ToolCallAssembler | None = None
        self._reasoning: Reasoning | None = None
        self._loading = ""
        self._noticed: tuple[str, ...] = ()
        self._joiner: SurrogateJoiner | None = None

    def feed(self, frames: Sequence[bytes], out: list[Item]) -> None:
        """Decode chunks. Raises: ProviderError for an error in the stream, ProtocolError."""
        if len(frames) > RUN and self._lane is USUAL and (done := add_leading_texts(frames, out)):
            self._said = TextDelta
            frames = frames[done:]
        decode, kind = self._lane
        for frame in frames:
            if decode is not None:
                try:
                    choice = decode(frame).choices[0]
                except (ValueError, RecursionError):
                    pass
                else:
                    if text := choice.delta.text:
                        self._said = kind
                        out.append(kind(text))
                    else:
                        self._opened = True
                    if choice.finish_reason:
                        self._stop(choice.finish_reason, choice.native_finish_reason)
                        decode, kind = self._lane = NO_LANE
                    continue
            if self.finished:
                return
            decode, kind = self._lane = self._frame(frame, out)

    def expect_large(self) -> None:
        """Do not try the next frame as a plain chunk: it is large."""
        self._lane = NO_LANE

    def whole(self, body: bytes, out: list[Item]) -> None:
        """Decode a reply that was not streamed. Raises: LLMError."""
        if body.lstrip()[:5] in (b"data:", b"event"):
            framer = SSE()
            self.feed(framer.feed(body), out)
            self.feed(framer.close(), out)
            self.close(out)
            return
        chunk = self._decode(body) if is_object(body) else Chunk()
        if says_error(chunk.error) or not chunk.choices:
            raise no_answer(body)
        self._take(chunk, out)
        self._end(out)

    def close(self, out: list[Item]) -> None:
        """End the reply. Raises: StreamInterrupted if no finish reason has arrived."""
        if self.finished:
            return
        if not self.ending:
            raise StreamInterrupted("the stream ended without a finish_reason")
        self._end(out)

    def _frame(self, frame: bytes, out: list[Item]) -> Lane:
        """Decode any frame; return the lane with which to try the next one."""
        if frame[:1] != b"{" and self._mark(frame, out):
            return NO_LANE
        # While a surrogate may be split over two deltas, every text must pass through the joiner,
        # so neither this shortcut nor a lane may be used.
        if self._calls and not self._joiner and add_fragment(self._calls, frame, out):
            return NO_LANE
        before = len(out)
        chunk = self._decode(frame)
        if chunk.error and says_error(chunk.error):
            raise stream_error(load_error(frame, chunk.error), frame)
        if chunk.choices:
            self._take(chunk, out)
        else:
            self._bare(chunk, frame, out)
        # A lane reads one text and nothing else. Only a chunk that gave exactly one item makes it
        # likely that the next one is like it, and a server that counts in every chunk needs all.
        if len(out) != before + 1 or chunk.usage is not None or self._block:
            return NO_LANE
        if self._joiner is not None and (self._joiner.odd or self._joiner):
            return NO_LANE
        match out[-1]:
            case TextDelta():
                return LANES["content"] if self._lane in _WITH_TEXT else USUAL
            case ReasoningDelta() if self._reasoning is not None:
                return LANES.get(self._reasoning.field, NO_LANE)
            case _:
                return NO_LANE

    def _mark(self, frame: bytes, out: list[Item]) -> bool:
        """Process a frame that is not a chunk; return False for one that may be one."""
        if frame == b"[DONE]" or is_done(frame):
            self._done(out)
            return True
        return says_nothing(frame) or (self.ending and is_unreadable(frame))

    def _decode(self, frame: bytes) -> Chunk:
        if self._joiner is None:
            try:
                return CHUNK.decode(frame)
            except (ValueError, RecursionError):
                # Half a surrogate pair is one reason for strict decoding to fail; from now on
                # expect more, because the pair's other half comes in a later chunk.
                self._joiner = SurrogateJoiner(odd=True)
        try:
            return self._joiner.decode(frame, CHUNK)
        except ProtocolError:
            if (value := error_in(frame)) is None:
                raise
        raise stream_error(value, frame)

    def _bare(self, chunk: Chunk, frame: bytes, out: list[Item]) -> None:
        """Process a chunk without choices: usage, an error, or one that does not matter."""
        if not chunk.usage and not chunk.citations and (value := error_in(frame)) is not None:
            raise stream_error(value, frame)
        if chunk.x_groq and says_error(chunk.x_groq.error):
            raise stream_error(error_of(chunk.x_groq.error), frame)
        self._count(chunk, out)
        if chunk.usage and self.ending:
            self._end(out)

    def _take(self, chunk: Chunk, out: list[Item]) -> None:
        self._identified = self._identified or bool(chunk.id or chunk.model)
        check_parts(chunk.choices or ())
        for choice in chunk.choices or ():
            if choice.index and self._is_another(choice):
                self._notice("the answer has several choices (n > 1): only the first is kept", out)
            elif self._is_loading(choice):
                self._load(choice, out)
            else:
                self._choice(choice, out)
        if chunk.citations or chunk.search_results:
            self._keep(citations=chunk.citations, search_results=chunk.search_results)
        self._count(chunk, out)

    def _is_another(self, choice: Choice) -> bool:
        """Return whether a choice with an index is another answer, not a block of the first.

        Some gateways give every block of one answer an index of its own (2026), but the text at
        index 0 comes first.
        """
        delta = choice.delta or choice.message
        if not (self._opened or self._said) and delta is not None and delta.content:
            self._choices += 1
        return self._choices > 1

    def _choice(self, choice: Choice, out: list[Item]) -> None:
        if not choice.index or (choice.delta and choice.delta.tool_calls):
            self._opened = True
        if self._loading:
            self._load(None, out)
        before = len(out)
        if choice.delta is not None:
            self._delta(choice.delta, out)
        elif (message := choice.message) is not None:
            self._delta(unsaid(message, self._calls is not None) if self._said else message, out)
        if len(out) > before:
            self._answered = self._answered or self._said not in _THOUGHTS
            self._said = type(out[-1])
        if choice.error and says_error(choice.error):
            raise stream_error(error_of(choice.error))
        if choice.finish_reason:
            self._stop(choice.finish_reason, choice.native_finish_reason)

    def _stop(self, reason: str, native: str | None) -> None:
        """Note a finish reason; the provider's own counts where it says that it broke off."""
        self.ending = True
        self._reason = native if native and is_broken(native) else reason

    def _is_loading(self, choice: Choice) -> bool:
        """Return whether llama-swap itself sent this: it has neither id, model nor index."""
        return (
            not (self._identified or self._opened or self._said)
            and choice.index is None
            and choice.delta is not None
            and bool(choice.delta.reasoning_content)
            and not choice.delta.content
        )

    def _load(self, choice: Choice | None, out: list[Item]) -> None:
        """Report the loading text line by line, without its decoration."""
        if choice is not None and choice.delta is not None:
            text = self._loading + words(choice.delta.reasoning_content)
            *lines, rest = text.split("\n")
            self._loading = rest[:MAX_STATUS]
        else:
            lines, self._loading = [self._loading], ""
        out += [Status(line.strip()) for line in lines if any(map(str.isalnum, line))]

    def _delta(self, delta: Delta, out: list[Item]) -> None:
        texts = delta.reasoning_content or delta.reasoning or delta.reasoning_text
        if texts or delta.reasoning_details or delta.thinking_blocks:
            self._think(delta, out)
        if not (content := delta.content):
            pass
        elif self._block is None and isinstance(content, str):
            if text := self._joined("content", content):
                out.append(TextDelta(text))
        else:
            out += self._content(content, self._block)
        if delta.refusal and (refusal := self._joined("refusal", delta.refusal)):
            out.append(RefusalDelta(refusal))
        if delta.tool_calls:
            check_parts(delta.tool_calls)
            out += itertools.chain.from_iterable(map(self._call, delta.tool_calls))
        if delta.function_call is not None:
            out += self._call(Call(-1, function=delta.function_call))
        if delta.annotations:
            check_parts(delta.annotations)
            out += annotated(delta.annotations, self._family)
        if delta.images:
            out += images(delta.images)
        if delta.audio and (not isinstance(delta.audio, dict) or any(delta.audio.values())):
            self._notice("the answer contains audio, which is left out", out)
        if delta.extra_content:
            self._keep(extra_content=delta.extra_content)

    def _think(self, delta: Delta, out: list[Item]) -> None:
        self._reasoning = self._reasoning or Reasoning()
        thought = self._reasoning.read(delta)
        if thought and (thought := self._joined("reasoning", thought)):
            out.append(ReasoningDelta(thought))

    def _call(self, call: Call) -> list[ToolCallDelta]:
        """Return what a piece of a call adds, if anything: some servers send empty ones."""
        if call.function is None and call.custom is None and not call.id:
            return []
        state: dict[str, Any] = {}
        custom = call.custom if call.custom and (call.custom.name or call.custom.input) else None
        if custom is not None:
            state["type"] = "custom"
            name, text = custom.name, arguments_text(custom.input)
        else:
            function = call.function or Function()
            name, text = function.name, arguments_text(function.arguments)
        if call.extra_content:
            state["extra_content"] = call.extra_content
        data = ProviderData(self._family, state) if state else None
        self._calls = self._calls or ToolCallAssembler()
        delta = self._calls.add(
            call.index, mend(call.id or ""), mend(name or ""), text, data, custom=custom is not None
        )
        if delta is None:
            return []
        if self._joiner is not None:
            arguments = self._joined(f"call {delta.index}", delta.arguments)
            delta = msgspec.structs.replace(delta, arguments=arguments)
        return [delta]

    def _content(
        self, content: str | list[Any] | dict[str, Any], block: ThinkBlock | None
    ) -> Iterable[Item]:
        """Read content that is not plain text: parts, or text that may begin with a think block."""
        if block is None or not isinstance(content, str):
            parts = content if isinstance(content, list) else [content]
            check_parts(parts)
            return content_items(parts)
        items = block.feed(self._joined("content", content))
        if block.done:
            self._block = None
        return items

    def _keep(self, **fields: Any) -> None:
        """Keep what belongs to the answer as a whole. Raises: ProtocolError."""
        given = {name: value for name, value in fields.items() if value}
        self._beside = Merged() if self._beside is None else self._beside
        self._beside.add(given)

    def _joined(self, field: str, text: str) -> str:
        return text if self._joiner is None else self._joiner.feed(field, text)

    def _count(self, chunk: Chunk, out: list[Item]) -> None:
        if not (counts := chunk.usage or counts_in(chunk)) or counts == NO_COUNTS:
            return
        usage = usage_of(counts, chunk.service_tier)
        self._usage = usage if usage.input_tokens else later_usage(self._usage, usage)
        if not self.ending:
            out.append(UsageUpdate(msgspec.structs.replace(self._usage, certainty="partial")))

    def _notice(self, message: str, out: list[Item]) -> None:
        if message not in self._noticed:
            self._noticed += (message,)
            out.append(Notice(message))

    def _done(self, out: list[Item]) -> None:
        if not (self._reason or self._said or self._calls is not None):
            raise StreamInterrupted("the stream ended without an answer")
        self._end(out)

    def _end(self, out: list[Item]) -> None:
        if self._joiner:
            flush(self._joiner, _JOINED, out)
        if self._block is not None and (held := self._block.close()):
            out += held
            self._said = type(held[-1])
        if self._beside is not None:
            out += beside(self._beside, self._family)
        if self._reasoning is not None and (data := self._reasoning.data()) is not None:
            out.append(ReasoningDelta("", ProviderData(self._family, data)))
        reason = self._finish_reason()
        if self._calls is not None and reason in ("stop", "tool_calls"):
            out += self._calls.end()
        if reason is None or is_broken(self._reason):
            if self._usage.certainty != "missing":
                out.append(UsageUpdate(self._usage))
            raise no_call() if reason is None else broken_error(self._reason)
        self.finished = True
        out.append(Finish(reason, shown(self._reason), self._usage))

    def _finish_reason(self) -> FinishReason | None:
        """Return why the answer ended, None if it did for calls and has nothing at all."""
        reason = reason_of(self._reason)
        if not self._calls:
            if reason != "tool_calls":
                return reason
            return "stop" if self._answered or self._said not in _THOUGHTS else None
        if reason in ("stop", "other") and self._calls.whole(ended=bool(self._reason)):
            return "tool_calls"
        return reason
