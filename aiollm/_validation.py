"""Requests: turn a caller's input into a Request, and refuse a bad one before anything is sent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, TypeAlias, get_args

import msgspec

from aiollm.errors import ConfigError
from aiollm.hosted import CodeExecution, FileSearch, Hosted, HostedTool, UserLocation, WebSearch
from aiollm.types import (
    AudioPart,
    CachePoint,
    DocumentPart,
    Effort,
    ImagePart,
    Message,
    OpaquePart,
    PromptCache,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Request,
    TextPart,
    Timeouts,
    Tool,
    ToolCallPart,
    ToolResultPart,
    _shown,
)

RequestLike: TypeAlias = str | Request | Message | Sequence[Message]
"""Anything accepted as a request: a prompt, a conversation, or a complete `Request`."""

_PARTS: dict[Any, tuple[type, ...]] = {
    "system": (TextPart, CachePoint),
    "user": (TextPart, ImagePart, DocumentPart, AudioPart, OpaquePart, CachePoint),
    "assistant": (
        TextPart,
        ToolCallPart,
        ReasoningPart,
        RefusalPart,
        ImagePart,
        AudioPart,
        OpaquePart,
    ),
    "tool": (ToolResultPart,),
}
_STATE = ("provider_data", (ProviderData, type(None)))
_FIELDS: dict[type, tuple[tuple[str, tuple[type, ...]], ...]] = {
    TextPart: (("text", (str,)), ("citations", (tuple,)), _STATE),
    ReasoningPart: (("text", (str,)), _STATE),
    RefusalPart: (("text", (str,)),),
    OpaquePart: (("provider_data", (ProviderData,)),),
    ToolCallPart: (
        ("id", (str,)),
        ("name", (str,)),
        ("arguments", (str,)),
        ("valid", (bool,)),
        ("custom", (bool,)),
        _STATE,
    ),
    ToolResultPart: (("id", (str,)), ("name", (str,)), ("is_error", (bool,))),
    ImagePart: (_STATE,),
    DocumentPart: (("name", (str,)), _STATE),
    AudioPart: (_STATE,),
}
"""The types of fields, checked here and not where parts are made, as they are while streaming.

