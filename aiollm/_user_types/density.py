"""How much JSON may hold that is decoded in one go: bounds on what takes time, none on plain text.

A decoder holds the interpreter's lock until it returns, so neither a turn of the event loop nor a
thread would help. It reads text and files at a gigabyte a second. What is slow is counted here,
without the contents of strings, so that a table or a program in a text does not count. Counting
takes time, too: what comes in pieces is counted piece by piece.
"""

from __future__ import annotations

import msgspec

LARGE = 64 * 1024
"""Bytes up to which anything is decoded."""

SHORT = 4 * 1024
_FEW = 1024
"""Bytes, or quotes, brackets and commas of JSON that is not large, which take next to no time."""


class Limits(msgspec.Struct, frozen=True):
    """How much there may be at most, all outside strings but the last two.

    What is read takes some 0.1 microseconds for a name or text, or 0.2 where no other is like it;
    as much for an object or list; some 0.03 for a number. Then it is looked at, which may take as
    long again.
    """

    strings: int
    brackets: int
    values: int
    bare: int
    """Bytes, such as white space and the digits of numbers."""
    escapes: int
    foreign: int
    """Bytes that are not ASCII; files have neither these nor escapes."""


FRAME = Limits(24 * 1024, 16 * 1024, 128 * 1024, 512 * 1024, 200 * 1024, 1024 * 1024)
"""Of an answer: Responses repeats the schemas of the tools, 300 of them in some 20,000 texts. vLLM
may send the token ids of a prompt, on request."""

REPLY = Limits(32 * 1024, 16 * 1024, 128 * 1024, 1024 * 1024, 200 * 1024, 1024 * 1024)
"""Of a single reply: the longest list of models has 15,000 texts (November 2026)."""

USER = Limits(64 * 1024, 48 * 1024, 128 * 1024, 2 * 1024 * 1024, 256 * 1024, 4 * 1024 * 1024)
"""Of what a user asked for: an answer of a type, arguments, vectors, scores of documents."""

KEPT = Limits(64 * 1024, 32 * 1024, 128 * 1024, 2**31, 2**31, 2**31)
"""Of what an answer has for its provider alone: the tools of several MCP servers, the results of
searches. Nothing of it is looked at, but it is kept, and the collector of garbage goes through it.
"""

MESSAGE = Limits(24 * 1024, 16 * 1024, 128 * 1024, 1024 * 1024, 512 * 1024, 8 * 1024 * 1024)
"""Of a message of an MCP server, whose SDK takes some 0.3 microseconds for each: a list of a
thousand tools has some 10,000 objects."""

MAX_ARGUMENTS = 1536 * 1024
"""Bytes of a call's arguments that are read, as UTF-8: a file of a megabyte with as many escapes as
may be. Models write at most half a million tokens (November 2026), and few of them into one call.
"""

_SLICE = 64 * 1024
"""Bytes of complete JSON that are counted at once, so that what is refused is refused soon. The
system clears memory for larger copies each time, which takes longer than to count."""

_ASCII = bytes(range(128))
_UNMARKED = bytes({*range(256)} - {*b'"{[,\\'})
"""All that is not counted: to delete it takes as long as to count one byte."""


def is_small(data: bytes) -> bool:
    """Return whether all of a value may be decoded, although nobody may want most of it."""
    if len(data) <= SHORT or len(data) > LARGE:
        return len(data) <= SHORT
    return data[:1] == b'"' or sum(map(data.count, (b'"', b"{", b"[", b","))) <= _FEW


def is_dense(text: str) -> bool:
    """Return whether a text is large JSON of too many parts."""
    if len(text) <= LARGE:
        return False
    if not text.isascii():
        return _excess(text.encode("utf-8", "replace"), len(text), USER) != ""
    return _excess(text, len(text), USER) != ""


def sized(text: str) -> str | bytes | None:
    """Return what a call's arguments are decoded from, None if they are too large.

    What is not ASCII is encoded once, to be counted and decoded.
    """
    if len(text) <= LARGE:
        return text
    if len(text) > MAX_ARGUMENTS:
        return None
    if text.isascii():
        return text
    try:
        data = text.encode()
    except UnicodeEncodeError:  # a half of a surrogate pair, which a decoder refuses
        return text
    return None if len(data) > MAX_ARGUMENTS else data


