"""Tools: turn a function's type hints into a schema, and a model's arguments into a call."""

from __future__ import annotations

import enum
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeAlias, overload

import msgspec

from aiollm._agent.tool_runner import called
from aiollm._user_types.hooks import convert, field_default, is_note, known, plain
from aiollm._user_types.local import hints_of
from aiollm._user_types.loose_json import decode_numbers, fit, object_in
from aiollm._validation import TOOL_NAME, is_seconds, is_tool_name
from aiollm._wire.lenient import encode
from aiollm._wire.schema import type_schema
from aiollm.errors import ConfigError, OutputError
from aiollm.hosted import CodeExecution, FileSearch, HostedTool, ToolBase, WebSearch
from aiollm.types import (
    AnyTool,
    AudioPart,
    CachePoint,
    DocumentPart,
    ImagePart,
    OpaquePart,
    ReasoningPart,
    RefusalPart,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    _shown,
)

Function: TypeAlias = Callable[..., Any]

_CONTENT = (TextPart, ImagePart, DocumentPart, OpaquePart, CachePoint)
_FOREIGN = (AudioPart, ToolCallPart, ReasoningPart, RefusalPart)
"""Parts that no provider accepts in a tool's result."""

_PLAIN = (bool, int, float, str, type(None), enum.Enum)
"""Types whose defaults a schema can show."""

_NAMES = TOOL_NAME

_VARIABLE: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


class Signature(msgspec.Struct, frozen=True):
    """How arguments become a call: a struct of the parameters, and how Python takes each one."""

    arguments: type[msgspec.Struct]
    positional: tuple[str, ...] = ()
    absent: dict[str, tuple[str | None, ...]] = {}
    """Optional parameters that accept no null, and how a model that sends all leaves one out."""


