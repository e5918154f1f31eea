"""An answer while it arrives: the reads of one reply become batches of items."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard
from weakref import ref

from aiollm._http import MAX_ANSWER
from aiollm._http.turns import FIRST, PIECE, TURN, Read, Turns, long_turn
from aiollm._user_types.density import Weight
from aiollm._wire.framing import NDJSON, check_density, held_by
from aiollm.errors import LLMError, ProtocolError
from aiollm.provider import Decoder, Framer, Reply
from aiollm.types import Item, Timeouts

if TYPE_CHECKING:
    from aiollm._http.last_words import LastWords

_DOCUMENTS = ("text/html", "application/json")

_NEVER, _NO_GAP = inf, -1.0
"""When the last piece of an answer came, and the longest gap between two, before there are any."""


class ReadyReply(Reply, Protocol):
    """A reply whose bytes can also be taken without a coroutine for each read, as aiohttp's can."""

    def take(self) -> bytes | None:
        """Return what has arrived, b"" at the end, None if nothing has."""

    def coming(self) -> Awaitable[None]:
        """Return what ends when there is something to take."""

    def translated(self, error: Exception) -> LLMError | None:
        """Return what an error of `take` or `coming` means, None for a fault of the program."""


def _is_ready(reply: Reply) -> TypeGuard[ReadyReply]:
    return hasattr(reply, "take")  # an isinstance of a protocol takes 100 times as long


def _nothing() -> None:
    """Return None: nothing is known to have arrived."""


class Answer:
    """Decodes the body of one reply, read by read."""

    goes_on = True
    failure: LLMError | None = None
    """What ended the answer before its end, once it does not go on."""
    ends_late = False
    """Whether others run before its end is dealt with, which takes long if a large frame is its
    last, or if it failed."""
    _arrived: Callable[[], bytes | None] = staticmethod(_nothing)
    _coming: Callable[[], Awaitable[None]] | None = None
    """How bytes are taken, and waited for; a reply that can only be read has neither."""
    _batch: Sequence[Item] = ()
    _words: LastWords | None = None
    _last, _gap = _NEVER, _NO_GAP
    _size = _turn_at = 0
    _read: Read | None = None
    """What cuts large reads into pieces."""
    _held: bytes | None = None
    """What was read already, and is decoded next."""
    _has_turned = False
    """Whether others run now, before what is held is decoded."""

    def __init__(
        self, reply: Reply, framer: Framer[Any], decoder: Decoder[Any], timeouts: Timeouts
    ) -> None:
        self._reply = reply
        if _is_ready(reply):
            self._arrived = reply.take
            self._coming = reply.coming
        self._decoder = decoder
        self.framer = framer
        if reply.content_type in _DOCUMENTS and _is_one_document(reply, framer):
            self.framer = _Document(decoder)
        self._timeouts = timeouts

    def take(self) -> list[Item] | Awaitable[None]:
        """Return the items of what has arrived, or what to await, at once, before there are any.

        An error is kept in `failure` rather than raised, so that the items before it reach the
        caller first.
        """
        decoder = self._decoder
        batch: list[Item] = []
        data = self._held
        try:
            if data is not None:
                self._held = None
            elif (data := self._arrived()) is None:
                if self._coming is None or decoder.ending:
                    return self._hold()
                return self._coming()
            self._size = size = self._size + len(data)
            if size >= self._turn_at:  # at the first read, and then once in so many bytes
                if self._turn_at and self._is_others_turn(data):
                    return long_turn()
                data = self._first_slice(data)
            if decoder.ending or not data:
                self._feed_end(data, batch)
            else:
                decoder.feed(self.framer.feed(data), batch)
        except Exception as error:
            if (ended_by := self._ended_by(error, data)) is None:
                raise
            self._fail(ended_by, data, batch)
        self._batch = batch
        if decoder.finished:
            self.goes_on = False
        elif batch:
            now = monotonic()
            gap = now - self._last
            if gap > self._gap:  # noqa: PLR1730  max() costs more
                self._gap = gap
            self._last = now
        return batch

    async def _hold(self) -> None:
        """Read where it takes more than to wait for bytes."""
        try:
            if self._decoder.ending:
                self._words = words = self._words or self._last_words()
                self._held = await words.read(self._read or self._reply.read)
            else:
                self._held = await (self._read or self._reply.read)()
        except (LLMError, RecursionError, MemoryError) as error:
            error.__traceback__ = None  # as in `_fail`
            self._arrived = partial(_broken, error)

    def _is_others_turn(self, data: bytes) -> bool:
        """Return whether others run now, before `data` that is there already is decoded."""
        if self._has_turned:
            return False
        self._size -= len(data)
        self._held, self._has_turned = data, True
        return True

    def _first_slice(self, data: bytes) -> bytes:
        """Return of a read that is too large the first slice. Raises: ProtocolError."""
        if len(data) > PIECE and self._read is None:
            turns = Turns(self._reply.read, data[FIRST:], FIRST, PIECE)
            self._arrived, self._coming, self._read = turns.take, None, turns.read
            self._size -= len(data) - FIRST
            data = data[:FIRST]
        if self._turn_at:
            self._has_turned, self.ends_late = False, True
            if held_by(self.framer) > FIRST:
                self.framer = _LargeFrame(self.framer, self)
            self._turn_at = self._size + TURN
            if self._size > MAX_ANSWER:
                raise ProtocolError(f"the answer exceeds {MAX_ANSWER} bytes")
        else:
            self._turn_at = self._size + PIECE  # a flood may follow a few bytes
            if data[:1] == b"{" and not isinstance(self.framer, NDJSON):
                # JSON that is labelled as events, none of which begins so.
                self.framer = _Document(self._decoder)
        return data

    def hold(self, data: bytes) -> None:
        """Keep what follows a large frame, until others have run."""
        if data:
            self._held, self._turn_at, self._has_turned = data, 1, False
            self._size -= len(data)

    def _feed_end(self, data: bytes, batch: list[Item]) -> None:
        """Decode what follows a finish word, or b"" at the end. Raises: LLMError."""
        if not data:
            self.goes_on = False
            self._close(batch)
            return
        self._words = words = self._words or self._last_words()
        self._decoder.feed(self.framer.feed(data), batch)
        if batch:
            words.said_more()

    def _last_words(self) -> LastWords:
        """Return what reads after a finish word; most answers end with their terminal event."""
        from aiollm._http.last_words import LastWords

        gap = None if self._last == _NEVER else self._gap
        # The only batch so far may be the first piece of an answer.
        sure = gap is not None and not (gap == _NO_GAP and self._batch)
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
        """Return whether the answer was complete before its body was cut."""
        if isinstance(self.framer, _Document):
            return False
        try:
            self._close(batch)
        except (LLMError, RecursionError, MemoryError):
            return False
        return True


