"""Lenient decoding: accept JSON that a strict typed decoder rejects.

The fast path is msgspec. The fallback uses the standard library and drops only the fields that do
not fit, so that one odd value never fails a stream.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from aiollm._user_types.density import LARGE, excess_in
from aiollm.errors import ProtocolError

if TYPE_CHECKING:
    from json import JSONDecoder

T = TypeVar("T")

_decode = msgspec.json.Decoder().decode


class _Object(msgspec.Struct):
    """Any object, of which nothing is wanted."""


_OBJECT = msgspec.json.Decoder(_Object)
"""Checks all of an object as any decoder does, but makes no values of what is in it."""

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""The escape of a surrogate."""

MAX_MENDED = 256 * 1024
"""Bytes of a frame with halves of surrogate pairs or invalid UTF-8, which is mended slowly."""

_MAX_SLOW = 64 * 1024
"""Escapes that the standard library reads: each takes some 0.05 microseconds."""

_LONG = 4096
"""Characters from which it is quicker to encode a text than to search it."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_LONE = re.compile(
    "[\ud800-\udfff]"  # first, so that the search runs past all other text quickly
    "(?:(?<=[\ud800-\udbff])(?![\udc00-\udfff])"
    "|(?<=[\udc00-\udfff])(?<![\ud800-\udbff][\udc00-\udfff]))"
)
_MENDED = 4096
"""How many lone surrogates of one text become U+FFFD; in a text of garbage, "?" does for more."""


def decode(frame: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a frame, leniently if necessary. Raises: ProtocolError."""
    try:
        return decoder.decode(frame)
    except (ValueError, RecursionError):
        # Real servers send null for any field, 5.0 for an integer, and halves of a surrogate pair,
        # which msgspec rejects even in a field that it ignores.
        pass
    value: T = decode_leniently(frame, decoder.type)
    return value


def decode_leniently(frame: bytes, kind: Any) -> Any:
    """Decode with the standard library, then drop fields that do not fit. Raises: ProtocolError."""
    return _fitted(frame, kind)[0]


def _fitted(frame: bytes, kind: Any, *, weighed: bool = False) -> tuple[Any, bool]:
    """Return what is in a frame, and whether any of it did not fit. Raises: ProtocolError.

    `weighed`: it is known to have few enough parts.
    """
    cause = "it nests too deeply"
    try:
        halves = _has_halves(frame)
        value = _loads(frame, halves=halves, weighed=weighed)
        if halves:  # where all is likely to fit, a walk over it would cost too much
            try:
                return msgspec.convert(value, kind, strict=False), True
            except (msgspec.ValidationError, UnicodeEncodeError):  # of what is kept as JSON
                pass
        value, misfits = _without_misfits()(value, kind)
        return msgspec.convert(value, kind, strict=False), halves or misfits > 0
    except ValueError as error:
        cause = str(error)
    except MemoryError:
        cause = "it is too large"
    except RecursionError:
        pass
    # Raised outside the handlers, because a JSONDecodeError keeps the complete text.
    raise ProtocolError(f"a frame is not the expected JSON: {cause:.200}", frame=frame)


def load(data: bytes) -> Any:
    """Decode any JSON value; return None if `data` is not JSON."""
    if not excess_in(data):
        return load_weighed(data)
    return None


def load_weighed(data: bytes) -> Any:
    """Decode what is known to have few enough parts; return None if it is not JSON."""
    try:
        return _decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        return _loads(data, halves=_has_halves(data), weighed=True)
    except (ValueError, RecursionError, MemoryError):
        return None


def is_object(text: str | bytes) -> bool:
    """Return whether a text is a JSON object; a large one must be strict JSON."""
    try:
        _OBJECT.decode(text)
    except (ValueError, RecursionError):
        if len(text) > MAX_MENDED:
            return False
        data = text.encode("utf-8", "replace") if isinstance(text, str) else text
        return isinstance(load(data), dict)
    return True


