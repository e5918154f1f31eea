"""The keywords of a call: fields of its request, and settings of the call itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from aiollm._failover.policy import OnInterrupt, OnRefusal, OnUnsupported, check_names
from aiollm._validation import RequestLike, as_request
from aiollm.hosted import ToolBase
from aiollm.types import Effort, PromptCache, Request, ResponseCacheUse, Timeouts

if TYPE_CHECKING:
    from aiollm.prices import Budget


class CallOptions(TypedDict, total=False):
    """What a call may override of its registry's settings; None means the registry's own."""

    timeouts: Timeouts | None
    retries: int | None
    on_interrupt: OnInterrupt | None
    on_refusal: OnRefusal | None
    on_unsupported: OnUnsupported | None
    stagger: float | None
    patience: float | None
    max_wait: float | None
    budget: Budget | None


class RequestFields(TypedDict, total=False):
    """The fields of `Request` that every call takes as keywords; they replace those it has."""

    system: str
    tool_choice: str | Sequence[str] | None
    parallel_tool_calls: bool | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: str | Sequence[str]
    seed: int | None
    reasoning: Effort | int | None
    extra: Mapping[str, Mapping[str, Any]]
    prompt_cache: PromptCache | None
    cache_key: str


class TurnOptions(RequestFields, CallOptions, total=False):
    """The keywords of one turn of a conversation: also `RequestFields` and `CallOptions`.

    `session`: the name of the conversation. The target whose prompt cache is warm for it is asked
    first, if it is healthy and has room; without a name, each run is a session of its own.
    `response_cache`: "use" takes the answer to an equal request from the registry's cache, if a
    target of the spec's first step gave it; "refresh" asks again; both keep the answer once it is
    complete.
    """

    session: str | None
    response_cache: ResponseCacheUse | None


class GenerateOptions(TurnOptions, total=False):
    """The further keywords of `generate`: also `TurnOptions`."""

    tools: ToolBase | Sequence[ToolBase]


class StreamOptions(GenerateOptions, total=False):
    """The keywords of `stream`: also `GenerateOptions`.

    `output`: the type of the answer, or a JSON schema.
    """

    output: Any


class OwnOptions(CallOptions, total=False):
    """The keywords that are settings of the call."""

    session: str | None
    response_cache: ResponseCacheUse | None


class CountOptions(RequestFields, total=False):
    """The keywords of `count_tokens`: also `RequestFields`."""

    tools: ToolBase | Sequence[ToolBase]
    output: Any
    timeouts: Timeouts | None
    on_unsupported: OnUnsupported | None


def parted(
    request: RequestLike, options: StreamOptions | TurnOptions | CountOptions, *own: str
) -> tuple[RequestLike, OwnOptions]:
    """Put the keywords that are fields into the request; return it, and the others.

    `own` are further keywords of the method. Raises: ConfigError, TypeError for an unknown one.
    """
    if not options:
        return request, {}
    check_names(options, (*StreamOptions.__annotations__, *own))
    fields: dict[str, Any] = {}
    others: Any = {}
    for name, value in options.items():
        (fields if name in Request.__struct_fields__ else others)[name] = value
    if fields:
        request = msgspec.structs.replace(as_request(request), **fields)
    return request, others
