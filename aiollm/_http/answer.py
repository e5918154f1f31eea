"""An answer while it arrives: the reads of one reply become batches of items."""

from __future__ import annotations

import gc
import sys
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard
from weakref import ref

from aiollm._http import MAX_ANSWER
from aiollm._http.turns import FIRST, PIECE, TURN, Read, Turns, long_turn
from aiollm._user_types.density import Weight
from aiollm._wire.batch import Batch
from aiollm._wire.framing import NDJSON, check_density, held_by
from aiollm.errors import LLMError, ProtocolError
from aiollm.provider import Decoder, Framer, Reply
from aiollm.types import Item, Timeouts

if TYPE_CHECKING:
    from aiollm._http.last_words import LastWords
    from aiollm._streams.accumulator import Accumulator

_DOCUMENTS = ("text/html", "application/json")

_EVENTS = (b"data:", b"event:", b":", b"id:", b"retry:")
"""How the first line of a stream of events may begin, and no document does."""
_BOM = b"\xef\xbb\xbf"

_NEVER, _NO_GAP = inf, -1.0
"""When the last piece of an answer came, and the longest gap between two, while there are none."""


class Source(Protocol):
    """Where bytes are taken from, as the body of a reply of aiohttp's."""

    def take(self) -> bytes | None:
        """Return what has arrived, b"" at the end, None if nothing is known to have."""

    def coming(self) -> Awaitable[None] | None:
        """Return a wait that ends when there is something to take; None if only a read can tell."""


class ReadyReply(Reply, Protocol):
    """A reply whose bytes can also be taken without a coroutine for each read."""

    @property
    def body(self) -> Source:
        """Where they are taken from."""

    def translated(self, error: Exception) -> LLMError | None:
        """Return what an error of the body means, None for a fault of the program."""


def _is_ready(reply: Reply) -> TypeGuard[ReadyReply]:
    return hasattr(reply, "body")  # an isinstance of a protocol takes 100 times as long


class _Nothing:
    """A stand-in for a body that can only be read: nothing is known to have arrived."""

    def take(self) -> bytes | None:
        return None

    def coming(self) -> None:
        return None


_NOTHING = _Nothing()


