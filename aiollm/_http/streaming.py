"""The one streaming generator that all codecs share: request, bytes, frames, batches of items."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiollm._http import ERROR_BODY_SECONDS, MAX_ANSWER
from aiollm._wire.framing import NDJSON
from aiollm._wire.quota import quotas
from aiollm.errors import MAX_BODY, LLMError, ProtocolError, TransportError
from aiollm.provider import Decoder, Framer, HttpResponse, Provider, Reply, Transport
from aiollm.types import AnnouncedLimits, Item, Notice, Request, Target, Timeouts

if TYPE_CHECKING:
    from aiollm._http.last_words import LastWords

_NEVER, _NO_GAP = inf, -1.0
"""When the last piece of an answer came, and the longest gap between two, before there are any."""


async def stream(  # noqa: C901, PLR0912, PLR0915  one generator: a second would need its own end
    provider: Provider,
    transport: Transport,
    target: Target,
    request: Request,
    timeouts: Timeouts,
) -> AsyncGenerator[Sequence[Item], None]:
    """Stream one target over HTTP; a batch holds the items of one read.

    An empty batch only shows that the server is alive. Raises: LLMError.
    """
    # Only `connect` is enforced here. A timeout that spans a yield would cancel whatever code the
    # consumer runs between two batches, so the chain's watchdog enforces all other deadlines.
    codec = provider.codec
    http = codec.encode(provider, target, request)
    reply = await transport.send(http, timeouts.connect)
    try:
        announced = quotas(reply.headers, provider.host)
        if announced or http.warnings or not reply.has_body:
            # The headers show that the server is alive. So does a body that came with them, and
            # then an empty batch would only cost a turn of the loop.
            first: list[Item] = [AnnouncedLimits(announced)] if announced else []
            yield first + [Notice(message) for message in http.warnings]
        if not 200 <= reply.status < 300:
            raise codec.error(await _error_reply(reply, http.url))
        decoder = (http.decoder or codec.decoder)()
        framer = codec.framing()
        if _is_one_document(reply, framer):
            framer = _Document(decoder, reply.status)
        size = 0
        failure: LLMError | None = None
        batch: list[Item] = []
        words: LastWords | None = None
        last, gap = _NEVER, _NO_GAP
        while failure is None and not decoder.finished:
            if decoder.ending:
                words = words or _last_words(reply, timeouts, batch, last, gap)
                following = words.read(batch)
            else:
                following = reply.read()
            batch = []
            try:
                data = await following
            except (TransportError, ProtocolError) as error:
                data = b""
                failure = _cut(error, framer, decoder, batch)
            else:
                if not size and data[:1] == b"{" and not isinstance(framer, NDJSON):
                    # JSON that is labelled as events, none of which begins so.
                    framer = _Document(decoder, reply.status)
                size += len(data)
                failure = _decode(data, framer, decoder, batch)
            if batch:
                now = monotonic()
                if now - last > gap:  # noqa: PLR1730  max() costs more
                    gap = now - last
                last = now
            if size > MAX_ANSWER:
                failure = failure or ProtocolError(f"the answer exceeds {MAX_ANSWER} bytes")
            yield batch
            if not data:
                break
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback refers to this frame, which would make a cycle
        await reply.drain()
    finally:
        reply.close()


def _last_words(
    reply: Reply, timeouts: Timeouts, batch: list[Item], last: float, gap: float
) -> LastWords:
    """Return the reader for after the finish word, which may have come in `batch`."""
    from aiollm._http.last_words import LastWords  # most answers end with their terminal event

    said = last != _NEVER
    sure = said and not (batch and gap == _NO_GAP)
    return LastWords(reply, timeouts, max(gap, 0.0) if said else None, sure=sure)


def _cut(
    error: LLMError, framer: Framer[Any], decoder: Decoder[Any], batch: list[Item]
) -> LLMError | None:
    """Return the error that cut the body, None where the answer was complete before it."""
    if isinstance(framer, _Document):
        return error
    return error if _decode(b"", framer, decoder, batch) else None


def _decode(
    data: bytes, framer: Framer[Any], decoder: Decoder[Any], batch: list[Item]
) -> LLMError | None:
    """Decode the bytes of one read, b"" at the end of the body.

    An error is returned rather than raised, so that the items before it reach the caller first.
    """
    try:
        if data:
            decoder.feed(framer.feed(data), batch)
        elif isinstance(framer, _Document):
            framer.end(batch)
        else:
            decoder.feed(framer.close(), batch)
            if not decoder.finished:
                decoder.close(batch)
    except LLMError as error:
        return error
    except (RecursionError, MemoryError) as error:  # nested too deeply, or too large
        name = type(error).__name__
        return ProtocolError(f"a frame cannot be decoded: {name}", frame=data[:1024])
    return None


def _is_one_document(reply: Reply, framer: Framer[Any]) -> bool:
    """Return whether the body is a complete answer, an error or a web page, not a stream."""
    match reply.content_type:
        case "text/html":
            return True
        case "application/json":
            # Some servers label a stream of JSON lines so, but only a document has a length.
            return not isinstance(framer, NDJSON) or "content-length" in reply.headers
        case _:
            return False


class _Document:
    """A framer for an answer that is not streamed: it has no frames before its end."""

    def __init__(self, decoder: Decoder[Any], status: int) -> None:
        self._decoder = decoder
        self._status = status
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[Any]:
        self._pieces.append(data)
        return []

    def close(self) -> list[Any]:
        return []

    def end(self, batch: list[Item]) -> None:
        from aiollm._wire.web_page import check_answer  # most answers are streamed

        body = b"".join(self._pieces).strip()
        check_answer(body, self._status)
        self._decoder.whole(body, batch)


async def _error_reply(reply: Reply, url: str) -> HttpResponse:
    body = await reply.read_whole(MAX_BODY, ERROR_BODY_SECONDS)
    return HttpResponse(reply.status, reply.headers, body, url)
