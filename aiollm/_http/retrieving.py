"""The generators that embed and rerank: one request, one reply, checked against what was asked."""

from __future__ import annotations

import asyncio
import math
import sys
from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, TypeAlias

from msgspec.structs import replace

from aiollm._http import ERROR_BODY_SECONDS, MAX_UNARY_REPLY, MAX_VECTORS_REPLY
from aiollm._http.routes import refusal
from aiollm._http.turns import TURN, Turns
from aiollm._user_types.density import USER, Weight
from aiollm._wire.framing import check_density
from aiollm._wire.quota import quotas
from aiollm._wire.vectors import ReplyVectors, is_finite
from aiollm.errors import MAX_BODY, ProtocolError, UnsupportedError
from aiollm.provider import HttpResponse, Provider, Reply, Transport, UnaryCodec
from aiollm.retrieval import (
    Embeddings,
    EmbedRequest,
    Ranked,
    Ranking,
    RerankRequest,
    ScoreReply,
    VectorReply,
)
from aiollm.retrieval.vectors import Vectors
from aiollm.types import AnnouncedLimits, Finish, Target, Timeouts

JOIN_AT_ONCE = 4 * 1024 * 1024
"""Bytes that are joined on the loop, which takes a millisecond; `bytes.join` releases the GIL."""

CHECKED_AT_ONCE = 256 * 1024
TAKEN_AT_ONCE = 256
"""Bytes and vectors that are checked between two turns of the event loop: 0.1 ms of work, or 2 ms
where numbers look as if they were not finite."""

Batches: TypeAlias = AsyncGenerator[Sequence[Any], None]


def embed(
    provider: Provider,
    transport: Transport,
    target: Target,
    request: EmbedRequest,
    timeouts: Timeouts,
) -> Batches:
    """Make the vectors of a batch at one target. Raises: LLMError."""

    async def read(codec: UnaryCodec[Any, VectorReply], reply: HttpResponse) -> Embeddings:
        return await _embeddings(codec, reply, request)

    parts = provider, transport, target, request, timeouts
    return _asked("embed", MAX_VECTORS_REPLY, read, *parts)


def rerank(
    provider: Provider,
    transport: Transport,
    target: Target,
    request: RerankRequest,
    timeouts: Timeouts,
) -> Batches:
    """Rank documents at one target. Raises: LLMError."""

    async def read(codec: UnaryCodec[Any, ScoreReply], reply: HttpResponse) -> Ranking:
        await _check(reply.body)
        return await _ranking(codec.decode(reply), request)

    parts = provider, transport, target, request, timeouts
    return _asked("rerank", MAX_UNARY_REPLY, read, *parts)


async def _asked(
    operation: str,
    limit: int,
    read: Callable[[UnaryCodec[Any, Any], HttpResponse], Awaitable[Any]],
    provider: Provider,
    transport: Transport,
    target: Target,
    request: Any,
    timeouts: Timeouts,
) -> Batches:
    """Ask with the operation's first codec, or the next where a host refuses its form."""
    codecs = provider.operations[operation].codecs()
    for codec in codecs:
        http = codec.encode(provider, target, request)
        reply = await transport.send(http, timeouts.connect)
        try:
            announced = quotas(reply.headers, provider.host)
            # The headers show that the server is alive.
            yield [AnnouncedLimits(announced)] if announced else []
            if reply.status // 100 != 2:
                body = await reply.read_whole(MAX_BODY, ERROR_BODY_SECONDS)
                refused = HttpResponse(reply.status, reply.headers, body, http.url)
                if codec is not codecs[-1] and codec.gives_way(refused):
                    continue
                raise refusal(codec.error(refused))
            body = await _whole(reply, limit)
            whole = HttpResponse(reply.status, reply.headers, body, http.url)
            result = await read(codec, whole)
            if http.warnings:
                result = replace(result, warnings=http.warnings)
            yield [result, Finish("stop", usage=result.usage)]
            return
        finally:
            reply.close()