class _Broken:
    """A stand-in for a body that broke off."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def take(self) -> bytes | None:
        raise self._error

    def coming(self) -> None:
        return None


class Answer:
    """Decodes the body of one reply, read by read."""

    failure: LLMError | None = None
    """What ended the answer before its end, once it does not go on."""
    ends_late = False
    """Whether the event loop gets a turn before the end is handled, which takes long after a large
    last frame or a failure."""
    total: Accumulator | None = None
    """What is kept of the answer, where others read it."""
    _words: LastWords | None = None
    _last, _gap = _NEVER, _NO_GAP
    _empty_after = _NO_GAP
    """What `_last` was when bytes came that brought no item."""
    _read: Read | None = None
    """What cuts large reads into pieces."""
    _has_turned = False
    """Whether the event loop has had its turn, or `_read` gives it one."""

    def __init__(
        self, reply: Reply, framer: Framer[Any], decoder: Decoder[Any], timeouts: Timeouts
    ) -> None:
        self.goes_on = True
        self._size = self._turn_at = 0
        self._reply = reply
        self._held: bytes | None = None
        """What was read already, and is decoded next."""
        self._source: Source = getattr(reply, "body", _NOTHING)
        self._decoder = decoder
        self.framer = framer
        if reply.content_type in _DOCUMENTS and _is_one_document(reply, framer):
            self.framer = _Document(decoder, None if isinstance(framer, NDJSON) else (framer, self))
        self._timeouts = timeouts

    def take(self) -> list[Item] | Awaitable[None]:
        """Return the items of what has arrived, or an awaitable, to await at once, if nothing has.

        An error is kept in `failure` rather than raised, so that the items before it reach the
        caller first.
        """
        decoder = self._decoder
        data = self._held
        try:
            if data is not None:
                self._held = None
            elif (data := self._source.take()) is None:
                if decoder.ending or (coming := self._source.coming()) is None:
                    return self._hold()
                return coming
            batch = Batch()
            self._size = size = self._size + len(data)
            # At the first read, and then once in so many bytes.
            if size >= self._turn_at and (data := self._slice(data)) is None:
                return long_turn()
            if decoder.ending or not data:
                self._feed_end(data, batch)
            else:
                decoder.feed(self.framer.feed(data), batch)
        except Exception as error:
            if (ended_by := self._ended_by(error, data)) is None:
                raise
            batch = Batch() if data is None else batch
            self._fail(ended_by, data, batch)
        if decoder.finished:
            self.goes_on = False
        elif batch:
            now = monotonic()
            gap = now - self._last
            if gap > self._gap:  # noqa: PLR1730  max() costs more
                self._gap = gap
            self._last = now
        else:
            self._empty_after = self._last
        return batch

    async def _hold(self) -> None:
        """Read after a finish reason, or where only a read can wait for bytes."""
        try:
            if self._decoder.ending:
                self._words = words = self._words or self._last_words()
                self._held = await words.read(self._read or self._reply.read)
            else:
                self._held = await (self._read or self._reply.read)()
        except (LLMError, RecursionError, MemoryError) as error:
            error.__traceback__ = None  # as in `_fail`
            self._source = _Broken(error)

    def _is_others_turn(self, data: bytes) -> bool:
        """Return whether the event loop gets a turn now; `data` is kept until after it."""
        if self._has_turned:
            return False
        self._size -= len(data)
        self._held, self._has_turned = data, True
        return True

    def _slice(self, data: bytes) -> bytes | None:
        """Return a read, or the first slice of a large one; None if the loop gets a turn first.

        Raises: ProtocolError.
        """
        if self._turn_at and self._is_others_turn(data):
            return None
        if len(data) > PIECE and self._read is None:
            data = self._first_of(data)
        if self._turn_at:
            self._has_turned, self.ends_late = self._read is not None, True
            if held_by(self.framer) > FIRST:
                self.framer = _LargeFrame(self.framer, self)
            self._turn_at = self._size + TURN
            if self._size > MAX_ANSWER:
                raise ProtocolError(f"the answer exceeds {MAX_ANSWER} bytes")
            if self.total is not None:
                self.total.check()
        else:
            self._turn_at = self._size + PIECE  # a flood may follow a few bytes
            if data[:1] == b"{" and not isinstance(self.framer, NDJSON):
                # JSON that is labelled as events, none of which begins so.
                self.framer = _Document(self._decoder)
        return data

    def _first_of(self, data: bytes) -> bytes:
        """Return the first slice of a large read; the others are taken later."""
        turns = Turns(self._reply.read, data[FIRST:], FIRST, PIECE)
        self._source, self._read, self._has_turned = turns, turns.read, True
        self._size -= len(data) - FIRST
        return data[:FIRST]

    def hold(self, data: bytes) -> None:
        """Keep what follows a large frame, until the event loop has had a turn."""
        if data:
            self._held, self._turn_at, self._has_turned = data, 1, False
            self._size -= len(data)

    def expect_large(self) -> None:
        """Prepare the decoder for a large frame, which comes next."""
        self._decoder = _LargeFrameDecoder(self._decoder, self)

    def decode_with(self, decoder: Decoder[Any]) -> None:
        """Go on with a decoder."""
        self._decoder = decoder

    def _feed_end(self, data: bytes, batch: list[Item]) -> None:
        """Decode what follows a finish reason, or b"" at the end. Raises: LLMError."""
        if not data:
            self.goes_on = False
            self._close(batch)
            return
        self._words = words = self._words or self._last_words()
        self._decoder.feed(self.framer.feed(data), batch)
        if batch:
            words.said_more()

    def _last_words(self) -> LastWords:
        """Return what reads after a finish reason; most answers end with their terminal event."""
        from aiollm._http.last_words import LastWords

        gap = None if self._last == _NEVER else self._gap
        # The only batch so far may be the first piece of an answer.
        sure = gap is not None and (gap != _NO_GAP or self._empty_after == self._last)
        return LastWords(self._timeouts, gap, sure=sure)

    def _close(self, batch: list[Item]) -> None:
        """Decode what the end of the body completes. Raises: LLMError."""
        if isinstance(self.framer, _Document):
            self.framer.end(self._reply.status, batch)
            return
        self._decoder.feed(self.framer.close(), batch)
        if not self._decoder.finished:
            self._decoder.close(batch)

    def _ended_by(self, error: Exception, data: bytes | None) -> Exception | None:
        """Return the error that ends the answer, translated; None for a fault of the program.

        Without `data`, it is the read that failed.
        """
        if isinstance(error, (LLMError, RecursionError, MemoryError)):
            return error
        reply = self._reply
        return reply.translated(error) if data is None and _is_ready(reply) else None

    def _fail(self, error: BaseException, data: bytes | None, batch: list[Item]) -> None:
        """Keep an error; without `data`, it is the read that failed."""
        self.goes_on = False
        error.__traceback__ = None  # its frames refer to this answer, which would make a cycle
        if not isinstance(error, LLMError):  # nested too deeply, or too large
            name = type(error).__name__
            frame = data[:1024] if data else b""
            error = ProtocolError(f"a frame cannot be decoded: {name}", frame=frame)
        elif data is None and self._was_complete(batch):
            return
        self.failure, self.ends_late = error, True

    def _was_complete(self, batch: list[Item]) -> bool:
        """Return whether the answer was complete before its body was cut.

        A finish reason that was followed by more does not show that.
        """
        if isinstance(self.framer, _Document) or (self._words is not None and self._words.more):
            return False
        try:
            self._close(batch)
        except (LLMError, RecursionError, MemoryError):
            return False
        return True


def _is_one_document(reply: Reply, framer: Framer[Any]) -> bool:
    """Return whether the body is a complete answer, an error or a web page, not a stream."""
    # Some servers label a stream of JSON lines as JSON, but only a document has a length.
    lines = reply.content_type == "application/json" and isinstance(framer, NDJSON)
    return not lines or "content-length" in reply.headers


class _LargeFrame:
    """A framer in a large frame; the event loop gets a turn before and after the frame's end."""

    _is_due = False
    """Whether the end has come, and the event loop has had its turn before it."""

    def __init__(self, framer: Framer[Any], answer: Answer) -> None:
        self._framer = framer
        self._answer = ref(answer)  # it holds this one

    def feed(self, data: bytes) -> list[Any]:
        end, answer = data.find(b"\n"), self._answer()
        if end >= 0 and answer is not None:
            if not self._is_due:
                self._is_due = True
                answer.hold(data[end:])
                answer.expect_large()
                return self._framer.feed(data[:end]) if end else []
            end += len(b"\n\r\n")
            answer.hold(data[end:])
            answer.framer = self._framer
            data = data[:end]
        return self._framer.feed(data)

    def close(self) -> list[Any]:
        return self._framer.close()


