"""Function-call arguments that Vertex streams piece by piece, each at its JSON path."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from aiollm._wire.lenient import encode, mend
from aiollm.errors import ProtocolError

MAX_DEPTH = 64
MAX_PATH = 4096
"""Characters of a path."""

MAX_STEPS = 4096
"""Steps of all paths of a frame, of half a microsecond each; Vertex sends a path or two."""

_PIECE = 4
"""How many steps a piece takes beside those of its path."""

_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d+)\]|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]""")
_ESCAPE = re.compile(r"\\(.)")
_VALUES = ("numberValue", "boolValue", "nullValue", "structValue", "listValue")


class _Text:
    """A string that comes in pieces."""

    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: list[str] = []


class PartialArguments:
    """Collects pieces such as `{"jsonPath": "$.city", "stringValue": "Par"}`."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root: dict[str, Any] = {}

    def add(self, pieces: Any, left: int = MAX_STEPS) -> int:
        """Add pieces at their paths, and join strings at the same path.

        `left` is how many steps the frame may still take; returns how many are left then. Raises:
        ProtocolError.
        """
        pieces = pieces if isinstance(pieces, list) else (pieces,)
        if len(pieces) > left // _PIECE:  # many more than are read
            raise ProtocolError("a frame has too many pieces of arguments")
        for piece in pieces:
            match piece:
                case None:
                    pass
                case dict():
                    left -= self._add(piece) + _PIECE
                case _:
                    raise ProtocolError(f"a piece of the arguments cannot be read: {piece!r:.100}")
            if left < 0:
                raise ProtocolError("a frame has too many pieces of arguments")
        return left

    def _add(self, piece: dict[str, Any]) -> int:
        """Add a piece; return how many steps its path has."""
        path = piece.get("jsonPath")
        steps = _steps(path if isinstance(path, str) else "")
        place: Any = self._root
        for step, following in pairwise(steps):
            empty: Any = [] if isinstance(following, int) else {}
            place = _enter(place, step, empty)
        last = steps[-1]
        if isinstance(piece.get("stringValue"), str):
            text = _enter(place, last, None)
            if not isinstance(text, _Text):
                text = place[last] = _Text()
            text.pieces.append(piece["stringValue"])
        elif key := next((key for key in _VALUES if key in piece), None):
            _enter(place, last, None)
            place[last] = None if key == "nullValue" else piece[key]
        return len(steps)

    def json(self) -> str:
        """Return the arguments so far as JSON text."""
        return encode(self._root, _joined).decode()


def _joined(text: Any) -> str:
    assert isinstance(text, _Text)
    return mend("".join(text.pieces))


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    end = 1
    for found in _STEP.finditer(path, 1, MAX_PATH):
        if found.start() != end or len(steps) == MAX_DEPTH:
            break
        end = found.end()
        name, index, *quoted = found.groups()
        if index is not None:
            steps.append(int(index[:9]))
        else:
            steps.append(name or _ESCAPE.sub(r"\1", quoted[0] or quoted[1] or ""))
    if not steps or end != len(path):
        raise ProtocolError(f"an argument's path cannot be read: {path:.100}")
    return steps


def _enter(place: Any, step: str | int, empty: Any) -> Any:
    """Return the value at `step`; put `empty` there first if there is none."""
    match place, step:
        case dict(), str():
            return place.setdefault(step, empty)
        # Only the next index may extend a list, so that no server can make it huge at once.
        case list(), int() if step <= len(place):
            if step == len(place):
                place.append(empty)
            return place[step]
        case _:
            raise ProtocolError(f"an argument's path does not exist at {step!r:.100}")
