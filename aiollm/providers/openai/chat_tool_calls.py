"""Tool calls of a chat stream, put together from fragments that servers label in many ways."""

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

    A fragment belongs to the call of its index, else of its id, else to the latest call. It
    begins a call of its own when that one has another id or name, or is whole already; an id
    that changes without a new name, from a server that makes one up for each fragment, does not.
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
        """Take a fragment. Raises: ProtocolError for too many calls."""
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
        """Take a fragment that has nothing but arguments; None where no call has that index."""
        place = self._by_index.get(index)
        if place is None:
            return None
        self._calls[place].arguments.append(arguments)
        return ToolCallDelta(place, arguments=arguments)

    def end(self) -> list[ToolCallDelta]:
        """Return what calls without arguments lack: an empty object."""
        return [
            ToolCallDelta(place, arguments="{}")
            for place, call in enumerate(self._calls)
            if call.blank()
        ]

    def whole(self) -> bool:
        """Say whether there are calls, and all have a JSON object or nothing for arguments."""
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