class _LargeFrameDecoder:
    """A decoder of one large frame, which skips the quick attempt to read it as a plain chunk.

    Python 3.11 collects garbage during the decoding: once in 700 objects, and after some 70,000
    among all objects of the program, which takes ten milliseconds and more. Later versions wait.
    """

    def __init__(self, decoder: Decoder[Any], answer: Answer) -> None:
        self.finished = decoder.finished
        self._decoder = decoder
        self._answer = ref(answer)

    @property
    def ending(self) -> bool:
        return self._decoder.ending

    def feed(self, frames: Sequence[Any], out: list[Item]) -> None:
        if (answer := self._answer()) is not None:
            answer.decode_with(self._decoder)
        if hasattr(self._decoder, "expect_large"):
            self._decoder.expect_large()
        waits = _COLLECTS_WHILE_DECODING and gc.isenabled()
        if waits:
            gc.disable()
        try:
            self._decoder.feed(frames, out)
        finally:
            if waits:
                gc.enable()
            self.finished = self._decoder.finished

    def whole(self, body: bytes, out: list[Item]) -> None:
        self._decoder.whole(body, out)

    def close(self, out: list[Item]) -> None:
        self._decoder.close(out)


_COLLECTS_WHILE_DECODING = sys.version_info < (3, 12)


class _Document:
    """A framer for an answer that is not streamed: it has no frames before its end.

    A stream that is only labelled as a document continues with its own framer: all its events at
    once would hold up the event loop.
    """

    def __init__(
        self, decoder: Decoder[Any], streamed: tuple[Framer[Any], Answer] | None = None
    ) -> None:
        self._decoder = decoder
        self._pieces: list[bytes] = []
        self._weight = Weight()
        self._streamed = streamed and (streamed[0], ref(streamed[1]))
        """What a stream is read with, until it is known that there is none."""

    def feed(self, data: bytes) -> list[Any]:
        self._pieces.append(data)
        self._weight.add(data)
        return [] if self._streamed is None else self._begun(*self._streamed)

    def _begun(self, framer: Framer[Any], answer: Callable[[], Answer | None]) -> list[Any]:
        """Return the frames of the first bytes, if they begin a stream after all."""
        head = b"".join(self._pieces)
        begin, found = head.removeprefix(_BOM).lstrip()[:6], answer()
        if len(begin) == len(b"event:") or len(head) > FIRST:
            self._streamed = None
        if found is None or not begin.startswith(_EVENTS):
            return []
        found.framer = framer
        return framer.feed(head)

    def close(self) -> list[Any]:
        return []

    def end(self, status: int, batch: list[Item]) -> None:
        from aiollm._wire.web_page import check_answer  # most answers are streamed

        body = b"".join(self._pieces).strip()
        check_answer(body, status)
        check_density(body, self._weight)
        self._decoder.whole(body, batch)
