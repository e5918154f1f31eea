"""The generator that makes images: request, reply, drafts and the result, for all image codecs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from aiollm._http import ERROR_BODY_SECONDS, MAX_IMAGE_REPLY, MAX_UNARY_REPLY
from aiollm._http.image_quota import ImageQuota
from aiollm._http.routes import refusal
from aiollm._http.turns import PIECE, Turns
from aiollm._wire.framing import check_density
from aiollm._wire.quota import quotas
from aiollm._wire.web_page import check_answer
from aiollm.errors import MAX_BODY, LLMError, ProtocolError
from aiollm.images import ImageRequest, ImageResult, PartialImage
from aiollm.provider import (
    HttpResponse,
    ImageCodec,
    ImageDecoder,
    Provider,
    Reply,
    Transport,
)
from aiollm.types import AnnouncedLimits, Finish, ImagePart, Item, Notice, Target, Timeouts

if TYPE_CHECKING:
    from aiollm._wire.base64_stream import Lift

JOIN_AT_ONCE = 1024 * 1024
"""Bytes up to which a file is joined on the loop; above, `bytes.join` releases the GIL."""

NO_SUCH_ROUTE = (404, 405, 501)
"""Statuses that may mean another dialect: the provider's next one is tried."""

Batch = Sequence[Item | PartialImage | ImageResult]


async def draw(
    provider: Provider,
    transport: Transport,
    target: Target,
    request: ImageRequest,
    timeouts: Timeouts,
) -> AsyncGenerator[Batch, None]:
    """Make images at one target, in the first of its dialects that the server knows.

    Raises: LLMError.
    """
    from aiollm._wire.base64_stream import Lift  # takes 1 ms; only image calls need it

    codecs = provider.operations["images"].codecs()
    for codec in codecs:
        http = codec.encode_images(provider, target, request)
        reply = await transport.send(http, timeouts.connect)
        try:
            announced = quotas(reply.headers, provider.host)
            # The headers show that the server is alive.
            yield [AnnouncedLimits(announced)] if announced else []
            if reply.status // 100 != 2:
                body = await reply.read_whole(MAX_BODY, ERROR_BODY_SECONDS)
                if reply.status in NO_SUCH_ROUTE and codec is not codecs[-1]:
                    continue
                refused = HttpResponse(reply.status, reply.headers, body, http.url)
                raise refusal(codec.error(refused))
            yield [Notice(message) for message in http.warnings]
            decoder = _decoder(codec, reply, http.url)
            lift = Lift()
            quota = ImageQuota(request)
            turns = Turns(reply.read, piece=PIECE)
            size = 0
            while not decoder.finished:
                data = await turns.read()
                size += len(data)
                drafts: list[PartialImage] = []
                failure = _feed(decoder, lift, data, drafts)
                if size > MAX_IMAGE_REPLY:
                    failure = failure or ProtocolError(f"the reply exceeds {MAX_IMAGE_REPLY} bytes")
                asked = quota.drafts(drafts)
                yield [replace(each, image=await _restored(each.image, lift)) for each in asked]
                for each in drafts[len(asked) :]:
                    lift.take(each.image.data)  # frees the file
                if failure is not None:
                    raise failure
                if not data:
                    break
            result = _result(decoder)
            images = [await _restored(image, lift) for image in quota.images(result)]
            result = replace(result, images=tuple(images))
            yield [*quota.notices(), result, Finish("stop", usage=result.usage)]
            await reply.drain()
            return
        finally:
            reply.close()


def _decoder(codec: ImageCodec, reply: Reply, url: str) -> ImageDecoder:
    decoder = codec.image_decoder()
    if decoder is not None and reply.content_type == "text/event-stream":
        return decoder
    return _Document(codec, reply, url)


def _feed(
    decoder: ImageDecoder, lift: Lift, data: bytes, drafts: list[PartialImage]
) -> LLMError | None:
    """Decode the bytes of one read, b"" at the end of the body.

    An error is returned rather than raised, so that the drafts before it reach the caller first.
    """
    text = lift.feed(data) if data else lift.close()
    try:
        if text:
            decoder.feed(text, drafts)
        if not data:
            decoder.feed(b"", drafts)
    except LLMError as error:
        return error
    except (RecursionError, MemoryError) as error:
        return _undecodable(error)
    return None


def _result(decoder: ImageDecoder) -> ImageResult:
    """Return the images of an answer that has ended. Raises: LLMError."""
    try:
        return decoder.close()
    except (RecursionError, MemoryError) as error:
        failure = _undecodable(error)
    raise failure


def _undecodable(error: BaseException) -> ProtocolError:
    """Return the error for an answer that is nested too deeply, or too large."""
    return ProtocolError(f"the reply cannot be decoded: {type(error).__name__}")


async def _restored(image: ImagePart, lift: Lift) -> ImagePart:
    """Return the image with the file in place of the placeholder that a codec has decoded."""
    pieces = lift.take(image.data)
    if pieces is None:
        return image
    if sum(map(len, pieces)) <= JOIN_AT_ONCE:
        data = b"".join(pieces)
    else:
        data = await asyncio.to_thread(b"".join, pieces)
    return replace(image, data=data)


class _Document:
    """A decoder for a reply that is not streamed."""

    finished = False

    def __init__(self, codec: ImageCodec, reply: Reply, url: str) -> None:
        self._codec = codec
        self._reply = reply
        self._url = url
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes, out: list[PartialImage]) -> None:
        """Keep the bytes that are not those of files. Raises: ProtocolError for too many."""
        del out
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MAX_UNARY_REPLY:
            raise ProtocolError(f"the reply has more than {MAX_UNARY_REPLY} bytes beside its files")

    def close(self) -> ImageResult:
        """Decode the reply. Raises: LLMError."""
        reply, body = self._reply, b"".join(self._pieces)
        check_answer(body, reply.status)
        check_density(body)
        return self._codec.decode_images(HttpResponse(reply.status, reply.headers, body, self._url))