def readable(text: str) -> str | bytes | None:
    """Return what a call's arguments are decoded from, None if they are too large or too dense."""
    data = sized(text)
    if isinstance(data, bytes):
        return None if _excess(data, len(text), USER) else data
    return None if data is None or is_dense(data) else data


def excess_in(data: bytes, limits: Limits = FRAME) -> str:
    """Return what large JSON has too much of, "" for nothing."""
    return _excess(data, len(data), limits) if len(data) > LARGE else ""


def _bytes(data: bytes | str) -> bytes:
    return data if isinstance(data, bytes) else data.encode()


def _excess(data: bytes | str, size: int, limits: Limits) -> str:
    """Return what JSON of `size` characters has too much of, "" for nothing.

    A count of its marks nearly always tells, without splitting it into its strings.

    Where `size` is in bytes, `limits.foreign` must be no lower than `limits.bare`.
    """
    quotes = escapes = opened = values = 0
    for at in range(0, len(data), _SLICE):
        marks = _bytes(data[at : at + _SLICE]).translate(None, _UNMARKED)
        quotes, escapes = quotes + marks.count(b'"'), escapes + marks.count(b"\\")
        if escapes > limits.escapes:
            return f"more than {limits.escapes} escapes"
        if quotes - escapes > 2 * limits.strings:  # none escapes more than one
            return f"more than {limits.strings} strings"
        opened += (more := marks.count(b"{") + marks.count(b"["))
        values += more + marks.count(b",")
        if opened > limits.brackets or values > limits.values:
            break
    if size - escapes > limits.bare or (len(data) > limits.foreign and len(data) > size):
        return _counted(data, limits)  # nobody knows how much of it is in strings
    if opened <= limits.brackets and values <= limits.values:
        if quotes > 2 * limits.strings and b"\\\\" not in (data := _bytes(data)):
            quotes -= data.count(b'\\"')
        if quotes <= 2 * limits.strings:
            return ""
    # Most strings become empty, of which no objects are made.
    return _counted(data, limits, _UNMARKED + b"\\")


def without_escapes(data: bytes) -> bytes:
    """Return JSON without the escapes of backslashes and quotes."""
    return data.replace(b"\\\\", b"").replace(b'\\"', b"") if b'\\"' in data else data


def _counted(data: bytes | str, limits: Limits, unmarked: bytes = b"") -> str:
    weight = Weight(limits)
    for at in range(0, len(data), _SLICE):
        if excess := weight.add(_bytes(data[at : at + _SLICE]), unmarked):
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
        "_limits",
        "_quotes",
        "excess",
    )

    def __init__(self, limits: Limits = FRAME) -> None:
        self._limits = limits
        self.excess: str = ""
        """What there is too much of, "" for nothing; from then on nothing is counted."""
        self._bare = self._brackets = self._commas = self._escapes = self._foreign = 0
        self._quotes = 0
        self._is_cut = False
        """Whether the last piece ended with a backslash, which the next one's first byte is of."""

    def add(self, piece: bytes, unmarked: bytes = b"") -> str:
        """Count one more piece, without the bytes that are `unmarked`; return `excess`."""
        if self.excess:
            return self.excess
        if self._is_cut or b"\\" in piece:
            piece = self._without_escapes(piece)
        if not piece.isascii():
            self._foreign += len(piece.translate(None, _ASCII))
        if unmarked:
            piece = piece.translate(None, unmarked)
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
        if self._is_cut and piece:
            self._escapes += piece[:1] == b"\\"  # as where it is not cut
            piece = piece[1:]
            self._is_cut = False
        self._escapes += piece.count(b"\\")
        if piece.endswith(b"\\"):
            self._is_cut = (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 1
        return without_escapes(piece)

    def _found(self) -> str:
        most = self._limits
        if self._quotes > 2 * most.strings:
            return f"more than {most.strings} strings"
        if self._brackets > most.brackets:
            return f"more than {most.brackets} objects and lists"
        if self._commas + self._brackets > most.values:
            return f"more than {most.values} values"
        if self._escapes > most.escapes:
            return f"more than {most.escapes} escapes"
        if self._bare > most.bare:
            return f"more than {most.bare} bytes outside its strings"
        if self._foreign > most.foreign:
            return f"more than {most.foreign} bytes that are not ASCII"
        return ""