class FunctionTool(Tool, frozen=True):
    """A tool made from a function; calling it calls the function.

    `timeout`: seconds a call may take; None uses the run's time limit.
    """

    timeout: float | None = None
    _signature: Signature | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function directly."""
        assert self.function is not None
        return self.function(*args, **kwargs)


@overload
def tool(function: Callable[..., Any], /) -> FunctionTool: ...


@overload
def tool(
    *,
    name: str = "",
    description: str = "",
    strict: bool = False,
    timeout: float | None = None,
    cache_point: bool = False,
    approve: bool | None = None,
) -> Callable[[Callable[..., Any]], FunctionTool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    description: str = "",
    strict: bool = False,
    timeout: float | None = None,
    cache_point: bool = False,
    approve: bool | None = None,
) -> FunctionTool | Callable[[Callable[..., Any]], FunctionTool]:
    """Make a tool from a plain or async function, or from another callable.

    By default the name is the function's and the description its docstring. The schema comes
    from the type hints: `Annotated[str, msgspec.Meta(description="...")]` describes a parameter,
    and a default makes it optional. `strict` asks the provider to enforce the schema. `timeout`:
    seconds a call may take, `math.inf` for no limit; None uses the run's time limit.
    `cache_point`: the provider is to keep the tools up to this one in its prompt cache. `approve`:
    True, a call runs only once somebody has approved it; False, it always runs; None, it is asked
    about where the run has an `approve` hook.

    A plain function runs in a thread, so it may block. One that overruns its time keeps its
    thread, and its result is discarded; when a tool holds half of the registry's `tool_threads`
    in this way, it is not run until one of them ends. Whatever a tool raises becomes the result
    of its call, `SystemExit` too. Raises: ConfigError for what a schema cannot express.

        @tool
        def weather(city: str, days: int = 1) -> str:
            "Return the forecast."
    """
    options: dict[str, Any] = {"strict": strict, "timeout": timeout}
    options |= {"cache_point": cache_point, "approve": approve}
    if function is None:
        return functools.partial(tool, name=name, description=description, **options)
    named = name or _name(function)
    _check(named, timeout, approve)
    signature, schema = _signature(function, named)
    return FunctionTool(
        name=named,
        description=description or _description(function),
        parameters=schema,
        function=function,
        _signature=signature,
        **options,
    )


def _check(name: str, timeout: float | None, approve: object) -> None:
    if not is_tool_name(name):
        raise ConfigError(f"invalid tool name {_shown(name)}: pass a name that matches {_NAMES}")
    if timeout not in (None, math.inf) and not is_seconds(timeout):
        raise ConfigError(f"tool {name!r}: timeout is {_shown(timeout)}, expected seconds above 0")
    if approve is not None and type(approve) is not bool:
        raise ConfigError(f"tool {name!r}: approve is {_shown(approve)}, expected a bool or None")


def as_tool(value: ToolBase | Function) -> AnyTool:
    """Return a tool that can be run, here or by the provider: `value`, or one of a function.

    Raises: ConfigError.
    """
    match value:
        case WebSearch() | CodeExecution() | FileSearch() | HostedTool():
            return value
        case Tool(function=None):
            raise ConfigError(f"tool {value.name!r} has no function to run: make it with @tool")
        case Tool():
            return value
        case _ if callable(value):
            return tool(value)
        case _:
            is_server = callable(getattr(value, "tools", None))
            hint = ": pass what its tools() returns" if is_server else ""
            raise ConfigError(f"expected a function or a Tool, not {type(value).__name__}{hint}")


def bind(wanted: Tool, call: ToolCallPart) -> Callable[[], Any]:
    """Return a function that makes the call, with its arguments checked and converted.

    Raises: OutputError that says what is wrong with the arguments.
    """
    assert wanted.function is not None
    values = call.parsed()
    match wanted:
        case FunctionTool(_signature=Signature() as signature):
            return _bound(wanted.function, signature, decode_numbers(call.arguments or "{}"))
        case _:
            return functools.partial(wanted.function, **values)


def as_result(call: ToolCallPart, value: Any) -> ToolResultPart:
    """Turn what a tool returned into the result of its call.

    Text and parts stay as they are, None becomes empty text, and anything else becomes JSON.
    Raises: OutputError.
    """
    if isinstance(value, ToolResultPart):
        made = msgspec.structs.replace(value, id=call.id, name=call.name)
    else:
        content = _content(value)
        for part in content if isinstance(content, list | tuple) else (content,):
            if not isinstance(part, (str, *_CONTENT)):
                raise _unusable(part)
        made = ToolResultPart(call.id, content, call.name)
    for part in made.content:
        if not isinstance(part, _CONTENT):
            raise _unusable(part)
    return made


def _content(value: Any) -> Any:
    match value:
        case None:
            return ""
        case str() | TextPart() | ImagePart() | DocumentPart() | OpaquePart() | CachePoint():
            return value
        case list() | tuple() if any(isinstance(item, _CONTENT) for item in value):
            return value
        case _:
            return _json(value)


def _name(function: Function) -> str:
    if isinstance(function, type):
        raise ConfigError(f"{function.__name__} is a class: pass a function or an instance")
    name = getattr(function, "__name__", None)
    if name is None and isinstance(function, functools.partial):
        raise ConfigError("a partial has no name: give it one, tool(name=...)(partial)")
    return str(name or type(function).__name__)


def _description(function: Function) -> str:
    own = _code(function).__doc__
    if not inspect.isroutine(function) and not isinstance(function, functools.partial):
        own = type(function).__doc__ or own
    return inspect.cleandoc(own or "")


def _code(function: Function) -> Function:
    """Return the function that has a callable's type hints and docstring."""
    runs = called(function)
    code: Function = inspect.unwrap(getattr(runs, "__func__", runs))
    return code


def _signature(function: Function, name: str) -> tuple[Signature, dict[str, Any]]:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"tool {name!r} is a generator: a tool must return its result")
    hints = _hints(function, name)
    fields: list[Any] = []
    positional: list[str] = []
    absent: dict[str, tuple[str | None, ...]] = {}
    for parameter in _parameters(function, name):
        hint = _hint(parameter, hints, name)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(parameter.name)
        default = field_default(parameter.default, parameter.empty)
        if default is parameter.empty:
            fields.append((parameter.name, hint))
            continue
        fields.append((parameter.name, hint, _default(default)))
        absent[parameter.name] = _absent(hint)
    arguments = msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)
    schema = type_schema(arguments)
    schema.pop("title", None)
    if not schema["required"]:
        # The oldest drafts of JSON schema forbid an empty list.
        del schema["required"]
    return Signature(arguments, tuple(positional), absent), schema


