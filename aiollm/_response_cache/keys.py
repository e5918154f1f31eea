"""Keys of answers: equal for requests that mean the same to the same model, else different.

A key is a hash of all that decides what the model reads and how it answers. It has nothing of the
machine: neither the local name of the provider nor its token, so that files can be shared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from aiollm._failover.left_out import without_unsupported
from aiollm._settings.places import place_of
from aiollm._wire.lenient import encode
from aiollm._wire.schema import schema_name, type_schema
from aiollm.errors import LLMError
from aiollm.provider import Provider
from aiollm.providers.extra_fields import request_for
from aiollm.types import (
    AnyTool,
    AudioPart,
    CachePoint,
    DocumentPart,
    ImagePart,
    Message,
    Part,
    Request,
    Target,
    Tool,
    ToolResultPart,
)

VERSION = 1
"""Counts up when what is hashed, or what is kept, changes its meaning."""

_FACTS = ("output_schema", "reasoning")
"""What is known of a target that changes how a request is sent, rather than whether."""

_IMAGE_FACTS = (
    "images",
    "max_images_per_request",
    "max_image_dimension",
    "min_image_dimension",
    "max_image_ratio",
    "max_pixels",
    "max_image_bytes",
    "image_bytes_in_base64",
    "max_body_bytes",
    "many_images",
    "many_images_dimension",
    "allowed_image_mime",
    "tool_result_images",
)
"""What decides how images are fitted, and which of them are left out."""


class Asked(msgspec.Struct, frozen=True):
    """A request to one target.

    `drops`: files that the target does not take become placeholders. `max_pixels`: the registry's
    limit for images.
    """

    target: Target
    provider: Provider
    request: Request
    drops: bool
    max_pixels: int


def key_of(asked: Asked) -> bytes | None:
    """Return the key of a request at a target, None for one that has none.

    Such a request cannot be sent either: it holds what is not JSON, or a type without a schema.
    """
    try:
        return hashlib.sha256(encode(_meaning(asked), _plain)).digest()
    except (LLMError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def _meaning(asked: Asked) -> list[Any]:
    target, provider, request = asked.target, asked.provider, asked.request
    family, model = provider.codec.family, target.model
    facts = provider.capabilities(model)
    if request.extra:
        request = request_for(request, family, target)
    if asked.drops:
        request, _ = without_unsupported(request, facts)
    messages = [[each.role, _parts(each.parts)] for each in request.messages]
    names = (*_FACTS, *_IMAGE_FACTS) if _has_images(request.messages) else _FACTS
    known = [getattr(facts, name) for name in names]
    if len(names) > len(_FACTS):
        known.append(asked.max_pixels)
    return [VERSION, _server(provider), family, model, known, messages, *_settings(request)]


def _settings(request: Request) -> list[Any]:
    """Return all but the messages, without what only decides where a prompt is cached."""
    output = request.output
    return [
        request.system,
        [_tool(each) for each in request.tools],
        request.tool_choice,
        request.parallel_tool_calls,
        None if output is None else [schema_name(output), type_schema(output)],
        request.max_output_tokens,
        _number(request.temperature),
        _number(request.top_p),
        request.stop,
        request.seed,
        request.reasoning,
        sorted(request.extra.items()),
    ]


def _tool(tool: AnyTool) -> Any:
    if isinstance(tool, Tool):
        return [tool.name, tool.description, tool.parameters, tool.strict]
    return msgspec.structs.replace(tool, cache_point=False)


def _number(value: float | None) -> float | None:
    return None if value is None else float(value) + 0.0  # 0, 0.0 and -0.0 mean the same


def _server(provider: Provider) -> list[Any]:
    """Return what tells a server from others: its address, and what each request says to it."""
    url = urlsplit(provider.base_url)
    place = provider.network.socket or "".join(place_of(url.scheme, url.netloc))
    query = [*parse_qsl(url.query, keep_blank_values=True), *provider.query.items()]
    headers = [(name.lower(), value) for name, value in provider.headers.items()]
    return [url.scheme, place, url.path.rstrip("/"), _open(query), _open(headers)]


def _open(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pairs that hold no credential, in one order."""
    if not pairs:
        return pairs
    from aiollm._settings.redactor import is_secret  # most providers have none

    return sorted(pair for pair in pairs if not is_secret(*pair))


def _parts(parts: Iterable[Part]) -> list[Any]:
    return [_part(part) for part in parts if type(part) is not CachePoint]


def _part(part: Part) -> Any:
    match part:
        case ToolResultPart():
            return ["tool_result", part.id, part.name, part.is_error, _parts(part.content)]
        case ImagePart() | DocumentPart() | AudioPart():
            about = part.mime, getattr(part, "detail", None), getattr(part, "name", "")
            digest = hashlib.sha256(part.data).hexdigest() if part.data else ""
            return [type(part).__name__, digest, part.url, *about, part.provider_data]
        case _:
            return part


def _has_images(messages: Iterable[Message]) -> bool:
    return any(
        isinstance(each, ImagePart)
        for message in messages
        for part in message.parts
        for each in (part.content if isinstance(part, ToolResultPart) else (part,))
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")
