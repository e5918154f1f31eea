"""The output items of a response while they stream, and what a complete item adds to one.

What was streamed is compared as text, not by `content_index`: Bedrock's events for gpt-oss count
the reasoning as a part, its finished items do not (2026).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from aiollm._wire.lenient import load, mend
from aiollm.errors import ProtocolError, StreamInterrupted
from aiollm.providers.decoding import MAX_PARTS, arguments_text, check_parts
from aiollm.providers.finish_words import broken_error, is_broken
from aiollm.providers.openai.chat_extensions import image_of_base64
from aiollm.providers.openai.responses_wire import FAMILY
from aiollm.types import ImageChunk, OpaquePart, PartChunk, ProviderData, ReasoningDelta

ARGUMENTS: tuple[str, int] = ("arguments", 0)
"""The part that holds what a call is given."""

RAN = -1
"""The number of a call that the server ran itself."""

_COMPARED = 64
"""The most parts that are looked for in a text that they do not continue."""

LAST_END = 2
"""After so many complete items for one output, no more are read."""

MAX_ITEMS = 2 * MAX_PARTS
"""The most items of an answer, all of which its end looks at in one go; some microseconds each."""

_MAX_SAID = 4096
"""The most parts of an item, all of which its end joins in one go."""

_ENDS = 16
"""The most complete arguments that are compared with those of one call: three events bring them."""

_KINDS = {"function_call": "call", "custom_tool_call": "call"}

_CALL_FIELDS = {"type", "call_id", "name", "arguments", "input"}
"""Fields of a call that become canonical; the others are kept for replay."""

_RESULTS = {"function_call_output", "custom_tool_call_output"}


class Output:
    """An output item so far; `said` holds the pieces that were emitted, by part.

    `waiting` is the state to emit with the item's first text, `sent` the state that was emitted.
    `offered` is what the item began with, or a complete call; `id` is its first id; `ends` counts
    the complete items that came for it; `confirmed` is whether the arguments that were emitted are
    known to be all, `differs` whether complete arguments have something that these lack.
    """

    __slots__ = (
        "call",
        "cited",
        "compared",
        "confirmed",
        "differs",
        "ends",
        "id",
        "kind",
        "named",
        "offered",
        "said",
        "sent",
        "waiting",
    )

    def __init__(self) -> None:
        self.id: str = ""
        self.kind: str = ""
        self.call: int | None = None
        self.named: bool = False
        self.cited: bool = False
        self.ends: int = 0
        self.compared: int = 0
        self.confirmed: bool = False
        self.differs: bool = False
        self.offered: dict[str, Any] = {}
        self.said: dict[tuple[str, int], list[str]] = {}
        self.waiting: dict[str, Any] | None = None
        self.sent: dict[str, Any] | None = None

    def rest(self, part: tuple[str, int], value: str) -> str:
        """Return what a complete part adds to what was streamed of it."""
        if not self._begins(value, part):
            return ""
        said = self._joined(part)
        return value[len(said) :] if value.startswith(said) else ""

    def missing(self, kind: str, texts: Sequence[str]) -> Iterator[tuple[int, str, bool]]:
        """Yield the index and text of what complete parts add, and whether a part begins with it.

        Where the texts are not a continuation of what was streamed, those that occur in it were; if
        none does, they say the same in other words, and saying it twice would be worse.
        """
        said = "".join(self.text(kind))
        continued = "".join(texts).startswith(said)
        left = len(said)
        differs = len(texts) > _COMPARED or not any(text and text in said for text in texts)
        for index, text in enumerate(texts):
            if continued:
                skip = min(left, len(text))
                left -= skip
            else:
                skip = len(text) if differs or text in said else 0
            if skip < len(text):
                yield index, text[skip:], not skip

    def text(self, kind: str) -> Iterator[str]:
        """Yield the pieces of all parts of a kind."""
        for (name, _), pieces in self.said.items():
            if name == kind:
                yield from pieces

    def add(self, part: tuple[str, int], text: str) -> None:
        """Note a piece that is emitted. Raises: ProtocolError if there are too many parts."""
        if part not in self.said and len(self.said) >= _MAX_SAID:
            raise ProtocolError(f"an item of the answer has more than {_MAX_SAID} parts")
        self.said.setdefault(part, []).append(text)

    def offer(self) -> str:
        """Return the arguments that a call began with, "" if there were none."""
        if self.kind != "call":
            return ""
        return mend(arguments_text(self.offered.get("arguments") or self.offered.get("input")))

    def take_back(self) -> PartChunk:
        """Return what takes the place of a call, once its result shows that the server ran it."""
        field = "input" if self.offered.get("type") == "custom_tool_call" else "arguments"
        given = self._joined(ARGUMENTS)
        item = self.offered | ({field: given} if given else {})
        place, self.call, self.ends = self.call, RAN, LAST_END
        return PartChunk(OpaquePart(ProviderData(FAMILY, item)), place)

    def confirm(self, value: Any) -> None:
        """Note complete arguments; only if they are what was emitted is that known to be all.

        A last event that repeats fewer than were streamed does not matter: some proxies keep what
        an item began with.
        """
        if value is None or self.confirmed or self.compared >= _ENDS:
            return
        self.compared += 1
        text, given = mend(arguments_text(value)), self._joined(ARGUMENTS)
        if text == given:
            self.confirmed = True
        else:
            self.differs = self.differs or _adds(text, given)

    def lost(self) -> bool:
        """Return whether this is a call whose arguments did not come completely."""
        if self.call in (None, RAN) or self.confirmed:
            return False
        given = self._joined(ARGUMENTS)
        if self.offered.get("type") == "custom_tool_call":
            return not given
        return load(given.encode("utf-8", "replace")) is None

    def _begins(self, value: str, part: tuple[str, int]) -> bool:
        """Return whether a value may begin with a part: it has the part's first piece.

        Only then may the pieces be joined: after that the first piece is all of them, so what a
        join copies is never longer than the values that came, however often one comes.
        """
        pieces = self.said.get(part)
        return not pieces or value.startswith(pieces[0])

    def _joined(self, part: tuple[str, int]) -> str:
        pieces = self.said.get(part)
        if not pieces:
            return ""
        pieces[:] = ["".join(pieces)]  # so that asking again costs nothing
        return pieces[0]


def check_end(outputs: Sequence[Output], status: str, raw: str) -> None:
    """Raise the error of an answer that ends as if it were complete, but is not.

    A tool must not run with its defaults because its arguments were lost on the way.
    """
    complete = status != "incomplete"
    if not complete and is_broken(raw):
        raise broken_error(raw)
    if any(output.differs for output in outputs):
        raise StreamInterrupted("a part of the arguments of a tool call was not streamed")
    if complete and any(output.lost() for output in outputs):
        raise StreamInterrupted("the response ended before the arguments of a tool call")


def _adds(text: str, given: str) -> bool:
    """Return whether complete arguments say something that others do not, spacing aside."""
    whole, part = (load(each.encode("utf-8", "replace")) for each in (text, given))
    if not isinstance(whole, dict) or not isinstance(part, dict):
        return False
    try:
        return any(key not in part or part[key] != item for key, item in whole.items())
    except RecursionError:
        return text != given


def kind_of(item: dict[str, Any]) -> str:
    """Return the kind of an item: its type, and `call` for both types of calls."""
    kind = item.get("type")
    return _KINDS.get(kind, kind) if isinstance(kind, str) else ""


def matched(
    items: Sequence[dict[str, Any]],
    outputs: Sequence[Output],
    by_id: dict[str, Output],
    by_index: dict[int, Output],
) -> list[tuple[Output | None, dict[str, Any]]]:
    """Pair the items of a snapshot with what was streamed, None for an item that was not.

    An id decides, then the place, then the order: some proxies change the ids with every event,
    others leave items out of the snapshot. Raises: ProtocolError if there are too many.
    """
    check_parts(items)
    free = {id(output): output for output in outputs}
    found: list[Output | None] = [None] * len(items)

    def take(at: int, output: Output | None) -> None:
        if found[at] is not None or output is None or id(output) not in free:
            return
        if output.kind in ("", kind_of(items[at])):
            found[at] = free.pop(id(output))

    for at, item in enumerate(items):
        for key in ("id", "call_id"):
            if name := word(item, key):
                take(at, by_id.get(name))
    for at in range(len(items)):
        take(at, by_index.get(at))
    lines: defaultdict[str, deque[Output]] = defaultdict(deque)
    for output in free.values():
        lines[output.kind].append(output)
    for at, item in enumerate(items):
        if found[at] is None and (line := lines[kind_of(item)] or lines[""]):
            found[at] = line.popleft()
    return list(zip(found, items, strict=True))


def answered_call(item: dict[str, Any], by_id: dict[str, Output]) -> Output | None:
    """Return the call whose result an item is: the server ran it (Open Responses hosts, 2026)."""
    if item.get("type") not in _RESULTS:
        return None
    call = by_id.get(word(item, "call_id") or "-")
    return call if call is not None and call.call not in (None, RAN) else None


def one_more_item(outputs: list[Output]) -> Output:
    """Begin an item of an answer. Raises: ProtocolError if it may not have so many."""
    if len(outputs) >= MAX_ITEMS:
        raise ProtocolError(f"the answer has more than {MAX_ITEMS} items")
    outputs.append(output := Output())
    return output


def thought_before(outputs: Sequence[Output]) -> Iterator[ReasoningDelta]:
    """Yield an empty piece of reasoning that has none yet if the next item begins before its end.

    The state to send back comes with that end, and must precede what the reasoning led to:
    OpenRouter ends items in any order (2026).
    """
    for output in outputs[-2:-1]:
        is_open = output.kind == "reasoning" and not (output.ends or output.said)
        if is_open and outputs[-1].kind != "reasoning":
            yield ReasoningDelta("")


def marker_of(item: dict[str, Any]) -> dict[str, Any]:
    """Return what a message item needs for replay besides its text."""
    return {key: item[key] for key in ("id", "phase") if item.get(key)}


def word(item: dict[str, Any] | None, key: str) -> str:
    """Return a text in an item, "" where there is none."""
    value = item.get(key) if item is not None else None
    return value if isinstance(value, str) else ""


def dicts(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a list. Raises: ProtocolError if it is too long."""
    if not isinstance(value, list):
        return []
    check_parts(value)
    return [item for item in value if isinstance(item, dict)]


def state_of_call(item: dict[str, Any]) -> ProviderData | None:
    """Return what a call needs for replay besides its canonical fields."""
    state = {key: value for key, value in item.items() if key not in _CALL_FIELDS}
    if item["type"] == "custom_tool_call":
        state["type"] = item["type"]
    return ProviderData(FAMILY, state) if state else None


def image_of(item: dict[str, Any]) -> ImageChunk:
    """Return the image of a finished image_generation_call, which is sent back without it."""
    state = {key: value for key, value in item.items() if key != "result"}
    image = image_of_base64(item["result"], f"image/{word(item, 'output_format') or 'png'}")
    return ImageChunk(msgspec.structs.replace(image, provider_data=ProviderData(FAMILY, state)))
