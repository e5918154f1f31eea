"""The keywords of a call: fields of its request, beside the settings of the call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import msgspec

from aiollm._failover.candidates import CallOptions, check_names
from aiollm._validation import RequestLike, as_request
from aiollm.types import Effort, Request, Tool


class RequestFields(TypedDict, total=False):
    """The fields of `Request` that every call takes as keywords; they replace those it has."""

    system: str
    tool_choice: str | None
    parallel_tool_calls: bool | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: str | Sequence[str]
    seed: int | None
    reasoning: Effort | int | None
    extra: Mapping[str, Mapping[str, Any]]


class GenerateOptions(RequestFields, CallOptions, total=False):
    """The keywords of `generate` beside its own: also `RequestFields` and `CallOptions`."""

    tools: Tool | Sequence[Tool]


class RunOptions(RequestFields, CallOptions, total=False):
    """The keywords of `run` beside its own: also `RequestFields` and `CallOptions`."""

    output: Any


class StreamOptions(GenerateOptions, RunOptions, total=False):
    """The keywords of `stream`: `RequestFields`, `tools`, `output` and `CallOptions`."""


def parted(
    request: RequestLike, options: GenerateOptions | RunOptions, *own: str
) -> tuple[RequestLike, CallOptions]:
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
