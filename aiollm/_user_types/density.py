"""How much JSON may hold that is decoded in one go: bounds on what takes time, none on plain text.

A decoder holds the interpreter's lock until it returns, so neither a turn of the event loop nor a
thread would help. It reads text and files at a gigabyte a second. What is slow is counted here,
without the contents of strings, so that a table or a program in a text does not count.
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

_ASCII = bytes(range(128))


def is_dense(text: str) -> bool:
    """Return whether a text is large JSON of too many parts."""
    return len(text) > LARGE and excess_in(text.encode("utf-8", "replace")) != ""


def excess_in(data: bytes) -> str:
    """Return what large JSON has too much of, "" for nothing."""
    if len(data) <= LARGE:
        return ""
    if b"\\" in data:
        if (escapes := data.count(b"\\")) > MAX_ESCAPES:
            return f"{escapes} escapes"
        if b'\\"' in data:
            data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if len(data) > MAX_FOREIGN and not data.isascii():
        foreign = len(data.translate(None, _ASCII))
        if foreign > MAX_FOREIGN:
            return f"{foreign} bytes that are not ASCII"
    pieces = data.split(b'"', 2 * MAX_STRINGS + 1)
    if len(pieces) > 2 * MAX_STRINGS + 1:
        return f"more than {MAX_STRINGS} strings"
    return _bare_excess(b"".join(pieces[::2]))


def _bare_excess(bare: bytes) -> str:
    """Return what is too much outside strings."""
    if len(bare) > MAX_BARE:
        return f"{len(bare)} bytes outside its strings"
    brackets = bare.count(b"{") + bare.count(b"[")
    if brackets > MAX_BRACKETS:
        return f"{brackets} objects and lists"
    values = bare.count(b",") + brackets
    return f"{values} values" if values > MAX_VALUES else ""