def _broken(error: BaseException) -> bytes | None:
    raise error


def _is_one_document(reply: Reply, framer: Framer[Any]) -> bool:
    """Return whether the body is a complete answer, an error or a web page, not a stream."""
    # Some servers label a stream of JSON lines as JSON, but only a document has a length.
    lines = reply.content_type == "application/json" and isinstance(framer, NDJSON)
    return not lines or "content-length" in reply.headers


class _LargeFrame:
    """A framer amid a large frame, behind whose end it cuts what follows in the same read."""

    def __init__(self, framer: Framer[Any], answer: Answer) -> None:
        self._framer = framer
        self._answer = ref(answer)  # it holds this one

    def feed(self, data: bytes) -> list[Any]:
        end, answer = data.find(b"\n"), self._answer()
        if end >= 0 and answer is not None:
            end += len(b"\n\r\n")
            answer.hold(data[end:])
            answer.framer = self._framer
            data = data[:end]
        return self._framer.feed(data)

    def close(self) -> list[Any]:
        return self._framer.close()


class _Document:
    """A framer for an answer that is not streamed: it has no frames before its end."""

    def __init__(self, decoder: Decoder[Any]) -> None:
        self._decoder = decoder
        self._pieces: list[bytes] = []
        self._weight = Weight()

    def feed(self, data: bytes) -> list[Any]:
        self._pieces.append(data)
        self._weight.add(data)
        return []

    def close(self) -> list[Any]:
        return []

    def end(self, status: int, batch: list[Item]) -> None:
        from aiollm._wire.web_page import check_answer  # most answers are streamed

        body = b"".join(self._pieces).strip()
        check_answer(body, status)
        check_density(body, self._weight)
        self._decoder.whole(body, batch)
