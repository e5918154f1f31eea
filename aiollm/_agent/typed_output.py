"""Typed answers: any type over wires that accept only objects, with another try after a misfit."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from aiollm._agent.totals import total_usage
from aiollm._user_types.answers import Take, fitted, itself, read
from aiollm._user_types.hooks import known
from aiollm._validation import RequestLike, as_request
from aiollm._wire.schema import schema_name, type_schema
from aiollm.errors import ConfigError, OutputError
from aiollm.types import Cost, Message, Request, Response, Usage, _shown, user

if TYPE_CHECKING:
    from aiollm._wire.growing_json import Path

T = TypeVar("T")

_REPAIR = "Your answer is not valid: {}. Answer again, with the corrected JSON and nothing else."

_HOPELESS = {
    "length": "it was cut at its limit: raise max_output_tokens",
    "content_filter": "the provider's filter stopped it",
    "tool_calls": "the model called tools: use run()",
}
"""Finish reasons after which asking again would bring the same result."""


class Typed(msgspec.Struct, Generic[T], frozen=True):
    """A typed answer: its `value`, and the `response` that it was read from.

    `rejected` are the answers that did not fit before it; `usage` and `cost` are those of all.
    """

    value: T
    response: Response
    rejected: tuple[Response, ...] = ()

    @property
    def usage(self) -> Usage:
        """The usage of all answers that it took."""
        return total_usage([each.usage for each in (*self.rejected, self.response)])

    @property
    def cost(self) -> Cost:
        """The cost of all answers that it took."""
        return functools.reduce(
            operator.add, (each.cost for each in self.rejected), self.response.cost
        )


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

    @property
    def openers(self) -> str:
        """The brackets that an answer may begin with."""
        return "{[" if self.bare is not None else "{"

    def unwrapped(self, data: Any, path: Path | None) -> tuple[list[Any], Path | None]:
        """Return what was asked for in a part of an answer, if it is there, and a path in it.

        An object without the wrapping is known only at its end: `value` may still come.
        """
        if not self.wrapped or type(data) is list:
            return [data], path
        grows = path is not None and path[:1] == ("value",)
        return [data["value"]] if "value" in data else [], path[1:] if path and grows else None

    def means(self, data: Any, value: Any) -> bool:
        """Return whether a whole answer, as JSON has it, is this value."""
        for kind, take in self._kinds():
            with contextlib.suppress(ValueError, RecursionError):
                return bool(take(fitted(data, kind)) == value)
        return False

    def read(self, response: Response) -> Any:
        """Return the reply's value. Raises: OutputError."""
        try:
            return read(response.text, self._kinds(), response.finish_reason)
        except (ValueError, RecursionError) as error:
            reason = f"the reply does not fit {self.name}: {error}"
        if lost := hopeless(response):
            reason = f"{reason}; {lost}"
        raise OutputError(reason, response=response, target=response.target)

    def _kinds(self) -> list[tuple[Any, Take]]:
        take: Take = operator.attrgetter("value") if self.wrapped else itself
        kinds = [(self.decoded, take)]
        return kinds if self.bare is None else [*kinds, (self.bare, itself)]


def shape_of(kind: Any) -> Shape:
    """Return how a type or a JSON schema is sent. Raises: ConfigError."""
    schema = type_schema(kind)
    name = schema_name(kind)
    is_schema = isinstance(kind, Mapping)
    kind = kind if is_schema else known(kind)
    if schema.get("type") == "object" or "properties" in schema:
        return Shape(name, kind, dict[str, Any] if is_schema else kind)
    made = msgspec.defstruct(name, [("value", Any if is_schema else kind)])
    if not is_schema:
        return Shape(name, made, made, wrapped=True, bare=kind)
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
) -> Typed[Any]:
    """Return the reply as `kind`, showing the model its mistake up to `repairs` times.

    Raises: OutputError with the last reply, ConfigError, and whatever `ask` raises.
    """
    check_repairs(repairs)
    shape = shape_of(kind)
    request = msgspec.structs.replace(as_request(asked), output=shape.wire)
    rejected: list[Response] = []
    while True:
        response = await ask(request)
        try:
            return Typed(shape.read(response), response, tuple(rejected))
        except OutputError as error:
            if len(rejected) >= repairs or hopeless(response):
                raise
            wrong = correction(error)
        rejected.append(response)
        said: tuple[Message, ...] = (response.message,) if response.text.strip() else ()
        request = msgspec.structs.replace(request, messages=(*request.messages, *said, wrong))


def check_repairs(repairs: object) -> None:
    """Raise ConfigError unless `repairs` is an integer from 0 up."""
    if type(repairs) is not int or repairs < 0:
        raise ConfigError(f"repairs is {_shown(repairs)}: expected an integer from 0 up")


def hopeless(response: Response) -> str:
    """Return why another try would not help, "" if it may."""
    if response.refusal:
        return f"the model declined: {response.refusal:.200}"
    reason = response.finish_reason or ""
    if response.tool_calls and reason == "error":
        return "it was stopped while the model called tools"
    if response.tool_calls and reason not in _HOPELESS:
        reason = "tool_calls"
    return _HOPELESS.get(reason, "")


def correction(error: OutputError) -> Message:
    """Return the message that asks for another answer."""
    return user(_REPAIR.format(error.message))
