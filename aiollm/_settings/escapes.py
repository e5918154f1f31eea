"""Escapes of URLs, JSON, Python and HTML: what a text says, and where each byte came from."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, islice
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]

_DEPTH = 3
"""How often escapes are decoded: a JSON text within a JSON text within a URL."""

_LONGEST = 16
"""Bytes at the end of a piece in which an escape may be cut."""

_KNOWN = 4096
"""Escapes whose meanings are remembered."""

_CUT = rb"""%(?:25)*(?:u0{0,2}[0-9a-f]?|[0-9a-f])?
    | \\+(?:u(?:[0-9a-f]{0,3}|\{[0-9a-f]{0,8})|x[0-9a-f]?)?
    | &(?=[a-z\#]|\Z)(?:amp;)*\#?\w{0,7} | \xe2[\x80\x81]? | \xef\xbb? | \xc2"""
"""An escape that ends with the text, maybe before its own end."""

# One pattern without groups: what is split by it is decoded without a step of Python for each.
# Its alternatives begin with one byte each, and so it is found as fast as these bytes are.
_ESCAPE = re.compile(
    rb"""(%(?:25)*(?:(?:u0{0,2}[0-9a-f]?|[0-9a-f])?\Z|(?:u00)?[0-9a-f]{2})
    |\\\\*(?:(?:u(?:[0-9a-f]{0,3}|\{[0-9a-f]{0,8})|x[0-9a-f]?)?\Z
        |u[0-9a-f]{4}|u\{0*[0-9a-f]{1,4}\}|x[0-9a-f]{2}|[^\\])
    |&(?=[a-z\#]|\Z)(?:amp;)*(?:\#?\w{0,7}\Z
        |(?:\#x0*[0-9a-f]{1,4}|\#0*[0-9]{1,5}|[a-z]{2,14});?)
    |\r[\r\n\0]*(?:data:)?[ \t]*|\n[\r\n\0]*(?:data:)?[ \t]*|\0[\r\n\0]*(?:data:)?[ \t]*
    |<w?br[ ]?/?>|\xe2(?:\x80?\Z|\x81\Z|\x80[\x8b-\x8f]|\x81\xa0)|\xef(?:\xbb?\Z|\xbb\xbf)
    |\xc2(?:\Z|\xad(?:\xc2\xad){0,98}))""",
    re.VERBOSE | re.IGNORECASE,
)
"""Escapes, and what may break a word: line ends, also those in an event, and what has no width."""

_SIGN = re.compile(
    rb"%(?=[0-9a-fA-Fu]|\Z)|\\|&(?=[a-zA-Z#]|\Z)|\r[\r\n\0]*|\n[\r\n\0]*|\0[\r\n\0]*|<(?=[wWbB])"
    rb"|\xe2(?=[\x80\x81]|\Z)|\xef(?=\xbb|\Z)|\xc2(?=\xad|\Z)"
)
_BEGINNINGS = (*map(bytes, zip(b"%\\&\r\n\0<\xe2\xef\xc2", strict=True)),)
"""The starts of all escapes, and their first bytes: a row of line ends is one."""

_IS_CUT = re.compile(rb"(?:%s)\Z" % _CUT, re.VERBOSE | re.IGNORECASE)

_FORM = re.compile(
    rb"""%(?:25)*(?:u00)?(?P<percent>[0-9a-f]{2})
    |\\+(?:u(?P<u>[0-9a-f]{4})|u\{0*(?P<braces>[0-9a-f]{1,4})\}|x(?P<x>[0-9a-f]{2}))
    |&(?:amp;)*(?:\#x0*(?P<hex>[0-9a-f]{1,4})|\#0*(?P<number>[0-9]{1,5})|(?P<name>[a-z]{2,14}));?
    |\\+(?P<itself>[^rn\\])""",
    re.VERBOSE | re.IGNORECASE,
)
"""The escapes that stand for something."""

_NAMED = {
    b"amp": b"&", b"apos": b"'", b"ast": b"*", b"bsol": b"\\", b"colon": b":", b"comma": b",",
    b"commat": b"@", b"dash": b"-", b"dollar": b"$", b"equals": b"=", b"excl": b"!", b"gt": b">",
    b"hyphen": b"-", b"lowbar": b"_", b"lt": b"<", b"newline": b"", b"num": b"#", b"percnt": b"%",
    b"period": b".", b"plus": b"+", b"quot": b'"', b"shy": b"", b"sol": b"/", b"underbar": b"_",
    b"zerowidthspace": b"", b"zwj": b"", b"zwnj": b"",
}  # fmt: skip
"""HTML's names for what a credential may hold, or what may break it."""

_BREAKS = frozenset({0, 10, 13, 0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF})
"""Code points that are invisible or end a line."""


class Meanings(dict[bytes, bytes]):
    """What escapes stand for, folded; one that a credential cannot hold stands for itself."""

    def __init__(self, fold: bytes | None) -> None:
        """Take the table by which all text is translated."""
        super().__init__()
        self.fold = fold

    def __missing__(self, escape: bytes) -> bytes:
        meaning = _unfolded(escape)
        meaning = escape if meaning is None else meaning.translate(self.fold)
        if len(self) < _KNOWN:
            self[escape] = meaning
        return meaning


def _unfolded(escape: bytes) -> bytes | None:
    found = _FORM.fullmatch(escape)
    if found is None:
        return b""
    kind = found.lastgroup or ""
    match kind:
        case "itself":
            return found[kind]
        case "name":
            return _NAMED.get(found["name"].lower())
        case _:
            code = int(found[kind], 10 if kind == "number" else 16)
    if code in _BREAKS:
        return b""
    return bytes((code,)) if code < 0x80 else None


class Layer:
    """A text, or what it says once its escapes are decoded."""

    __slots__ = ("_below", "_pieces", "_places", "_said", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._below: Layer | None = None
        self._pieces: list[bytes] = []
        """Of the layer below: text and escapes in turn; `_said` has what they became."""
        self._said: list[bytes] = []
        self._places: tuple[list[int], list[int]] | None = None

    def decoded(self, meanings: Meanings) -> Layer | None:
        """Return the layer above, None if nothing in this one is an escape."""
        pieces: list[bytes] = _ESCAPE.split(self.text)
        if len(pieces) == 1:
            return None
        said = pieces.copy()
        said[1::2] = map(meanings.__getitem__, pieces[1::2])
        if not pieces[-1] and _IS_CUT.fullmatch(pieces[-2]):
            said[-2] = b""
        if said == pieces:
            return None
        above = Layer(b"".join(said))
        above._below, above._pieces, above._said = self, pieces, said
        return above

    def source(self, span: Span) -> Span:
        """Return where a span of the text came from in the text at the bottom."""
        start, end = span
        layer = self
        while layer._below is not None:
            start, _ = layer._origin(start)
            _, end = layer._origin(end - 1)
            layer = layer._below
        return start, end

    def _origin(self, at: int) -> Span:
        """Return the bytes of the layer below that a byte came from."""
        if self._places is None:  # most texts have nothing that is looked for
            said, pieces = (
                [*accumulate(map(len, each), initial=0)] for each in (self._said, self._pieces)
            )
            self._places = said, pieces
        starts, sources = self._places
        index = bisect_right(starts, at, hi=len(self._said)) - 1
        if len(self._said[index]) == len(self._pieces[index]):
            beyond = sources[index] + at - starts[index]
            return beyond, beyond + 1
        return sources[index], sources[index + 1]


def layers(data: bytes, meanings: Meanings) -> Iterator[Layer]:
    """Yield a text folded, then with its escapes decoded, too, once and again."""
    layer: Layer | None = Layer(data.translate(meanings.fold))
    for _ in range(_DEPTH + 1):
        if layer is None:
            return
        yield layer
        layer = layer.decoded(meanings)


def unfinished(data: bytes) -> int:
    """Return where an escape begins that the end of the data may have cut, else its length."""
    found = _IS_CUT.search(data, max(0, len(data) - _LONGEST))
    return found.start() if found else len(data)


def first_signs(data: bytes, most: int) -> bytes:
    """Return as much of the start of `data` as begins `most` escapes; a row of line ends is one."""
    if sum(map(data.count, _BEGINNINGS)) <= most:  # many times faster
        return data
    found = (sign.start() for sign in _SIGN.finditer(data))
    return data[: next(islice(found, most, None), len(data))]
