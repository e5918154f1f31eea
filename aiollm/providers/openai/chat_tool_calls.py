"""Assemble the tool calls of a chat stream from fragments that servers label in many ways."""

from __future__ import annotations

import json
from typing import Any

from aiollm._wire.lenient import load, mend
from aiollm.providers.decoding import new_call_id, one_more_call
from aiollm.types import ProviderData, ToolCallDelta


class _Call:
    __slots__ = ("arguments", "id", "known", "name")

    def __init__(self, id: str, name: str) -> None:  # noqa: A002  the wire's word
        self.known = bool(id)
        self.id = id or new_call_id()
        self.name = name
        self.arguments: list[str] = []

    def blank(self) -> bool:
        return not "".join(self.arguments).strip()

    def whole(self) -> bool:
        return isinstance(load("".join(self.arguments).encode("utf-8", "replace")), dict)


class ToolCallAssembler:
    """Numbers the calls in order of appearance, whatever `index` and `id` the fragments carry.

    A fragment belongs to the call with its index, else to the one with its id, else to the latest
    call. It begins a new call if that call has another id or name, or is already complete. A new
    id without a name does not begin one: some servers make up an id for every fragment.
    """

    __slots__ = ("_by_index", "_calls")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(
        self,
        index: int | None,
        id: str,  # noqa: A002  the wire's word
        name: str,
        arguments: str,
        data: ProviderData | None = None,
    ) -> ToolCallDelta:
        """Add a fragment. Raises: ProtocolError for too many calls."""
        place = self._place(index, id, name, arguments)
        if place is None:
            place = self._begin(index, id, name)
            call = self._calls[place]
            call.arguments.append(arguments)
            return ToolCallDelta(place, call.id, name, arguments, data)
        call = self._calls[place]
        call.arguments.append(arguments)
        late = "" if call.name else name
        call.name = call.name or name
        return ToolCallDelta(place, name=late, arguments=arguments)

    def extend(self, index: int, arguments: str) -> ToolCallDelta | None:
        """Add a fragment that has only arguments; return None if no call has that index."""
        place = self._by_index.get(index)
        if place is None:
            return None
        self._calls[place].arguments.append(arguments)
        return ToolCallDelta(place, arguments=arguments)

    def end(self) -> list[ToolCallDelta]:
        """Return an empty object as the arguments of each call that has none."""
        return [
            ToolCallDelta(place, arguments="{}")
            for place, call in enumerate(self._calls)
            if call.blank()
        ]

    def whole(self) -> bool:
        """Return whether there are calls, all with a JSON object or nothing as arguments."""
        return bool(self._calls) and all(call.blank() or call.whole() for call in self._calls)

    def _begin(self, index: int | None, id: str, name: str) -> int:  # noqa: A002
        place = one_more_call(len(self._calls)) - 1
        self._calls.append(_Call(id, name))
        if index is not None:
            self._by_index[index] = place
        return place

    def _place(self, index: int | None, id: str, name: str, arguments: str) -> int | None:  # noqa: A002
        place = self._find(index, id)
        if place is None:
            return None
        call = self._calls[place]
        # Some servers use index 0 for every call, or none at all: only a changed id or name, or
        # complete arguments, show that a new call begins.
        if id and call.known and id != call.id:
            return None if name or call.whole() else place
        if not id and name and call.name:
            another = name != call.name or (arguments and call.whole())
            return None if another else place
        return place

    def _find(self, index: int | None, id: str) -> int | None:  # noqa: A002
        if index is not None:
            return self._by_index.get(index)
        if id:
            return next((at for at, call in enumerate(self._calls) if call.id == id), None)
        return len(self._calls) - 1 if self._calls else None


def arguments_text(value: Any) -> str:
    """Return arguments as JSON text; some servers send them decoded."""
    match value:
        case None:
            return ""
        case str():
            return value
        case _:
            return mend(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
