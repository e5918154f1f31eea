"""Raw JSON between the frames of a stream: where it ends, and whether it reports an error."""

from __future__ import annotations

import re

OPENING = (b"{", b"[")

_WORDS = {"message", "detail", "msg", "base_resp"}
_ANSWER = {"choices", "candidates", "type"}
"""Keys under which an error without the key `error` has its words, and keys that only answers have.
"""
_QUOTED = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)', re.DOTALL)
"""A JSON string; its group is empty if the closing quote is missing."""


def as_error(value: bytes) -> bytes:
    """Return the value of an `error:` line as JSON; some servers send plain words."""
    if value[:1] in OPENING:
        return value
    import json  # few servers write so

    return json.dumps({"error": value.decode("utf-8", "replace")}).encode()


def is_error(raw: bytes) -> bool:
    """Say whether raw JSON reports an error; otherwise it may be a piece of an answer."""
    from aiollm._wire.lenient import load  # most streams have no raw JSON

    value = load(raw)
    while isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return False
    if any(key.lower().startswith("error") and said for key, said in value.items()):
        return True
    if "error" in (value.get("object"), value.get("type")):
        return True
    return not _ANSWER & value.keys() and bool(_WORDS & value.keys())


class RawJSON:
    """Collects lines of a bare JSON value until its brackets balance."""

    __slots__ = ("_depth", "_lines", "_quoted", "size")

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._depth = 0
        self._quoted = False
        self.size = 0

    @property
    def count(self) -> int:
        """How many lines it has so far."""
        return len(self._lines)

    def add(self, line: bytes) -> bytes | None:
        """Add a line; return the value once its brackets balance."""
        self._lines.append(line)
        self.size += len(line)
        # Brackets inside strings do not count. A string may continue from the line before, where
        # the quote that opens it was.
        bare, strings = _QUOTED.subn(rb"\1", b'"' + line if self._quoted else line)
        self._quoted = bare.count(b'"') < strings
        self._depth += bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")
        return None if self._depth > 0 or self._quoted else b"\n".join(self._lines)
