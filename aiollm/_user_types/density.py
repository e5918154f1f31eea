"""How much JSON may hold that is decoded in one go: bounds on what takes time, none on plain text.

A decoder holds the interpreter's lock until it returns, so neither a turn of the event loop nor a
thread would help. It reads text and files at a gigabyte a second. What is slow is counted here,
without the contents of strings, so that a table or a program in a text does not count. Counting
takes time, too: what comes in pieces is counted piece by piece.
"""

from __future__ import annotations

LARGE = 64 * 1024
"""Bytes up to which anything is decoded."""

MAX_STRINGS = 64 * 1024
"""Names and texts: one takes some 0.1 microseconds, and a name that is the only one of its kind
0.2. A token's probability has four, and the longest list of models 15,000 (November 2026)."""

MAX_BRACKETS = 48 * 1024
"""Objects and lists: each takes some 0.1 microseconds, or 0.2 in a deep nesting."""

MAX_VALUES = 128 * 1024
"""Values of any kind: a number takes some 0.03 microseconds. vLLM may send a prompt's token ids."""

MAX_BARE = 1024 * 1024
"""Bytes outside strings, such as white space and the digits of numbers."""

MAX_ESCAPES = 256 * 1024
MAX_FOREIGN = 4 * 1024 * 1024
"""Backslashes, and bytes that are not ASCII; files have neither."""

_SLICE = 64 * 1024
"""Bytes of complete JSON that are counted at once, so that what is refused is refused soon."""

_ASCII = bytes(range(128))


def is_dense(text: str) -> bool:
    """Return whether a text is large JSON of too many parts."""
    return len(text) > LARGE and excess_in(text.encode("utf-8", "replace")) != ""


def excess_in(data: bytes) -> str:
    """Return what large JSON has too much of, "" for nothing."""
    if len(data) <= LARGE:
        return ""
    weight = Weight()
    for at in range(0, len(data), _SLICE):
        if excess := weight.add(data[at : at + _SLICE]):
            return excess
    return ""


class Weight:
    """What JSON that comes in pieces holds so far."""

    __slots__ = (
        "_bare",
        "_brackets",
        "_commas",
        "_escapes",
        "_foreign",
        "_is_cut",
        "_quotes",
        "excess",
    )

    def __init__(self) -> None:
        self.excess: str = ""
        """What there is too much of, "" for nothing; from then on nothing is counted."""
        self._bare = self._brackets = self._commas = self._escapes = self._foreign = 0
        self._quotes = 0
        self._is_cut = False
        """Whether the last piece ended with a backslash, which the next one's first byte is of."""

    def add(self, piece: bytes) -> str:
        """Count one more piece; return `excess`."""
        if self.excess:
            return self.excess
        if self._is_cut and piece:
            self._escapes += piece[:1] == b"\\"  # as where it is not cut
            piece = piece[1:]
            self._is_cut = False
        if b"\\" in piece:
            piece = self._without_escapes(piece)
        if not piece.isascii():
            self._foreign += len(piece.translate(None, _ASCII))
        parts = piece.split(b'"')
        bare = b"".join(parts[self._quotes % 2 :: 2])
        self._quotes += len(parts) - 1
        self._bare += len(bare)
        self._brackets += bare.count(b"{") + bare.count(b"[")
        self._commas += bare.count(b",")
        self.excess = self._found()
        return self.excess

    def _without_escapes(self, piece: bytes) -> bytes:
        """Count the escapes and take out those of backslashes and quotes."""
        self._escapes += piece.count(b"\\")
        if piece.endswith(b"\\"):
            self._is_cut = (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 1
        if b'\\"' in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        return piece

    def _found(self) -> str:
        if self._quotes > 2 * MAX_STRINGS:
            return f"more than {MAX_STRINGS} strings"
        if self._brackets > MAX_BRACKETS:
            return f"more than {MAX_BRACKETS} objects and lists"
        if self._commas + self._brackets > MAX_VALUES:
            return f"more than {MAX_VALUES} values"
        if self._escapes > MAX_ESCAPES:
            return f"more than {MAX_ESCAPES} escapes"
        if self._bare > MAX_BARE:
            return f"more than {MAX_BARE} bytes outside its strings"
        if self._foreign > MAX_FOREIGN:
            return f"more than {MAX_FOREIGN} bytes that are not ASCII"
        return ""
