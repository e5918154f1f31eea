"""The accumulator: combines the items of a stream into a Response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

import msgspec

from aiollm._streams.arguments import MAX_LOOSE, loose_object, object_text, restated
from aiollm._user_types.density import readable
from aiollm._wire.batch import Batch
from aiollm._wire.kept import Kept
from aiollm.types import (
    AnnouncedLimits,
    Attempt,
    Citation,
    CitationChunk,
    Cost,
    Finish,
    FinishReason,
    ImageChunk,
    ImagePart,
    Item,
    Message,
    Notice,
    OpaquePart,
    Part,
    PartChunk,
    ProviderData,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    RefusalPart,
    Response,
    Restart,
    Status,
    Target,
    TextDelta,
    TextPart,
    Timings,
    ToolCallDelta,
    ToolCallPart,
    Usage,
    UsageUpdate,
)


class CallProgress(Protocol):
    """What a source knows about its attempts."""

    attempts: list[Attempt]

    @property
    def target(self) -> Target | None:
        """The target the stream is committed to."""

    def elapsed(self) -> float:
        """Return the seconds since the call began."""

    def cost(self, usage: Usage, images: Callable[[], int]) -> Cost:
        """Return what the call has cost, if its answer has these counts and images."""


FOLD = 4096
"""How many pieces of one text wait until they are joined to one.

