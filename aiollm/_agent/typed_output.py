"""Typed answers: any type over wires that accept only objects, with another try after a misfit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from operator import attrgetter
from typing import Any

import msgspec

from aiollm._user_types.answers import Take, itself, read
from aiollm._user_types.hooks import known
from aiollm._validation import RequestLike, as_request
from aiollm._wire.schema import schema_name, type_schema
from aiollm.errors import ConfigError, OutputError
from aiollm.types import Message, Request, Response, _shown, user

_REPAIR = "Your answer is not valid: {}. Answer again, with the corrected JSON and nothing else."

_HOPELESS = {
    "length": "it was cut at its limit: raise max_output_tokens",
    "content_filter": "the provider's filter stopped it",
    "tool_calls": "the model called tools: use run()",
}
"""Finish reasons after which asking again would bring the same result."""


class Shape(msgspec.Struct, frozen=True):
    """How a type is sent: an object as it is, anything else as the `value` of an object."""

    name: str
    wire: Any
    """The type or schema that the request asks for."""
    decoded: Any
    """The type that the reply is decoded as."""
    wrapped: bool = False
    bare: Any = None
    """The type of an answer whose model left the wrapping out."""

    def read(self, response: Response) -> Any:
        """Return the reply's value. Raises: OutputError."""
        kinds: list[tuple[Any, Take]] = [
            (self.decoded, attrgetter("value") if self.wrapped else itself)
        ]
        if self.bare is not None:
            kinds.append((self.bare, itself))
        try:
            return read(response.text, kinds, response.finish_reason)
        except (ValueError, RecursionError) as error:
            reason = f"the reply does not fit {self.name}: {error}"
        raise OutputError(reason, response=response, target=response.target)


def shape_of(kind: Any) -> Shape:
    """Return how a type or a JSON schema is sent. Raises: ConfigError."""
    schema = type_schema(kind)
    name = schema_name(kind)
    is_schema = isinstance(kind, Mapping)
    kind = kind if is_schema else known(kind)
    if schema.get("type") == "object" or "properties" in schema:
        return Shape(name, kind, dict[str, Any] if is_schema else kind)
    if not is_schema:
        made = msgspec.defstruct(name, [("value", kind)])
        return Shape(name, made, made, wrapped=True, bare=kind)
    made = msgspec.defstruct(name, [("value", Any)])
    definitions = {"$defs": schema.pop("$defs")} if "$defs" in schema else {}
    wire = definitions | {
        "title": name,
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "additionalProperties": False,
    }
    return Shape(name, wire, made, wrapped=True)


async def generate_typed(
    ask: Callable[[Request], Awaitable[Response]], asked: RequestLike, kind: Any, repairs: int
) -> Any:
    """Return the reply as `kind`, showing the model its mistake up to `repairs` times.

    Raises: OutputError with the last reply, ConfigError, and whatever `ask` raises.
    """
    if type(repairs) is not int or repairs < 0:
        raise ConfigError(f"repairs is {_shown(repairs)}: expected an integer from 0 up")
    shape = shape_of(kind)
    request = msgspec.structs.replace(as_request(asked), output=shape.wire)
    while True:
        response = await ask(request)
        try:
            return shape.read(response)
        except OutputError as error:
            failure = error
        hopeless = _hopeless(response)
        if hopeless:
            failure = OutputError(
                f"{failure.message}; {hopeless}", response=response, target=response.target
            )
        if hopeless or repairs <= 0:
            try:
                raise failure
            finally:
                del failure  # its traceback refers to this frame, which would make a cycle
        repairs -= 1
        request = _repair(request, response, failure)


def _hopeless(response: Response) -> str:
    """Return why another try would not help, "" if it may."""
    if response.tool_calls:
        return _HOPELESS["tool_calls"]
    if response.refusal:
        return f"the model declined: {response.refusal:.200}"
    return _HOPELESS.get(response.finish_reason or "", "")


def _repair(request: Request, response: Response, failure: OutputError) -> Request:
    said: tuple[Message, ...] = (response.message,) if response.text.strip() else ()
    wrong = user(_REPAIR.format(failure.message))
    return msgspec.structs.replace(request, messages=(*request.messages, *said, wrong))