Passing arguments as a dict, or a number, is an easy mistake."""

_RESULT = (TextPart, ImagePart, DocumentPart, OpaquePart, CachePoint)
_HELD = ("previous_response_id", "conversation")
"""Fields of `extra` that name a conversation which the server holds (OpenAI's Responses)."""
BRINGING = (*_HELD, "prompt")
"""Fields of `extra` that bring messages of their own."""

_CHOICES = ("auto", "none", "required")
_EFFORTS: tuple[str, ...] = get_args(Effort)
_CACHES: tuple[str, ...] = get_args(PromptCache)
_FROM_DICTS = ", or messages_from_openai() for a list of dicts"

MAX_CACHE_KEY = 64
"""The longest key that OpenAI accepts (November 2026), in characters."""

TOOL_NAME = "[A-Za-z_][A-Za-z0-9_-]{0,63}"
"""The names that every provider accepts, as users read it."""

_IN_TOOL_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


class _Range(msgspec.Struct, frozen=True):
    """A number field: its types, its lowest and highest value, and the range in words."""

    name: str
    types: tuple[type, ...]
    low: float
    high: float
    words: str


_RANGES = (
    _Range("temperature", (int, float), 0, sys.float_info.max, "a finite number, 0 or more"),
    _Range("top_p", (int, float), 0, 1, "a number from 0 to 1"),
    _Range("max_output_tokens", (int,), 1, 2**63 - 1, "an integer, 1 or more"),
    _Range("seed", (int,), -(2**63), 2**63 - 1, "a 64-bit integer"),
)


def as_request(value: RequestLike) -> Request:
    """Return `value` as a Request, unchanged if it is one already. Raises: ConfigError."""
    match value:
        case Request():
            return value
        case str() | Message():
            return Request(value)
        case Sequence() if not _is(value, bytes | bytearray | memoryview):
            return Request(value)
        case _:
            raise ConfigError(
                f"expected a str, a Request, a Message or a list of messages, not {_kind(value)}"
            )


def checked_request(
    value: RequestLike, check_extra: Callable[[Mapping[str, Any]], object]
) -> Request:
    """Return `value` as a Request that some provider may accept. Raises: ConfigError."""
    request = as_request(value)
    check(request)
    if request.extra:
        check_extra(request.extra)
    return request


def check(request: Request, known: int = 0) -> None:
    """Check for what no provider accepts. Raises: ConfigError that names the field.

    The first `known` messages were accepted before, and every call in them has its result.
    """
    _check_messages(request, known)
    _check_tools(request)
    _check_settings(request)


def _check_messages(request: Request, known: int) -> None:
    messages, extra = request.messages, request.extra
    if not messages and not any_of(BRINGING, extra):
        raise ConfigError("messages is empty: a request needs at least one")
    calls = _Calls(elsewhere=any_of(_HELD, extra))
    for index, message in enumerate(messages[known:] if known else messages, known):
        where = f"messages[{index}]"
        _check_message(message, where)
        match message.role:
            case "tool":
                calls.answer(message.parts, where)
            case "assistant":
                calls.ask(message.parts, where)
            case _:
                calls.check(f"before {where}")
    calls.check("at the end of messages")


def any_of(names: Iterable[str], extra: object) -> bool:
    """Return whether `extra` has one of these fields, for whichever target or for one alone."""
    if not isinstance(extra, Mapping):
        return False
    scopes = [extra, *(each for each in extra.values() if isinstance(each, Mapping))]
    return any(fields.get(name) for fields in scopes for name in names)


def _check_message(message: object, where: str) -> None:
    if not isinstance(message, Message):
        raise ConfigError(
            f"{where} is {_kind(message)}, not a Message: use user(), assistant(), system() or "
            f"tool_results(){_FROM_DICTS if isinstance(message, Mapping) else ''}"
        )
    if not _is(message.role, str) or message.role not in _PARTS:
        raise ConfigError(f"{where}.role is {_shown(message.role)}, not one of {', '.join(_PARTS)}")
    # A model may answer with nothing, and its message is part of the history; encoders drop it.
    if not message.parts and message.role != "assistant":
        raise ConfigError(f"{where} has no parts: leave it out or give it text")
    kinds = _PARTS[message.role]
    _check_parts(message.parts, kinds, f"{where}.parts", f"a message of role {message.role!r}")


def _check_parts(parts: Iterable[Any], kinds: tuple[type, ...], where: str, owner: str) -> None:
    for index, part in enumerate(parts):
        if not isinstance(part, kinds):
            names = ", ".join(kind.__name__ for kind in kinds)
            raise ConfigError(f"{where}[{index}] is {_kind(part)}: {owner} may hold {names}")
        for name, allowed in _FIELDS.get(type(part), ()):
            value = getattr(part, name)
            if not isinstance(value, allowed):
                wanted = allowed[0].__name__
                raise ConfigError(f"{where}[{index}].{name} is {_kind(value)}, not a {wanted}")
            if isinstance(value, ProviderData):
                _check_state(value, f"{where}[{index}].{name}")


def _check_state(state: ProviderData, where: str) -> None:
    if not _is(state.family, str) or not _is(state.data, dict):
        raise ConfigError(f"{where} must have the name of a family and a dict")


class _Calls:
    """The tool calls that wait for a result.

    Messages of the assistant that follow each other are one turn, whose results come after all of
    them. `elsewhere`: the server holds the calls before the first message, so the results at the
    start may answer any.
    """

    def __init__(self, *, elsewhere: bool) -> None:
        self._waiting: dict[str, int] = {}
        self._elsewhere = elsewhere
        self._seen: set[str] = set()
        self._answering = False

    def ask(self, parts: Iterable[Any], where: str) -> None:
        if self._answering:
            self.check(f"before {where}")
        self._answering = self._elsewhere = False
        for part in parts:
            if isinstance(part, ToolCallPart):
                self._waiting[part.id] = self._waiting.get(part.id, 0) + 1

    def answer(self, parts: Iterable[Any], where: str) -> None:
        self._answering = True
        for index, part in enumerate(parts):
            place = f"{where}.parts[{index}]"
            if not self._take(part.id):
                raise ConfigError(
                    f"{place} answers the tool call {_shown(part.id)}, which has an answer already "
                    "or is not in the assistant message before it"
                )
            _check_parts(part.content, _RESULT, f"{place}.content", "a tool result")

    def check(self, where: str) -> None:
        if self._waiting:
            ids = ", ".join(map(repr, self._waiting))
            raise ConfigError(f"missing tool result {where} for the tool call {ids:.200}")
        self._answering = False

    def _take(self, id_: str) -> bool:
        left = self._waiting.pop(id_, 0)
        if left > 1:
            self._waiting[id_] = left - 1
        if left or not self._elsewhere or id_ in self._seen:
            return left > 0
        self._seen.add(id_)
        return True


def _check_tools(request: Request) -> None:
    names: set[str] = set()
    for index, tool in enumerate(request.tools):
        _check_tool(tool, f"tools[{index}]")
        if tool.name in names:
            raise ConfigError(f"two tools have the name {tool.name!r}")
        names.add(tool.name)
    more = any_of(("tools",), request.extra)  # tools in the provider's own form
    chosen: object = request.tool_choice
    match chosen:
        case None | "auto" | "none":
            return
        case str() as choice if more or (names and choice == "required") or choice in names:
            return
        case (list() | tuple()) as several if _are_names(several, names, more=more):
            return
        case choice:
            known = ", ".join((*_CHOICES, *names)) if names else "auto or none: there are no tools"
            raise ConfigError(f"tool_choice is {_shown(choice)}: expected {known:.300}")


def _are_names(several: Sequence[Any], names: set[str], *, more: bool) -> bool:
    """Return whether these are names of tools, the first of which may be the word `auto`."""
    called = several[1:] if several and several[0] == "auto" else several
    return bool(called) and all(_is(name, str) and (more or name in names) for name in called)


def _check_tool(tool: object, where: str) -> None:
    if isinstance(tool, Hosted):
        _check_hosted(tool, where)
        return
    if not isinstance(tool, Tool):
        raise ConfigError(f"{where} is {_kind(tool)}, not a Tool: decorate a function with @tool")
    if not is_tool_name(tool.name):
        raise ConfigError(f"{where}.name is {_shown(tool.name)}: expected {TOOL_NAME}")
    for name, kind in (("description", str), ("strict", bool), ("cache_point", bool)):
        if not _is(value := getattr(tool, name), kind):
            raise ConfigError(f"{where}.{name} is {_kind(value)}, not a {kind.__name__}")
    schema = tool.parameters
    if not _is(schema, Mapping) or schema.get("type", "object") != "object":
        raise ConfigError(
            f"the parameters of tool {tool.name!r} must be a JSON schema of an object"
        )


def _check_hosted(tool: Hosted, where: str) -> None:
    match tool:
        case WebSearch():
            _check_texts(tool.allowed_domains, f"{where}.allowed_domains")
            _check_texts(tool.blocked_domains, f"{where}.blocked_domains")
            if tool.allowed_domains and tool.blocked_domains:
                raise ConfigError(f"{where} has allowed and blocked domains: give one of the two")
            if tool.location is not None and not _is(tool.location, UserLocation):
                raise ConfigError(f"{where}.location is {_kind(tool.location)}, not a UserLocation")
            _check_limit(tool.max_uses, f"{where}.max_uses")
        case FileSearch():
            _check_texts(tool.stores, f"{where}.stores")
            if not tool.stores:
                raise ConfigError(f"{where}.stores is empty: name a store to search in")
            _check_limit(tool.max_results, f"{where}.max_results")
        case CodeExecution():
            _check_texts((tool.container or "-",), f"{where}.container")
        case HostedTool():
            if not (_is(tool.raw, Mapping) and _is(tool.name, str) and tool.name):
                raise ConfigError(f"{where}.raw must map field names of the wire body to values")


def _check_limit(limit: object, where: str) -> None:
    if limit is not None:
        check_count(where, limit)


def _check_texts(values: object, where: str) -> None:
    if not _is(values, tuple) or not all(_is(each, str) and each for each in values):  # type: ignore[attr-defined]
        raise ConfigError(f"{where} is {_shown(values)}: expected texts that are not empty")


def _check_settings(request: Request) -> None:
    for row in _RANGES:
        number = getattr(request, row.name)
        if number is not None and not _within(number, row):
            raise ConfigError(f"{row.name} is {_short(number)}: expected {row.words}")
    if not _is(request.system, str):
        raise ConfigError(f"system is {_kind(request.system)}, not a str")
    for text in request.stop:
        if not _is(text, str) or not text:
            raise ConfigError(f"stop holds {_short(text)}: expected strings that are not empty")
    parallel = request.parallel_tool_calls
    if parallel is not None and not _is(parallel, bool):
        raise ConfigError(f"parallel_tool_calls is {_short(parallel)}: expected a bool")
    _check_reasoning(request.reasoning)
    _check_cache(request.prompt_cache, request.cache_key)
    if not _is(request.extra, Mapping) or not all(_is(name, str) for name in request.extra):
        raise ConfigError("extra must map '*', wires, providers or targets to fields")


def _check_cache(lifetime: object, key: object) -> None:
    if lifetime is not None and lifetime not in _CACHES:
        expected = f"expected one of {', '.join(_CACHES)}, or None"
        raise ConfigError(f"prompt_cache is {_short(lifetime)}: {expected}")
    # Some providers take it as a header.
    text = key if isinstance(key, str) else "\n"
    if len(text) > MAX_CACHE_KEY or not (text.isascii() and text.isprintable()):
        expected = f"expected at most {MAX_CACHE_KEY} printable ASCII characters"
        raise ConfigError(f"cache_key is {_short(key)}: {expected}")


def _is(value: object, kind: type | UnionType) -> bool:
    """Test a type at run time, in a way that type checkers do not narrow by the annotation."""
    return isinstance(value, kind)


def _within(number: Any, row: _Range) -> bool:
    return type(number) in row.types and row.low <= number <= row.high


def _check_reasoning(reasoning: object) -> None:
    match reasoning:
        case None:
            return
        case str() if reasoning in _EFFORTS:
            return
        case int() if 0 <= reasoning < 2**63 and not isinstance(reasoning, bool):
            return
        case _:
            raise ConfigError(
                f"reasoning is {_short(reasoning)}: expected a budget in tokens (0 = off) "
                f"or one of {', '.join(_EFFORTS)}"
            )


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"


def _short(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return "an integer of more than 64 bits"
    return _shown(value)


def is_tool_name(value: object) -> bool:
    """Return whether `value` is a name that every provider accepts."""
    if not isinstance(value, str) or not 1 <= len(value) <= 64:
        return False
    return value[0] not in "0123456789-" and _IN_TOOL_NAME.issuperset(value)


def is_seconds(value: object) -> bool:
    """Return whether `value` is a finite number above 0."""
    return type(value) in (int, float) and 0 < value <= sys.float_info.max  # type: ignore[operator]


def check_seconds(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is a finite, non-negative number of seconds."""
    if type(value) is bool or (value != 0 and not is_seconds(value)):
        raise ConfigError(f"{name} is {_shown(value)}: expected seconds, 0 or more")


def check_count(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is an integer, 1 or more."""
    if type(value) is not int or value < 1:
        raise ConfigError(f"{name} is {_short(value)}: expected an integer, 1 or more")


def check_workers(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is an integer from 0 up, or None."""
    if value is not None and (type(value) is not int or value < 0):
        raise ConfigError(f"{name} is {_short(value)}: expected an integer, 0 or more, or None")


def check_bool(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is True or False."""
    if type(value) is not bool:
        raise ConfigError(f"{name} is {_short(value)}: expected a bool")


def checked_timeouts(timeouts: Timeouts | None) -> Timeouts | None:
    """Return `timeouts` unchanged. Raises: ConfigError unless they are Timeouts or None."""
    if timeouts is not None and type(timeouts) is not Timeouts:
        raise ConfigError(f"timeouts is {_shown(timeouts)}: expected aiollm.Timeouts, or None")
    return timeouts
