"""The generator that makes images: request, reply, drafts and the result, for all image codecs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from aiollm.errors import MAX_BODY, ProtocolError, ServerError
from aiollm.images import ImageRequest, ImageResult, PartialImage
from aiollm.provider import (
    HttpReply,
    HttpRequest,
    ImageCodec,
    ImageDecoder,
    Provider,
    Reply,
    Transport,
)
from aiollm.types import Finish, Item, Notice, Target

MAX_REPLY = 256 * 1024 * 1024
"""Bytes of a reply at most: ten large images in base64."""

NO_SUCH_ROUTE = (404, 405, 501)
"""Statuses after which a provider's next dialect is tried."""

Batch = Sequence[Item | PartialImage | ImageResult]


async def draw(
    codecs: Sequence[ImageCodec],
    provider: Provider,
    transport: Transport,
    target: Target,
    request: ImageRequest,
) -> AsyncGenerator[Batch, None]:
    """Make images at one target, in the first of its dialects that the server knows.

    Raises: LLMError.
    """
    for codec in codecs:
        http = codec.encode_images(provider, target, request)
        reply = await transport.send(http, provider.timeouts.connect)
        try:
            yield [Notice(message) for message in http.warnings]
            if not 200 <= reply.status < 300:
                body = await reply.read_whole(MAX_BODY, 1.0)
                if reply.status in NO_SUCH_ROUTE and codec is not codecs[-1]:
                    continue
                raise codec.error(HttpReply(reply.status, reply.headers, body, http.url))
            decoder = codec.image_decoder()
            if decoder is not None and reply.content_type == "text/event-stream":
                while not decoder.finished:
                    yield await _read(reply, decoder)
                result = decoder.close()
            else:
                pieces: list[bytes] = []
                while piece := await reply.read():
                    pieces.append(piece)
                    _check_size(pieces)
                    yield []
                result = _decode(codec, reply, http, b"".join(pieces))
            yield [result, Finish("stop", usage=result.usage)]
            await reply.drain()
            return
        finally:
            reply.close()


async def _read(reply: Reply, decoder: ImageDecoder) -> Batch:
    data = await reply.read()
    drafts: list[PartialImage] = []
    decoder.feed(data, drafts)
    if not data and not decoder.finished:
        decoder.close()
    return drafts


def _check_size(pieces: Sequence[bytes]) -> None:
    if sum(map(len, pieces)) > MAX_REPLY:
        raise ProtocolError(f"the reply exceeds {MAX_REPLY} bytes")


def _decode(codec: ImageCodec, reply: Reply, http: HttpRequest, body: bytes) -> ImageResult:
    if not body.strip():
        raise ServerError("the answer is empty", status=reply.status)
    return codec.decode_images(HttpReply(reply.status, reply.headers, body, http.url))
