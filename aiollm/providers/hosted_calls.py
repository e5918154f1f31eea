"""What a provider's own tools were given and what they found, read from an answer's parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from aiollm._wire.lenient import load
from aiollm.types import Message, OpaquePart, Part, Response

FAKE = "hosted_call"
"""Where a fake keeps a call among its opaque state."""


class HostedCall(msgspec.Struct, frozen=True):
    """A tool that the provider ran while it answered.

    `name`: as in `tool_choice`, for example `web_search`; any other tool has its provider's name.
    `arguments`: what it was given, such as a query or code. `result`: what came out, in the
    provider's form; None where the answer does not have it, as of a call that still runs.
    """

    name: str
    arguments: Mapping[str, Any] = {}
    result: Any = None
    id: str = ""


def hosted_calls(answer: Response | Message | Iterable[Part]) -> tuple[HostedCall, ...]:
    """Return what the provider's own tools did, in order, of an answer, a message or parts.

    The parts stay opaque: they are sent back as they came, and this is only a reading of them.
    """
    found = _Calls()
    for part in _parts_of(answer):
        if isinstance(part, OpaquePart):
            state = part.provider_data
            read = _READERS.get(state.family)
            if read is not None:
                read(found, state.data)
    return tuple(found.calls)


def _parts_of(answer: Response | Message | Iterable[Part]) -> Iterable[Part]:
    match answer:
        case Response():
            return answer.message.parts
        case Message():
            return answer.parts
        case _:
            return answer


class _Calls:
    """The calls so far; a result goes to the first call with its id, or without one, that waits."""

    def __init__(self) -> None:
        self.calls: list[HostedCall] = []
        self.searches = False
        """Whether one of them searches the web."""
        self._waiting: dict[str, deque[int]] = {}

    def add(self, call: HostedCall) -> None:
        if call.result is None:
            self._waiting.setdefault(call.id, deque()).append(len(self.calls))
        self.calls.append(call)
        self.searches = self.searches or call.name == "web_search"

    def give(self, id_: str, result: Any) -> None:
        if waiting := self._waiting.get(id_):
            at = waiting.popleft()
            self.calls[at] = msgspec.structs.replace(self.calls[at], result=result)


def _anthropic(found: _Calls, data: Mapping[str, Any]) -> None:
    match data.get("block"):
        case {"type": "server_tool_use" | "mcp_tool_use", "name": str() as name, **rest}:
            # Code is run by several tools: a shell, an editor, and Python itself.
            name = "code_execution" if name.endswith("code_execution") else name
            found.add(HostedCall(name, _object(rest.get("input")), id=_text(rest.get("id"))))
        case {"tool_use_id": str() as id_, "content": content}:
            found.give(id_, content)
        case _:
            pass


_ITEMS = {
    "web_search_call": ("web_search", ("action",), ("results",)),
    "code_interpreter_call": ("code_execution", ("code", "container_id"), ("outputs",)),
    "file_search_call": ("file_search", ("queries",), ("results",)),
}
"""The items of OpenAI's own tools: the name, the fields given, and those that came out."""

_ABOUT = {"id", "type", "status", "name", "server_label", "call_id"}
_OUT = ("output", "outputs", "result", "results", "error")


def _responses(found: _Calls, item: Mapping[str, Any]) -> None:
    kind, id_ = _text(item.get("type")), _text(item.get("id"))
    if kind in _ITEMS:
        name, given, out = _ITEMS[kind]
        arguments = {key: item[key] for key in given if item.get(key) is not None}
        arguments |= _object(arguments.pop("action", None))
        found.add(HostedCall(name, arguments, _first(item, out), id_))
    elif kind.endswith("_call_output"):
        found.give(_text(item.get("call_id")), item.get("output"))
    elif kind.endswith("_call"):
        name = _text(item.get("name")) or kind.removesuffix("_call")
        given = item.get("arguments", item.get("input"))
        rest = {key: value for key, value in item.items() if key not in {*_ABOUT, *_OUT}}
        arguments = _object(given) if given is not None else rest
        id_ = _text(item.get("call_id")) or id_
        found.add(HostedCall(name, arguments, _first(item, _OUT), id_))


_GOOGLE = {"GOOGLE_SEARCH_WEB": "web_search", "FILE_SEARCH": "file_search"}


def _google(found: _Calls, data: Mapping[str, Any]) -> None:
    part = data.get("part")
    match part:
        case {"executableCode": dict() as code}:
            found.add(HostedCall("code_execution", code, id=_text(code.get("id"))))
        case {"codeExecutionResult": dict() as result}:
            found.give(_text(result.get("id")), result)
        case {"toolCall": dict() as call}:
            kind = _text(call.get("toolType"))
            name = _GOOGLE.get(kind, kind.lower())
            found.add(HostedCall(name, _object(call.get("args")), id=_text(call.get("id"))))
        case {"toolResponse": dict() as answer}:
            found.give(_text(answer.get("id")), answer.get("response"))
        case _:
            _grounding(found, data.get("groundingMetadata"))


def _grounding(found: _Calls, grounding: Any) -> None:
    """Add the search that an answer rests on, unless its call is a part of its own."""
    match grounding:
        case {"webSearchQueries": [_, *_] as queries}:
            if not found.searches:
                sources = grounding.get("groundingChunks")
                found.add(HostedCall("web_search", {"queries": queries}, sources))
        case _:
            pass


def _fake(found: _Calls, data: Mapping[str, Any]) -> None:
    if FAKE in data:
        found.add(msgspec.convert(data[FAKE], HostedCall))


_READERS: Mapping[str, Callable[[_Calls, Mapping[str, Any]], None]] = {
    "anthropic": _anthropic,
    "openai-responses": _responses,
    "google": _google,
    "fake": _fake,
}
"""How each family's opaque state is read."""


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = load(value.encode("utf-8", "replace"))
    return value if isinstance(value, dict) else {}


def _first(item: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
