"""Saving: requests, messages, responses and runs as JSON, and back."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypeVar, get_origin

import msgspec

from aiollm._wire.lenient import encode
from aiollm._wire.schema import type_schema
from aiollm.errors import ConfigError, LLMError
from aiollm.types import Cost, Message, Request, Response, ToolResultPart, Usage

T = TypeVar("T")

RUN_VERSION = 1
"""The version of the format of saved runs."""

CallState: TypeAlias = Literal["open", "waiting", "started", "done"]
"""How far a saved tool call is: not begun, waiting for approval, begun, or with its result."""


class SavedCall(msgspec.Struct, frozen=True):
    """How far a tool call of a saved run is; `result` is that of one that is done."""

    id: str
    state: CallState = "open"
    result: ToolResultPart | None = None


class SavedRun(msgspec.Struct, frozen=True):
    """An agent run so far, to be continued with `reg.run(spec, saved, tools=...)`.

    `messages` is a valid history: calls without a result have an error in its place. `request` has
    the settings, but neither messages nor tools; `calls` are those of the last answer, in order.
    `steered` waits for the next turn, `ended` says that `response` is the last answer. In a typed
    run, `repairs` answers were sent back, the last of them just now if it `is_repairing`.
    """

    messages: tuple[Message, ...]
    request: Request
    calls: tuple[SavedCall, ...] = ()
    steered: tuple[Message, ...] = ()
    turns: int = 0
    usage: Usage = Usage()
    cost: Cost = Cost()
    response: Response | None = None
    ended: bool = False
    repairs: int = 0
    is_repairing: bool = False
    version: int = RUN_VERSION


class _Header(msgspec.Struct):
    version: int = 0


def to_json(value: Any) -> bytes:
    """Encode a request, a message, a response, a saved run, or a list of them.

    Values JSON cannot represent are described instead: an output type becomes its schema, an
    exception its text, a tool's function null.
    Raises: TypeError for any other value, ConfigError for an output type without a schema.
    """
    return encode(value, described)


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Decode a `kind` that `to_json` encoded. Raises: ValueError (msgspec.ValidationError).

    For a `SavedRun` that is a ConfigError, also where it is of another version of the format. The
    history of any version can be read: `from_json(data, Request).messages`.
    """
    if kind is not SavedRun:
        return _decoded(data, kind)
    reason = ""
    try:
        check_version(msgspec.json.decode(data, type=_Header).version)
        return msgspec.json.decode(data, type=kind, dec_hook=_restored)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise ConfigError(f"this is not a saved run: {reason}")


def _decoded(data: bytes | str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=_restored)
    except msgspec.ValidationError:
        newer = _with_types(data)
        if newer is None:
            raise
    return msgspec.json.decode(newer, type=kind, dec_hook=_restored)


def _with_types(data: bytes | str) -> bytes | None:
    """Return requests with the type tools lacked when all were functions; None if none did."""
    try:
        value = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return None
    requests = value if isinstance(value, list) else [value]
    listed = [each.get("tools") for each in requests if isinstance(each, dict)]
    tools = [tool for some in listed if isinstance(some, list) for tool in some]
    untyped = [tool for tool in tools if isinstance(tool, dict) and "type" not in tool]
    for tool in untyped:
        tool["type"] = "function"
    return msgspec.json.encode(value) if untyped else None


def check_version(version: int) -> None:
    """Raise ConfigError unless saved runs of that version can be read."""
    if version == RUN_VERSION:
        return
    if version < 1:
        raise ConfigError("this is not a saved run: it has no version")
    raise ConfigError(
        f"the run was saved in version {version} of the format, and this aiollm reads version "
        f"{RUN_VERSION}: go on with the aiollm that saved it, or start a new run from its history, "
        "from_json(data, Request).messages"
    )


def described(value: Any) -> Any:
    """Describe a value that JSON cannot represent, as a hook of msgspec. Raises: TypeError."""
    match value:
        case BaseException():
            return f"{type(value).__name__}: {value}"
        case _ if isinstance(value, type) or get_origin(value) is not None:
            return type_schema(value)
        case _ if callable(value):
            return None
        case _:
            raise TypeError(f"{type(value).__name__} cannot be saved as JSON")


def _restored(kind: type, value: Any) -> Any:
    if kind is Exception and isinstance(value, str):
        return LLMError(value)
    raise ValueError(f"{kind} cannot be read from JSON")
