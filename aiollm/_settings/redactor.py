"""Redaction: find credentials in what servers say, in any form that they are written in."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from aiollm._settings.escapes import Layer, Meanings, Span, first_signs, layers, unfinished

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

_GRAM = 4
"""Characters that are looked up at once: any part of 2 * _GRAM - 1 has such a group at a multiple
of _GRAM, so that the time to find all parts does not depend on the length of the value."""

_OFFSETS = 8
"""Places of one group within a value that are tried; more of them only monotonous values have."""

MAX_FOUND = 1024
"""Escapes, or likely pieces of a credential, up to which a text is searched in one go: each takes
a microsecond or two."""

_FOLD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ-_", b"abcdefghijklmnopqrstuvwxyz+/")
"""Ignores case, and the difference between the two alphabets of base64."""

_SECRET_NAME = re.compile(
    r"auth|cookie|credential|jwt|key|passw|secret|session|signature|\bsig\b|token(?!s)",
    re.IGNORECASE,
)
_RANDOM = re.compile(r"(?=[A-Za-z]*[0-9])[A-Za-z0-9]{16}")
"""This many letters in a row, with a digit among them, are not a word."""

_SCHEMES = frozenset({"api-key", "apikey", "basic", "bearer", "key", "token"})
"""Words before a credential in a header."""


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
        self._short = [each.encode("utf-8", "replace") for each in found if len(each) < _LONG]
        self._needles = [each for value in found if len(value) >= _LONG for each in _forms(value)]
        self._grams: dict[int, list[tuple[_Needle, int]]] = {}
        for needle in self._needles:
            text = needle.text
            for at in range(len(text) - _GRAM + 1):
                gram = int.from_bytes(text[at : at + _GRAM], sys.byteorder)
                places = self._grams.setdefault(gram, [])
                if len(places) < _OFFSETS:
                    places.append((needle, at))
        self._folded, self._exact = Meanings(_FOLD), Meanings(None)

    def data(self, data: bytes) -> bytes:
        """Replace the credentials in `data` by `***`."""
        return _without(data, self.spans(data))

    def text(self, text: str) -> str:
        """Replace the credentials in `text` by `***`."""
        data = text.encode("utf-8", "surrogatepass")
        masked = self.data(data)
        return text if masked is data else masked.decode("utf-8", "surrogatepass")

    def start_of(self, data: bytes, most: int = MAX_FOUND) -> bytes:
        """Return as much of the start of `data` as is searched in some ten milliseconds.

        That is all, unless it is mostly escapes, or pieces of a credential; `most` is how many.
        """
        data = first_signs(data, most)
        groups = _groups(data.translate(_FOLD))
        if self._grams.keys().isdisjoint(groups):
            return data
        pieces = (at * _GRAM for at, gram in enumerate(groups) if gram in self._grams)
        return data[: next(islice(pieces, most, None), len(data))]

    def spans(self, data: bytes) -> list[Span]:
        """Return where the credentials are: in order, and apart from each other."""
        return _merged([*self._found_in(data, layers(data, self._folded))])

    def masked_start(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what of a stream may be passed on, masked, and what may begin a credential."""
        found = [*layers(data, self._folded)]
        cut = self._cut(data, found)
        if cut < len(data):
            return self.data(data[:cut]), data[cut:]
        return _without(data, _merged([*self._found_in(data, found)])), b""

    def _cut(self, data: bytes, found: Iterable[Layer]) -> int:
        cut = unfinished(data)
        least = _ACROSS_LINES if data.endswith((b"\n", b"\r")) else 1
        for layer in found:
            for needle in self._needles:
                start = _beginning(layer.text, needle.text, least)
                if start is not None:
                    cut = min(cut, layer.source((start, len(layer.text)))[0])
        for layer in layers(data, self._exact) if self._short else ():
            for value in self._short:
                start = _beginning(layer.text, value, least)
                if start is not None:
                    cut = min(cut, layer.source((start, len(layer.text)))[0])
        return cut

    def _found_in(self, data: bytes, found: Iterable[Layer]) -> Iterator[Span]:
        if self._needles:
            for layer in found:
                text = layer.text
                for span in (*self._whole(text), *self._parts(text), *self._edges(text)):
                    yield layer.source(span)
        if self._short:
            for layer in layers(data, self._exact):
                for value in self._short:
                    for span in _all(layer.text, value):
                        yield layer.source(span)

    def _whole(self, text: bytes) -> Iterator[Span]:
        for needle in self._needles:
            yield from _all(text, needle.text)

    def _parts(self, text: bytes) -> Iterator[Span]:
        grams, done = self._grams, 0
        groups = _groups(text)
        if grams.keys().isdisjoint(groups):  # as almost always: all in C
            return
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
            if (size := _ending(text, needle.text, needle.edge)) is not None:
                yield 0, size


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
    *_, layer = layers(data, Meanings(_FOLD))
    return layer.text


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
    tail = text[max(0, len(text) - len(value) + 1) :]
    at = tail.find(value[:least])
    while at >= 0:
        if value.startswith(tail[at:]):
            return len(text) - len(tail) + at
        at = tail.find(value[:least], at + 1)
    return None


def _ending(text: bytes, value: bytes, least: int) -> int | None:
    """Return how much of the end of a value is at the start of a text, None if too little is."""
    if len(text) < least:
        return None
    at = value.find(text[:least], 1)
    while at >= 0:
        if text.startswith(value[at:]):
            return len(value) - at
        at = value.find(text[:least], at + 1)
    return None


def _groups(text: bytes) -> memoryview:
    return memoryview(text)[: len(text) // _GRAM * _GRAM].cast("I")


def _without(data: bytes, spans: Sequence[Span]) -> bytes:
    """Return data with the mask in the place of spans."""
    if not spans:
        return data
    pieces: list[bytes] = []
    at = 0
    for start, end in spans:
        pieces += data[at:start], MASK
        at = end
    return b"".join((*pieces, data[at:]))


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