A piece takes some 50 bytes beside its text, and joining millions at once, as for a partial response
after a deadline, would hold the event loop for half a second.
"""


def _fold(pieces: list[str]) -> None:
    """Join all pieces behind those at the front that are long already, as earlier joins are."""
    start = next((at for at, piece in enumerate(pieces) if len(piece) < FOLD), len(pieces))
    pieces[start:] = ["".join(pieces[start:])]


class _Text(msgspec.Struct, gc=False, eq=False):
    # Nearly every open stream has one, which the collector need not walk.
    pieces: list[str] = []
    citations: Sequence[Citation] = ()

    def part(self) -> TextPart:
        return TextPart("".join(self.pieces), tuple(self.citations))


class _Reasoning:
    __slots__ = ("data", "pieces")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.data: ProviderData | None = None

    def part(self) -> ReasoningPart:
        return ReasoningPart("".join(self.pieces), self.data)


class _Refusal:
    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def part(self) -> RefusalPart:
        return RefusalPart("".join(self.pieces))


class _Call:
    __slots__ = ("custom", "data", "id", "name", "pieces", "whole")

    def __init__(self) -> None:
        self.custom = False
        self.id = ""
        self.name = ""
        self.pieces: list[str] = []
        self.data: ProviderData | None = None
        self.whole = False  # until the answer comes to its proper end

    def part(self) -> ToolCallPart:
        text = "".join(self.pieces)
        if self.custom:
            valid = bool(self.name) and self.whole
            return ToolCallPart(self.id, self.name, text, valid, self.data, custom=True)
        text = text.strip()
        data = readable(text)
        if data is None:
            return ToolCallPart(self.id, self.name, text, False, self.data)
        # Only the end of the answer tells a call without arguments from one that lost them.
        arguments = object_text(text, data) if text or not self.whole else "{}"
        if text and self.whole and not arguments and len(text) <= MAX_LOOSE:
            arguments = restated(self.pieces) or loose_object(text)
        valid = bool(self.name and arguments)
        return ToolCallPart(self.id, self.name, arguments or text or "{}", valid, self.data)


class _Whole:
    __slots__ = ("_part",)

    def __init__(self, part: Part) -> None:
        self._part = part

    @property
    def is_image(self) -> bool:
        return type(self._part) is ImagePart

    def part(self) -> Part:
        return self._part


_Builder: TypeAlias = _Text | _Reasoning | _Refusal | _Call | _Whole


_CUT: tuple[FinishReason, ...] = ("length", "content_filter", "error", "other")
"""Finish reasons of answers whose last arguments may be missing; `other` may mean anything."""


_NO_COST, _NOTHING = Cost(), Kept()

_START: tuple[Any, ...] = ((), None, FOLD, None, None, "", Usage())
"""What an answer begins with: to unpack it takes less than to set one after the other."""


class Accumulator:
    """Combines items into a message; a `Restart` makes it start over."""

    __slots__ = (
        "_builders",
        "_calls",
        "_fold_at",
        "_kept",
        "_text",
        "finish_reason",
        "raw_finish_reason",
        "usage",
        "warnings",
    )

    hidden: ClassVar[frozenset[type]] = frozenset({UsageUpdate, Notice, AnnouncedLimits})
    """Item types that only the result keeps."""

    _builders: list[_Builder] | tuple[()]
    _text: list[str] | None
    _fold_at: int
    _kept: Kept | None
    finish_reason: FinishReason | None
    raw_finish_reason: str
    usage: Usage

    def __init__(self) -> None:
        # A dict serves as an ordered set, because each attempt may repeat a warning.
        self.warnings: dict[str, None] = {}
        self._begin()

    def _begin(self) -> None:
        self._calls: dict[int, _Call] = {}
        (
            self._builders,
            self._text,
            self._fold_at,
            self._kept,
            self.finish_reason,
            self.raw_finish_reason,
            self.usage,
        ) = _START

    def add(self, items: Sequence[Item]) -> Sequence[Item]:
        """Add the items of one batch; return those that callers see, nearly always all."""
        text = self._text
        at = 0
        for item in self._behind_texts(items) if type(items) is Batch and items.texts else items:
            # Nearly every item continues the last text, so this case does without a call.
            if type(item) is TextDelta and item.provider_data is None:
                if text is None:
                    self._text = text = self._open(_Text).pieces
                text.append(item.text)
            else:
                self.adders[type(item)](self, item)
                self._text = text = None
                if type(item) in self.hidden:
                    hidden = items.index(item, at)
                    if not at:
                        seen: list[Item] = []
                    seen += items[at:hidden]  # type: ignore[possibly-undefined]
                    at = hidden + 1
        if text is not None and len(text) >= self._fold_at:
            self._folded(text)
        if at:
            seen += items[at:]  # type: ignore[possibly-undefined]
            return seen
        return items

    def _behind_texts(self, batch: Batch) -> list[Item]:
        """Add the texts of a batch that are known; return the items behind them."""
        if self._text is None:
            self._text = self._open(_Text).pieces
        self._text.extend(batch.texts)
        self._folded(self._text)
        return batch[len(batch.texts) :]

    def _folded(self, pieces: list[str]) -> None:
        if len(pieces) >= self._fold_at:
            _fold(pieces)
            self._fold_at = len(pieces) + FOLD

    def check(self) -> None:
        """Raise ProtocolError if the answer has too much that is kept."""
        (self._kept or _NOTHING).check(len(self._builders) + len(self.warnings))

    def _keep(self, state: ProviderData | None) -> None:
        """Count the state for a provider."""
        if state is not None:
            self._kept = self._kept or Kept()
            self._kept.add(state.data)

    def message(self) -> Message:
        """Return the assistant message so far."""
        return Message("assistant", tuple(builder.part() for builder in self._builders))

    def response(
        self, source: CallProgress | None = None, ended_at: float | None = None
    ) -> Response:
        """Return the response so far, with the attempts of `source`."""
        attempts = tuple(source.attempts) if source is not None else ()
        if ended_at is None:
            ended_at = source.elapsed() if source is not None else 0.0
        firsts = [each.first_output for each in attempts if each.first_output is not None]
        return Response(
            message=self.message(),
            finish_reason=self.finish_reason,
            raw_finish_reason=self.raw_finish_reason,
            usage=self.usage,
            target=source.target if source is not None else None,
            attempts=attempts,
            warnings=tuple(self.warnings),
            timings=Timings(min(firsts, default=None), ended_at),
            cost=_NO_COST if source is None else source.cost(self.usage, self._images),
        )

    def _images(self) -> int:
        return sum(type(each) is _Whole and each.is_image for each in self._builders)

    def _open(self, kind: Callable[[], Any]) -> Any:
        builders = self._builders
        if not builders:
            self._builders = builders = [kind()]
        elif type(builders[-1]) is not kind:
            builders.append(kind())
        return builders[-1]

    def _add(self, builder: _Builder) -> None:
        self._builders = builders = self._builders or []
        builders.append(builder)

    def _signed_text(self, delta: TextDelta) -> None:
        # Its signature covers just this text, so it is never joined with its neighbours.
        self._add(_Whole(TextPart(delta.text, provider_data=delta.provider_data)))

    def _refusal(self, delta: RefusalDelta) -> None:
        pieces = self._open(_Refusal).pieces
        pieces.append(delta.refusal)
        self._folded(pieces)

    def _citation(self, chunk: CitationChunk) -> None:
        text = self._open(_Text)
        if not text.citations:
            text.citations = []  # few texts have any
        text.citations.append(chunk.citation)
        self._keep(chunk.citation.provider_data)
        self._kept = self._kept or Kept()
        self._kept.sources += 1

    def _image(self, chunk: ImageChunk) -> None:
        self._add(_Whole(chunk.image))

    def _part(self, chunk: PartChunk) -> None:
        part = _Whole(chunk.part)
        if type(chunk.part) is OpaquePart:
            self._keep(chunk.part.provider_data)
        call = None if chunk.replaces is None else self._calls.pop(chunk.replaces, None)
        if call is None:
            self._add(part)
        else:
            self._builders = [part if each is call else each for each in self._builders]

    def _nothing(self, _: Status | AnnouncedLimits) -> None:
        """Keep nothing: it is not part of the answer."""

    def _restart(self, _: Restart) -> None:
        self._begin()

    def _finish(self, finish: Finish) -> None:
        self.finish_reason = finish.reason
        self.raw_finish_reason = finish.raw_reason
        if self._calls and finish.reason not in _CUT:
            for call in self._calls.values():
                call.whole = True
        if finish.usage.certainty != "missing":  # else counts may have come in a UsageUpdate
            self.usage = finish.usage

    def _usage(self, update: UsageUpdate) -> None:
        self.usage = update.usage

    def _notice(self, notice: Notice) -> None:
        self.warnings[notice.message] = None

    def _reasoning(self, delta: ReasoningDelta) -> None:
        self._keep(delta.provider_data)
        last = self._builders[-1] if self._builders else None
        if delta.provider_data is None or delta.reasoning:
            if not isinstance(last, _Reasoning) or last.data is not None:
                last = _Reasoning()
                self._add(last)
            last.pieces.append(delta.reasoning)
            self._folded(last.pieces)
            last.data = delta.provider_data
            return
        # Some servers send a block's signature after the next block has begun.
        sealed = next(filter(_is_unsealed, reversed(self._builders)), None)
        if not isinstance(sealed, _Reasoning):
            sealed = _Reasoning()
            self._add(sealed)
        sealed.data = delta.provider_data

    def _tool_call(self, delta: ToolCallDelta) -> None:
        call = self._calls.get(delta.index)
        if call is None:
            call = self._calls[delta.index] = _Call()
            self._add(call)
        # Some servers repeat id and name in every delta: appending would give "weatherweather".
        call.id = call.id or delta.id
        call.custom = call.custom or delta.custom
        if delta.name and delta.name != call.name and not (call.name and any(call.pieces)):
            call.name += delta.name
        if delta.provider_data is not None:
            call.data = delta.provider_data
            self._keep(call.data)
        if delta.arguments:
            call.pieces.append(delta.arguments)
            self._folded(call.pieces)

    adders: ClassVar[dict[type[Item], Callable[[Accumulator, Any], None]]] = {
        TextDelta: _signed_text,
        ReasoningDelta: _reasoning,
        RefusalDelta: _refusal,
        ToolCallDelta: _tool_call,
        ImageChunk: _image,
        PartChunk: _part,
        CitationChunk: _citation,
        Status: _nothing,
        Restart: _restart,
        Finish: _finish,
        UsageUpdate: _usage,
        Notice: _notice,
        AnnouncedLimits: _nothing,
    }


def _is_unsealed(builder: _Builder) -> bool:
    return isinstance(builder, _Reasoning) and builder.data is None
