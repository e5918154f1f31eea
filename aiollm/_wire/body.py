"""Request bodies: JSON in segments, whose files are encoded to base64 while they are sent."""

from __future__ import annotations

import binascii
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from aiollm.errors import ConfigError

_SLICE = 3 * 16 * 1024
"""Bytes encoded to base64 at a time: a multiple of 3, about 0.1 ms of work."""

_SMALL = 32 * 1024
"""Bytes up to which a text is one segment, so that it can be sent in one piece."""

_LARGE = 64 * 1024
"""Bytes above which what follows a text becomes another segment."""


class Blob:
    """Bytes that become a base64 string in a JSON body, after an optional prefix.

    They are encoded in slices while the body is sent, so that a large image does not stall the
    loop. The length is that of the base64 text. One that `keeps` its text is encoded only once.
    """

    __slots__ = ("_text", "data", "keeps", "prefix")

    def __init__(self, data: bytes, prefix: str = "") -> None:
        self.data: bytes = data
        self.prefix: str = prefix
        self.keeps: bool = False
        self._text: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return 4 * ((len(self.data) + 2) // 3)

    def slices(self) -> Iterator[bytes]:
        """Yield the base64 text piece by piece."""
        if self._text:
            yield from self._text
            return
        # Asked for once: it may be set meanwhile, for another body that holds the same file.
        view, keeps, pieces = memoryview(self.data), self.keeps, list[bytes]()
        for start in range(0, len(view), _SLICE):
            piece = binascii.b2a_base64(view[start : start + _SLICE], newline=False)
            if keeps:
                pieces.append(piece)
            yield piece
        if keeps:
            self._text = tuple(pieces)


class JsonItems:
    """Items of a list that are JSON already, in segments; in a list it stands for all of them.

    Codecs do not look inside: they make sure that nothing in it can change.
    """

    __slots__ = ("segments",)

    def __init__(self, segments: Sequence[bytes | Blob] = ()) -> None:
        self.segments: tuple[bytes | Blob, ...] = tuple(segments)

    def followed_by(self, items: Sequence[Any]) -> JsonItems:
        """Return these and more items. Raises: ConfigError for what JSON cannot represent."""
        if not items:
            return self
        more: list[Any] = [*json_body(items).segments]
        # The first and the last segment of JSON are texts: the brackets of the list are taken off.
        more[0] = more[0][1:]
        more[-1] = more[-1][:-1]
        if not self.segments:
            return JsonItems(more)
        *before, last = self.segments
        assert isinstance(last, bytes)
        if len(last) > _LARGE:  # not copied each time that something follows it
            return JsonItems((*self.segments, b"," + more[0], *more[1:]))
        return JsonItems((*before, b"%b,%b" % (last, more[0]), *more[1:]))


class Body:
    """A request body in segments: JSON text, and blobs that are not encoded yet."""

    __slots__ = ("segments",)

    def __init__(self, segments: Sequence[bytes | Blob]) -> None:
        self.segments: tuple[bytes | Blob, ...] = tuple(segments)

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    @property
    def simple(self) -> bytes | None:
        """The body as bytes if it has no blob, else None."""
        match self.segments:
            case (bytes() as only,):
                return only
            case _:
                return None

    def slices(self) -> Iterator[bytes]:
        """Yield the body piece by piece, each at most about 64 KiB of encoding work."""
        for segment in self.segments:
            if isinstance(segment, Blob):
                yield from segment.slices()
            else:
                yield segment

    def __bytes__(self) -> bytes:
        return b"".join(self.slices())


def json_body(value: Any) -> Body:
    """Encode `value` as JSON; a `Blob` anywhere in it becomes a base64 string.

    Lone surrogates in strings are replaced, because they cannot be encoded.
    Raises: ConfigError for values JSON cannot represent.
    """
    reason = ""
    try:
        return Body((msgspec.json.encode(value),))
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass  # it needs the hook, or has lone surrogates; the usual body needs neither
    try:
        try:
            return _written(value)
        except UnicodeEncodeError:
            from aiollm._wire.lenient import mend_all  # only lone surrogates need it

            return _written(mend_all(value))
    except RecursionError:  # Python 3.14 speaks of kilobytes of stack
        reason = "something in it contains itself, or nests too deeply"
    except (TypeError, ValueError, OverflowError) as error:
        reason = str(error)
    raise ConfigError(f"the request cannot be written as JSON: {reason:.200}")


def _written(value: Any) -> Body:
    blobs: list[Blob | JsonItems] = []
    mark = ""

    def hook(item: object) -> Any:
        nonlocal mark
        match item:
            case Blob() | JsonItems():
                # Random, so that no text in the request can contain it.
                mark = mark or f"@{os.urandom(16).hex()}@"
                blobs.append(item)
                return item.prefix + mark if isinstance(item, Blob) else msgspec.Raw(mark.encode())
            case Mapping():
                return dict(item)
            case _:
                raise TypeError(f"{type(item).__name__} is not a JSON value")

    text = msgspec.json.encode(value, enc_hook=hook)
    if not blobs:
        return Body((text,))
    first, *rest = text.split(mark.encode())
    segments: list[bytes | Blob] = [first]
    for blob, tail in zip(blobs, rest, strict=True):
        segments += (blob, tail) if isinstance(blob, Blob) else (*blob.segments, tail)
    texts = [each for each in segments if not isinstance(each, Blob)]
    if len(texts) == len(segments) and sum(map(len, texts)) <= _SMALL:
        return Body((b"".join(texts),))
    return Body(segments)
