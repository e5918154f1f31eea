"""Assemble the tool calls of a chat stream from fragments that servers label in many ways."""

from __future__ import annotations

from collections.abc import Sequence

from aiollm._user_types.density import MAX_ARGUMENTS, is_dense, sized, without_escapes
from aiollm._wire.lenient import is_object
from aiollm.providers.decoding import one_more_call, own_call_id
from aiollm.providers.openai.chat_wire import FRAGMENT
from aiollm.types import Item, ProviderData, ToolCallDelta

_NO_BRACKETS = bytes({*range(256)} - {*b'"{}[]'})


class _Brackets:
    """Counts the brackets of JSON that comes in pieces, each of which it looks at once.

    Parsing all pieces whenever one ends in a brace would take the square of their size.
    """

    __slots__ = ("_depth", "_left", "_seen", "_string")

    def __init__(self) -> None:
        self._depth = 0
        self._left = MAX_ARGUMENTS
        self._seen = 0
        self._string = ""

    def balance(self, pieces: Sequence[str]) -> bool:
        """Return whether all brackets in the pieces, of which there may be more now, are closed."""
        text = "".join(pieces[self._seen :])
        self._left -= len(text)
        if self._left < 0 or is_dense(text):
            self._left = 0
            return False
        # Brackets inside strings do not count, and a string or an escape in it may go on.
        data = (self._string + text).encode("utf-8", "replace")
        escapes = (len(data) - len(data.rstrip(b"\\"))) % 2
        parts = without_escapes(data).translate(None, _NO_BRACKETS).split(b'"')
        bare = b"".join(parts[::2])
        self._string = '"' * (len(parts) % 2 == 0) + "\\" * escapes
        self._depth += sum(map(bare.count, b"{[")) - sum(map(bare.count, b"}]"))
        self._seen = len(pieces)
        return not self._depth and not self._string


class _Call:
    """A call so far; `known` is the id that it came with, "" if it came without."""

    __slots__ = (
        "_blank",
        "_brackets",
        "_judged",
        "_read",
        "_spoiled",
        "arguments",
        "custom",
        "known",
        "name",
    )

    def __init__(self, known: str, *, custom: bool) -> None:
        self.known = known
        self.name = ""
        self.custom = custom
        self.arguments: list[str] = []
        self._blank = 0
        self._brackets = _Brackets()
        self._judged = 0, False
        """How many pieces were checked for being an object, and whether they were one."""
        self._read = 0
        """How many pieces there were when they were last read as a whole."""
        self._spoiled = False

    def blank(self) -> bool:
        """Return whether there are no arguments but white space."""
        pieces = self.arguments
        while self._blank < len(pieces) and not pieces[self._blank].strip():
            self._blank += 1  # the first pieces, which need not be looked at again
        return self._blank == len(pieces)

    def whole(self) -> bool:
        """Return whether the arguments are a JSON object."""
        if not self.arguments or not self.arguments[-1].rstrip().endswith("}"):
            return False  # the last piece is enough to tell, almost always
        count, is_whole = self._judged
        if count != len(self.arguments):
            is_whole = self._is_whole()
            self._judged = len(self.arguments), is_whole
        return is_whole

    def _is_whole(self) -> bool:
        count = len(self.arguments)
        if count >= 2 * self._read and not self._spoiled:
            # To read all of it takes less time than to count its brackets, but not again and again.
            self._read = count
            return self._is_object(sum(map(len, self.arguments)))
        if self._spoiled or not self._brackets.balance(self.arguments):
            return False
        # What is balanced but cannot be read will not become readable with more behind it.
        self._spoiled = not self._is_object()
        return not self._spoiled

    def _is_object(self, size: int = 0) -> bool:
        if size > MAX_ARGUMENTS:
            return False
        # However dense they are: nothing is made of what is in them, and to count takes longer.
        data = sized("".join(self.arguments))
        return data is not None and is_object(data)

    def repeats(self, id: str, name: str, arguments: str) -> bool:  # noqa: A002
        """Return whether a fragment is this complete call once more."""
        return (
            bool(id and arguments)
            and (id, name) == (self.known, self.name)
            and self.whole()
            and arguments == "".join(self.arguments)
        )

    def ends_before(self, id: str, name: str, arguments: str) -> bool:  # noqa: A002
        """Return whether a fragment with the same index or id begins another call."""
        # Some servers use index 0 for every call, or none at all, or one id for all: only a changed
        # id or name, or complete arguments, show that a new call begins (recorded by 2026).
        if id and self.known and id != self.known:
            return bool(name) or self.whole()
        if not name or not self.name:
            return False
        if arguments.strip() and self.whole():
            return True
        if id or name == self.name:
            return False
        # Without ids, a name that brings arguments is another call's rather than a piece of one.
        return not self.blank() or (not self.known and bool(arguments.strip()))

    def extend_name(self, piece: str) -> str:
        """Add a piece of the name; return what is new in it.

        Gemini's OpenAI wire sends names in pieces (`edit_ex`, `isting_file`; 2025), other servers
        repeat the complete name in every fragment, or what there is of it so far (vLLM, 2026).
        """
        if not piece or piece == self.name or (self.name and not self.blank()):
            return ""
        piece = piece.removeprefix(self.name)
        self.name += piece
        return piece