def _parameters(function: Function, name: str) -> Iterator[inspect.Parameter]:
    """Yield the parameters that the model fills, without those that a partial binds."""
    bound = function.keywords if isinstance(function, functools.partial) else {}
    for parameter in _inspected(function, name).parameters.values():
        if star := _VARIABLE.get(parameter.kind):
            reason = f"takes {star}{parameter.name}: a schema needs parameters with names"
            raise ConfigError(f"tool {name!r} {reason}")
        if parameter.name not in bound:
            yield parameter


def _inspected(function: Function, name: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        reason = str(error)
    raise ConfigError(f"the signature of tool {name!r} cannot be read: {reason}")


def _hints(function: Function, name: str) -> dict[str, Any]:
    try:
        return hints_of(_code(function))
    except (NameError, TypeError, SyntaxError, AttributeError) as error:
        reason = f"the type hints of tool {name!r} cannot be read: {error}"
    raise ConfigError(
        f"{reason}; define the types at the module's top level or where the tool is made"
    )


def _hint(parameter: inspect.Parameter, hints: dict[str, Any], name: str) -> Any:
    where = f"parameter {parameter.name!r} of tool {name!r}"
    if parameter.name not in hints:
        if parameter.name == "self":
            raise ConfigError(f"{where}: make the tool from the bound method, tool(thing.{name})")
        raise ConfigError(f"{where} has no type hint")
    hint = hints[parameter.name]
    if is_note(parameter.default):
        hint = Annotated[hint, parameter.default]
    reason = ""
    try:
        type_schema(hint)
    except ConfigError as error:
        reason = error.message.splitlines()[-1]
    else:
        return known(hint)
    raise ConfigError(f"{where}: {reason}")


def _absent(hint: Any) -> tuple[str | None, ...]:
    """Return how a model that fills in every parameter leaves this one out."""
    if _takes(hint, None):
        return () if _takes(hint, "") else ("",)
    return (None,) if _takes(hint, "") else (None, "null", "None", "")


def _default(value: Any) -> Any:
    """Return the default of a field; the schema shows it only if it is plain."""
    return value if isinstance(value, _PLAIN) else msgspec.field(default_factory=lambda: value)


def _takes(hint: Any, value: Any) -> bool:
    try:
        convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def _bound(function: Function, signature: Signature, values: dict[str, Any]) -> Callable[[], Any]:
    fields = signature.arguments.__struct_fields__
    given = {
        name: value
        for name, value in _unwrapped(values, signature.arguments).items()
        # Anything that is not a parameter may be a misspelt one: it is refused unless it is null.
        if (value is not None or name in fields) and value not in signature.absent.get(name, ())
    }
    filled = _filled(given, signature.arguments)
    named = {field: getattr(filled, field) for field in fields}
    first = [named.pop(field) for field in signature.positional]
    return functools.partial(function, *first, **named)


def _unwrapped(values: dict[str, Any], arguments: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the arguments themselves where a model wrote the complete call in their place."""
    for wrapper in ("arguments", "parameters"):
        outside = {name: value for name, value in values.items() if name != wrapper}
        inner = values.get(wrapper)
        if isinstance(inner, str):
            inner = object_in(inner)
        if (
            isinstance(inner, dict)
            and outside in ({}, {"name": arguments.__name__})
            and not values.keys() & set(arguments.__struct_fields__)
        ):
            return inner
    return values


def _filled(values: dict[str, Any], arguments: type[msgspec.Struct]) -> msgspec.Struct:
    reason = ""
    try:
        filled: msgspec.Struct = fit(values, arguments)
    except (ValueError, RecursionError) as error:
        reason = str(error)
    else:
        return filled
    raise OutputError(f"the arguments do not fit: {reason}")


def _json(value: Any) -> str:
    items = value if isinstance(value, list | tuple) else (value,)
    for item in items:
        if isinstance(item, _FOREIGN):
            raise _unusable(item)
    reason = ""
    try:
        return encode(value, plain).decode()
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error)
    raise OutputError(f"the tool returned {type(value).__name__}, which is not JSON: {reason}")


def _unusable(value: Any) -> OutputError:
    kind = type(value).__name__
    return OutputError(f"a tool's result may hold text, images and documents, not {kind}")
