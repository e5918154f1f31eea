"""The one streaming generator that all codecs share: request, bytes, frames, batches of items."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from aiollm._http import ERROR_BODY_SECONDS
from aiollm._http.answer import Answer
from aiollm._http.handover import Handover
from aiollm._http.turns import long_turn
from aiollm._wire.quota import Quota, quotas
from aiollm.errors import MAX_BODY, LLMError
from aiollm.provider import HttpResponse, Provider, Reply, Transport
from aiollm.types import AnnouncedLimits, Item, Notice, Request, Target, Timeouts


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
            yield _opening(announced, http.warnings)
        if reply.status // 100 != 2:
            raise codec.error(await _error_reply(reply, http.url))
        answer = Answer(reply, codec.framing(), (http.decoder or codec.decoder)(), timeouts)
        del http  # its body may be large, and an answer may take long
        yield Handover(answer)
        while answer.goes_on:
            got = answer.take()
            if isinstance(got, list):
                yield got
            else:
                await got
        if answer.ends_late:
            await long_turn()
            if answer.failure is not None:
                raise _taken(answer)
        await reply.drain()
    finally:
        reply.close()


def _opening(announced: tuple[Quota, ...], warnings: Sequence[str]) -> list[Item]:
    first: list[Item] = [AnnouncedLimits(announced)] if announced else []
    return first + [Notice(message) for message in warnings]


def _taken(answer: Answer) -> LLMError:
    """Take the error out of an answer, whose frame its traceback will refer to: a cycle."""
    failure, answer.failure = answer.failure, None
    assert failure is not None
    return failure


async def _error_reply(reply: Reply, url: str) -> HttpResponse:
    body = await reply.read_whole(MAX_BODY, ERROR_BODY_SECONDS)
    return HttpResponse(reply.status, reply.headers, body, url)