class ToolCallAssembler:
    """Numbers the calls in order of appearance, whatever `index` and `id` the fragments carry.

    A fragment belongs to the call with its index, unless its id is another call's, else to the one
    with its id, else to the latest call. With nothing but arguments it belongs to the latest call,
    too, if no call has its index: SGLang's index of a name may be another one (2025). It begins a
    new call if that call has another id or name, or is already complete. A new id without a name
    does not begin one: some servers make up an id for every fragment. A name may come in pieces.
    """

    __slots__ = ("_by_id", "_by_index", "_calls", "_ids")

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._calls: list[_Call] = []
        self._by_index: dict[int, int] = {}
        self._by_id: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(
        self,
        index: int | None,
        id: str,  # noqa: A002  the wire's word
        name: str,
        arguments: str,
        data: ProviderData | None = None,
        *,
        custom: bool = False,
    ) -> ToolCallDelta | None:
        """Add a fragment; return None if it adds nothing. Raises: ProtocolError for too many."""
        found = self._find(index, id)
        if found is None and not (id or name):
            if not arguments.strip():
                return None
            found = self._unfinished()
        if found is not None and self._calls[found].repeats(id, name, arguments):
            return None
        new = found is None or self._calls[found].ends_before(id, name, arguments)
        place = self._begin(index, id, custom=custom) if new or found is None else found
        call = self._calls[place]
        piece = call.extend_name(name)
        if arguments:
            call.arguments.append(arguments)
        if new:
            own = own_call_id(id, self._ids)
            return ToolCallDelta(place, own, piece, arguments, data, custom)
        return ToolCallDelta(place, name=piece, arguments=arguments)

    def extend(self, index: int, arguments: str) -> ToolCallDelta | None:
        """Add a fragment that has only arguments; return None if no call has that index."""
        place = self._by_index.get(index)
        if place is None:
            return None
        if arguments:
            self._calls[place].arguments.append(arguments)
        return ToolCallDelta(place, arguments=arguments)

    def end(self) -> list[ToolCallDelta]:
        """Return an empty object as the arguments of each call that has none."""
        return [
            ToolCallDelta(place, arguments="{}")
            for place, call in enumerate(self._calls)
            if call.blank() and not call.custom
        ]

    def whole(self, *, ended: bool) -> bool:
        """Return whether there are calls, and all are complete.

        That a call has no arguments, or what free text it has, shows only the end of the answer.
        """
        return bool(self._calls) and all(
            call.whole() or (ended and (call.custom or call.blank())) for call in self._calls
        )

    def _unfinished(self) -> int | None:
        """Return the latest call if its arguments are not complete."""
        return len(self._calls) - 1 if self._calls and not self._calls[-1].whole() else None

    def _begin(self, index: int | None, id: str, *, custom: bool) -> int:  # noqa: A002
        place = one_more_call(len(self._calls)) - 1
        self._calls.append(_Call(id, custom=custom))
        if index is not None:
            self._by_index[index] = place
        if id:
            self._by_id[id] = place
        return place

    def _find(self, index: int | None, id: str) -> int | None:  # noqa: A002
        if index is not None:
            place = self._by_index.get(index)
            if place is None or not id or id == self._calls[place].known:
                return place
            # Ollama gives all calls index 0, and another id each (2026).
            return self._by_id.get(id, place)
        if id:
            return self._by_id.get(id)
        return len(self._calls) - 1 if self._calls else None


def add_fragment(calls: ToolCallAssembler, frame: bytes, out: list[Item]) -> bool:
    """Try to read a frame that has only a piece of arguments; return whether it was one."""
    try:
        (choice,) = FRAGMENT.decode(frame).choices
    except (ValueError, RecursionError):
        return False
    if choice.finish_reason:
        return False
    (piece,) = choice.delta.tool_calls
    delta = calls.extend(piece.index, piece.function.arguments)
    if delta is None:
        return False
    out.append(delta)
    return True
