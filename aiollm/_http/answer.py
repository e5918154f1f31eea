"""An answer while it arrives: the reads of one reply become batches of items."""

from __future__ import annotations

from asyncio import sleep
from collections.abc import Awaitable, Sequence
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiollm._http import MAX_ANSWER
from aiollm._http.turns import FIRST, PIECE, TURN, Turns
from aiollm._user_types.density import Weight
from aiollm._wire.framing import NDJSON, check_density
from aiollm.errors import LLMError, ProtocolError
from aiollm.provider import Decoder, Framer, Reply
from aiollm.types import Item, Timeouts

if TYPE_CHECKING:
    from aiollm._http.last_words import LastWords

_NEVER, _NO_GAP = inf, -1.0
"""When the last piece of an answer came, and the longest gap between two, before there are any."""


class Answer:
    """Decodes the body of one reply, read by read."""

    goes_on = True
    failure: LLMError | None = None
    """What ended the answer before its end, once it does not go on."""
    _batch: Sequence[Item] = ()
    _words: LastWords | None = None
    _last, _gap = _NEVER, _NO_GAP
    _size = _turn_at = 0
    _is_cut = False
    """Whether larger reads are cut into pieces already."""

    def __init__(
        self, reply: Reply, framer: Framer[Any], decoder: Decoder[Any], timeouts: Timeouts
    ) -> None:
        self._reply = reply
        self._read = reply.read
        self._decoder = decoder
        self._framer = _Document(decoder) if _is_one_document(reply, framer) else framer
        self._timeouts = timeouts

    async def next(self) -> list[Item]:
        """Return the items of one read.

        An error is kept in `failure` rather than raised, so that the items before it reach the
        caller first.
        """
        decoder = self._decoder
        batch: list[Item] = []
        data = None
        try:
            data = await (self._read_after_finish() if decoder.ending else self._read())
            self._size += len(data)
            if self._size >= self._turn_at:  # at the first read, and then once in so many bytes
                if self._turn_at:
                    await sleep(0)
                data = self._first_slice(data)
            if data:
                decoder.feed(self._framer.feed(data), batch)
            else:
                self._close(batch)
        except (LLMError, RecursionError, MemoryError) as error:
            self._fail(error, data, batch)
        self._batch = batch
        if decoder.finished or not data:
            self.goes_on = False
        elif batch:
            now = monotonic()
            gap = now - self._last
            if gap > self._gap:  # noqa: PLR1730  max() costs more
                self._gap = gap
            self._last = now
        return batch

    def _first_slice(self, data: bytes) -> bytes:
        """Return of a read that is too large the first slice. Raises: ProtocolError."""
        if len(data) > PIECE and not self._is_cut:
            self._is_cut = True
            self._read = Turns(self._read, data[FIRST:], FIRST, PIECE).read
            self._size -= len(data) - FIRST
            data = data[:FIRST]
        if self._turn_at:
            self._turn_at = self._size + TURN
            if self._size > MAX_ANSWER:
                raise ProtocolError(f"the answer exceeds {MAX_ANSWER} bytes")
        else:
            self._turn_at = self._size + PIECE  # a flood may follow a few bytes
            if data[:1] == b"{" and not isinstance(self._framer, NDJSON):
                # JSON that is labelled as events, none of which begins so.
                self._framer = _Document(self._decoder)
        return data

    def _read_after_finish(self) -> Awaitable[bytes]:
        """Read what may follow a finish word; most answers end with their terminal event."""
        words = self._words
        if words is None:
            from aiollm._http.last_words import LastWords

            gap = None if self._last == _NEVER else self._gap
            # The only batch so far may be the first piece of an answer.
            sure = gap is not None and not (gap == _NO_GAP and self._batch)
            words = self._words = LastWords(self._timeouts, gap, sure=sure)
            self._batch = ()
        return words.read(self._read, self._batch)

    def _close(self, batch: list[Item]) -> None:
        """Decode what the end of the body completes. Raises: LLMError."""
        if isinstance(self._framer, _Document):
            self._framer.end(self._reply.status, batch)
            return
        self._decoder.feed(self._framer.close(), batch)
        if not self._decoder.finished:
            self._decoder.close(batch)

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
        self.failure = error

    def _was_complete(self, batch: list[Item]) -> bool:
        """Return whether the answer was complete before its body was cut."""
        if isinstance(self._framer, _Document):
            return False
        try:
            self._close(batch)
        except (LLMError, RecursionError, MemoryError):
            return False
        return True


def _is_one_document(reply: Reply, framer: Framer[Any]) -> bool:
    """Return whether the body is a complete answer, an error or a web page, not a stream."""
    if reply.content_type not in ("text/html", "application/json"):
        return False
    # Some servers label a stream of JSON lines as JSON, but only a document has a length.
    lines = reply.content_type == "application/json" and isinstance(framer, NDJSON)
    return not lines or "content-length" in reply.headers


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