async def _whole(reply: Reply, limit: int) -> bytes:
    """Return the complete body of a reply. Raises: ProtocolError for one that is too large."""
    pieces: list[bytes] = []
    size = 0
    turns = Turns(reply.read)
    while piece := await turns.read():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise ProtocolError(f"the reply is larger than {limit} bytes")
    if size <= JOIN_AT_ONCE:
        return b"".join(pieces)
    return await asyncio.to_thread(b"".join, pieces)


async def _check(body: bytes) -> None:
    """Refuse JSON of too many parts; others run while they are counted. Raises: ProtocolError."""
    weight = Weight(USER)
    for at in range(0, len(body), TURN):
        weight.add(body[at : at + TURN])
        await asyncio.sleep(0)
    check_density(body, weight)


async def _embeddings(
    codec: UnaryCodec[Any, VectorReply], reply: HttpResponse, request: EmbedRequest
) -> Embeddings:
    """Return the vectors in a reply, one for each input, all alike. Raises: LLMError."""
    count = len(request.inputs)
    taken = ReplyVectors(reply.body, count)
    for _ in taken.steps():
        await asyncio.sleep(0)
    if not taken.is_sparse():
        await _check(taken.rest)
    found = codec.decode(replace(reply, body=taken.rest))
    if len(found.values) != count:
        raise ProtocolError(f"the reply has {len(found.values)} vectors for {count} inputs")
    take = taken.take_int8 if found.int8 else taken.take
    left = map(take, found.values)
    some = [next(left)]
    size = len(some[0])
    _check_width(size // 4, request.dimensions)
    at_once = min(TAKEN_AT_ONCE, CHECKED_AT_ONCE // size or 1)
    whole = array("f")
    some += islice(left, at_once - 1)
    while some:
        whole.frombytes(_checked(some, size))
        if some := [*islice(left, at_once)]:
            await asyncio.sleep(0)
    if sys.byteorder == "big":
        whole.byteswap()
    return Embeddings(Vectors((whole,), size // 4), found.usage)


def _checked(vectors: Sequence[bytes], size: int) -> bytes:
    """Return vectors as one piece. Raises: ProtocolError for other sizes, NaN and infinity."""
    for each in vectors:
        if len(each) != size:
            counts = f"{size // 4} and of {len(each) // 4}"
            raise ProtocolError(f"the reply has vectors of {counts} numbers")
    piece = b"".join(vectors)
    if not is_finite(piece):
        raise ProtocolError("the reply has a vector with a number that is not finite")
    return piece


def _check_width(width: int, wanted: int | None) -> None:
    """Raise UnsupportedError where a server does not shorten vectors as it was asked to."""
    if wanted is not None and width != wanted:
        raise UnsupportedError(
            f"the vectors have {width} numbers, not the {wanted} of `dimensions`: the server has "
            "no other width, or ignores the setting"
        )


async def _ranking(found: ScoreReply, request: RerankRequest) -> Ranking:
    """Return the best documents, best first. Raises: ProtocolError."""
    count, scores = len(request.documents), dict[int, float]()
    if len(found.scores) > count:
        raise ProtocolError(f"the reply has {len(found.scores)} scores for {count} documents")
    for at in range(0, count, TAKEN_AT_ONCE):
        scores.update(found.scores[at : at + TAKEN_AT_ONCE])
        await asyncio.sleep(0)
    if len(scores) < len(found.scores):
        raise ProtocolError("the reply has two scores for one document")
    if not all(0 <= index < count for index in scores):
        raise ProtocolError(f"the reply has a score for a document that is not one of {count}")
    if not all(map(math.isfinite, scores.values())):
        raise ProtocolError("the reply has a score that is not a finite number")
    if len(scores) < request.wanted:
        raise ProtocolError(f"the reply has {len(scores)} scores for {request.wanted} documents")
    best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[: request.wanted]
    return Ranking(tuple(Ranked(*pair) for pair in best), found.usage)
