"""Tolerant decoding: JSON that a strict typed decoder rejects but a lenient client could read.

The fast path is msgspec. The fallback reads with the standard library and drops only the
fields that do not fit, so that one odd value never kills a stream.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from aiollm.errors import ProtocolError

T = TypeVar("T")

_MAX_DROPS = 16
"""Odd fields dropped from one frame before it counts as undecodable."""

_PATH = re.compile(r"at `\$([^`]*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[\.\.\.\]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def decode(frame: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a frame, leniently if need be. Raises: ProtocolError."""
    try:
        return decoder.decode(frame)
    except (ValueError, RecursionError):
        pass
    return decode_leniently(frame, decoder.type)


def decode_leniently(frame: bytes, kind: Any) -> Any:
    """Decode with the standard library, then drop what does not fit. Raises: ProtocolError."""
    cause = "it nests too deeply"
    try:
        value = json.loads(frame.decode("utf-8-sig", "replace"), strict=False)
        return _fit(value, kind)
    except (ValueError, MemoryError) as error:
        cause = str(error)
    except RecursionError:
        pass
    raise ProtocolError(f"a frame is not the JSON it should be: {cause:.200}", frame=frame)


def load(data: bytes) -> Any:
    """Decode any JSON value, None when it is none."""
    try:
        return json.loads(data.decode("utf-8-sig", "replace"), strict=False)
    except (ValueError, RecursionError, MemoryError):
        return None


def _fit(value: Any, kind: Any) -> Any:
    for _ in range(_MAX_DROPS):
        try:
            return msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError as error:
            found = _PATH.search(str(error))
            if found is None or not _drop(value, found[1]):
                raise
    return msgspec.convert(value, kind, strict=False)


def _drop(value: Any, path: str) -> bool:
    """Set the value at `path` to null, or remove it where it is null already."""
    steps = [
        int(index) if index else (name or None) for name, index in _STEP.findall(path)
    ]
    if not steps or None in steps:
        return False
    try:
        for step in steps[:-1]:
            value = value[step]
        last = steps[-1]
        if value[last] is None or isinstance(value, list):
            del value[last]
        else:
            value[last] = None
    except (KeyError, IndexError, TypeError):
        return False
    return True


def mend(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates, so that the text can be encoded."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class SurrogateJoiner:
    """Joins a surrogate pair that was split over two deltas of one field."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def feed(self, field: str, text: str) -> str:
        """Return the text that is whole; a trailing high surrogate waits for its other half."""
        text = self._held.pop(field, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._held[field] = text[-1]
            text = text[:-1]
        return mend(text)

    def flush(self, field: str) -> str:
        """Return what never got its other half, as U+FFFD."""
        return mend(self._held.pop(field, ""))
