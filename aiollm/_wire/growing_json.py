"""JSON while it arrives: its value as far as it has come, with each character read once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from aiollm._user_types.loose_json import CLOSED, THINKING

STEPS = 4096
"""The most steps of one `read`, of about a microsecond each: the event loop turns between two."""

MOST = 1024 * 1024
"""The most characters of one `read`, or 64 KiB more: a millisecond for a long string."""

MAX_DEPTH = 512
MAX_TOKEN = 512
"""The most characters of a number; one that has not ended is read again with every piece."""

PIECE = 64 * 1024
"""The most characters of a string in one step."""

COPIED = 2048
"""How much may be copied for each character that came: a value is handed out anew only when that
pays for its copy. So all copies together cost no more than so many times the text. A list of 256
items or a text of 2,048 characters pays with one character."""

_ITEM = 8
_FIELD = 64
"""What copying an item of a list, or a field of an object, costs beside a character."""

_TAGS = tuple(f"<{name}>" for name in THINKING)
_LONGEST_TAG = 16
_SPACE = re.compile(r"[ \t\r\n]*+")
_PLAIN = re.compile(r'[^"\\]*+')
_TOKEN = re.compile(r"[-+.\w]*+")
_ESCAPES = re.compile(
    r"""(?:\\(?:["\\/bfnrt]|u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}
    |(?![dD][89a-fA-F])[0-9a-fA-F]{4})))+""",
    re.VERBOSE,
)
_LONGEST_ESCAPE = 12

Path: TypeAlias = tuple[str | int, ...]
"""Names of fields and numbers of items, from the root."""


class GrowingJson:
    """Reads one JSON value in pieces; thinking and words before it are passed over.

    Values that are handed out share what is complete and never changes again. What is not strict
    JSON, and names that occur twice, end the reading: only the whole text tells what they mean.
    """

    __slots__ = (
        "_at",
        "_changed",
        "_fed",
        "_in_key",
        "_keys",
        "_open",
        "_openers",
        "_pieces",
        "_root",
        "_stack",
        "_step",
        "_text",
        "began",
        "whole",
    )

    def __init__(self, openers: str = "{[") -> None:
        """Take a value that begins with one of `openers`."""
        self._openers = re.compile(f"[{re.escape(openers)}]")
        self._text = ""
        self._at = 0
        self._fed = 0
        self._changed = False
        self.began = False
        """Whether there is a value that is more than a bracket."""
        self.whole = False
        """Whether all of the value has come."""
        self._root: Any = None
        # A method of this object would make a cycle.
        self._step: Callable[[GrowingJson], bool] = GrowingJson._begin
        self._forget()

    def _forget(self) -> None:
        self._stack: list[Any] = []
        self._keys: list[str] = []
        self._pieces: list[str] | None = None
        self._open = 0
        self._in_key = False

    def feed(self, text: str) -> None:
        """Add text; all earlier text must have been read."""
        self._fed += len(text)
        self._text = self._text[self._at :] + text
        self._at = 0

    def read(self) -> bool:
        """Read on; return whether all text has been read."""
        end = self._at + MOST
        for _ in range(STEPS):
            if not self._step(self):
                return True
            if self._at > end:
                break
        return False

    @property
    def is_due(self) -> bool:
        """Whether there is a new value, and enough text has come to pay for its copy."""
        return self._changed and self.began and self._fed * COPIED >= self._weight()

    def _weight(self) -> int:
        items = sum(len(node) * (_FIELD if type(node) is dict else _ITEM) for node in self._stack)
        return items + self._open

    def value(self) -> Any:
        """Return the value as far as it has come."""
        self._changed, self._fed = False, 0
        if self.whole:
            return self._root
        nodes = [node.copy() for node in self._stack]
        if self._pieces is not None and not self._in_key:
            self._pieces = ["".join(self._pieces)]
            nodes.append(self._pieces[0])
        for depth in range(len(nodes) - 1, 0, -1):
            self._into(nodes[depth - 1], depth - 1, nodes[depth])
        return nodes[0]

    def growing(self) -> Path | None:
        """Return where the value grows, None when all of it has come."""
        if self.whole:
            return None
        held = len(self._stack) - (self._pieces is None or self._in_key)
        nodes = enumerate(self._stack[:held])
        return tuple(self._keys[at] if type(node) is dict else len(node) for at, node in nodes)

    # Steps: each returns whether it got on, or else waits for more text.

    def _begin(self) -> bool:
        if (here := self._here()) == "":
            return False
        if here == "<":
            start = self._text[self._at : self._at + _LONGEST_TAG].lower()
            if start.startswith(_TAGS):
                self._step = GrowingJson._thinking
                return True
            if any(tag.startswith(start) for tag in _TAGS):
                return False
        self._step = GrowingJson._words
        return True

    def _thinking(self) -> bool:
        found = CLOSED.search(self._text, self._at)
        if found is None:
            self._at = max(self._at, len(self._text) - _LONGEST_TAG)
            return False
        self._at = found.end()
        self._step = GrowingJson._begin
        return True

    def _words(self) -> bool:
        found = self._openers.search(self._text, self._at)
        if found is None:
            return self._skip()
        self._at = found.start()
        self._step = GrowingJson._value
        return True

    def _skip(self) -> bool:
        self._at = len(self._text)
        return False

    def _fail(self) -> bool:
        """Look for another value, or for none once a part of this one may be in use."""
        self._step = GrowingJson._skip if self.began else GrowingJson._words
        if not self.began:
            self._forget()
        return True

    def _here(self) -> str:
        """Return the next character that is no white space, "" if there is none yet."""
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._text[self._at : self._at + 1]

    def _value(self) -> bool:
        match self._here():
            case "":
                return False
            case "{":
                return self._enter({}, GrowingJson._first_key)
            case "[":
                return self._enter([], GrowingJson._first_item)
            case '"':
                self._start_string(in_key=False)
            case _:
                self._step = GrowingJson._scalar
        return True

    def _enter(self, node: Any, then: Callable[[GrowingJson], bool]) -> bool:
        if len(self._stack) >= MAX_DEPTH:
            return self._fail()
        self._at += 1
        self._touch()
        self._stack.append(node)
        self._keys.append("")
        self._step = then
        return True

    def _touch(self) -> None:
        """Note a change; what is inside of the root's bracket is a value to hand out."""
        self._changed = True
        self.began = self.began or bool(self._stack)

    def _first_item(self) -> bool:
        match self._here():
            case "":
                return False
            case "]":
                return self._close()
            case _:
                self._step = GrowingJson._value
        return True

    def _first_key(self) -> bool:
        return self._close() if self._here() == "}" else self._next_key()

    def _next_key(self) -> bool:
        match self._here():
            case "":
                return False
            case '"':
                self._start_string(in_key=True)
                return True
            case _:
                return self._fail()

    def _start_string(self, *, in_key: bool) -> None:
        self._at += 1
        self._pieces, self._open, self._in_key = [], 0, in_key
        if not in_key:
            self._touch()
        self._step = GrowingJson._string

    def _string(self) -> bool:
        start = self._at
        found = _PLAIN.match(self._text, start, start + PIECE)
        end = found.end() if found else start
        if end > start:
            return self._say(self._text[start:end], end)
        match self._text[start : start + 1]:
            case "":
                return False
            case '"':
                self._at += 1
                return self._end_string()
            case _:
                return self._escapes()

    def _say(self, piece: str, end: int) -> bool:
        assert self._pieces is not None
        self._pieces.append(piece)
        self._open += len(piece)
        self._changed = self._changed or not self._in_key
        self._at = end
        return True

    def _escapes(self) -> bool:
        found = _ESCAPES.match(self._text, self._at, self._at + PIECE)
        if found:
            return self._say(msgspec.json.decode(f'"{found[0]}"'), found.end())
        return self._fail() if len(self._text) - self._at >= _LONGEST_ESCAPE else False

    def _end_string(self) -> bool:
        text = "".join(self._pieces or ())
        in_key, self._pieces, self._open = self._in_key, None, 0
        if not in_key:
            return self._put(text)
        if text in self._stack[-1]:
            return self._fail()
        self._keys[-1] = text
        self._step = GrowingJson._colon
        return True

    def _colon(self) -> bool:
        match self._here():
            case "":
                return False
            case ":":
                self._at += 1
                self._step = GrowingJson._value
                return True
            case _:
                return self._fail()

    def _scalar(self) -> bool:
        found = _TOKEN.match(self._text, self._at, self._at + MAX_TOKEN)
        end = found.end() if found else self._at
        if end == len(self._text) and end - self._at < MAX_TOKEN:
            return False
        try:
            value = msgspec.json.decode(self._text[self._at : end])
        except (ValueError, RecursionError):
            return self._fail()
        self._at = end
        self._touch()
        return self._put(value)

    def _put(self, value: Any) -> bool:
        if self._stack:
            self._into(self._stack[-1], len(self._stack) - 1, value)
            self._step = GrowingJson._after
        else:
            self._root, self.whole = value, True
            self._changed = self.began = True
            self._step = GrowingJson._skip
        return True

    def _into(self, node: Any, depth: int, value: Any) -> None:
        if type(node) is dict:
            node[self._keys[depth]] = value
        else:
            node.append(value)

    def _after(self) -> bool:
        in_object = type(self._stack[-1]) is dict
        match self._here():
            case "":
                return False
            case ",":
                self._at += 1
                self._step = GrowingJson._next_key if in_object else GrowingJson._value
                return True
            case "}" if in_object:
                return self._close()
            case "]" if not in_object:
                return self._close()
            case _:
                return self._fail()

    def _close(self) -> bool:
        self._at += 1
        node = self._stack.pop()
        self._keys.pop()
        return self._put(node)
