"""Typed answers: any type over wires that accept only objects, with another try after a misfit."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from aiollm._user_types.hooks import convert, decode, known
from aiollm._wire.lenient import decode_numbers
from aiollm._wire.loose_json import after_thinking, fit, values_in
from aiollm._wire.schema import schema_name, type_schema
from aiollm.errors import ConfigError, OutputError
from aiollm.types import Message, Request, Response, _shown, user

_FENCE = re.compile(r"```(?:json\b|\w*\s*\n)", re.IGNORECASE)
"""What JSON in a Markdown fence, a common answer where no schema is enforced, begins with."""

_REPAIR = "Your answer is not valid: {}. Answer again, with the corrected JSON and nothing else."

_CUT = ("length", "content_filter", "error", "tool_calls")
"""Finish reasons of answers that go on elsewhere, of which a part must not pass for all."""

_HOPELESS = {
    "length": "it was cut at its limit: raise max_output_tokens",
    "content_filter": "the provider's filter stopped it",
    "tool_calls": "the model called tools: use run()",
}
"""Finish reasons after which asking again would bring the same result."""


def _decode(text: str, kind: Any) -> Any:
    """Decode JSON; 3.0 is an integer to JSON schema, but not to msgspec. Raises: ValueError."""
    try:
        return decode(text, kind)
    except msgspec.ValidationError:
        with contextlib.suppress(ValueError):
            return convert(decode_numbers(text), kind)
        raise


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
        text = _unfenced(response.text)
        reason = ""
        try:
            value = _decode(text, self.decoded)
        except (ValueError, RecursionError) as error:
            reason = f"the reply does not fit {self.name}: {error}"
        else:
            return value.value if self.wrapped else value
        if self.bare is not None:
            try:
                return _decode(text, self.bare)
            except (ValueError, RecursionError):
                pass
        if response.finish_reason not in _CUT and (values := self._loose(response.text)):
            return values[0]
        raise OutputError(reason, response=response, target=response.target)

    def _loose(self, text: str) -> list[Any]:
        """Return the one value that fits, among words and after thinking; none if several do."""
        text = after_thinking(text)
        fitting: list[Any] = []
        for value in _sole(_unfenced(text)) or values_in(text):
            for kind in (self.decoded, self.bare):
                if kind is None:
                    continue
                with contextlib.suppress(ValueError, RecursionError):
                    made = _fitted(value, kind)
                    fitting.append(made.value if self.wrapped and kind is self.decoded else made)
                    break
        return fitting[:1] if all(other == fitting[0] for other in fitting) else []


def _unfenced(text: str) -> str:
    """Return what is inside of a fence that holds all of the text, else the text."""
    # No expression looks for the end: a model may send white space up to its limit, and each place
    # in it would be tried as the end of what the fence holds.
    inner = text.strip()
    begin = _FENCE.match(inner)
    if begin and inner.endswith("```") and begin.end() <= len(inner) - 3:
        return inner[begin.end() : -3].rstrip()
    return text


def _sole(text: str) -> list[Any]:
    """Return the value that a text is, also where it was encoded several times."""
    with contextlib.suppress(ValueError, RecursionError):
        return [decode_numbers(text.strip())]
    return []


def _fitted(value: Any, kind: Any) -> Any:
    try:
        return fit(value, kind)
    except msgspec.ValidationError:
        if not isinstance(value, list) or len(value) != 1:
            raise
    return fit(value[0], kind)


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
    ask: Callable[[Request], Awaitable[Response]], request: Request, kind: Any, repairs: int
) -> Any:
    """Return the reply as `kind`, showing the model its mistake up to `repairs` times.

    Raises: OutputError with the last reply, ConfigError, and whatever `ask` raises.
    """
    if type(repairs) is not int or repairs < 0:
        raise ConfigError(f"repairs is {_shown(repairs)}: expected an integer from 0 up")
    shape = shape_of(kind)
    request = msgspec.structs.replace(request, output=shape.wire)
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
