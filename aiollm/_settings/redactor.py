"""Redaction: find credentials in what servers say, in any form that they are written in."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

MASK = b"***"

MIN_VALUE = 4
"""A shorter value is never masked: it occurs in ordinary words."""

_LONG = 8
"""Values from this length on are also found encoded, in part, and in other cases."""

_PART = 12
"""Characters of a value that are masked without the rest; vendors show a few on purpose."""

_EDGE = 8
"""As `_PART`, for what a cut left at the start or the end of a text."""

_ACROSS_LINES = 4
"""Characters at the end of a line for which the next line of a stream is waited for."""

_LONGEST_ESCAPE = 16
"""Bytes at the end of a piece in which an escape may be cut."""

_GRAM = 4
"""Characters that are looked up at once: any part of 2 * _GRAM - 1 has such a group at a multiple
of _GRAM, so that the time to find all parts does not depend on the length of the value."""

_OFFSETS = 8
"""Places of one group within a value that are tried; more of them only monotonous values have."""

_DEPTH = 3
"""How often escapes are decoded: a JSON text within a JSON text within a URL."""

MAX_FOUND = 1024
"""Escapes, or likely pieces of a credential, up to which a text is searched in one go: each takes
some four microseconds."""

_FOLD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ-_", b"abcdefghijklmnopqrstuvwxyz+/")
"""Ignores case, and the difference between the two alphabets of base64."""

_SECRET_NAME = re.compile(
    r"auth|cookie|credential|jwt|key|passw|secret|session|signature|\bsig\b|token(?!s)",
    re.IGNORECASE,
)
_RANDOM = re.compile(r"(?=[A-Za-z]*[0-9])[A-Za-z0-9]{16}")
"""So many letters in a row with a digit among them are no word."""

_ESCAPE = re.compile(
    rb"""(?P<cut>(?:\\+(?:u[0-9a-f]{0,3}|x[0-9a-f]?)?|%(?:25)*[0-9a-f]?|&(?:amp;)*\#?\w{0,7}
        |\xe2\x80?|\xe2\x81|\xef\xbb?|\xc2)\Z)
    |%(?:25)*(?:u00)?(?P<percent>[0-9a-f]{2})
    |\\+(?:u(?P<u>[0-9a-f]{4})|u\{0*(?P<braces>[0-9a-f]{1,4})\}|x(?P<x>[0-9a-f]{2}))
    |&(?:amp;)*(?:\#x0*(?P<hex>[0-9a-f]{1,4})|\#0*(?P<number>[0-9]{1,5})|(?P<name>[a-z]{2,14}));?
    |\\+(?P<itself>[^rn\\])
    |(?P<nothing>\\+[rn]|[\r\n\0]+(?:data:)?[ \t]*|<w?br[ ]?/?>|(?:\xc2\xad){1,99}
        |\xe2\x80[\x8b-\x8f]|\xe2\x81\xa0|\xef\xbb\xbf)""",
    re.VERBOSE | re.IGNORECASE,
)
"""Escapes of URLs, JSON, Python and HTML, and what may break a word: line ends (of an event's
data, too), zero-width characters. `cut` is an escape that ends with the text."""

_SIGN = re.compile(
    rb"%(?=[0-9a-fA-F]|\Z)|\\|&(?=[a-zA-Z#]|\Z)|\r|\n|\0|<(?=[wWbB])"
    rb"|\xe2(?=[\x80\x81]|\Z)|\xef(?=\xbb|\Z)|\xc2(?=\xad|\Z)"
)
"""The starts of all escapes: looking for these alone is many times faster."""

_NAMED = {
    b"amp": b"&", b"apos": b"'", b"ast": b"*", b"bsol": b"\\", b"colon": b":", b"comma": b",",
    b"commat": b"@", b"dash": b"-", b"dollar": b"$", b"equals": b"=", b"excl": b"!", b"gt": b">",
    b"hyphen": b"-", b"lowbar": b"_", b"lt": b"<", b"newline": b"", b"num": b"#", b"percnt": b"%",
    b"period": b".", b"plus": b"+", b"quot": b'"', b"shy": b"", b"sol": b"/", b"underbar": b"_",
    b"zerowidthspace": b"", b"zwj": b"", b"zwnj": b"",
}  # fmt: skip
"""HTML's names for what a credential may hold, or what may break it."""

_SCHEMES = frozenset({"api-key", "apikey", "basic", "bearer", "key", "token"})
"""Words before a credential in a header."""

_BREAKS = frozenset({0, 10, 13, 0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF})
"""Code points that do not show, or end a line."""

Span: TypeAlias = tuple[int, int]
_Mark: TypeAlias = tuple[int, int, int, int]
"""An escape: where its meaning is in the decoded text, its length, and where it came from."""


def is_secret(name: str, value: str) -> bool:
    """Return whether a header or parameter holds a credential, by its name or its looks."""
    return bool(_SECRET_NAME.search(name) or _RANDOM.search(value))


def secrets_of_url(url: str) -> Iterator[str]:
    """Yield the credentials in a URL: its password, and those in its query."""
    parts = urlsplit(url)
    user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    if user:
        yield unquote(password if colon else user)
    for name, value in parse_qsl(parts.query):
        if is_secret(name, value):
            yield value


class _Needle(NamedTuple):
    """One encoding of a value, how much of it is masked alone, and how much at a cut."""

    text: bytes
    part: int
    edge: int


class Redactor:
    """Finds some credentials in bytes or text; its cost grows only with the length of these."""

    def __init__(self, values: Iterable[str]) -> None:
        """Take the credentials as they go into a header, with or without a scheme before them."""
        found = {each for value in values for each in _values(value) if len(each) >= MIN_VALUE}
        self._short = [each for each in found if len(each) < _LONG]
        self._needles = [each for value in found if len(value) >= _LONG for each in _forms(value)]
        self._grams: dict[int, list[tuple[_Needle, int]]] = {}
        for needle in self._needles:
            text = needle.text
            for at in range(len(text) - _GRAM + 1):
                gram = int.from_bytes(text[at : at + _GRAM], sys.byteorder)
                places = self._grams.setdefault(gram, [])
                if len(places) < _OFFSETS:
                    places.append((needle, at))

    def data(self, data: bytes) -> bytes:
        """Replace the credentials in `data` by `***`."""
        spans = self.spans(data)
        if not spans:
            return data
        pieces: list[bytes] = []
        at = 0
        for start, end in spans:
            pieces += data[at:start], MASK
            at = end
        return b"".join((*pieces, data[at:]))

    def text(self, text: str) -> str:
        """Replace the credentials in `text` by `***`."""
        data = text.encode("utf-8", "surrogatepass")
        masked = self.data(data)
        return text if masked is data else masked.decode("utf-8", "surrogatepass")

    def start_of(self, data: bytes, most: int = MAX_FOUND) -> bytes:
        """Return as much of the start of `data` as is searched in some ten milliseconds.

        That is all, unless it is mostly escapes, or pieces of a credential; `most` is how many.
        """
        groups = memoryview(data.translate(_FOLD))[: len(data) // _GRAM * _GRAM].cast("I")
        pieces = (at * _GRAM for at, gram in enumerate(groups) if gram in self._grams)
        escapes = (sign.start() for sign in _SIGN.finditer(data))
        ends = (next(islice(each, most, None), len(data)) for each in (escapes, pieces))
        return data[: min(ends)]

    def spans(self, data: bytes) -> list[Span]:
        """Return where the credentials are: in order, and apart from each other."""
        return _merged([*self._found_in(data)])

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what may be passed on of a stream, and what may be the start of a credential."""
        cut = _unfinished(data)
        least = _ACROSS_LINES if data.endswith((b"\n", b"\r")) else 1
        for text, layers in _layers(data, _FOLD):
            for needle in self._needles:
                start = _beginning(text, needle.text, least)
                if start is not None:
                    cut = min(cut, _source((start, len(text)), layers)[0])
        return data[:cut], data[cut:]

    def _found_in(self, data: bytes) -> Iterator[Span]:
        if self._needles:
            for text, layers in _layers(data, _FOLD):
                for span in (*self._whole(text), *self._parts(text), *self._edges(text)):
                    yield _source(span, layers)
        if self._short:
            for text, layers in _layers(data, None):
                for value in self._short:
                    for span in _all(text, value.encode("utf-8", "replace")):
                        yield _source(span, layers)

    def _whole(self, text: bytes) -> Iterator[Span]:
        for needle in self._needles:
            yield from _all(text, needle.text)

    def _parts(self, text: bytes) -> Iterator[Span]:
        grams, done = self._grams, 0
        groups = memoryview(text)[: len(text) // _GRAM * _GRAM].cast("I")
        # Almost no group is one of a value, so the loop over all of them does nothing else.
        for at in [place * _GRAM for place, gram in enumerate(groups) if gram in grams]:
            best = at, at
            for needle, offset in grams[groups[at // _GRAM]] if at >= done else ():
                start, end = _grown(text, at, needle.text, offset)
                if end - start >= needle.part and end > best[1]:
                    best = start, end
            if best[1] > at:
                yield best
                done = best[1]

    def _edges(self, text: bytes) -> Iterator[Span]:
        for needle in self._needles:
            start = _beginning(text, needle.text, needle.edge)
            if start is not None:
                yield start, len(text)
            for size in range(min(len(text), len(needle.text) - 1), needle.edge - 1, -1):
                if text.startswith(needle.text[-size:]):
                    yield 0, size
                    break


def _values(value: str) -> Iterator[str]:
    """Return a credential without its scheme; of `Basic`, also the password."""
    value = value.strip()
    scheme, _, rest = value.partition(" ")
    if scheme.lower() not in _SCHEMES or not rest:
        yield value
        return
    yield rest
    if scheme.lower() == "basic":
        try:
            login = base64.b64decode(rest).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            return
        yield login.partition(":")[2]


def _forms(value: str) -> Iterator[_Needle]:
    """Return a value as it is, in hexadecimal, and in base64 at each place within three bytes."""
    data = value.encode("utf-8", "replace")
    part = min(_PART, max(_LONG, len(data) // 2))
    plain = {data.translate(_FOLD), _decoded_fully(data)}
    yield from (_Needle(each, part, _EDGE) for each in plain)
    yield _Needle(data.hex().encode(), 2 * part, 2 * _EDGE)
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + data)
        # The characters at both ends also depend on what is beside the value.
        text = coded[(0, 2, 3)[shift] : 8 * (shift + len(data)) // 6]
        yield _Needle(text.translate(_FOLD), min(len(text), -(-4 * part // 3)), 4 * _EDGE // 3 + 1)


def _decoded_fully(data: bytes) -> bytes:
    *_, (text, _) = _layers(data, _FOLD)
    return text


def _layers(data: bytes, fold: bytes | None) -> Iterator[tuple[bytes, tuple[list[_Mark], ...]]]:
    """Yield a text folded, then with its escapes decoded, too, and how to get back from there."""
    layers: tuple[list[_Mark], ...] = ()
    data = data.translate(fold)
    yield data, layers
    for _ in range(_DEPTH):
        data, marks = _decoded(data, fold)
        if not marks:
            return
        layers = (*layers, marks)
        yield data, layers


def _decoded(data: bytes, fold: bytes | None) -> tuple[bytes, list[_Mark]]:
    pieces: list[bytes] = []
    marks: list[_Mark] = []
    at = size = 0
    for start, end, meaning in _escapes(data, fold):
        pieces += data[at:start], meaning
        size += start - at
        marks.append((size, len(meaning), start, end))
        size += len(meaning)
        at = end
    return b"".join((*pieces, data[at:])) if marks else data, marks


def _escapes(data: bytes, fold: bytes | None) -> Iterator[tuple[int, int, bytes]]:
    """Yield the start and end of each escape that a credential can hold, and what it stands for."""
    known: dict[bytes, bytes | None] = {}
    at = 0
    while sign := _SIGN.search(data, at):
        start = sign.start()
        found = _ESCAPE.match(data, start)
        if found is None:
            at = start + 1
            continue
        at, escape = found.end(), found[0]
        if escape in known and at < len(data):  # at the end it may be one that is cut
            meaning = known[escape]
        else:
            meaning = known[escape] = _meaning(found, fold)
        if meaning is not None:
            yield start, at, meaning


def _unfinished(data: bytes) -> int:
    """Return where an escape begins that the end of the data may have cut, else its length."""
    for sign in _SIGN.finditer(data, max(0, len(data) - _LONGEST_ESCAPE)):
        found = _ESCAPE.match(data, sign.start())
        if found is not None and found.lastgroup == "cut":
            return sign.start()
    return len(data)


def _meaning(found: re.Match[bytes], fold: bytes | None) -> bytes | None:
    """Return what an escape stands for, folded; None where a credential cannot hold it."""
    meaning = _unfolded(found)
    return None if meaning is None else meaning.translate(fold)


def _unfolded(found: re.Match[bytes]) -> bytes | None:
    kind = found.lastgroup or ""
    match kind:
        case "cut" | "nothing":
            return b""
        case "itself":
            return found[kind]
        case "name":
            return _NAMED.get(found["name"].lower())
        case _:
            code = int(found[kind], 10 if kind == "number" else 16)
    if code in _BREAKS:
        return b""
    return bytes((code,)) if code < 0x80 else None


def _source(span: Span, layers: tuple[list[_Mark], ...]) -> Span:
    """Return where a span of a decoded text came from."""
    start, end = span
    for marks in reversed(layers):
        start, _ = _origin(start, marks)
        _, end = _origin(end - 1, marks)
    return start, end


def _origin(at: int, marks: list[_Mark]) -> Span:
    """Return the bytes that a decoded byte came from."""
    index = bisect_right(marks, at, key=_place) - 1
    if index < 0:
        return at, at + 1
    place, length, start, end = marks[index]
    beyond = at - place - length
    return (start, end) if beyond < 0 else (end + beyond, end + beyond + 1)


def _place(mark: _Mark) -> int:
    return mark[0]


def _all(text: bytes, value: bytes) -> Iterator[Span]:
    at = text.find(value)
    while at >= 0:
        yield at, at + len(value)
        at = text.find(value, at + len(value))


def _grown(text: bytes, at: int, value: bytes, offset: int) -> Span:
    """Return how far a text agrees with a value around a place of each."""
    start = at
    while start and offset and text[start - 1] == value[offset - 1]:
        start -= 1
        offset -= 1
    end, most = start, min(len(text), start + len(value) - offset)
    while end < most and text[end] == value[offset + end - start]:
        end += 1
    return start, end


def _beginning(text: bytes, value: bytes, least: int) -> int | None:
    """Return where the start of a value begins at the end of a text, None if there is none."""
    for size in range(min(len(text), len(value) - 1), least - 1, -1):
        if text.endswith(value[:size]):
            return len(text) - size
    return None


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
