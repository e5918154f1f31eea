"""Grammar: how much of schemas Anthropic enforces in one request, and what is left out of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from aiollm._wire.references import Schema
from aiollm._wire.schema import bounded, json_schema
from aiollm.errors import UnsupportedError
from aiollm.providers.encoding import Warnings
from aiollm.types import AnyTool, Request, Tool


class Size(NamedTuple):
    """What counts: strict tools, properties that may be absent, and properties of several types."""

    tools: int = 0
    optional: int = 0
    unions: int = 0

    def plus(self, other: Size) -> Size:
        """Return the size of both together."""
        return Size(*(mine + its for mine, its in zip(self, other, strict=True)))

    def fits(self) -> bool:
        """Return whether so much is enforced."""
        return all(mine <= most for mine, most in zip(self, MOST, strict=True))


MOST = Size(20, 24, 16)
"""Of all schemas of a request together (Anthropic's documentation, 2026); more is refused."""

_ENFORCED = f"{MOST.optional} optional properties and {MOST.unions} unions"


def fitted(schema: Schema) -> Schema:
    """Return the schema of an answer as it is enforced. Raises: UnsupportedError."""
    made = bounded(schema)
    if not _size(made).fits():
        raise UnsupportedError(f"Anthropic's structured output has at most {_ENFORCED}")
    return made


def within(request: Request, warnings: Warnings) -> Request:
    """Return a request with only so many strict tools as are enforced, the first ones."""
    if not any(isinstance(tool, Tool) and tool.strict for tool in request.tools):
        return request
    answer = _sized(request.output) if request.output is not None else Size()
    total = answer if answer.fits() else Size()  # else it goes into the prompt
    tools: list[AnyTool] = []
    for tool in request.tools:
        more = total.plus(_of_tool(tool))
        if more.fits():
            total = more
            tools.append(tool)
        else:
            warnings.add(
                f"tool {tool.name!r} is not strict: Anthropic enforces at most {MOST.tools} "
                f"strict tools, {_ENFORCED} in a request"
            )
            tools.append(msgspec.structs.replace(tool, strict=False))
    return msgspec.structs.replace(request, tools=tuple(tools))


def _of_tool(tool: AnyTool) -> Size:
    if not isinstance(tool, Tool) or not tool.strict:
        return Size()
    return _sized(tool.parameters).plus(Size(tools=1))


def _sized(kind: Any) -> Size:
    """Return the size of a schema, nothing for one that cannot be enforced anyway."""
    try:
        return _size(bounded(json_schema(kind)))
    except UnsupportedError:
        return Size()


def _size(schema: Any) -> Size:
    if not isinstance(schema, dict):
        return Size()
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    own = Size(
        optional=sum(name not in required for name in properties),
        unions=sum("anyOf" in each for each in properties.values()),
    )
    inner = [*properties.values(), *schema.get("anyOf", ()), schema.get("items")]
    for each in inner:
        own = own.plus(_size(each))
    return own
