"""Shared by the codecs of embeddings and reranking: strict decoding, and errors in replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from aiollm._wire.lenient import load
from aiollm._wire.web_page import check_answer
from aiollm.errors import LLMError, ProtocolError
from aiollm.provider import HttpResponse
from aiollm.providers.billing import Billing
from aiollm.providers.token_counts import MOST
from aiollm.types import Usage

T = TypeVar("T")


class _Placed(Protocol):
    index: int | None


PlacedT = TypeVar("PlacedT", bound=_Placed)


def in_order(items: Sequence[PlacedT]) -> Sequence[PlacedT]:
    """Return items by their places, where they have any. Raises: ProtocolError."""
    places = [each.index for each in items]
    if places == [*range(len(items))] or all(place is None for place in places):
        return items
    by_place = {each.index: each for each in items}
    try:
        return [by_place[place] for place in range(len(items))]
    except KeyError as missing:
        reason = f"the reply has no vector for input {missing}, but {len(items)} vectors"
    raise ProtocolError(reason)


def usage_of(counts: object, *names: str) -> Usage:
    """Return what a reply says it took, the tokens by the first of these names that it has.

    The vectors or scores are there and paid for, so counts that make no sense are missing ones.
    """
    if not isinstance(counts, Mapping):
        return Usage()
    billed = msgspec.convert(counts, Billing).usd()
    for name in names:
        if (tokens := counts.get(name)) is not None:
            if type(tokens) is int and 0 <= tokens <= MOST:
                return Usage(input_tokens=tokens, certainty="exact", billed_usd=billed)
            break
    return Usage(billed_usd=billed)


Failed: TypeAlias = Callable[[Any, bytes], LLMError]
"""Makes the error of a reply that is one, of its value and bytes."""


def decode_strictly(reply: HttpResponse, decoder: msgspec.json.Decoder[T], failed: Failed) -> T:
    """Decode a reply in which no value may be left out or changed. Raises: LLMError."""
    body = reply.body
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError) as error:
        cause = str(error)[:200] if isinstance(error, ValueError) else "it nests too deeply"
    raise no_answer(reply, failed, cause)


def no_answer(reply: HttpResponse, failed: Failed, cause: str) -> LLMError:
    """Return the error for a reply without an answer, with what it says itself if it is one."""
    from aiollm.providers.error_bodies import is_error  # for failures alone

    check_answer(reply.body, reply.status)
    value = load(reply.body)
    if is_error(value):
        return failed(value, reply.body)
    return ProtocolError(f"the reply has no answer: {cause}", frame=reply.body)
