"""The one streaming generator that all codecs share: request, bytes, frames, batches of items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from aiollm._http.bounds import ERROR_BODY_SECONDS, MAX_ANSWER
from aiollm._wire.framing import NDJSON
from aiollm._wire.quota import quotas
from aiollm.errors import MAX_BODY, LLMError, ProtocolError, TransportError
from aiollm.provider import Decoder, Framer, HttpResponse, Provider, Reply, Transport
from aiollm.types import AnnouncedLimits, Item, Notice, Request, Target, Timeouts

LAST_WORDS_SECONDS = 2.0
"""Seconds to wait for usage and the terminal event once the finish reason has arrived.

Usage comes after it, but some servers send neither `[DONE]` nor the end of the body."""


async def stream(
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
        while failure is None and not decoder.finished:
            batch: list[Item] = []
            try:
                data = await (_last_words(reply, timeouts) if decoder.ending else reply.read())
            except (TransportError, ProtocolError) as error:
                data = b""
                failure = _cut(error, decoder, batch)
            else:
                size += len(data)
                failure = _decode(data, framer, decoder, batch)
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


async def _last_words(reply: Reply, timeouts: Timeouts) -> bytes:
    """Read what may follow a complete answer; b"" when the server stays silent."""
    idle = timeouts.idle or LAST_WORDS_SECONDS
    # Half of it, because at `idle` the watchdog would fail an answer that is complete.
    try:
        async with asyncio.timeout(min(LAST_WORDS_SECONDS, idle / 2)):
            return await reply.read()
    except TimeoutError:
        return b""


def _cut(error: LLMError, decoder: Decoder[Any], batch: list[Item]) -> LLMError | None:
    """Return the error that cut the body, None if the answer was complete before it.

    Once the finish reason has arrived, a cut can cost only the usage.
    """
    try:
        decoder.close(batch)
    except LLMError:
        return error
    return None


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