def encode(value: Any, enc_hook: Callable[[Any], Any] | None = None) -> bytes:
    """Encode as JSON, replacing lone surrogates. Raises: TypeError, ValueError."""
    try:
        return msgspec.json.encode(value, enc_hook=enc_hook)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, enc_hook=enc_hook)
    return msgspec.json.encode(mend_all(plain))


@cache
def _without_misfits() -> Callable[[Any, Any], tuple[Any, int]]:
    from aiollm._wire.misfits import without_misfits  # most answers fit

    return without_misfits


def _has_halves(data: bytes) -> bool:
    # One byte is found much sooner than an expression, which is found sooner than two bytes.
    return b"\\" in data and _HALF.search(data) is not None


def _loads(data: bytes, *, halves: bool, weighed: bool = False) -> Any:
    # An object is made of every value, read or not.
    if len(data) > LARGE:
        if halves and len(data) > MAX_MENDED:
            raise ValueError("it is too large to have halves of surrogate pairs")
        if not weighed and (excess := excess_in(data)):
            raise ValueError(f"it holds {excess}")
    if not halves:
        try:
            return _decode(data)
        except (ValueError, RecursionError):
            pass  # the standard library reads more, but is slow
    if len(data) > LARGE and (escapes := data.count(b"\\")) > _MAX_SLOW:
        raise ValueError(f"it is not plain JSON and has {escapes} escapes")
    # Both the codec that skips a byte order mark and the search for white space are slow.
    how = "replace" if len(data) <= MAX_MENDED else "strict"
    text = data.decode("utf-8", how).removeprefix("\ufeff").strip(" \t\r\n")
    if text.startswith("{"):
        value, end = _json().raw_decode(text)
        if end == len(text):
            return value
    return _json().decode(text)


@cache
def _json() -> JSONDecoder:
    from json import JSONDecoder  # what few answers need, and connections bring

    return JSONDecoder(strict=False)


def mend(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates, so that the text can be encoded."""
    if text.isascii() or not _has_surrogates(text):
        return text
    text, count = _LONE.subn("\ufffd", text, _MENDED)  # a codec makes an exception of each
    if count == _MENDED:
        return text.encode("utf-8", "replace").decode()
    if _has_surrogates(text):
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    return text


def _has_surrogates(text: str) -> bool:
    if len(text) < _LONG:
        return _SURROGATE.search(text) is not None
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def mend_all(value: Any) -> Any:
    """Mend every string in plain JSON values, keys included; leave other values unchanged."""
    try:
        msgspec.json.encode(value)  # many times faster than a walk
    except (ValueError, TypeError, OverflowError):
        return _mended(value)
    return value


def _mended(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return mend(value)
    if kind is dict or isinstance(value, Mapping):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [_mended(item) for item in value]
    return value


class SurrogateJoiner:
    """Reads an answer with odd frames; joins a surrogate pair that was split over two deltas."""

    __slots__ = ("_held", "odd")

    def __init__(self, *, odd: bool = False) -> None:
        self._held: dict[str, str] = {}
        self.odd: bool = odd
        """Whether the last frame that was decoded was odd, so that the next one probably is."""

    def __bool__(self) -> bool:
        return bool(self._held)

    def decode(self, frame: bytes, decoder: msgspec.json.Decoder[T]) -> T:
        """Decode a frame, leniently at once if the last one was odd. Raises: ProtocolError."""
        if not self.odd:
            try:
                return decoder.decode(frame)
            except (ValueError, RecursionError):
                pass
        value: T
        # Framers have weighed it while it arrived.
        value, self.odd = _fitted(frame, decoder.type, weighed=True)
        return value

    def feed(self, field: str, text: str) -> str:
        """Return the complete text; a trailing high surrogate waits for its other half."""
        text = self._held.pop(field, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._held[field] = text[-1]
            text = text[:-1]
        return mend(text)

    def flush(self, field: str) -> str:
        """Return U+FFFD for a surrogate that never got its other half."""
        return mend(self._held.pop(field, ""))
